"""Runs jobs on this machine side by side with Ray Tune: a plan's, or a search's as it samples them.

One Tune trial carries one job. Ray schedules processes and brings a dead one back; our records are the truth, so Ray's
loggers, dashboard and reports are off and its files go to a short temporary folder that ends with the sweep.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cifar_hpc.executors.base import LocalHandles, RunJob, give_back, record_death, run_on_node, stop_signals
from cifar_hpc.executors.ray.session import ray_session, side_by_side, tune_resources
from cifar_hpc.executors.ray.worker import Orders, job_trainable
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.search.run import SearchRun

RESTARTS = 2  # of a job whose process died (out of memory, say); each trial goes on from its checkpoint, if one stands
STOP_S = 30.0  # for the workers to save what they train, once asked to stop


class RayTuneExecutor(LocalHandles):
    """Jobs in worker processes under this one. run: what executes a job on a worker (the runner)."""

    name = "ray"

    def __init__(self, run: RunJob = run_on_node) -> None:
        self._run = run

    def start(self, layout: Layout, jobs: Sequence[Job], started: Callable[[Job, str], None]) -> None:
        """As the protocol says; each job gets the resources that it asks for."""
        if not jobs:
            return
        with (  # in this order: who must end at once is gone when the trials are given back
            _given_back(layout, jobs),
            stop_signals(layout, jobs) as stopped,
            ray_session(layout.sweep(jobs[0].sweep).log("ray"), stopped) as temporary,
        ):
            from ray import tune

            given = {asked: tune_resources(asked) for asked in dict.fromkeys(job.resources for job in jobs)}
            for job in jobs:
                started(job, self.own_handle())
            fit = _Fit(self._run, layout, list(jobs), temporary, stopped)
            if not stopped.is_set():
                in_order = any(job.level for job in jobs)
                fit.run(
                    lambda config: tune.PlacementGroupFactory([_bundle(given[jobs[config["job"]].resources])]),
                    {} if in_order else {"job": tune.grid_search(list(range(len(jobs))))},
                    tune.TuneConfig(reuse_actors=True, search_alg=_after_parents(jobs), num_samples=len(jobs))
                    if in_order
                    else tune.TuneConfig(reuse_actors=True),
                )
            if stopped.is_set():
                raise KeyboardInterrupt
        fit.record_deaths()

    def search(self, layout: Layout, search: SearchRun, started: Callable[[Job, str], None]) -> None:
        """Trains what the search samples, until it has had all its points; else as `start`."""
        if (first := search.peek()) is None:
            return
        jobs: list[Job] = []
        with (
            _given_back(layout, jobs),
            stop_signals(layout, jobs) as stopped,
            ray_session(layout.sweep(first.sweep).log("ray"), stopped) as temporary,
        ):
            from ray import tune

            from cifar_hpc.executors.ray.search import tune_judge, tune_searcher

            given = tune_resources(first.resources)
            fit = _Fit(self._run, layout, jobs, temporary, stopped)

            def begin(job: Job) -> None:
                fit.jobs.append(job)
                started(job, self.own_handle())

            judge = tune_judge(search, fit.orders)
            searcher = tune_searcher(search, side_by_side(given), begin, judge, stopped.is_set)
            if not stopped.is_set():
                fit.run(
                    lambda config: tune.PlacementGroupFactory([_bundle(given)]),
                    {},
                    tune.TuneConfig(
                        reuse_actors=True, search_alg=searcher, scheduler=judge, num_samples=search.suggestions_at_most
                    ),
                    judged=judge is not None,
                )
            if stopped.is_set():
                raise KeyboardInterrupt
        fit.record_deaths()


@contextlib.contextmanager
def _given_back(layout: Layout, jobs: Sequence[Job]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        give_back(layout, jobs)
        raise


class _Fit:
    """Runs of Tune in one session. jobs: those that were started, which a search extends."""

    def __init__(self, run: RunJob, layout: Layout, jobs: list[Job], storage: Path, stopped: threading.Event) -> None:
        self.jobs, self.orders = jobs, Orders(storage)
        self._run, self._layout, self._storage, self._stopped = run, layout, storage, stopped
        self._deaths: dict[Job, Exception] = {}
        self._runs = itertools.count()

    def run(self, resources: Callable[[dict[str, Any]], Any], space: dict[str, Any], how: Any, *, judged: bool = False) -> None:
        """Runs the jobs to their ends."""
        from ray import tune

        trainable = tune.with_parameters(
            job_trainable(), jobs=list(self.jobs), layout=self._layout, run=self._run, orders=self.orders, judged=judged
        )
        watch = _callback(self)
        tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space=space,
            tune_config=how,
            run_config=tune.RunConfig(
                name=f"tune-{next(self._runs)}",
                storage_path=str(self._storage),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
                stop=_stopper(self),
                callbacks=[watch],
                verbose=0,
            ),
        ).fit()
        unknown = RuntimeError("the worker gave no reason")
        self._deaths |= {self.job_of(trial): trial.get_pickled_error() or unknown for trial in watch.given_up}

    def record_deaths(self) -> None:
        """The jobs' last errors as their trials' error records: a dead process, or what the runner itself raised."""
        for job, death in self._deaths.items():
            record_end(self._layout, job, death)

    def job_of(self, trial: Any) -> Job:
        job = trial.config["job"]
        return job if isinstance(job, Job) else self.jobs[job]

    def is_over(self, asked_at: float) -> bool:
        """Whether the workers, asked to stop at that time, have saved or had their time."""
        return time.monotonic() - asked_at > STOP_S or not _any_running(self._layout, self.jobs)

    def is_stopped(self) -> bool:
        return self._stopped.is_set()


def _after_parents(jobs: Sequence[Job]) -> Any:
    """The Searcher that gives Tune the jobs in their order, each once those of its parents have ended, well or not."""
    from ray.tune.search import Searcher

    class Order(Searcher):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._left = list(range(len(jobs)))
            self._given: dict[str, int] = {}
            self._unfinished = {trial_id for job in jobs for trial_id in job.trial_ids}

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            if not self._left:
                return str(Searcher.FINISHED)
            place = next((place for place in self._left if self._unfinished.isdisjoint(jobs[place].parent_ids)), None)
            if place is None:
                return None
            self._left.remove(place)
            self._given[trial_id] = place
            return {"job": place}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            self._unfinished.difference_update(jobs[self._given[trial_id]].trial_ids)

        def save(self, checkpoint_path: str) -> None: ...  # what is left is known from the records

        def __reduce__(self) -> tuple[type, tuple[()]]:  # Tune saves its state; no state of ours is in it
            return Searcher, ()

    return Order()


def _stopper(fit: _Fit) -> Any:
    from ray import tune

    class StopWhenAsked(tune.Stopper):  # type: ignore[misc]
        """Asked to stop, tells the workers; ends the run once they have saved, or after STOP_S."""

        def __init__(self) -> None:
            self.asked_at: float | None = None

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            if not fit.is_stopped():
                return False
            if self.asked_at is None:
                self.asked_at = time.monotonic()
                fit.orders.stop_all()
            return fit.is_over(self.asked_at)

        def __reduce__(self) -> tuple[type, tuple[()]]:  # Tune saves its state; no state of ours is in it
            return tune.stopper.NoopStopper, ()

    return StopWhenAsked()


def _callback(fit: _Fit) -> Any:
    from ray import tune

    class Watch(tune.Callback):  # type: ignore[misc]
        """Says that a worker died; keeps the Tune trials that are not started again, whose errors stand once fit returned."""

        def __init__(self) -> None:
            self.given_up: list[Any] = []

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            _say_death(fit.job_of(trial), trial, "starts again, each trial from its checkpoint if one stands")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.given_up.append(trial)
            _say_death(fit.job_of(trial), trial, "is given up")

        def __reduce__(self) -> tuple[type, tuple[()]]:
            return tune.Callback, ()

    return Watch()


def _say_death(job: Job, trial: Any, then: str) -> None:
    try:
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())  # Ray's own is there only once fit has returned
    except (OSError, TypeError, pickle.UnpicklingError):
        return
    if _is_dead(error):
        print(f"{job.job_id}: its worker process died; it {then} (log: {job.sweep}/logs/{job.job_id}.log)", file=sys.stderr)


def _is_dead(error: Exception | None) -> bool:
    """Whether the worker died. "Unavailable" is dead too: on a loaded machine Ray learns late which it is."""
    from ray.exceptions import RayActorError

    return isinstance(error, RayActorError) or "actor died" in str(error)


def _bundle(resources: dict[str, float]) -> dict[str, float]:
    return {{"cpu": "CPU", "gpu": "GPU"}.get(name, name): amount for name, amount in resources.items() if amount}


def record_end(layout: Layout, job: Job, death: Exception) -> None:
    """The job's last error as its trials' error record: a dead process, or what the runner itself raised."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(death))  # without Ray's colours
    if _is_dead(death):
        message = f"the worker process died {RESTARTS + 1} times (out of memory, or a crash in a library)"
        record_death(layout, job, "WorkerDied", message, text)
        return
    last = next((line for line in reversed(text.splitlines()) if line.strip()), type(death).__name__)
    kind, _, message = last.partition(": ")
    record_death(layout, job, kind if message else type(death).__name__, message or last, text)


def _any_running(layout: Layout, jobs: Iterable[Job]) -> bool:
    return any(
        read_state(layout.trial(trial_id), trial_id).status is Status.RUNNING for job in jobs for trial_id in job.trial_ids
    )
