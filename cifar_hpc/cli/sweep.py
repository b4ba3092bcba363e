"""`cifar-hpc sweep`: plans a spec, starts what is missing, stays until all of it has ended. Trains nothing itself.

What was interrupted or lost goes on; what failed stays, with its reason, until `retry`: a sweep that reruns a failure
silently would spend the night on it.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cifar_hpc.cli.progress import Counts, best_point, remaining_s, watched
from cifar_hpc.cli.stages import Lineage, stage_lines
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.planning.lineage import parent_lacking, parent_of
from cifar_hpc.records.claims import TrialState, clear_finished, is_own
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import write_plan
from cifar_hpc.records.schema import JobEvent, PlanRecord, Status
from cifar_hpc.records.store import append_records, read_record, utc_now, write_changed
from cifar_hpc.report.forms import duration_text, plural
from cifar_hpc.status.state import ENDED, SweepReader, failure_lines, first_line, reserve_numbers, sweep_command
from cifar_hpc.terminal.harmless import make_console

if TYPE_CHECKING:
    from cifar_hpc.config.trial import TrialConfig
    from cifar_hpc.executors.slurm.profile import SlurmProfile
    from cifar_hpc.planning.plan import Job, Plan

MOST_STARTS = 3  # of one trial by one command: beyond that it ends without a word each time
WAIT_S = 1.0
CLUSTER_WAIT_S = 10.0


class On(StrEnum):
    """Where the trials run."""

    AUTO = "auto"
    INLINE = "inline"
    RAY = "ray"
    SLURM = "slurm"


@dataclass(frozen=True, slots=True)
class Where:
    """Where and how to run. profile: of the Slurm site, None: the only one; wait: stay until Slurm's jobs have ended."""

    on: On
    profile: str | None = None
    canary: bool = True
    wait: bool = False

    def slurm(self) -> SlurmProfile | None:
        """The profile where Slurm is meant: asked for, or there with a profile. Raises CifarHpcError."""
        if self.on not in (On.AUTO, On.SLURM) or (self.on is On.AUTO and shutil.which("sbatch") is None):
            return None
        from cifar_hpc.executors.slurm.profile import SlurmProfile, find_profile

        found = find_profile(self.profile)
        return SlurmProfile() if found is None and self.on is On.SLURM else found


def sweep(
    spec: Annotated[Path, typer.Argument(help="the sweep's YAML file")],
    on: Annotated[
        On,
        typer.Option(
            metavar="WHERE", help="auto, inline (in this process), ray (side by side on this machine) or slurm (job arrays)"
        ),
    ] = On.AUTO,
    profile: Annotated[str | None, typer.Option(help="the Slurm site: slurm/NAME.yaml, or a path")] = None,
    canary: Annotated[bool, typer.Option(help="on Slurm: one trial's first epoch must succeed before the arrays start")] = True,
    wait: Annotated[bool, typer.Option("--wait/--detach", help="on Slurm: stay until all has ended")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="on Slurm: cancel queued jobs whose trials the spec dropped")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="with --dry-run: the first batch script too")] = False,
    share: Annotated[bool, typer.Option("--share/--no-share", help="train trials with a common trunk side by side")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="count, and start nothing")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change the spec for this call")] = None,
) -> None:
    """Train the trials of SPEC that are not finished yet. Typing it again goes on where it was interrupted."""
    from cifar_hpc.planning.changes import changed_code
    from cifar_hpc.planning.plan import make_plan, plan_record
    from cifar_hpc.spec.load import load_spec

    loaded = load_spec(spec, set_ or ())
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    layout = Layout(results_root())
    if loaded.search is not None:
        from cifar_hpc.cli.search import print_search, run_search
        from cifar_hpc.search.run import journal_of

        _dropped(layout, journal_of(loaded, None, 1))
        where = Where(on, profile)
        if dry_run:
            print_search(layout, loaded)
        else:
            run_search(layout, loaded, where)
        return
    plan = make_plan(loaded, share=share)
    dropped = _dropped(layout, plan_record(plan))
    if dropped:
        some = ", ".join(dropped[:4]) + ", ..." * (len(dropped) > 4)
        say(f"no longer in the spec: {len(dropped)} trials ({some}); their results stay")
        for sentence in changed_code(read_record(layout.sweep(loaded.name).plan, PlanRecord), plan_record(plan)):
            say(sentence)
    reader = SweepReader(layout, plan_record(plan))
    where = Where(on, profile, canary, wait)
    if dry_run:
        states = reader.read()
        _print_plan(plan, states)
        if site := where.slurm():
            from cifar_hpc.cli.submit import print_arrays

            print_arrays(layout, plan, to_submit(states, ()), site, verbose=verbose, canary=canary)
        return
    if prune and dropped:
        from cifar_hpc.cli.cancel import cancel_trials

        say(f"pruned: {len(cancel_trials(layout, loaded.name, dropped).stopped)} queued jobs cancelled")
    run_plan(layout, plan, reader, where, again=())


