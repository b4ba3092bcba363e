"""What `sweep` does where the spec has a `search`: the points are sampled one after another while others train."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cifar_hpc.cli.progress import Counts, watched
from cifar_hpc.cli.sweep import (
    MOST_STARTS,
    WAIT_S,
    On,
    Where,
    check_there,
    findings_of,
    inputs_lines,
    interruptible,
    say,
    sum_up,
)
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records import claims
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Claim, JobEvent, PlanRecord, Status
from cifar_hpc.records.store import append_records, read_record, utc_now, write_changed, write_record
from cifar_hpc.status.state import SweepReader, reserve_numbers, sweep_command
from cifar_hpc.terminal.harmless import make_console

if TYPE_CHECKING:
    from cifar_hpc.planning.plan import Job
    from cifar_hpc.spec.sweep import SweepSpec

UNDONE = (Status.PLANNED, Status.QUEUED, Status.LOST, Status.CANCELLED, Status.RUNNING)


def run_search(layout: Layout, spec: SweepSpec, where: Where, again: Collection[str] = ()) -> None:
    """Samples and trains until the search has had its points; returns, or raises typer.Exit(1), when all have ended.

    Raises CifarHpcError before anything starts where the search cannot run here.
    """
    from cifar_hpc.search.run import SearchRun, journal_of
    from cifar_hpc.search.samplers import check_sampler

    assert spec.search is not None
    if where.on is On.INLINE or where.slurm() is not None:
        raise CifarHpcError(
            "search: trials are judged while they train side by side, through Ray. "
            f"On a cluster: sbatch slurm/ray_cluster.sbatch {spec.path}; on this machine: --on ray"
        )
    check_sampler(spec.search)
    spec = dataclasses.replace(spec, findings=findings_of(spec.findings, spec.configs, check_there(spec.configs)))
    with _only_driver(layout, spec.name):
        before = _journal(layout, spec.name)
        reader = SweepReader(layout, journal_of(spec, before, 1))
        preview = SearchRun(layout, spec, before, again=again, first_job=1, write=lambda record: None)
        if preview.peek() is None and not preview.waits:
            say(f"{spec.name}: nothing to start.")
            _sum_up(reader, reader.read())
            return
        say(f"{spec.name}: {_in_words(spec)}; results in {layout.root}")
        interruptible()
        try:
            with watched(reader, make_console(stderr=True)):
                _until_ended(layout, spec, reader, again)
        except KeyboardInterrupt:
            say(f"interrupted: {Counts.of(reader.plan, reader.read())} are kept. To go on: {sweep_command(reader.plan)}")
            raise typer.Exit(130) from None
        _sum_up(reader, reader.read())


def print_search(layout: Layout, spec: SweepSpec) -> None:
    """What `--dry-run` can know of a search: its bounds."""
    from cifar_hpc.search.run import journal_of
    from cifar_hpc.spec.search import expected_epochs, replaced_n

    search = spec.search
    assert search is not None
    before = _journal(layout, spec.name)
    record = journal_of(spec, before, 1)
    states = SweepReader(layout, record).read()
    open_ = [trial for trial in record.trials if states[trial.trial_id].status in UNDONE]
    new_n = record.trials_at_most - len(record.trials)
    each = search.max_epochs // search.generations
    left = sum(int(trial.config["epochs"]) - states[trial.trial_id].epochs_done for trial in open_)
    size = f"a grid of {search.space.size} points" if search.space.size is not None else "ranges"
    lines = [
        f"{spec.name}: {_in_words(spec)}, from {size}",
        f"  to start  at most {len(open_) + new_n} trials, at most {left + new_n * each} epochs",
        *(f"  {status.value:<9} {n}" for status, n in sorted(_counts(states).items()) if status is not Status.PLANNED),
    ]
    if search.is_population and search.scheduler:
        lines.append(
            f"  pbt       {search.generations} generations of {search.scheduler.grace_epochs} epochs; after each the worst "
            f"{replaced_n(search.num_points, search.scheduler.reduction)} go on from the best; all weights are kept"
        )
    elif search.scheduler and new_n:
        about = expected_epochs(search.scheduler, new_n, search.max_epochs)
        lines.append(
            f"  {search.scheduler.name:<9} stops trials: {about} epochs, or more, if 1/{search.scheduler.reduction:g} go on"
        )
    lines += inputs_lines(spec.configs)
    if before is not None and before.search and before.search["definition"] != search.definition:
        lines.append(f"  anew      it is another search than that of the {len(before.trials)} trials under this name")
    typer.echo("\n".join(lines))


def _in_words(spec: SweepSpec) -> str:
    assert spec.search is not None
    search, by = spec.search, spec.search.algorithm
    if search.is_population:
        return f"a population of {search.num_points}, sampled {'at random' if by == 'random' else f'by {by}'}"
    n = min(search.num_points, search.space.size or search.num_points)
    seeds = f" with {search.seeds_n} seeds each" if search.seeds_n > 1 else ""
    return f"at most {n} points{seeds}, sampled {'at random' if by == 'random' else f'by {by}'}"


def _until_ended(layout: Layout, spec: SweepSpec, reader: SweepReader, again: Collection[str]) -> None:
    """Rounds: sample and train; then wait for trials that another sweep has, and take over what dies."""
    from cifar_hpc.executors.ray.executor import RayTuneExecutor
    from cifar_hpc.search.run import SearchRun

    files, executor = layout.sweep(spec.name), RayTuneExecutor()
    write_changed(files.spec, spec.text.encode())

    def write(record: PlanRecord) -> None:
        reader.plan = record
        write_record(files.plan, record)

    def preview() -> SearchRun:
        return SearchRun(layout, spec, _journal(layout, spec.name), first_job=1, write=lambda record: None)

    starts: Counter[str] = Counter()
    handles: dict[str, tuple[Job, str]] = {}

    def started(job: Job, handle: str) -> None:
        starts.update(job.trial_ids)
        handles[job.job_id] = job, handle
        append_records(files.jobs, [_event("submitted", job, handle)])

    while True:
        journal = _journal(layout, spec.name)
        first_job = reserve_numbers(files, reader.plan.trials_at_most + len(spec.trials) + 1)
        run = SearchRun(layout, spec, journal, again=again, first_job=first_job, write=write)
        write(run.record)
        try:
            executor.search(layout, run, started)
        finally:
            append_records(files.jobs, [_event("ended", job, handle) for job, handle in handles.values()])
            handles.clear()
        again = ()
        states = reader.read()
        while undone := [trial_id for trial_id, state in states.items() if state.status in UNDONE]:
            if any(states[trial_id].status is not Status.RUNNING for trial_id in undone):
                break
            time.sleep(WAIT_S)
            states = reader.read()
        if undone and all(starts[trial_id] >= MOST_STARTS for trial_id in undone):
            return
        if preview().peek() is None:  # a population may go on now that what it waited for has ended
            return


@contextlib.contextmanager
def _only_driver(layout: Layout, name: str) -> Iterator[None]:
    """Holds the search for this process. Raises CifarHpcError where a living one has it."""
    files = layout.sweep(name).driver
    claim = claims.claim_trial(files, name, f"{name}/driver")
    if claim is None:
        owner = read_record(files.claims()[-1], Claim)
        raise CifarHpcError(f"{name}: process {owner.pid} on {owner.host} runs this search; it has one at a time")
    try:
        with claims.heartbeat([files.claim(claim.attempt)]):
            yield
    finally:
        claims.remove_claims(files)
        with contextlib.suppress(OSError):
            files.folder.rmdir()


def _journal(layout: Layout, name: str) -> PlanRecord | None:
    with contextlib.suppress(FileNotFoundError, RecordError):
        return read_record(layout.sweep(name).plan, PlanRecord)
    return None


def _sum_up(reader: SweepReader, states: Mapping[str, TrialState]) -> None:
    stopped = [state for state in states.values() if state.status is Status.STOPPED]
    if stopped:
        trained = sum(state.epochs_done for state in states.values())
        whole = sum(int(trial.config["epochs"]) for trial in reader.plan.trials)
        say(f"{reader.plan.sweep}: {len(stopped)} trials were stopped early; {trained} of {whole} epochs were trained")
    sum_up(reader.plan, states)


def _counts(states: Mapping[str, TrialState]) -> Counter[Status]:
    return Counter(state.status for state in states.values())


def _event(event: str, job: Job, handle: str) -> JobEvent:
    return JobEvent(at=utc_now(), event=event, job_id=job.job_id, trial_ids=job.trial_ids, executor="ray", handle=handle)


def retry_search(layout: Layout, plan: PlanRecord, where: Where, again: Collection[str]) -> None:
    """Tries failed trials of a search once more, and goes on with it. Raises SpecError where its spec is gone."""
    from cifar_hpc.spec.load import load_spec

    run_search(layout, load_spec(Path(plan.spec_path), plan.overrides), where, again)
