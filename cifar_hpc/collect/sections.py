"""A pool in sections, each ranked: one for each data set and split. The numbers of a trial whose own predictions contradict
them are in none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cifar_hpc.collect.image_sets import split_by_images
from cifar_hpc.collect.index import Rejected
from cifar_hpc.collect.leaderboard import Leaderboard, Row, make_leaderboard
from cifar_hpc.collect.predictions import ContradictionError, read_predictions
from cifar_hpc.collect.scan import Pool
from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import Layout

_CHECKED = 20  # rows from the top whose predictions are read before they are shown


@dataclass(frozen=True, slots=True)
class Section:
    """The trials that were measured on the same images, ranked. name: of the data set, with what tells it from the others."""

    name: str
    pool: Pool
    board: Leaderboard


def make_sections(pool: Pool, layout: Layout) -> list[Section]:
    """The section of most trials first; at least one."""
    return [Section(name, *_checked(part, layout)) for name, part in split_by_images(pool)]


def _checked(pool: Pool, layout: Layout) -> tuple[Pool, Leaderboard]:
    """The trials of the first rows whose predictions do not give what their result.json says are contradicted, and in no
    number; that they finished is still counted."""
    while True:
        board = make_leaderboard(pool)
        shown = board.measured[:_CHECKED]
        wrong = {trial_id: reason for row in shown for trial_id, reason in _contradicted(row, layout)}
        if not wrong:
            return pool, board
        rejected = tuple(Rejected(str(layout.trial(trial_id).result), reason) for trial_id, reason in wrong.items())
        found = tuple(trial for trial in pool.trials if trial.trial_id in wrong)
        rest = pool.where(lambda trial, wrong=wrong: trial.trial_id not in wrong)  # type: ignore[misc]
        pool = replace(rest, rejected=(*pool.rejected, *rejected), contradicted=(*pool.contradicted, *found))


def _contradicted(row: Row, layout: Layout) -> Iterator[tuple[str, str]]:
    for trial in row.trials:
        for split in ("val", "test"):
            try:
                if told := trial.told(split):
                    read_predictions(layout.trial(trial.trial_id), split, told)
            except ContradictionError as error:
                yield trial.trial_id, str(error)
                break
            except RecordError:  # corrupt or missing: it contradicts nothing, and its row is not tested
                break
