"""The trial keys whose values are more than a number or a word of a list: freeze, weights, augment, classes. Each function
turns what YAML gave into what TrialConfig holds, or refuses it. Knows nothing of axes, files or lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from cifar_hpc.config import catalog
from cifar_hpc.config.dataset import BY_SEED
from cifar_hpc.config.identity import ID_LENGTH
from cifar_hpc.config.own import Arguments, arguments
from cifar_hpc.config.sources import is_own
from cifar_hpc.config.trained import WORDS
from cifar_hpc.config.trial import PARENT_PREFIX, STAGE_PREFIX, AugmentOp
from cifar_hpc.config.words import usual_weights
from cifar_hpc.errors import did_you_mean, nearest

ARCH_ALLOWED = (
    f"one of {len(catalog.ARCHS)} architectures (`cifar-hpc arch` lists them), or one's own: FILE.py:NAME or MODULE:NAME"
)
DATASET_ALLOWED = (
    f"one of {', '.join(catalog.DATASETS)}, torchvision/NAME, hf/PATH, or one's own: FILE.py:FUNCTION or MODULE:FUNCTION"
)
ARGUMENTS_ALLOWED = "null, or arguments by name, each a number, a word, true, false, null or a list of them: {width: 64}"
FREEZE_ALLOWED = "none, all, a whole number (first n blocks), a share 0.0..1.0 with a point, or a block's name"
TRAIN_ALLOWED = "all, bias, norm, or a list of blocks: [layer2, fc]; head means the last block"
LORA_ALLOWED = "{rank: 8}, a whole number from 1 on, or null"
UNFREEZE_ALLOWED = "epochs from 1 on, each with a block from which on all train: {1: fc, 3: layer4, 5: layer3}, or null"
WEIGHTS_ALLOWED = (
    "null, imagenet, one of torchvision's weights such as IMAGENET1K_V1, a weights file (.pt, .pth, .safetensors), "
    "{stage: NAME} or {trial: ID}"
)
AUGMENT_ALLOWED = f"one of {', '.join(catalog.AUGMENTATIONS)}, or a list of operations"
BALANCED = "balanced"
CLASS_WEIGHTS_ALLOWED = f"null, {BALANCED}, or numbers above 0 by class: {{cat: 2.0}}"
SPLIT_SEED_ALLOWED = f"a whole number at least 0, or {BY_SEED}"
CLASSES_ALLOWED = "the name of a superclass, a list of two or more class names, or null"
Operations = Mapping[str, Mapping[str, catalog.OpArg]]  # augmentation operations with their arguments
WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")

SWEEP_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
STAGE_NAME = re.compile(r"[A-Za-z]\w{0,31}")
_BLOCK_NAME = re.compile(r"[A-Za-z_][\w.\-/]*")
_ENUMS = tuple(dict.fromkeys(name for arch in catalog.TORCHVISION_ARCHS for name in catalog.imagenet_weights(arch)))


def refuse(found: str, allowed: str, near: str | None = None) -> PydanticCustomError:
    """What a validator raises; schema.py turns it into a Problem."""
    return PydanticCustomError("refused", "{found}", {"found": found, "allowed": allowed, "nearest": near})


def show(value: object) -> str:
    """A value as a person would have written it in YAML, cut to 60 characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        text = f"the mapping {{{', '.join(f'{k}: ...' for k in value)}}}"
    elif isinstance(value, list | tuple):
        text = f"the list [{', '.join(show(v) for v in value)}]" if value else "an empty list"
    else:
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SWEEP_NAME = re.compile(SWEEP_NAME)
_RESERVED = re.compile(
    r"trials|report|published|sources|.*\.[a-z]{2,8}", re.IGNORECASE
)  # folders of results/, and what names a file


def read_name(value: Any) -> str:
    """A sweep's name, which is that of its folder."""
    near = near_name(str(value)) if isinstance(value, str | int) else None
    if not isinstance(value, str) or not _SWEEP_NAME.fullmatch(value):
        raise refuse(show(value), "letters, digits, '.', '_' and '-', at most 64, as a folder is named", near)
    if _RESERVED.fullmatch(value):
        raise refuse(f"{value!r}, which names a file or another folder of results/", "a name that is the sweep's own", near)
    return value


def near_name(text: str) -> str | None:
    """The text as a sweep may be named; None where nothing of it may stand in a name."""
    near = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:64]
    near = re.sub(r"(\.[A-Za-z]{2,8})+$", "", near)
    return f"{near[:62]}_1" if _RESERVED.fullmatch(near) else near or None


def wrong_name(name: str) -> str | None:
    """Why no sweep can have that name, in words; None where one can."""
    try:
        read_name(name)
    except PydanticCustomError as error:
        said = error.context or {}
        return f"{said['found']}; {said['allowed']}.{did_you_mean(said['nearest'])}"
    return None


def read_arch(value: Any) -> str:
    """Whether timm has the model that a `timm/NAME` means is found out later, for those that a trial has."""
    if isinstance(value, str) and (value in catalog.ARCHS or value.startswith(catalog.TIMM) or is_own(value)):
        return value
    raise refuse(show(value), ARCH_ALLOWED, nearest(value, catalog.ARCHS) if isinstance(value, str) else None)