def run_plan(layout: Layout, plan: Plan, reader: SweepReader, where: Where, again: Collection[str]) -> None:
    """Starts what is missing, and the failed trials in `again`; returns, or raises typer.Exit(1), when all have ended.

    Raises CifarHpcError before anything starts where data or weights are not here.
    """
    site = where.slurm()
    lineage = Lineage(plan.trials)
    states = reader.read()
    again = lineage.with_failed_parents(again, states)
    while lineage.fail_orphans(layout, states, again):
        states = reader.read()
    todo = to_submit(states, again) if site else _to_start(states, again)
    notes = check_there([t for t in plan.trials if t.trial_id in todo], [t for t in todo if lineage.await_parents(t, states)])
    reader.plan = dataclasses.replace(reader.plan, findings=findings_of(plan.spec.findings, plan.trials, notes))
    for trial_id in (trial_id for trial_id, state in states.items() if state.status in ENDED):
        clear_finished(layout.trial(trial_id), trial_id)
    if plan.spec.text:  # not so where a retry took the plan from disk
        write_changed(layout.sweep(plan.spec.name).spec, plan.spec.text.encode())
    if kept := write_plan(layout, reader.plan):
        say(f"the plan that this one replaces stays readable in {kept}, its results in the pool; its spec brings it back")
    if site:
        from cifar_hpc.cli.submit import submit

        submit(layout, plan, todo, site, canary=where.canary)
        if not where.wait:
            return
        states = _wait_for_cluster(layout, reader)
        sum_up(reader.plan, states)
        return
    if not todo and not _elsewhere(states):
        say(f"{plan.spec.name}: nothing to start.")
        sum_up(reader.plan, states, skipped_failures=True)
        return
    interruptible()
    if todo:
        say(_first_line(layout, plan, where.on, todo))
    try:
        with watched(reader, _console()):
            states = _until_ended(layout, plan, reader, where.on, todo)
    except KeyboardInterrupt:
        say(f"interrupted: {Counts.of(reader.plan, reader.read())} are kept. To go on: {sweep_command(reader.plan)}")
        raise typer.Exit(130) from None
    sum_up(reader.plan, states)


def _first_line(layout: Layout, plan: Plan, on: On, todo: Collection[str]) -> str:
    """'quick: trains 8 trials in 2 cohorts, in this process; results in /home/me/results'."""
    from cifar_hpc.planning.plan import jobs_for

    jobs = jobs_for(plan, todo, 1)
    cohorts = sum(len(job.cohorts) for job in jobs)
    some = plural(len(todo), "trial") if len(todo) == len(plan.trials) else f"{len(todo)} of {len(plan.trials)} trials"
    place = {"inline": "in this process", "ray": f"on {os.environ.get('RAY_ADDRESS', 'this machine')} through Ray Tune"}[
        _choose(on, len(jobs))
    ]
    return f"{plan.spec.name}: trains {some} in {plural(cohorts, 'cohort')}, {place}; results in {layout.root}"


def say(line: str) -> None:
    """One line of prose, on stderr."""
    typer.echo(line, err=True)


