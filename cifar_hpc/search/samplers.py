"""Who says which point is tried next: pure functions of the search, its seed and what came before. The only file that imports
optuna. Knows no files: what a trial measured is told to it.

The n-th point depends on nothing else, so that a search that was killed samples what an undisturbed one would have sampled
from the same numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.spec.search import Choice, Picks, Range, Search

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

DIGITS = 3  # of a sampled number: what a table shows is what the trial had
TRIES = 100  # for a point that was not there before, until what is left of a grid is taken as it comes


@dataclass(frozen=True, slots=True)
class Tried:
    """A point that was sampled before. value: the objective, mean over its seeds, None while it trains or where it failed.
    epochs: how far it came; pruned: a scheduler ended it."""

    picks: Picks
    value: float | None
    epochs: int = 0
    pruned: bool = False
    failed: bool = False

    @property
    def open(self) -> bool:
        return self.value is None and not self.failed


def check_sampler(search: Search) -> None:
    """Raises CifarHpcError where what the search needs is not installed."""
    if search.algorithm == "optuna":
        try:
            import optuna  # noqa: F401
        except ImportError:
            raise CifarHpcError(
                "search.algorithm: optuna is not installed; pip install 'cifar-hpc[search]', or write algorithm: random"
            ) from None


def propose(search: Search, before: Sequence[Tried], mode: str) -> Iterator[Picks]:
    """Proposals for the next point, of which the caller takes the first that is new and not left out. mode: max or min."""
    n = len(before)
    for attempt in range(TRIES):
        seed = stream_seed(search.seed, "point", n, attempt)
        yield _by_optuna(search, before, mode, seed) if search.algorithm == "optuna" else _at_random(search, seed)
    if search.space.size is not None:
        rest = list(search.space.every_pick())
        yield from (rest[i] for i in np.random.default_rng(stream_seed(search.seed, "rest", n)).permutation(len(rest)))


def _at_random(search: Search, seed: int) -> Picks:
    rng = np.random.default_rng(seed)
    return {name: draw(axis, rng) for name, axis in search.space.axes.items()}


def draw(axis: Range | Choice, rng: np.random.Generator) -> int | float:
    """A value of the axis, at random."""
    if isinstance(axis, Choice):
        return int(rng.integers(axis.n))
    if axis.whole and not axis.log:
        return int(rng.integers(int(axis.low), int(axis.high) + 1))
    low, high = (axis.low - 0.5, axis.high + 0.5) if axis.whole else (axis.low, axis.high)
    drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if axis.log else rng.uniform(low, high)
    return rounded(axis, drawn)


def rounded(axis: Range, value: float) -> int | float:
    """The value as a spec would write it, inside the range."""
    if axis.whole:
        return min(max(round(value), int(axis.low)), int(axis.high))
    return min(max(float(f"{value:.{DIGITS}g}"), axis.low), axis.high)


def _by_optuna(search: Search, before: Sequence[Tried], mode: str, seed: int) -> Picks:
    """TPE over all axes together (Bergstra et al. 2011, doi:10.5555/2986459.2986743), at random until some points are known."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    startup_n = max(4, min(10, search.num_points // 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed % 2**32, n_startup_trials=startup_n, multivariate=True, constant_liar=True
        )
    study = optuna.create_study(sampler=sampler, direction="maximize" if mode == "max" else "minimize")
    axes = {name: _distribution(axis) for name, axis in search.space.axes.items()}
    study.add_trials([_frozen(tried, axes) for tried in before])
    params = study.ask(axes).params
    return {
        name: rounded(axis, params[name]) if isinstance(axis, Range) else int(params[name])
        for name, axis in search.space.axes.items()
    }


def _distribution(axis: Range | Choice) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Choice):
        return IntDistribution(0, axis.n - 1) if axis.ordered else CategoricalDistribution(list(range(axis.n)))
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _frozen(tried: Tried, axes: dict[str, BaseDistribution]) -> FrozenTrial:
    """As Optuna keeps it: a pruned point stands below all that came further, one without a number below those."""
    from optuna.trial import TrialState, create_trial

    told: dict[str, Any] = {"params": dict(tried.picks), "distributions": axes}
    if tried.failed:
        return create_trial(state=TrialState.PRUNED, **told)
    if tried.value is None:
        return create_trial(state=TrialState.RUNNING, **told)
    if tried.pruned:
        return create_trial(state=TrialState.PRUNED, intermediate_values={tried.epochs: tried.value}, **told)
    return create_trial(state=TrialState.COMPLETE, value=tried.value, **told)


def known(picks: Picks, before: Collection[Picks]) -> bool:
    """Whether the very same was picked before."""
    return any(dict(picks) == dict(old) for old in before)
