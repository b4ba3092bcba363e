"""`stages:` of a spec: each stage read as a spec of its own, with what stands beside `stages` in common.

A key that a stage writes takes the place of the common one, in whichever section that stands. Owns: how the two are joined,
and that a problem has the line and path under which the user wrote it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.config.words import plural
from cifar_hpc.errors import Problem, SpecError
from cifar_hpc.spec.checks import idle_settings
from cifar_hpc.spec.parents import keeping_parents
from cifar_hpc.spec.parts import SweepTrial
from cifar_hpc.spec.problems import by_line
from cifar_hpc.spec.resolve import Resolver
from cifar_hpc.spec.schema import argument_keys, spec_model
from cifar_hpc.spec.trials import StageTrials, read_trials
from cifar_hpc.spec.yaml_tree import KeyPath, YamlTree

COMMON = (
    "name",
    "dataset",
    "base",
    "grid",
    "seeds",
    "folds",
    "objective",
    "stop",
    "keep",
    "plugins",
    "resources",
    "ensemble",
)  # what may stand beside `stages`
_JOINED = ("base", "grid", "stop")  # key by key; of the others the stage's own is the whole


class StageTree(YamlTree):
    """The plain values of one stage, joined with the common ones, each with the place where it was written."""

    def __init__(self, spec: YamlTree, stage: str) -> None:
        super().__init__({}, spec.origin)
        self.spec, self.stage = spec, stage
        own = {key: value for key, value in (spec.value["stages"][stage] or {}).items() if value is not None}
        common = {key: value for key, value in spec.value.items() if key in COMMON and value is not None}
        said = {*own.get("base", {}), *own.get("grid", {}), *own.get("zip", {})} | ({"dataset"} & own.keys())
        self.value = {**common, **own}
        if "dataset" in said:
            self.value = {key: value for key, value in self.value.items() if key != "dataset" or key in own}
        for section in _JOINED:
            rest = {key: value for key, value in common.get(section, {}).items() if section == "stop" or key not in said}
            if rest or section in own:
                self.value[section] = {**rest, **own.get(section, {})}
            else:
                self.value.pop(section, None)

    def where(self, path: KeyPath) -> str:
        """Under the stage's path, unless what stands beside `stages` knows more of it."""
        own = ("stages", self.stage, *path)
        common_known, own_known = _known(self.spec, path), _known(self.spec, own) - 2
        return self.spec.where(path if path and path[0] in COMMON and common_known > own_known else own)

    def own_keys(self) -> set[str]:
        """The trial keys that the stage itself writes."""
        return set(_trial_keys(self.spec.value["stages"][self.stage]))


def _known(tree: YamlTree, path: KeyPath) -> int:
    return next(length for length in range(len(path), -1, -1) if length == 0 or path[:length] in tree.places)


def _trial_keys(value: Any, inside: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield f"{inside}.{key}" if inside else key
            yield from _trial_keys(part, key if key in ("dataset", "stop") else "")
    elif isinstance(value, list):
        for part in value:
            yield from _trial_keys(part)


def refuse_beside_stages(spec: YamlTree) -> list[Problem]:
    """What has no meaning for all stages at once."""
    beside = [key for key, value in spec.value.items() if key not in (*COMMON, "stages") and value is not None]
    return [
        Problem(
            spec.where((key,)),
            f"{key!r} beside stages",
            f"beside them may stand {', '.join(COMMON)}" + ("" if key == "search" else "; each stage has its own"),
        )
        for key in beside
    ]


def read_stages(spec: YamlTree, resolver: Resolver, *, strict: bool) -> tuple[tuple[SweepTrial, ...], tuple[str, ...]]:
    """The trials of all stages, in the order of the stages, and warnings; 'stage' is the first axis of each.

    Trials from which others start keep their weights. A trial that two stages have is the last one's, so
    that no row is missing there. Raises SpecError.
    """
    read: dict[str, StageTrials] = {}
    trees: dict[str, StageTree] = {}
    problems: dict[Problem, None] = {}
    for stage in spec.value["stages"]:
        trees[stage] = StageTree(spec, stage)
        try:
            model = spec_model(argument_keys(trees[stage].value), resolver.parts).model_validate(trees[stage].value)
            read[stage] = read_trials(model, trees[stage], resolver, read, strict=strict)
        except SpecError as error:  # what starts from this stage has no parents: its problems would be this one's
            problems |= dict.fromkeys(error.problems)
            break
    if problems:
        raise SpecError(by_line(problems))
    trials: dict[str, SweepTrial] = {}
    shared: Counter[tuple[str, str]] = Counter()
    for stage, found in read.items():
        for trial in found.trials:
            if (before := trials.get(trial.config.trial_id)) is not None:
                shared[before.axes["stage"], stage] += 1
            trials[trial.config.trial_id] = dataclasses.replace(trial, axes={"stage": stage, **trial.axes})
    kept = keeping_parents(trials.values())
    warnings = [warning for found in read.values() for warning in found.warnings]
    warnings += [
        f"stage {stage} has {plural(n, 'trial')} of stage {before} too: they train once, and are told as stage {stage}'s"
        for (before, stage), n in shared.items()
    ]
    return kept, (*dict.fromkeys(warnings), *_idle(read, trees, [trial.config for trial in kept]))


def _idle(read: dict[str, StageTrials], trees: dict[str, StageTree], configs: Sequence[TrialConfig]) -> Iterator[str]:
    """A setting of one stage acts in that one; a common one in any."""
    common = dict.fromkeys(key for stage, found in read.items() for key in found.written if key not in trees[stage].own_keys())
    yield from idle_settings(common, configs)
    for stage, found in read.items():
        own = [key for key in found.written if key in trees[stage].own_keys()]
        for sentence in idle_settings(own, [trial.config for trial in found.trials]):
            yield f"stage {stage}: {sentence}"
