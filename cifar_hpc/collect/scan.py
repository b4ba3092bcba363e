"""From the records to a Pool: what finished, what did not, and what could not be read. Knows file names only through Layout.

A scan may run while trials do: it sees each result whole or not at all.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cifar_hpc.collect.data_findings import Finding, findings_of
from cifar_hpc.collect.index import Rejected, Stamp, read_finished
from cifar_hpc.collect.objectives import Chosen, objectives_of
from cifar_hpc.collect.trials import Axis, Curves, Trial, Unfinished, trial_of
from cifar_hpc.config.identity import ID_LENGTH
from cifar_hpc.config.registry import OBJECTIVES, ObjectiveInfo
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records.ancestry import Ancestry
from cifar_hpc.records.claims import TrialState, newest_claim
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import answering, parent_in, read_plan, until_stopped
from cifar_hpc.records.schema import EnsembleRules, PlannedTrial, PlanRecord, Status, TrialRecord, TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.records.ties import read_valid
from cifar_hpc.records.usage import Accounting
from cifar_hpc.status.advice import counts_text
from cifar_hpc.status.axes import keys_that_differ, telling_keys
from cifar_hpc.status.query import config_text, flat_config, fold_of, said_by_spec, stages_of, starts_of, with_digits
from cifar_hpc.status.state import ENDED, Queue, read_states
from cifar_hpc.status.words import allocated_text, device_hours_text

T = TypeVar("T", Trial, Unfinished)

_ID = re.compile(f"[a-z2-7]{{{ID_LENGTH}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """All trials of some sweeps, or of the whole pool. curves: of `trials`, in the same order."""

    sweeps: tuple[str, ...]  # empty: the whole pool
    ranked: Chosen  # by which objective, and why
    planned_axes: tuple[str, ...] | None  # swept keys as one sweep's spec spells them; None: several sweeps or the pool
    trials: tuple[Trial, ...]
    curves: Curves
    unfinished: tuple[Unfinished, ...]
    rejected: tuple[Rejected, ...]
    contradicted: tuple[Trial, ...] = ()  # finished, but their own predictions give other numbers: in `rejected` too
    earlier_stages: tuple[str, ...] = ()  # of one sweep: those from which others start; their trials answer no question
    ensemble: EnsembleRules | None = None  # what one sweep's spec asks for
    to_come: int = 0  # trials that the sweeps' searches may still sample, at most
    findings: tuple[Finding, ...] = ()  # on images and weights
    notes: tuple[str, ...] = ()  # what else a reader must know, and of trials that are not here
    of_several: frozenset[str] = frozenset()  # trials that sweeps have in unlike configurations: each counts in one here
    samples_anew: bool = False  # whether more seeds would have a search of one of the sweeps sample other configurations
    before_s: Mapping[str, float] = field(default_factory=dict)  # of trials with a parent: see _seconds_before
    seen: frozenset[str] = frozenset()  # of trials with a parent: see Ancestry.may_have_seen

    @property
    def objective(self) -> str:
        return self.ranked.name

    @property
    def info(self) -> ObjectiveInfo:
        return self.ranked.own or OBJECTIVES[self.objective]

    def without_earlier_stages(self) -> Pool:
        """The pool with only the trials that answer the sweep's question; its notes tell how far the others are."""
        notes = []
        for stage in self.earlier_stages:
            done = sum(trial.config.get("stage") == stage for trial in self.trials)
            open_ = [trial for trial in self.unfinished if trial.config.get("stage") == stage]
            counts = Counter(trial.status for trial in open_)
            ended = counts_text({status: counts[status] for status in (Status.FAILED, Status.LOST)})
            state = f"{done} of {done + len(open_)} trials finished" + (f", {ended}" if ended else "")
            notes.append(
                f"Stage {stage}, from which others start, is not among the rows ({state}){self._hours_of(stage)}: stage={stage}"
                " shows it."
            )
        chosen = self.where(lambda trial: trial.config.get("stage") not in self.earlier_stages or "stage" not in trial.config)
        earlier = {trial.trial_id for trial in self.everyone} - {trial.trial_id for trial in chosen.everyone}
        findings = [  # what is of an earlier stage alone is of all that start from it
            one if one in chosen.findings else replace(one, trial_ids=None)
            for one in self.findings
            if one in chosen.findings or not self.everyone or not earlier.isdisjoint(one.trial_ids or ())
        ]
        return replace(chosen, findings=tuple(findings), notes=(*chosen.notes, *notes))

    def _hours_of(self, stage: str) -> str:
        """', nor in the cost of these its 0.5 GPU-hours'; empty where these sweeps spent none on it."""
        hours: dict[str, float] = {}
        for trial in self.everyone:
            if trial.config.get("stage") == stage and trial.spent_hours and self.is_own(trial):
                device = trial.device or "device"
                hours[device] = hours.get(device, 0.0) + trial.spent_hours
        spent = " and ".join(device_hours_text(n, device) for device, n in hours.items())
        return f", nor in the cost of these its {spent}" if spent else ""

    def is_own(self, trial: Trial | Unfinished) -> bool:
        """Whether its hours are of what was asked for: of sweeps, not where a job of another tried it last."""
        return not self.sweeps or trial.job is None or trial.job.partition("/")[0] in self.sweeps

    def where(self, keep: Callable[[Trial | Unfinished], bool]) -> Pool:
        """The pool with only the trials that `keep` accepts, ranked by what their sweeps agree on, and what is known of their
        images."""
        rows = [row for row, trial in enumerate(self.trials) if keep(trial)]
        trials = tuple(self.trials[row] for row in rows)
        unfinished = tuple(trial for trial in self.unfinished if keep(trial))
        contradicted = tuple(trial for trial in self.contradicted if keep(trial))
        kept = replace(self, trials=trials, curves=self.curves.take(rows), unfinished=unfinished, contradicted=contradicted)
        ids = {trial.trial_id for trial in kept.everyone}
        findings = [one for one in self.findings if one.trial_ids is None or not ids.isdisjoint(one.trial_ids)]
        return replace(kept, findings=tuple(findings), ranked=self.ranked.among(ids) if ids else self.ranked)

    @property
    def everyone(self) -> tuple[Trial | Unfinished, ...]:
        """All its trials, whatever became of them."""
        return (*self.trials, *self.unfinished, *self.contradicted)