def read_dataset_name(value: Any) -> str:
    """Whether there is such a file, module or folder is found out later, for those that a trial has."""
    if isinstance(value, str) and (value in catalog.DATASETS or value.startswith(catalog.BROUGHT) or is_own(value)):
        return value
    raise refuse(show(value), DATASET_ALLOWED, nearest(value, catalog.DATASETS) if isinstance(value, str) else None)


def read_arguments(value: Any) -> Arguments | None:
    """Plain values by name, sorted; an empty mapping is none."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise refuse(show(value), ARGUMENTS_ALLOWED)
    for name, item in value.items():
        if not name.isidentifier():
            raise refuse(f"the argument {name!r}", "a name as Python has it")
        read_argument(item)
    return arguments(value)


def read_argument(value: Any) -> Any:
    """One of them."""
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict | list) for item in value)):
        raise refuse(show(value), ARGUMENTS_ALLOWED)
    return tuple(value) if isinstance(value, list) else value


def read_freeze(value: Any) -> str | int | float:
    """Canonical: 0 and 0.0 are 'none', 1.0 is 'all'."""
    if isinstance(value, str):
        if _BLOCK_NAME.fullmatch(value) and value not in ("true", "false"):
            return value
        numeric = re.fullmatch(r"[\d.]+", value) is not None
        raise refuse(show(value), FREEZE_ALLOWED + ("; a number stands without quotes" if numeric else ""))
    if isinstance(value, bool) or value is None or not isinstance(value, int | float):
        raise refuse(show(value), FREEZE_ALLOWED, "all" if value is True else "none" if value in (None, False) else None)
    if value < 0 or (isinstance(value, float) and value > 1):
        raise refuse(show(value), FREEZE_ALLOWED, str(int(value)) if value >= 0 and value == int(value) else None)
    if value == 0:
        return "none"
    return "all" if isinstance(value, float) and value == 1.0 else value


def read_train(value: Any) -> str | tuple[str, ...]:
    """A word, or blocks whose names are compared with the network's later."""
    if isinstance(value, str) and value in WORDS:
        return value
    if isinstance(value, str):
        near = nearest(value, WORDS) or (f"[{value}]" if _BLOCK_NAME.fullmatch(value) else None)
        raise refuse(show(value), TRAIN_ALLOWED, near)
    if not isinstance(value, list) or not value:
        raise refuse(show(value), TRAIN_ALLOWED)
    for item in value:
        if not isinstance(item, str) or not _BLOCK_NAME.fullmatch(item):
            raise refuse(f"{show(item)} in the list", "the name of a block or a stage, such as layer2")
    return tuple(value)


def read_lora(value: Any) -> Arguments | None:
    if value is None:
        return None
    if not isinstance(value, dict) or list(value) != ["rank"]:
        raise refuse(show(value), LORA_ALLOWED, f"{{rank: {value}}}" if type(value) is int and value > 0 else None)
    if type(value["rank"]) is not int or value["rank"] < 1:
        raise refuse(f"the rank {show(value['rank'])}", LORA_ALLOWED)
    return arguments(value)


def read_unfreeze(value: Any) -> tuple[tuple[int, str], ...] | None:
    """Pairs of an epoch and a block, by epoch."""
    if value is None:
        return None
    if not isinstance(value, dict) or not value:
        raise refuse(show(value), UNFREEZE_ALLOWED)
    for epoch, block in value.items():
        if not re.fullmatch(r"[1-9]\d{0,8}", str(epoch)):
            raise refuse(f"the epoch {epoch!r}", "a whole number, 1 for the first epoch")
        if not isinstance(block, str) or not _BLOCK_NAME.fullmatch(block):
            raise refuse(f"{show(block)} from epoch {epoch} on", "the name of a block or a stage, such as layer4")
    steps = tuple(sorted((int(epoch), block) for epoch, block in value.items()))
    if steps[0][0] != 1:
        raise refuse(f"epoch {steps[0][0]} first", "what trains from epoch 1 on: {1: fc, 3: layer4}")
    return steps


def read_weights(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, dict) and list(value) == ["trial"]:
        if re.fullmatch(f"[a-z2-7]{{{ID_LENGTH}}}", str(value["trial"])):
            return f"{PARENT_PREFIX}{value['trial']}"
        raise refuse(f"the trial {show(value['trial'])}", f"the {ID_LENGTH} letters and digits of a trial's id")
    if isinstance(value, dict) and list(value) == ["stage"]:
        if isinstance(value["stage"], str) and STAGE_NAME.fullmatch(value["stage"]):
            return f"{STAGE_PREFIX}{value['stage']}"
        raise refuse(f"the stage {show(value['stage'])}", "the name of a stage that stands before this one")
    if not isinstance(value, str):
        near = usual_weights(str(value)) if isinstance(value, bool) else None
        raise refuse(show(value), WEIGHTS_ALLOWED, near)
    if value in ("imagenet", *_ENUMS) or value.endswith(WEIGHT_SUFFIXES):
        return value
    near = usual_weights(value) or nearest(value, ["imagenet"])
    name = value.rpartition(".")[2]  # torchvision writes ResNet18_Weights.IMAGENET1K_V1; whose they are `arch` says
    near = near or nearest(name.lower(), [name.lower() for name in _ENUMS])
    raise refuse(show(value), WEIGHTS_ALLOWED, near.upper() if near and near.upper() in _ENUMS else near)


