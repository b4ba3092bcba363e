"""What `search:` says: the space that points are sampled from, by whom, and what may end a trial early.

Owns the keys of that section and the way from a sampled pick to trials. Samples nothing, and knows neither YAML nor Ray.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_hpc.config.keys import Role, spec_key
from cifar_hpc.config.roles import keys_with
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.spec.expand import Point, Sections, expand
from cifar_hpc.spec.parts import SweepTrial

ALGORITHMS = ("random", "optuna")
HALVING = "halving"
SCHEDULERS = ("asha", "hyperband", "pbt", HALVING)
PBT_AXES = keys_with(Role.PBT)

Picks = Mapping[str, int | float]  # axis -> the position of a choice, or a number inside a range


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """Which trials go on, by their company's numbers on validation."""

    name: str = spec_key(
        "asha (asynchronous successive halving, arXiv:1810.05934), hyperband (several of its brackets, each more patient), "
        "pbt (population based training, arXiv:1711.09846: the worst go on from the best, with changed settings; "
        "it needs schedule: constant and one seed) or halving (successive halving of the full grid within each cohort, "
        "wherever it trains)",
        choices=SCHEDULERS,
    )
    grace_epochs: int = spec_key("epochs that every trial gets; of pbt: epochs of a generation", 1, ge=1)
    reduction: float = spec_key(
        "the best 1/reduction of those that came so far go on, at epochs grace_epochs x reduction^k; of pbt: after each "
        "generation the worst 1/reduction go on from the best 1/reduction",
        3.0,
        gt=1,
    )
    brackets: int = spec_key("brackets of hyperband", 3, ge=1)


@dataclass(frozen=True, kw_only=True)
class SearchKeys:
    """The plain keys of `search`."""

    algorithm: str = spec_key(
        "who samples the configurations: random, or optuna (TPE, which learns from those before)", "random", choices=ALGORITHMS
    )
    num_points: int | None = spec_key(
        "configurations sampled from grid, zip and ranges; each with every seed; null: all of them, with order: rank alone or "
        "with scheduler halving alone",
        None,
        ge=1,
    )
    seed: int = spec_key("seed of the sampler", 0, ge=0)
    order: str | None = spec_key(
        "rank: nothing is sampled; the whole grid is trained, first the pretrained networks that `arch --rank` puts first",
        None,
        choices=("rank",),
    )


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included. log: every order of magnitude alike; whole: whole numbers only."""

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """One of n values of a grid's axis, or of the rows of zip. ordered: numbers that rise or fall: neighbours are alike."""

    n: int
    ordered: bool


@dataclass(frozen=True, slots=True)
class Space:
    """Where points come from. axes: by name, in the spec's order; size: different points, None where there are ranges."""

    axes: Mapping[str, Range | Choice]
    size: int | None
    sections: Sections
    trials_of: Callable[[Sequence[Point]], tuple[SweepTrial, ...]]

    def trials(self, picks: Picks) -> tuple[SweepTrial, ...]:
        """The picked point with every seed; none where the spec leaves it out."""
        return self.trials_of(expand(self._picked(picks)).points)

    def every_pick(self) -> Iterator[Picks]:
        """All of them, where there are no ranges."""
        names, axes = list(self.axes), [axis for axis in self.axes.values() if isinstance(axis, Choice)]
        assert len(axes) == len(names)
        for chosen in itertools.product(*(range(axis.n) for axis in axes)):
            yield dict(zip(names, chosen, strict=True))

    def _picked(self, picks: Picks) -> Sections:
        values = list(picks.values())
        grid = [[axis[int(pick)]] for axis, pick in zip(self.sections.grid, values, strict=False)]
        zipped = [[axis[int(values[len(grid)])]] for axis in self.sections.zip]
        ranges = {name: picks[name] for name, axis in self.axes.items() if isinstance(axis, Range)}
        return dataclasses.replace(self.sections, base=self.sections.base | ranges, grid=grid, zip=zipped, include=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search instead of the full grid. corners: the full grid, with ranges at their ends; definition: what a search that
    goes on must have in common with its beginning, all but num_points."""

    algorithm: str
    num_points: int
    seed: int
    scheduler: Scheduler | None
    space: Space
    seeds_n: int
    folds_n: int
    corners: tuple[TrialConfig, ...]
    definition: str

    @property
    def max_epochs(self) -> int:
        return max(config.epochs for config in self.corners)

    @property
    def is_population(self) -> bool:
        return self.scheduler is not None and self.scheduler.name == "pbt"

    @property
    def generations(self) -> int:
        """How many trials of pbt follow one another; 1 elsewhere."""
        return self.max_epochs // self.scheduler.grace_epochs if self.scheduler and self.is_population else 1

    @property
    def trials_at_most(self) -> int:
        """Trials that are sampled, beside those of `include`."""
        if self.is_population:
            return self.num_points * self.generations
        points = self.num_points if self.space.size is None else min(self.num_points, self.space.size)
        return points * self.seeds_n * self.folds_n


def make_axes(names: Sequence[str], sections: Sections, ranges: Mapping[str, Range]) -> dict[str, Range | Choice]:
    """The axes of grid, of zip (one, named by all its keys) and of the ranges. names: the keys of grid and zip."""
    axes: dict[str, Range | Choice] = {}
    for name, setters in zip(names, sections.grid, strict=False):
        axes[name] = Choice(len(setters), _rises_or_falls([setter.get(name) for setter in setters]))
    if sections.zip:
        axes["+".join(names[len(sections.grid) :])] = Choice(len(sections.zip[0]), False)
    return {**axes, **ranges}


def corners(sections: Sections, ranges: Mapping[str, Range]) -> list[Sections]:
    """The full grid with all ranges at their low ends, and at their high ends: what is checked before a search begins."""
    if not ranges:
        return [sections]
    ends = ({name: getattr(r, end) for name, r in ranges.items()} for end in ("low", "high"))
    return [dataclasses.replace(sections, base=sections.base | values) for values in ends]


def replaced_n(population: int, reduction: float) -> int:
    """How many of a population go on from as many others: 1/reduction of it, one at least, half of it at most."""
    return max(1, min(int(population / reduction), population // 2))


def expected_epochs(scheduler: Scheduler, trials_n: int, epochs: int) -> int:
    """Epochs of all trials where asha keeps 1/reduction at each rung: about, as trials are whole and come one by one."""
    total, left, done, rung = 0.0, float(trials_n), 0.0, float(scheduler.grace_epochs)
    while left and done < epochs:
        total += left * (min(rung, epochs) - done)
        left, done, rung = left / scheduler.reduction, rung, rung * scheduler.reduction
    return math.ceil(total)


def _rises_or_falls(values: Sequence[Any]) -> bool:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return False
    pairs = list(itertools.pairwise(values))
    return all(a < b for a, b in pairs) or all(a > b for a, b in pairs)