def scan(layout: Layout, sweeps: Sequence[str] = (), queue: Queue | None = None, ended: frozenset[str] = frozenset()) -> Pool:
    """Collects the trials of the sweeps, or of the whole pool where none is named. queue: who is asked about jobs in a queue;
    ended: trials that are known to have a result, whether the pool's listing has them or not.

    Raises CifarHpcError for a sweep that does not exist, RecordError for a plan that cannot be read.
    """
    plans = [read_plan(layout, sweep) for sweep in dict.fromkeys(sweeps)]
    planned = {trial.trial_id: trial for plan in plans for trial in plan.trials}
    ids, foreign = _pool_ids(layout)
    present = ended.union(ids)
    wanted = list(planned) if plans else ids
    stamps = _stamps(layout, wanted, present)
    trials, curves, corrupt = read_finished(layout, stamps, whole_pool=not plans)
    trials, curves = _until_stopped(layout, plans, *_that_end(trials, curves, plans))
    finished = {trial.trial_id for trial in trials}
    broken = {rejected.path: rejected.reason for rejected in corrupt}
    unfinished: list[Unfinished] = []
    unread: list[Rejected] = []
    states = read_states(layout, [trial_id for trial_id in wanted if trial_id not in finished], plans, queue)
    late = {trial_id for trial_id, state in states.items() if state.status in ENDED and trial_id not in stamps}
    if late - ended:  # they ended between the two looks, or the file system still lists the pool as it was
        return scan(layout, sweeps, queue, ended | late)
    for trial_id, state in states.items():
        try:
            unfinished.append(_unfinished(layout, state, planned.get(trial_id), broken))
        except Exception as error:  # whatever one stranger's record makes of a reader, the others are read
            unread.append(Rejected(str(layout.trial(trial_id).folder), str(error)))
    of_several: frozenset[str] = frozenset()
    if len(plans) == 1:
        trials, unfinished = _as_spelled(_as_grouped(trials, planned), planned), _as_spelled(unfinished, planned)
    else:
        telling = plans or list(_readable_plans(layout))
        said, of_several = _depths_said(telling, [*trials, *unfinished]), _of_several_points(telling)
        trials, unfinished = _as_said(trials, said), _as_said(unfinished, said)
    trials, unfinished = _told_apart(trials, unfinished)
    ancestry = Ancestry(layout, {trial_id: trial.config for trial_id, trial in planned.items()})
    return Pool(
        sweeps=tuple(plan.sweep for plan in plans),
        ranked=objectives_of(layout, plans, trials),
        before_s=_seconds_before(layout, trials),
        seen=frozenset(t.trial_id for t in trials if t.parent_id and ancestry.may_have_seen(t.trial_id)),
        planned_axes=_planned_axes(plans[0]) if len(plans) == 1 else None,
        trials=tuple(trials),
        curves=curves,
        unfinished=tuple(unfinished),
        rejected=(*corrupt, *unread, *(() if plans else foreign)),
        ensemble=plans[0].ensemble if len(plans) == 1 else None,
        to_come=sum(plan.to_come for plan in plans),
        earlier_stages=_earlier_stages(plans[0]) if len(plans) == 1 else (),
        findings=findings_of(plans),
        notes=tuple(dict.fromkeys(_allocated(layout, plans))),
        of_several=of_several,
        samples_anew=any(plan.samples_anew for plan in plans),
    )


