"""What a name on a command line means: a trial, a configuration or an ensemble.

Owns: the one resolver of all commands and of the Python API. A name is the beginning of an id (of a trial or of a
configuration), `SWEEP` (its best configuration by validation), `SWEEP#3` (that row of its leaderboard), 'SWEEP arch=resnet18'
(the best of what the filter accepts) or, of an ensemble, `SWEEP/METHOD` and its file. Trains and draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.collect.leaderboard import Row
from cifar_hpc.collect.sections import Section, chosen_sections
from cifar_hpc.errors import CifarHpcError, RecordError, did_you_mean, nearest
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.plans import no_sweep, read_plan
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.records.ties import files_of
from cifar_hpc.status.names import Asked, begins, begins_none, parse_words, resolve_id
from cifar_hpc.status.query import split_terms
from cifar_hpc.status.state import Queue

_BEGINNINGS = {"ensembles": "", "soups": "soup-", "wise": ""}  # of names, by the folder of a report that holds the files


@dataclass(frozen=True, slots=True)
class Named:
    """What a name means. row: the configuration; trial_id: where one of its trials was named by its id; sweep: that the row's
    leaderboard is of, None: of several, or of the whole pool."""

    row: Row
    trial_id: str | None
    sweep: str | None

    @property
    def best(self) -> str:
        """The trial that was named; of a configuration the finished seed that is best on validation, else its only one."""
        if self.trial_id is not None:
            return self.trial_id
        if self.row.trials:
            return self.row.best_trial.trial_id
        ids = self.trial_ids
        if len(ids) == 1:
            return ids[0]
        raise CifarHpcError(f"no trial of {self.row.label} has a result that counts: {', '.join(ids)}")

    @property
    def trial_ids(self) -> tuple[str, ...]:
        """The trial that was named, or all seeds of the configuration, finished or not."""
        return self.row.trial_ids if self.trial_id is None else (self.trial_id,)


def find_named(layout: Layout, words: str | Sequence[str], queue: Queue | None = None) -> Named:
    """The trial or configuration. Raises CifarHpcError with the nearest name where there is none, or several."""
    asked = parse_words(words)
    if len(asked.names) == 1 and not layout.has_sweep(asked.names[0]):
        return _of_id(layout, asked.names[0], queue)
    sections = chosen_sections(layout, asked.names, asked.terms, queue)
    sweep = asked.names[0] if len(asked.names) == 1 else None
    said = _said(asked)
    row = _numbered_row(sections, asked.number, said) if asked.number is not None else _best_row(sections, said)
    return Named(row, None, sweep)


def find_best(layout: Layout, words: str | Sequence[str], top: int | None = None) -> list[Named]:
    """The `top` configurations (None: one) that are best by validation, of each data set and split that a sweep and its filter
    have, or the one that is named. Raises CifarHpcError."""
    asked = parse_words(words)
    if asked.number is not None or len(asked.names) != 1 or not layout.has_sweep(asked.names[0]):
        found = find_named(layout, words)  # a name that means nothing is told as that first
        if top is not None:
            raise CifarHpcError(f"--top chooses among a sweep's configurations, and {words!r} names one of them")
        return [found]
    sections = chosen_sections(layout, asked.names, asked.terms)
    best = [Named(row, None, asked.names[0]) for section in sections for row in section.board.measured[: top or 1]]
    return best or [Named(_best_row(sections, _said(asked)), None, asked.names[0])]


def means_one(layout: Layout, asked: Asked) -> bool:
    """Whether a configuration or a trial is named, and not sweeps or a filter of theirs."""
    return asked.number is not None or (len(asked.names) == 1 and not layout.has_sweep(asked.names[0]))


def find_trial(layout: Layout, words: str | Sequence[str]) -> str:
    """The id of the trial that is meant, of a configuration that of its best seed. Raises CifarHpcError."""
    return find_files(layout, words).folder.name


def find_files(layout: Layout, words: str | Sequence[str]) -> TrialFiles:
    """The files of the trial that find_trial finds: of a sweep's row those of its result. Raises CifarHpcError."""
    asked = parse_words(words)
    if len(asked.names) == 1 and not layout.has_sweep(asked.names[0]):  # where an id is given nothing has to be ranked
        trials = layout.trial_ids()
        if any(begins(asked.names[0], trial_id) for trial_id in trials):
            return layout.trial(resolve_id(asked.names[0], trials))
    named = find_named(layout, words)
    trial_id = named.best
    return next((files_of(layout, one) for one in named.row.trials if one.trial_id == trial_id), layout.trial(trial_id))


def find_ensemble(layout: Layout, text: str) -> Path | None:
    """The file of an ensemble or soup named SWEEP/METHOD, or by its path; None where the text names none. Raises CifarHpcError
    where the sweep has no such one."""
    if text.endswith(".json"):
        return Path(text)
    sweep, stroke, method = text.partition("/")
    if not stroke or not layout.has_sweep(sweep):
        return None
    files = layout.sweep(sweep)
    paths = [path for folder in _BEGINNINGS for path in sorted((files.report / folder).glob("*.json"))]
    there = {f"{_BEGINNINGS[path.parent.name]}{path.stem}": path for path in paths}
    there |= {"ensemble": files.ensemble} if files.ensemble.exists() else {}
    if method in there:
        return there[method]
    near = nearest(method, there)
    known = ", ".join(f"{sweep}/{name}" for name in there) or f"none; `cifar-hpc report {sweep}` writes them"
    raise CifarHpcError(f"{text!r} names no ensemble; there: {known}.{did_you_mean(near and f'{sweep}/{near}')}")


