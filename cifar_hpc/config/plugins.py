"""Optimisers, schedules, augmentation operations and objectives of the user's own, registered by a Python file or a package.

A file or module is named in the spec (`plugins: [mine.py]`); a package has an entry point of group `cifar_hpc.plugins`. A file
is executed; of a module the function `register`, of an entry point its function, is called without arguments. Either calls
`register_*` here. What a spec's plugins register is known to that spec alone, and to the trials that it makes: each bears the
code of its parts in its config, by whose hash they enter its id. Owns: register_*, OwnParts, optimizer_of, schedule_of,
objective_of, operations_of. Imports no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_hpc.config import catalog
from cifar_hpc.config.registry import (
    OBJECTIVES,
    OPTIMIZERS,
    SCHEDULES,
    AugmentInfo,
    ObjectiveInfo,
    OptimizerInfo,
    ScheduleInfo,
)
from cifar_hpc.config.sources import OwnCodeError, Source, find_source, load_module, load_source, own_line

if TYPE_CHECKING:
    from cifar_hpc.config.trial import TrialConfig

GROUP = "cifar_hpc.plugins"
Info = OptimizerInfo | ScheduleInfo | AugmentInfo | ObjectiveInfo


@dataclass(frozen=True)
class OwnPart:
    """What a plugin registers: for which trial key, under which name, and the code that it is of."""

    key: str
    name: str
    info: Info
    origin: Source


@dataclass(frozen=True, eq=False)
class OwnParts:
    """What the plugins of one spec register, by key and name."""

    parts: Mapping[tuple[str, str], OwnPart] = field(default_factory=dict)

    def with_more(self, more: Iterable[OwnPart]) -> OwnParts:
        """Raises OwnCodeError where two plugins give one name to different code."""
        parts = dict(self.parts)
        for part in more:
            known = parts.setdefault((part.key, part.name), part)
            if known.origin != part.origin:
                found = f"{part.origin.name} registers {part.name!r}, as {known.origin.name} does"
                raise OwnCodeError(part.key, found, "one of them needs another name")
        return OwnParts(parts)

    def names(self, key: str) -> tuple[str, ...]:
        return tuple(name for known, name in self.parts if known == key)

    def origin_of(self, key: str, name: str) -> Source | None:
        """The code of a named part; None: the package's own."""
        part = self.parts.get((key, name))
        return part.origin if part else None

    def objective(self, name: str) -> ObjectiveInfo | None:
        """One of the user's own, with the hash of its code; None: the package's own."""
        part = self.parts.get((OBJECTIVES.what, name))
        return _with_hash(part.info, part.origin) if part else None

    @property
    def operations(self) -> dict[str, Mapping[str, catalog.OpArg]]:
        """The augmentation operations that a list may have, with the arguments of each."""
        own = {part.name: part.info.args for part in self.parts.values() if isinstance(part.info, AugmentInfo)}
        return {**catalog.AUGMENT_OPS, **own}


NO_PARTS = OwnParts()
_loading: list[list[tuple[str, str, Info]]] = []  # what the plugin that is being read has registered so far
_read: dict[str, tuple[tuple[str, str, Info], ...]] = {}  # hash of a plugin's code -> what it registers: it is executed once


def register_optimizer(
    name: str, build: Callable[..., Any], *, momentum: bool = False, usual_lr: float = 1e-3, doc: str = ""
) -> None:
    """`optimizer: name`. build(config, groups, blocks) gives a torch.optim.Optimizer over the parameter groups, which have a
    'height'; its 'lr' is set before every step. config.weight_decay and, with momentum, config.momentum are the spec's."""
    info = OptimizerInfo(doc=doc, build=build, probe_rule=None, momentum=momentum, usual_lr=usual_lr)
    _register("optimizer", name, info, OPTIMIZERS)


def register_schedule(name: str, shape: Callable[[float, float], float], *, own_rise: bool = False, doc: str = "") -> None:
    """`schedule: name`. shape(step, steps), counted after warm-up, gives the learning rate as a share of its peak, 0..1.
    own_rise: it begins below its peak by itself, and warmup_epochs does not act."""
    _register("schedule", name, ScheduleInfo(doc=doc, shape=shape, own_rise=own_rise), SCHEDULES)


def register_objective(
    name: str,
    measure: Callable[..., float | None],
    *,
    mode: str = "max",
    share: bool = True,
    counts: Callable[..., Any] | None = None,
    noun: str = "",
    doc: str = "",
) -> None:
    """`objective: {metric: name}`. measure(logits_NK, labels_N), numpy arrays of validation, gives its value, or None where it
    is not defined. mode: max or min. share: it is one of 0..1. counts, of the same arguments: what each image counts for it,
    more being better, with the metric as mean; tests then use that instead of leaving images out."""
    if mode not in ("max", "min"):
        raise OwnCodeError(OBJECTIVES.what, f"mode {mode!r} of {name!r}", "max or min")
    splits = ("train_", "val_", "test_")  # as a report names what each split measured
    others = ("acc", "loss", *OBJECTIVES)
    taken = {split + other for split in splits for other in others} | {"acc", "loss", "seen"}
    taken |= {other + end for other in others for end in ("_sd", "_low", "_high")}  # val_acc_sd is a column of a report
    if name in taken:
        raise OwnCodeError(OBJECTIVES.what, f"{name!r} is another measurement's name", "another name is needed")
    info = ObjectiveInfo(doc=doc, mode=mode, noun=noun or name, share=share, measure=measure, counts=counts)
    _register(OBJECTIVES.what, name, info, OBJECTIVES)