def _seconds_before(layout: Layout, trials: Sequence[Trial]) -> dict[str, float]:
    """What each trial needed to have trained before it: the seconds of its parent, of that one's parent, and so on. Without
    those of which a record is not there."""
    known: dict[str, tuple[float, str | None] | None] = {trial.trial_id: (trial.train_s, trial.parent_id) for trial in trials}
    found = {}
    for trial in trials:
        seconds, parent = 0.0, trial.parent_id
        while parent is not None:
            if parent not in known:
                known[parent] = _recorded(layout, parent)
            told = known[parent]
            if told is None:
                break
            seconds, parent = seconds + told[0], told[1]
        else:
            if trial.parent_id is not None:
                found[trial.trial_id] = seconds
    return found


def _recorded(layout: Layout, trial_id: str) -> tuple[float, str | None] | None:
    """The training time of a trial of another sweep, and its parent; None where nothing tells."""
    try:
        result, _ = read_valid(layout.trial(trial_id), trial_id)
    except (CifarHpcError, OSError):
        return None
    return result.train_s, parent_in(result.config)


def _allocated(layout: Layout, plans: Sequence[PlanRecord]) -> list[str]:
    """What the cluster's accounting last said of each sweep."""
    notes = []
    for plan in plans:
        with contextlib.suppress(OSError, RecordError):
            found = read_record(layout.sweep(plan.sweep).accounting, Accounting)
            notes.append(f"The cluster counted for {plan.sweep}: {allocated_text(found)}.")
    return notes


def varying_axes(pool: Pool) -> tuple[Axis, ...]:
    """The config keys that tell the points apart: those that one sweep's plan names, else all, the usual ones first."""
    configs = list({id(trial.config): trial.config for trial in pool.everyone}.values())
    return keys_that_differ(configs) if pool.planned_axes is None else telling_keys(pool.planned_axes, configs)


def _pool_ids(layout: Layout) -> tuple[list[str], list[Rejected]]:
    ids, foreign = [], [Rejected(str(folder), "its name is not a trial's id") for folder in layout.foreign_folders()]
    for name in layout.trial_ids():
        if _ID.fullmatch(name):
            ids.append(name)
        else:
            foreign.append(Rejected(str(layout.trial(name).folder), "its name is not a trial's id"))
    return ids, foreign


