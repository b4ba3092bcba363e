"""What a report is asked for, and the page that is written of it: that of a trial which is named, else that of sweeps.

Owns: which of the two it is. Draws and prints nothing; what draws is imported once it is known what is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_hpc.collect.diagnosis import Diagnosis
from cifar_hpc.collect.names import find_trial, means_one
from cifar_hpc.collect.scan import Pool, scan
from cifar_hpc.collect.sections import Section, chosen_sections
from cifar_hpc.collect.trials import Trial
from cifar_hpc.records.layout import Layout
from cifar_hpc.status.names import parse_words
from cifar_hpc.status.state import Queue

if TYPE_CHECKING:
    from cifar_hpc.report.findings import Findings


@dataclass(frozen=True)
class TrialReport:
    """Of the trial that was named, or the best one of a configuration. found: what it gets wrong; split: on which images."""

    layout: Layout
    pool: Pool
    trial: Trial
    found: Diagnosis
    split: str

    def write(self) -> Path:
        """The page's path. Raises OSError."""
        from cifar_hpc.report.trial_page import write_trial_page

        return write_trial_page(self.pool, self.trial, self.found, self.split, self.layout)


@dataclass(frozen=True)
class SweepsReport:
    """Of sweeps, or of what a filter takes of them. sections: of each data set and split."""

    layout: Layout
    sections: Sequence[Section]
    terms: str

    @cached_property
    def findings(self) -> list[Findings]:
        """What takes longer than the leaderboards."""
        from cifar_hpc.report.findings import find

        return [find(section, self.layout, self.terms) for section in self.sections]

    def write(self, refresh_s: float | None = None) -> Path:
        """The page's path; refresh_s: so often it loads itself again. Raises OSError."""
        from cifar_hpc.report.bundle import write_report

        return write_report(self.findings, self.layout, self.terms, refresh_s)


def asked_report(layout: Layout, words: Sequence[str] | None, queue: Queue | None = None) -> TrialReport | SweepsReport:
    """words: as of `cifar-hpc report`; queue: who is asked about jobs in a queue. Raises CifarHpcError where none is meant."""
    asked = parse_words(words)
    if means_one(layout, asked):
        from cifar_hpc.report.trial_page import diagnose_trial

        trial_id = find_trial(layout, words or ())
        pool = scan(layout, [name for name in asked.names if layout.has_sweep(name)])  # whose search may have stopped it
        return TrialReport(layout, pool, *diagnose_trial(pool, trial_id, layout))
    return SweepsReport(layout, chosen_sections(layout, asked.names, asked.terms, queue), asked.terms)