def _until_ended(layout: Layout, plan: Plan, reader: SweepReader, on: On, todo: Collection[str]) -> dict[str, TrialState]:
    """Runs rounds: start what nobody has, then wait for what another process has, and take it over if that one dies."""
    from cifar_hpc.executors import open_executor
    from cifar_hpc.planning.plan import jobs_for

    starts: Counter[str] = Counter()
    waiting_told = False
    lineage = Lineage(plan.trials)
    ready = lineage.ready(todo, reader.read())
    while True:
        if ready:
            starts.update(ready)
            jobs = jobs_for(plan, ready, reserve_numbers(layout.sweep(plan.spec.name), len(jobs_for(plan, ready, 1))))
            executor = open_executor(_choose(on, len(jobs)))
            handles: dict[str, str] = {}

            def started(job: Job, handle: str, name: str = executor.name, handles: dict[str, str] = handles) -> None:
                handles[job.job_id] = handle
                append_records(layout.sweep(job.sweep).jobs, [_event("submitted", job, name, handle)])

            try:
                executor.start(layout, jobs, started)
            finally:
                ended = [_event("ended", job, executor.name, handles[job.job_id]) for job in jobs if job.job_id in handles]
                append_records(layout.sweep(plan.spec.name).jobs, ended)
        states = reader.read()
        while lineage.fail_orphans(layout, states, ()):
            states = reader.read()
        ready = lineage.ready({t for t in _to_start(states, ()) if starts[t] < MOST_STARTS}, states)
        elsewhere = _elsewhere(states)
        if not ready and not elsewhere:
            return states
        if not ready:
            if not waiting_told:
                say(f"waiting for {len(elsewhere)} trials that another process trains")
                waiting_told = True
            time.sleep(WAIT_S)


def _to_start(states: Mapping[str, TrialState], again: Collection[str]) -> set[str]:
    missing = (Status.PLANNED, Status.QUEUED, Status.LOST, Status.CANCELLED)
    return {
        trial_id
        for trial_id, state in states.items()
        if state.status in missing or (state.status is Status.FAILED and trial_id in again)
    }


def to_submit(states: Mapping[str, TrialState], again: Collection[str]) -> set[str]:
    """As _to_start, without what already stands in Slurm's queue."""
    return {trial_id for trial_id in _to_start(states, again) if states[trial_id].status is not Status.QUEUED}


def _wait_for_cluster(layout: Layout, reader: SweepReader) -> dict[str, TrialState]:
    with watched(reader, _console()):
        while True:
            states = reader.read()
            if not any(state.status in (Status.QUEUED, Status.RUNNING) for state in states.values()):
                return states
            time.sleep(CLUSTER_WAIT_S)


def _elsewhere(states: Mapping[str, TrialState]) -> list[str]:
    """What other processes train. A claim of this one, which trains nothing now, stayed since it could not be given back."""
    running = {trial_id: state for trial_id, state in states.items() if state.status is Status.RUNNING}
    return [trial_id for trial_id, state in running.items() if not (state.claim and is_own(state.claim))]


def _choose(on: On, jobs_n: int) -> str:
    if on is not On.AUTO:
        return on.value
    return "ray" if jobs_n > 1 and find_spec("ray") is not None else "inline"


def _dropped(layout: Layout, plan: PlanRecord) -> list[str]:
    """Trials that the sweep of that name had and this plan has not. Raises CifarHpcError where the name is taken."""
    try:
        before = read_record(layout.sweep(plan.sweep).plan, PlanRecord)
    except (FileNotFoundError, RecordError):
        return []
    now = {trial.trial_id for trial in plan.trials}
    dropped = [trial.trial_id for trial in before.trials if trial.trial_id not in now]
    other_file = Path(before.spec_path).absolute() != Path(plan.spec_path).absolute()
    same_search = plan.search and before.search and plan.search["definition"] == before.search["definition"]
    if other_file and len(dropped) == len(before.trials) and not same_search:
        raise CifarHpcError(
            f"{plan.spec_path}: name: {plan.sweep!r} is taken by {before.spec_path}, of which no trial is in this spec; "
            "choose another name"
        )
    return dropped


def check_there(configs: Sequence[TrialConfig], awaiting: Collection[str] = ()) -> list[str]:
    """What is worth knowing of the images and the weights files. Raises CifarHpcError with all that is missing or cannot be
    used, and the fetch lines.

    awaiting: ids of those whose parent trains first.
    """
    from cifar_hpc.data.files import data_root, lacking
    from cifar_hpc.models.weights import weights_lacking

    root = data_root()
    problems = [lacking(dataset, root) for dataset in dict.fromkeys(config.dataset for config in configs)]
    layout = Layout(results_root())
    problems += [parent_lacking(config, layout) for config in configs if config.trial_id not in awaiting]
    plain = dict.fromkeys((config.arch, config.weights) for config in configs if parent_of(config) is None)
    problems += [weights_lacking(*pair) for pair in plain]
    missing = list(dict.fromkeys(problem for problem in problems if problem))
    if missing:
        raise CifarHpcError("\n".join(missing))
    from cifar_hpc.cli.inputs import judge_inputs

    return judge_inputs(configs)