def _stamps(layout: Layout, trial_ids: Iterable[str], present: frozenset[str]) -> dict[str, Stamp]:
    stamps = {}
    for trial_id in trial_ids:
        if trial_id in present:
            try:
                status = layout.trial(trial_id).result.stat()
                stamps[trial_id] = (status.st_mtime_ns, status.st_size)
            except FileNotFoundError:
                continue
            except OSError:  # reading it says what is wrong
                stamps[trial_id] = (-1, -1)
    return stamps


def _that_end(trials: list[Trial], curves: Curves, plans: Sequence[PlanRecord]) -> tuple[list[Trial], Curves]:
    """Without those that another sweep's search stopped: for these sweeps they are still to train."""
    asking: dict[str, list[PlanRecord]] = {}
    for plan in plans:
        for planned in plan.trials:
            asking.setdefault(planned.trial_id, []).append(plan)
    rows = [row for row, trial in enumerate(trials) if not plans or any(plan.ends(trial) for plan in asking[trial.trial_id])]
    return (trials, curves) if len(rows) == len(trials) else ([trials[row] for row in rows], curves.take(rows))


def _until_stopped(
    layout: Layout, plans: Sequence[PlanRecord], trials: list[Trial], curves: Curves
) -> tuple[list[Trial], Curves]:
    """With those that one of these sweeps' own searches stopped and that other sweeps have trained again since, in the order
    of the plans."""
    place = {trial.trial_id: number for number, trial in enumerate(planned for plan in plans for planned in plan.trials)}
    there = {trial.trial_id for trial in trials}
    found: dict[str, TrialResult] = {}
    for trial_id, plan in [(planned.trial_id, asking) for asking in plans for planned in asking.trials]:
        if trial_id not in there and trial_id not in found and (result := until_stopped(layout, trial_id, plan)):
            found[trial_id] = result
    if not found:
        return trials, curves
    trials = [*trials, *(trial_of(result, TrialConfig.from_json(result.config).point_id) for result in found.values())]
    order = sorted(range(len(trials)), key=lambda row: place[trials[row].trial_id])
    return [trials[row] for row in order], curves.with_those_of([result.curves for result in found.values()]).take(order)


def _unfinished(layout: Layout, state: TrialState, planned: PlannedTrial | None, broken: Mapping[str, str]) -> Unfinished:
    """Raises RecordError where neither a plan nor trial.json tells what the trial is."""
    files = layout.trial(state.trial_id)
    try:
        config: dict[str, Any] = planned.config if planned else read_record(files.trial, TrialRecord).config
        point_id = planned.point_id if planned else TrialConfig.from_json(config).point_id
    except FileNotFoundError:
        raise RecordError(broken.get(str(files.result), "no trial.json in it")) from None
    except (TypeError, KeyError) as error:
        raise RecordError(f"its config is not one of this version: {error}") from error
    claim = state.claim or (newest_claim(files) if state.epochs or state.reason else None)
    return Unfinished(
        trial_id=state.trial_id,
        point_id=point_id,
        config=flat_config(config_text(config)),
        seed=int(config["seed"]),
        fold=fold_of(config),
        status=state.status,
        reason=state.reason,
        epochs=state.epochs_done,
        spent_s=sum(epoch.train_s + epoch.val_s for epoch in state.epochs),
        lost_s=(claim.lost_s or 0.0) if claim else 0.0,
        job=claim.job if claim else None,
        device=claim.device if claim else None,
        devices=1.0 if claim is None or claim.devices is None else claim.devices,
        running=tuple(state.epochs) if state.status is Status.RUNNING and not state.waits else (),
        shared_by=claim.shared_by if claim else 1,
        own_val=config["dataset"].get("own_val"),
    )


