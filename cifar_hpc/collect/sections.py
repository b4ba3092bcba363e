"""A pool in sections, each ranked: one for each data set and split. The numbers of a trial whose own predictions contradict
them are in none of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cifar_hpc.collect.chosen import chosen_pool
from cifar_hpc.collect.image_sets import split_by_images
from cifar_hpc.collect.index import Rejected
from cifar_hpc.collect.leaderboard import Leaderboard, Row, make_leaderboard
from cifar_hpc.collect.predictions import ContradictionError, read_predictions
from cifar_hpc.collect.scan import Pool, varying_axes
from cifar_hpc.collect.trials import DATASET, short_paths, with_short_paths
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.ties import files_of
from cifar_hpc.status.query import parse_filter, spell
from cifar_hpc.status.state import Queue

CHECKED = 20  # rows from the top whose predictions are read before they are shown


@dataclass(frozen=True, slots=True)
class Section:
    """The trials that were measured on the same images, ranked. name: of the data set, with what tells it from the others."""

    name: str
    pool: Pool
    board: Leaderboard

    def of_point(self, point_id: str) -> Section:
        """Of one configuration alone, with the number that its row has."""
        pool = self.pool.where(lambda trial: trial.point_id == point_id)
        rows = tuple(row for row in self.board.rows if row.point_id == point_id)
        return replace(self, pool=pool, board=replace(self.board, rows=rows))


def make_sections(pool: Pool, layout: Layout) -> list[Section]:
    """The section of most trials first; at least one. The rows' numbers run on from section to section."""
    sections: list[Section] = []
    axes = varying_axes(pool)
    ends = short_paths(trial.config.get("weights") for trial in pool.everyone)
    for name, part in split_by_images(pool):
        pool, board = _checked(part, layout)
        above = sum(len(section.board.rows) for section in sections)
        whole = [with_short_paths({axis: row.config.get(axis) for axis in axes}, ends) for row in board.rows]
        rows = tuple(
            replace(row, number=above + number, whole_axes=its)
            for number, (row, its) in enumerate(zip(board.rows, whole, strict=True), 1)
        )
        sections.append(Section(name, pool, replace(board, rows=rows)))
    return sections


def chosen_sections(layout: Layout, names: Sequence[str], terms: str, queue: Queue | None = None) -> list[Section]:
    """The sections of these sweeps' trials that the filter accepts. A row keeps the number that it has without a filter, so
    that SWEEP#3 means one configuration whatever is shown. Raises as chosen_pool."""
    sections = make_sections(chosen_pool(layout, list(names), terms, queue), layout)
    if not terms:
        return sections
    everyone = make_sections(chosen_pool(layout, list(names), "", queue), layout)
    whole = {row.point_id: row for section in everyone for row in section.board.rows}
    boards = {row.point_id: section.board for section in everyone for row in section.board.rows}
    return [replace(section, board=_as_in(whole, boards, section.board)) for section in sections]


def one_section(sections: Sequence[Section], command: str) -> Section:
    """The only one, for a command that compares nothing across data sets. Raises CifarHpcError where they are several, with a
    filter that leaves one."""
    first, *others = sections
    if not others:
        return first
    names = "; ".join(section.name for section in sections)
    such = next(filter(None, (_told_apart(section, sections) for section in sections)), None)
    example = f". A filter leaves one, such as {such}" if such else ""
    raise CifarHpcError(f"{command}: one data set and split at a time, and here are {names}{example}")


def _told_apart(section: Section, sections: Sequence[Section]) -> str | None:
    """A term of a filter that all its trials meet and no other's; None where no single key has one."""
    own = [trial.facts for trial in section.pool.everyone]
    rest = [trial.facts for one in sections if one is not section for trial in one.pool.everyone]
    for key in dict.fromkeys((DATASET, *(key for facts in own for key in facts if key.startswith(f"{DATASET}.")))):
        value = spell(own[0].get(key), key)
        term = f"{key}={value}" if " " not in value else f'{key}="{value}"'
        chosen = parse_filter([term], {key})
        if all(map(chosen.matches, own)) and not any(map(chosen.matches, rest)):
            return shlex.quote(term)
    return None


def _as_in(whole: Mapping[str, Row], boards: Mapping[str, Leaderboard], board: Leaderboard) -> Leaderboard:
    """The rows with the numbers and axes that they have in the leaderboard that no filter cuts, what it cuts of them, and the
    values that their axes have there; what has a part of its trials for it below the others."""
    rows = []
    for row in board.rows:
        one = whole.get(row.point_id)
        number, axes, hidden = (one.number, one.told_by, one.runs_n - row.runs_n) if one else (None, {}, 0)
        rows.append(replace(row, number=number, whole_axes=axes, hidden=hidden))
    uncut = next((boards[row.point_id] for row in rows if row.point_id in boards), board)
    tried = {axis: uncut.values(axis) for axis in board.axes if axis in uncut.axes}
    return board.filtered(rows, tried)


def _checked(pool: Pool, layout: Layout) -> tuple[Pool, Leaderboard]:
    """The trials of the first rows whose predictions do not give what their result.json says are contradicted, and in no
    number; that they finished is still counted."""
    while True:
        board = make_leaderboard(pool)
        shown = [row for row in board.rows if row.trials][:CHECKED]
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
                    read_predictions(files_of(layout, trial), split, told, trial.classes)
            except ContradictionError as error:
                yield trial.trial_id, str(error)
                break
            except RecordError:  # corrupt or missing: it contradicts nothing, and its row is not tested
                continue
