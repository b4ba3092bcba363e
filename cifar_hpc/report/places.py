"""Where a report lies. Knows what was asked for; writes nothing."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Ended
from cifar_hpc.records.ties import files_of


def report_folder(layout: Layout, sweeps: tuple[str, ...], terms: str = "") -> Path:
    """Where the report over these sweeps lies: a sweep's own folder, or one for the whole pool and in it one for several.

    A part of the trials, chosen by a filter, has a folder of its own within.
    """
    folder = layout.sweep(sweeps[0]).report if len(sweeps) == 1 else layout.report
    if len(sweeps) > 1:
        folder /= _file_name("+".join(sweeps))
    return folder / _file_name(terms) if terms else folder


def trial_folder(layout: Layout, result: Ended) -> Path:
    """Where the page of this result of a trial lies: one for each, where a search had stopped the trial and another sweep has
    trained it again."""
    stopped_by = files_of(layout, result).stopped_by
    return layout.report / (result.trial_id + ("" if stopped_by is None else f"-until-stopped-{stopped_by}"))


def _file_name(text: str) -> str:
    """The text with no sign that a shell or a file system would take amiss; cut to 100 characters, unequal where texts are."""
    for sign, word in ((">", "-above-"), ("<", "-below-"), ("!", "-not-")):
        text = text.replace(sign, word)
    plain = re.sub(r"[^\w.=+,-]+", "_", text)
    return plain if len(plain) <= 100 else f"{plain[:90]}-{zlib.crc32(text.encode()):08x}"