def _as_grouped(trials: Sequence[Trial], planned: Mapping[str, PlannedTrial]) -> list[Trial]:
    """The trials in the sweep's own points: one that was trained before by its parent's id knows no point of parents."""
    points = {trial_id: trial.point_id for trial_id, trial in planned.items()}
    return [t if t.point_id == points[t.trial_id] else replace(t, point_id=points[t.trial_id]) for t in trials]


def _as_spelled(trials: Sequence[T], planned: Mapping[str, PlannedTrial]) -> list[T]:
    """The trials with what is told as the sweep's spec has it; one config for each point."""
    stages, starts = stages_of(planned.values()), starts_of(planned.values())
    points: dict[str, Mapping[Axis, Any]] = {}
    for trial in trials:
        points.setdefault(trial.point_id, said_by_spec(planned[trial.trial_id], stages, starts))
    return _as_said(trials, points)


def _readable_plans(layout: Layout) -> Iterator[PlanRecord]:
    for sweep in layout.sweeps():
        with contextlib.suppress(RecordError, CifarHpcError, OSError):  # whoever asks for that sweep is told
            yield read_plan(layout, sweep.name)


def _of_several_points(plans: Iterable[PlanRecord]) -> frozenset[str]:
    """Trials that sweeps have in unlike configurations, such as with split_seed 0 and with a split for each seed."""
    points: dict[str, set[str]] = {}
    for plan in plans:
        for trial in plan.trials:
            points.setdefault(trial.trial_id, set()).add(trial.point_id)
    return frozenset(trial_id for trial_id, found in points.items() if len(found) > 1)


def _depths_said(plans: Iterable[PlanRecord], trials: Iterable[Trial | Unfinished]) -> dict[str, dict[str, Any]]:
    """Point -> its freezing depth as the specs have it, where all sweeps that have a network at that depth spell it alike; also
    of trials that have left their plan since."""
    words: dict[tuple[str, str], set[Any]] = {}
    for plan in plans:
        for planned in plan.trials:
            depth = str(planned.config["arch"]), str(planned.config["freeze"])
            words.setdefault(depth, set()).add(said_by_spec(planned, (), {}).get("freeze", planned.config["freeze"]))
    depths = {trial.point_id: (str(trial.config.get("arch")), str(trial.config.get("freeze"))) for trial in trials}
    return {point: {"freeze": next(iter(words[depth]))} for point, depth in depths.items() if len(words.get(depth, ())) == 1}


def _as_said(trials: Sequence[T], said: Mapping[str, Mapping[Axis, Any]]) -> list[T]:
    """The trials with these values in place of their config's; one config for each point."""
    configs: dict[str, Mapping[Axis, Any]] = {}
    for trial in trials:
        own = said.get(trial.point_id, {})
        if trial.point_id not in configs and any(trial.config.get(key) != value for key, value in own.items()):
            configs[trial.point_id] = {**trial.config, **own}
    return [replace(trial, config=configs[trial.point_id]) if trial.point_id in configs else trial for trial in trials]


def _told_apart(trials: Sequence[Trial], unfinished: Sequence[Unfinished]) -> tuple[list[Trial], list[Unfinished]]:
    """With numbers that are spelled differently where they are different; one config for each point."""
    everyone: tuple[Trial | Unfinished, ...] = (*trials, *unfinished)
    configs = {id(trial.config): trial.config for trial in everyone}
    told = dict(zip(configs, with_digits(list(configs.values())), strict=True))
    return (
        [t if told[id(t.config)] is t.config else replace(t, config=told[id(t.config)]) for t in trials],
        [t if told[id(t.config)] is t.config else replace(t, config=told[id(t.config)]) for t in unfinished],
    )


def _earlier_stages(plan: PlanRecord) -> tuple[str, ...]:
    answers = {trial.trial_id for trial in answering(plan)}
    return tuple(dict.fromkeys(str(trial.axes["stage"]) for trial in plan.trials if trial.trial_id not in answers))


def _planned_axes(plan: PlanRecord) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for trial in plan.trials for key in trial.axes if key not in ("seed", "fold")))