def register_augmentation(
    name: str,
    draw: Callable[..., tuple[Any, ...]],
    change: Callable[..., Any],
    *,
    args: Mapping[str, tuple[float, float, float, str]],
) -> None:
    """`augment: [..., name]`. draw(args, images, side, generator) gives a tuple of CPU tensors, one row an image, whose only
    source is the generator; change(args, x_NCHW, draws, mean_pixel) gives the images again, float32 in 0..1.
    args: name -> (default, least, largest, what it is)."""
    limits = {key: catalog.OpArg(*limit) for key, limit in args.items()}
    _register("augment", name, AugmentInfo(draw=draw, change=change, args=limits), catalog.AUGMENT_OPS)


def read_plugin(name: str, folder: Path) -> tuple[OwnPart, ...]:
    """What the file or module that a spec names registers. folder: of the spec. Raises OwnCodeError."""
    try:
        return _parts_of(find_source("plugins", f"{name}:register", folder.absolute()))
    except OwnCodeError:
        raise
    except Exception as error:  # a user's file may raise anything
        place = own_line(error, str(folder / name))
        raise OwnCodeError("plugins", place, f"{name} is imported before the spec is checked") from error


def installed_plugins() -> tuple[OwnPart, ...]:
    """What installed packages register. Raises what their code raises."""
    found: list[OwnPart] = []
    for entry in importlib.metadata.entry_points(group=GROUP):
        target = entry.value if ":" in entry.value else f"{entry.value}:register"
        found += _parts_of(find_source("plugins", target, Path.cwd()))
    return tuple(found)


def optimizer_of(config: TrialConfig) -> OptimizerInfo:
    """The trial's optimiser, one's own by the code that its config names. Raises what that code raises."""
    found: OptimizerInfo | None = _own(config.sources, "optimizer", config.optimizer)
    return found or OPTIMIZERS[config.optimizer]


def schedule_of(config: TrialConfig) -> ScheduleInfo:
    """The trial's learning rate schedule, as optimizer_of."""
    found: ScheduleInfo | None = _own(config.sources, "schedule", config.schedule)
    return found or SCHEDULES[config.schedule]


def objective_of(config: TrialConfig) -> ObjectiveInfo:
    """The trial's objective, as optimizer_of: for who trains. Who ranks asks the plan (records/plans.ranked_by)."""
    found: ObjectiveInfo | None = _own(config.sources, OBJECTIVES.what, config.objective)
    return found or OBJECTIVES[config.objective]


def operations_of(sources: Sequence[Source] | None) -> dict[str, AugmentInfo]:
    """The augmentation operations of one's own among the code that a config names."""
    parts = [part for source in sources or () if source.part == "augment" for part in _parts_of(source)]
    return {part.name: part.info for part in parts if isinstance(part.info, AugmentInfo)}


def _own(sources: Sequence[Source] | None, key: str, name: str) -> Any:
    for source in sources or ():
        if source.part == key:
            return next((part.info for part in _parts_of(source) if (part.key, part.name) == (key, name)), None)
    return None


def _with_hash(info: Info, origin: Source) -> ObjectiveInfo:
    assert isinstance(info, ObjectiveInfo)
    return dataclasses.replace(info, sha256=origin.sha256)


def _parts_of(source: Source) -> tuple[OwnPart, ...]:
    if source.sha256 not in _read:
        with _reading() as found:
            module = load_module(source)
            if source.path is None and hasattr(module, source.object):
                load_source(source)()
        _read[source.sha256] = tuple(found)
    parts = []
    for key, name, info in _read[source.sha256]:
        qualified = source.name if source.path is None else f"{source.name.rpartition(':')[0]}:{name}"
        parts.append(OwnPart(key, name, info, dataclasses.replace(source, part=key, name=qualified)))
    return tuple(parts)


@contextlib.contextmanager
def _reading() -> Iterator[list[tuple[str, str, Info]]]:
    found: list[tuple[str, str, Info]] = []
    _loading.append(found)
    try:
        yield found
    finally:
        _loading.pop()


def _register(key: str, name: str, info: Info, package: Collection[str]) -> None:
    if not _loading:
        raise OwnCodeError(key, f"{name!r} is registered outside a plugin", "call it in a file that `plugins` of a spec names")
    if name in package:
        raise OwnCodeError(key, f"{name!r} is the package's own", "another name is needed")
    _loading[-1].append((key, name, info))
