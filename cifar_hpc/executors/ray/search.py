"""A search in Ray Tune's terms: what Tune asks for the next trial, and what judges the trials while they train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.executors.ray.worker import Orders
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.schema import EpochRecord
from cifar_hpc.search.run import SearchRun, Suggestion
from cifar_hpc.spec.search import Scheduler


def tune_searcher(
    search: SearchRun, side_by_side: int, begin: Callable[[Job], None], judge: Any, stopped: Callable[[], bool]
) -> Any:
    """The Searcher that gives Tune the search's trials, no more at once than run side by side, so that each is sampled when
    all that was known before it is known. begin: called with each job; judge: a scheduler of `tune_judge`, or None; stopped:
    whether no more is to be given."""
    from ray.tune.search import Searcher

    class Points(Searcher):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._living: set[str] = set()

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            if len(self._living) >= side_by_side:
                return None
            while not stopped() and (suggestion := search.next()) is not None:
                if judge is not None:
                    judge.learn(suggestion)
                if suggestion.job is not None:
                    self._living.add(trial_id)
                    begin(suggestion.job)
                    return {"job": suggestion.job}
            # What nobody here trains may never end by itself: then this run is over, and the next round looks again.
            return None if self._living and search.waits else str(Searcher.FINISHED)

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            self._living.discard(trial_id)

        def save(self, checkpoint_path: str) -> None: ...  # the search's own journal does

        def __reduce__(self) -> tuple[type, tuple[()]]:  # Tune saves its state; no state of ours is in it
            return Searcher, ()

    return Points()


class _Known:
    """A trial as Ray's scheduler looks at one."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def tune_judge(search: SearchRun, orders: Orders) -> Any:
    """ASHA as Ray has it, one bracket or several, that gives its orders to the workers: a trial which ends writes its result
    before Tune hears of its end. None where the search has no scheduler that ends trials.

    A trial is known to it by our id, not by Tune's, so that epochs of earlier runs count.
    """
    if search.search.scheduler is None or search.search.is_population:
        return None
    asked: Scheduler = search.search.scheduler
    from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

    class Judge(AsyncHyperBandScheduler):  # type: ignore[misc]
        def learn(self, suggestion: Suggestion) -> None:
            """What an earlier run or another sweep measured; what was decided then stays as it is."""
            self._join(suggestion.trial_id)
            for epoch in suggestion.epochs:
                self._hear(suggestion.trial_id, epoch)

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None: ...

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None: ...

        def on_trial_remove(self, tune_controller: Any, trial: Any) -> None: ...

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if "trial" in result:
                result = _valued(search, result)
                decision = super().on_trial_result(None, _Known(result["trial"]), result)
                if decision == TrialScheduler.STOP:
                    orders.end(result["trial"], _why(asked, search.objective, result))
            return str(TrialScheduler.CONTINUE)

        def _join(self, trial_id: str) -> None:
            """Into a bracket, drawn by the trial's id: the same in every run of the search."""
            before = np.random.get_state()
            np.random.seed(stream_seed(search.search.seed, f"bracket/{trial_id}") % 2**32)
            super().on_trial_add(None, _Known(trial_id))
            np.random.set_state(before)

        def _hear(self, trial_id: str, epoch: EpochRecord) -> None:
            super().on_trial_result(None, _Known(trial_id), _valued(search, epoch.to_json()))

        def __reduce__(self) -> tuple[type, tuple[()]]:
            return AsyncHyperBandScheduler, ()

    return Judge(
        time_attr="epoch",
        metric=search.objective,
        mode=search.mode,
        max_t=max(search.search.max_epochs, asked.grace_epochs),
        grace_period=asked.grace_epochs,
        reduction_factor=asked.reduction,
        brackets=asked.brackets if asked.name == "hyperband" else 1,
        stop_last_trials=False,
    )


def _valued(search: SearchRun, epoch: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's record with its objective under the name by which Tune judges, whatever the objective is; without it where
    that was not measured."""
    told = {name: value for name, value in epoch.items() if value is not None}
    value = told.get(f"val_{search.metric}" if search.metric else "objective")
    return {**told, **({} if value is None else {search.objective: value})}


def _why(asked: Scheduler, objective: str, result: Mapping[str, Any]) -> str:
    value, epoch = result[objective], result["epoch"]
    bracket = " of its bracket" if asked.name == "hyperband" and asked.brackets > 1 else ""
    share = f"the best 1/{asked.reduction:g} of the trials{bracket} that came so far"
    return f"{asked.name}: {objective} {value:.4g} after epoch {epoch} is not among {share}"