def findings_of(before: Sequence[str], configs: Sequence[TrialConfig], notes: Sequence[str]) -> tuple[str, ...]:
    """What the report shall say of the images and weights of the trials. before: what the spec told; notes: what was just
    found, which is said here too."""
    from cifar_hpc.cli.inputs import known_inputs

    for note in notes:
        say(f"warning: {note}")
    return tuple(dict.fromkeys((*before, *known_inputs(configs)[0], *notes)))


def _print_plan(plan: Plan, states: Mapping[str, TrialState]) -> None:
    from cifar_hpc.planning.plan import jobs_for, plan_record, trunk_passes

    counts = Counter(state.status for state in states.values())
    todo = _to_start(states, ())
    epochs = sum(trial.epochs - states[trial.trial_id].epochs_done for trial in plan.trials if trial.trial_id in todo)
    left_s = remaining_s(plan_record(plan), states)
    points = len({trial.point_id for trial in plan.trials})
    lines = [
        f"{plan.spec.name}: {plural(len(plan.trials), 'trial')} ({plural(points, 'point')}), "
        f"{plural(len(plan.cohorts), 'cohort')}",
        f"  to start  {len(todo)} trials in {len(jobs_for(plan, todo, 1))} jobs, at most {epochs} epochs",
        *(f"  {status.value:<9} {n}" for status, n in sorted(counts.items()) if status is not Status.PLANNED),
        *stage_lines(plan_record(plan).trials, states),
    ]
    lines += inputs_lines(plan.trials)
    alone_n = sum(trunk_passes([trial]) for trial in plan.trials)
    shared_n = sum(trunk_passes(cohort.trials) for cohort in plan.cohorts)
    if shared_n < alone_n:
        lines.append(f"  sharing   the frozen trunks see the images {shared_n} times instead of {alone_n}")
    if todo:
        known = left_s is not None
        lines.append(
            f"  cost      about {duration_text(left_s)} one after another"
            if known and left_s
            else "  cost      not known before a trial of it has run"
        )
    typer.echo("\n".join(lines))


def inputs_lines(configs: Sequence[TrialConfig]) -> list[str]:
    """What `--dry-run` says of the images and weights files: what is known of them, and what nobody has looked into."""
    from cifar_hpc.cli.inputs import known_inputs

    notes, unseen = known_inputs(configs)
    lines = [f"  inputs    {note}" for note in notes]
    if unseen:
        more = f" and {len(unseen) - 2} more" if len(unseen) > 2 else ""
        lines.append(
            f"  inputs    not looked into yet: {', '.join(unseen[:2])}{more}; `cifar-hpc data` does, and the sweep first"
        )
    return lines


def sum_up(plan: PlanRecord, states: Mapping[str, TrialState], *, skipped_failures: bool = False) -> None:
    """The last lines; raises typer.Exit(1) where a trial has no result."""
    ended = sum(state.status in ENDED for state in states.values())
    say(f"{plan.sweep}: {ended} of {len(states)} trials finished")
    best = best_point(plan, states)
    if best:
        say(f"best point: {best}")
    unfinished = [state for state in states.values() if state.status not in ENDED]
    reasons = Counter(f"{state.status.value}: {first_line(state.reason)}".rstrip(": ") for state in unfinished)
    for reason, n in reasons.most_common(5):
        say(f"  {n} {reason}")
    if any(state.status is Status.FAILED for state in unfinished):
        for line in failure_lines(plan):
            say(line)
    if ended:
        say(f"the leaderboard: cifar-hpc report {plan.sweep}")
    if unfinished:
        raise typer.Exit(1)


def _event(event: str, job: Job, executor: str, handle: str) -> JobEvent:
    return JobEvent(at=utc_now(), event=event, job_id=job.job_id, trial_ids=job.trial_ids, executor=executor, handle=handle)


def interruptible() -> None:
    """SIGTERM and SIGHUP (a closed terminal) interrupt as Ctrl-C does, also while no executor is at work; `nohup` holds."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, interrupt)


def _console() -> Console:
    return make_console(stderr=True)