def ensemble_name(layout: Layout, path: Path) -> str:
    """What find_ensemble takes for a report's file: SWEEP/METHOD; of a filter, or of several sweeps, its path."""
    report = path.parent.parent
    sweep = report.parent.name
    if layout.has_sweep(sweep) and layout.sweep(sweep).report == report:
        return f"{sweep}/{_BEGINNINGS[path.parent.name]}{path.stem}"
    return str(path)


def in_sweep(layout: Layout, name: str, words: Iterable[str] | None) -> tuple[str, list[str]]:
    """A sweep's name, and the filter and ids of those of its trials that are meant: what `status`, `logs`, `retry` and `cancel`
    take. A row's number, and an id without its sweep, become ids. Raises CifarHpcError."""
    given = [name, *(words or ())]
    asked = parse_words(given)
    if not asked.names:
        raise no_sweep(layout, name)
    sweep, *ids = dict.fromkeys(asked.names)  # that of a row is named again
    terms = split_terms([asked.terms])[1]
    if asked.number is not None:
        return sweep, [*find_named(layout, [f"{sweep}#{asked.number}", *terms]).trial_ids, *ids]
    if not layout.has_sweep(sweep):
        planned = {one: plan.sweep for plan in _plans(layout) for t in plan.trials for one in (t.trial_id, t.point_id)}
        if any(begins(sweep, one) for one in planned):
            found = resolve_id(sweep, planned)
            return planned[found], [found, *ids, *terms]
    return sweep, [*ids, *terms]


def _of_id(layout: Layout, prefix: str, queue: Queue | None) -> Named:
    """In the leaderboard of the first sweep that has it, which names it best; else in that of the whole pool."""
    ids = _ids(layout)
    if not any(begins(prefix, one) for one in ids):
        raise no_sweep(layout, prefix, f" and {begins_none(prefix)}")
    found = resolve_id(prefix, ids)
    sweep = next((plan.sweep for plan in _plans(layout) if any(found in (t.trial_id, t.point_id) for t in plan.trials)), None)
    for names in ([sweep] if sweep else [], []):
        for section in chosen_sections(layout, names, "", queue):
            for row in section.board.rows:
                if found == row.point_id or found in row.trial_ids:
                    return Named(row, found if found in row.trial_ids else None, sweep if names else None)
    raise CifarHpcError(f"{found}: its record cannot be read, or it is of a stage from which others start")


def _ids(layout: Layout) -> set[str]:
    """Of all trials and configurations that the pool or a plan knows."""
    ids = set(layout.trial_ids())
    planned = {trial.trial_id: trial.point_id for plan in _plans(layout) for trial in plan.trials}
    ids |= {*planned, *planned.values()}
    if not ids <= set(planned) | set(planned.values()):  # of trials that no sweep names their records know the configuration
        ids |= {row.point_id for section in chosen_sections(layout, (), "") for row in section.board.rows}
    return ids


def _plans(layout: Layout) -> Iterator[PlanRecord]:
    for sweep in layout.sweeps():
        try:
            yield read_plan(layout, sweep.name)
        except RecordError:  # whoever asks for that sweep is told
            continue


def _said(asked: Asked) -> str:
    return " ".join(filter(None, [*asked.names, asked.terms])) or "all trials"


def _numbered_row(sections: Sequence[Section], number: int, said: str) -> Row:
    rows = {row.number: row for section in sections for row in section.board.rows}
    if number in rows:
        return rows[number]
    known = sorted(n for n in rows if n is not None)
    allowed = ", ".join(f"#{n}" for n in known[:12]) + (", ..." if len(known) > 12 else "")
    if known[1:] and known == [*range(known[0], known[-1] + 1)]:  # a filter may leave some out
        allowed = f"#{known[0]} to #{known[-1]}"
    raise CifarHpcError(f"{said} has no row #{number} in its leaderboard; allowed: {allowed or 'none'}")


def _best_row(sections: Sequence[Section], said: str) -> Row:
    measured = [section for section in sections if section.board.measured]
    if len(measured) > 1:
        where = "; ".join(f"{section.name} (#{section.board.measured[0].number})" for section in measured)
        raise CifarHpcError(f"{said}: nothing is ranked across data sets or splits: {where}; give the row")
    if measured:
        return measured[0].board.measured[0]
    finished = [row for section in sections for row in section.board.rows if row.trials]
    if len(finished) == 1:
        return finished[0]
    if finished:
        rows = ", ".join(f"#{row.number}" for row in finished[:6])
        raise CifarHpcError(f"{said}: {len(finished)} configurations, and no validation figure ranks them; give one of {rows}")
    raise CifarHpcError(f"{said}: no trial has a result that counts; `cifar-hpc status` and `report` tell why")