def read_augment(value: Any, known: Operations = catalog.AUGMENT_OPS) -> str | tuple[AugmentOp, ...]:
    """A name as it is; a list as operations with every argument filled in, so that a default written out changes no id.
    known: the operations that there are."""
    if isinstance(value, str):
        if value in catalog.AUGMENTATIONS:
            return value
        raise refuse(show(value), AUGMENT_ALLOWED, nearest(value, catalog.AUGMENTATIONS) or _as_operation(value, known))
    if not isinstance(value, list) or not value:
        raise refuse(show(value), AUGMENT_ALLOWED, "none" if not value else None)
    ops = tuple(_read_operation(item, known) for item in value)
    for op in ops[:-1]:
        if op.name in catalog.BATCH_OPS:
            raise refuse(f"{op.name!r} before another operation", "mixup or cutmix stands last, and only one of them")
    default = tuple(_operation(op.name, {}, known[op.name]) for op in ops)
    if default == ops:  # what a name stands for is that name
        for name, names in catalog.AUGMENTATIONS.items():
            if names == tuple(op.name for op in ops):
                return name
    return ops


def read_class_weights(value: Any) -> str | Arguments | None:
    """Class names are compared with the data set's own later."""
    if value is None or value == BALANCED:
        return value  # type: ignore[no-any-return]
    if not isinstance(value, dict) or not value:
        raise refuse(show(value), CLASS_WEIGHTS_ALLOWED, nearest(value, [BALANCED]) if isinstance(value, str) else None)
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight <= 0:
            raise refuse(f"{name}: {show(weight)}", CLASS_WEIGHTS_ALLOWED)
    return arguments({str(name): float(weight) for name, weight in value.items()})


def read_split_seed(value: Any) -> int | str:
    if value == BY_SEED or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value  # type: ignore[no-any-return]
    raise refuse(show(value), SPLIT_SEED_ALLOWED, nearest(value, [BY_SEED]) if isinstance(value, str) else None)


def read_classes(value: Any) -> str | tuple[str, ...] | None:
    """Class names are compared with the data set's own later, when the data set is known."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise refuse(show(value), CLASSES_ALLOWED)
    names = [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value]  # digits: 0..9
    for item in names:
        if not isinstance(item, str):
            raise refuse(show(item), CLASSES_ALLOWED)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise refuse(f"{twice!r} twice", CLASSES_ALLOWED)
    if len(names) < 2:
        raise refuse("one class", CLASSES_ALLOWED)
    return tuple(names)


def _as_operation(value: str, known: Operations) -> str | None:
    near = nearest(value, known)
    return f"[{near}]" if near else None


def _read_operation(item: Any, operations: Operations) -> AugmentOp:
    args: Any = {}
    if isinstance(item, str):
        name = item
    elif isinstance(item, dict) and len(item) == 1:
        name, given = next(iter(item.items()))
        args = {} if given is None else given
    else:
        raise refuse(show(item), "an operation's name, or one name with its arguments: rotate: {degrees: 30}")
    if name not in operations:
        raise refuse(f"the operation {name!r}", f"one of {', '.join(operations)}", nearest(name, operations))
    known = operations[name]
    if not isinstance(args, dict):
        example = next(iter(known), None)
        raise refuse(
            f"{name}: {show(args)}", f"arguments by name: {name}: {{{example}: ...}}" if example else "it takes no arguments"
        )
    for arg, number in args.items():
        if arg not in known:
            allowed = f"{name} takes {', '.join(known)}" if known else f"{name} takes no arguments"
            raise refuse(f"the argument {arg!r} of {name}", allowed, nearest(arg, known))
        _check_argument(name, arg, number, known[arg])
    operation = _operation(name, args, known)
    areas = [value for arg, value in operation.args if arg in ("min_area_frac", "max_area_frac")]  # max before min
    if areas != sorted(areas, reverse=True):
        raise refuse(f"{name} min_area_frac {areas[1]:g}", f"at most max_area_frac, {areas[0]:g}")
    return operation


def _check_argument(name: str, arg: str, number: Any, limits: catalog.OpArg) -> None:
    kind = "a whole number" if limits.whole else "a number"
    allowed = f"{kind} {limits.low:g}..{limits.high:g} ({limits.doc})"
    wrong = isinstance(number, bool) or not isinstance(number, int if limits.whole else int | float)
    if wrong or not limits.low <= number <= limits.high:
        raise refuse(f"{name} {arg} {show(number)}", allowed)


def _operation(name: str, args: dict[str, Any], known: Mapping[str, catalog.OpArg]) -> AugmentOp:
    return AugmentOp(name=name, args=tuple((arg, float(args.get(arg, known[arg].default))) for arg in sorted(known)))
