"""Optimisers, schedules and augmentation operations of the user's own, registered by a Python file or an installed package.

A file or module is named in the spec (`plugins: [mine.py]`); a package has an entry point of group `cifar_hpc.plugins`. A file
is executed; of a module the function `register`, of an entry point its function, is called without arguments. Either calls
`register_*` here. What a trial uses of it enters its id by the hash of the code. Owns: register_*, load_plugins. Imports no
torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_hpc.config import catalog
from cifar_hpc.config.registry import (
    OBJECTIVES,
    OPTIMIZERS,
    OWN_AUGMENTS,
    SCHEDULES,
    AugmentInfo,
    ObjectiveInfo,
    OptimizerInfo,
    Registry,
    ScheduleInfo,
)
from cifar_hpc.config.sources import OwnCodeError, Source, find_source, load_module, load_source, own_line

GROUP = "cifar_hpc.plugins"
Add = Callable[[], None]
_loading: list[tuple[Source, list[Add]]] = []  # the plugin that is being read, and what it has registered so far
_read: dict[str, list[Add]] = {}  # hash of a plugin's code -> what it registered
_origins: dict[tuple[str, str], Source] = {}  # (trial key, name) -> the code that it is of


def register_optimizer(
    name: str, build: Callable[..., Any], *, momentum: bool = False, usual_lr: float = 1e-3, doc: str = ""
) -> None:
    """`optimizer: name`. build(config, groups, blocks) gives a torch.optim.Optimizer over the parameter groups, which have a
    'height'; its 'lr' is set before every step. config.weight_decay and, with momentum, config.momentum are the spec's."""
    info = OptimizerInfo(doc=doc, build=build, probe_rule=None, momentum=momentum, usual_lr=usual_lr)
    _register(OPTIMIZERS, name, info)


def register_schedule(name: str, shape: Callable[[float, float], float], *, own_rise: bool = False, doc: str = "") -> None:
    """`schedule: name`. shape(step, steps), counted after warm-up, gives the learning rate as a share of its peak, 0..1.
    own_rise: it begins below its peak by itself, and warmup_epochs does not act."""
    _register(SCHEDULES, name, ScheduleInfo(doc=doc, shape=shape, own_rise=own_rise))


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
    info = ObjectiveInfo(doc=doc, mode=mode, noun=noun or name, share=share, measure=measure, counts=counts)
    _register(OBJECTIVES, name, info)


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

    def add() -> None:
        catalog.AUGMENT_OPS[name] = limits

    _register(OWN_AUGMENTS, name, AugmentInfo(draw=draw, change=change), also=add, taken=name in catalog.AUGMENT_OPS)


def read_plugins(names: Sequence[str], folder: Path) -> list[OwnCodeError]:
    """Reads the files and modules that a spec names, and what is installed; returns what is wrong, one for each name that is.
    folder: of the spec."""
    problems = []
    for name in names:
        try:
            _read_plugin(find_source("plugins", f"{name}:register", folder.absolute()))
        except OwnCodeError as error:
            problems.append(error)
        except Exception as error:  # a user's file may raise anything
            path = str(folder / name)
            problems.append(OwnCodeError("plugins", own_line(error, path), f"{name} is imported before the spec is checked"))
    for entry in importlib.metadata.entry_points(group=GROUP):
        target = entry.value if ":" in entry.value else f"{entry.value}:register"
        _read_plugin(find_source("plugins", target, folder))
    return problems


def load_plugins(sources: Sequence[Source]) -> None:
    """Registers again, in this process, what trials with these sources use. Raises what the code raises."""
    for source in sources:
        if source.part in _PARTS:
            _read_plugin(source)


def origin_of(key: str, name: str) -> Source | None:
    """The code that a named part of a trial is of; None: the package's own."""
    return _origins.get((key, name))


def _read_plugin(source: Source) -> None:
    if source.sha256 not in _read:
        with _reading(source) as found:
            module = load_module(source)
            if source.path is None and hasattr(module, source.object):
                load_source(source)()
        _read[source.sha256] = found
    for add in _read[source.sha256]:  # another state of the file may have taken the names
        add()


@contextlib.contextmanager
def _reading(source: Source) -> Iterator[list[Add]]:
    found: list[Add] = []
    _loading.append((source, found))
    try:
        yield found
    finally:
        _loading.pop()


def _register(registry: Registry[Any], name: str, info: Any, also: Add = lambda: None, taken: bool = False) -> None:
    if not _loading:
        raise OwnCodeError(
            registry.what, f"{name!r} is registered outside a plugin", "call it in a file that `plugins` of a spec names"
        )
    source, found = _loading[-1]
    if (registry.what, name) not in _origins and (name in registry or taken):
        raise OwnCodeError(registry.what, f"{name!r} is the package's own", "another name is needed")
    qualified = source.name if source.path is None else f"{source.name.rpartition(':')[0]}:{name}"
    origin = dataclasses.replace(source, part=registry.what, name=qualified)

    def add() -> None:
        registry.add(name, info)
        _origins[registry.what, name] = origin
        also()

    add()
    found.append(add)


_PARTS = tuple(registry.what for registry in (OPTIMIZERS, SCHEDULES, OWN_AUGMENTS, OBJECTIVES))
