"""By which keys trials are told apart, and with what values: the same in the list of a dry run, `status`, reports and filters.

Owns: which keys these are. The values are those of the configs, whatever a spec wrote: `unfreeze: {1: fc, 3: conv1}` that says
what unfreeze_epoch does is told as that. Reads no files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from cifar_hpc.config.roles import ARGUMENTS
from cifar_hpc.records.schema import PlannedTrial
from cifar_hpc.status.query import config_text, flat_config, is_training_key, said_by_spec, stages_of, starts_of, with_digits

_FIRST = ("dataset", "arch", "weights", "freeze", "augment", "lr")
# The keys as which normalise writes what an axis says, its own first.
_WRITTEN_AS = {"unfreeze": ("unfreeze_epoch", "freeze"), "train": ("train", "freeze")}


def keys_that_differ(configs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Of flat configs, but for digests, which tell a reader nothing, and for arguments that stand beside it one by one;
    keys of training among those that train. The usual ones first."""
    keys = {key for config in configs for key, _ in config.items() ^ configs[0].items()}  # all others have one value
    keys = {key for key in keys if not key.endswith(("fingerprint", "fold_groups")) and key not in ARGUMENTS}
    trained = [config for config in configs if config.get("classifier", "linear") == "linear"] or configs
    varying = [key for key in keys if len({config.get(key) for config in (trained if is_training_key(key) else configs)}) > 1]
    return tuple(sorted(varying, key=lambda key: (_FIRST.index(key) if key in _FIRST else len(_FIRST), key)))


def telling_keys(named: Iterable[str], configs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Of the keys that differ those that a plan names, one of a mapping such as `dataset` with the keys in it; and what else it
    takes to tell flat configs apart."""
    varying = keys_that_differ(configs)
    told = dict.fromkeys(key for axis in named for key in _keys_of(axis, varying))
    apart = _told_apart_by(told, configs)
    for key in varying:
        if key not in told and (more := _told_apart_by([*told, key], configs)) > apart:
            told[key], apart = None, more
    return tuple(told)


def settled_axes(trials: Collection[PlannedTrial]) -> dict[str, dict[str, Any]]:
    """Trial -> the keys that its sweep varies, with its values. trials: those of a sweep that are shown beside each other."""
    stages, starts = stages_of(trials), starts_of(trials)
    configs: dict[str, Mapping[str, Any]] = {}
    for trial in trials:
        if trial.point_id not in configs:
            configs[trial.point_id] = {**flat_config(config_text(trial.config)), **said_by_spec(trial, stages, starts)}
    named = list(dict.fromkeys(key for trial in trials for key in trial.axes))
    telling = telling_keys(named, list(configs.values()))
    keys = dict.fromkeys([*(key for axis in named for key in _keys_of(axis, telling) or [axis]), *telling])
    return {trial.trial_id: _values(trial, configs[trial.point_id], keys) for trial in trials}


def axes_of(trials: Collection[PlannedTrial]) -> dict[str, Mapping[str, Any]]:
    """As settled_axes, with numbers that are spelled differently where they are different."""
    found = settled_axes(trials)
    return dict(zip(found, with_digits(list(found.values())), strict=True))


def _keys_of(axis: str, differing: Sequence[str]) -> list[str]:
    """Of the keys that differ those that say what the axis says: itself, of a mapping the keys in it, and what it is written
    as."""
    own, *beside = _WRITTEN_AS.get(axis, (axis,))
    written = [key for key in (own, *beside) if own in differing and key in differing and key != axis]
    return [key for key in differing if key == axis or key.startswith(f"{axis}.")] + written


def _told_apart_by(keys: Iterable[str], configs: Sequence[Mapping[str, Any]]) -> int:
    keys = list(keys)
    return len({tuple(config.get(key) for key in keys) for config in configs})


def _values(trial: PlannedTrial, config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Weights as the spec names them: a path, or the trial itself whose they are."""
    said = {key: trial.axes[key] for key in keys if key in trial.axes and (key not in config or key == "weights")}
    return {key: said[key] if said.get(key) is not None else config.get(key) for key in keys}
