"""timm's classification models, `timm/NAME`: which there are, making them, where their pretrained weights lie.

The only file that imports timm, an optional extra, and only when a function is called: whoever names no such model pays
nothing. Must not know: blocks, training, specs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cifar_hpc.config.catalog import TIMM
from cifar_hpc.errors import CifarHpcError, DataError, UnusableArchError, nearest
from cifar_hpc.models.loading import Normalisation, without_initial_values

NATIVE_SIDE = 224  # pixels, where timm states none


@dataclass(frozen=True, slots=True)
class Pretrained:
    """timm's default configuration of a model, or that of its tag. files: where its weights may come from, the first that is
    here counts: (repository on the Hugging Face hub, file) or (None, file of torch.hub); none: it has no weights."""

    side: int
    takes_side: bool  # the constructor has to be told the image's side
    classes: int
    classifier: str | None
    normalisation: Normalisation
    files: tuple[tuple[str | None, str], ...]


def is_timm(arch: str) -> bool:
    return arch.startswith(TIMM)


@functools.cache
def pretrained(arch: str) -> Pretrained:
    """Raises UnusableArchError where timm is not installed or knows no such model or tag."""
    timm, name = _timm(), arch.removeprefix(TIMM)
    if not timm.is_model(name):
        models = timm.list_models()
        near = nearest(name, models)
        allowed = f"one of timm {timm.__version__}'s {len(models)} models (timm.list_models() lists them)"
        raise UnusableArchError(f"{arch!r} is no model of timm", allowed, near and TIMM + near)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that the model does not have
        base = name.split(".")[0]
        tags = [TIMM + tagged for tagged in timm.list_pretrained(f"{base}.*")]
        raise UnusableArchError(
            str(error).rstrip("."), f"one of {', '.join([TIMM + base, *tags])}", nearest(arch, tags)
        ) from error
    if config is None:
        return Pretrained(NATIVE_SIDE, False, 0, None, ((0.5,) * 3, (0.5,) * 3), ())
    repository, url = config.hf_hub_id, config.url
    named = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    files = [(repository, file) for file in named] if repository else []
    files += [(None, url.rsplit("/", 1)[1])] if url else []
    classifier = config.classifier if isinstance(config.classifier, str) else None
    return Pretrained(
        side=config.input_size[-1],
        takes_side=bool(config.fixed_input_size),
        classes=config.num_classes,
        classifier=classifier,
        normalisation=(tuple(config.mean), tuple(config.std)),
        files=tuple(files),
    )


def make_timm(arch: str, num_classes: int, channels: int, side: int, weights: Path | None = None) -> nn.Module:
    """The uncut network, initialised as timm does from the global generator. weights: the file of its pretrained ones, read
    and adapted (classifier, first layer, positions) by timm's own loader. Raises CifarHpcError where timm refuses."""
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    if pretrained(arch).takes_side:
        arguments["img_size"] = side
    if weights is not None:
        own = {} if weights.suffix != ".safetensors" else {"custom_load": False}
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights), **own}}
    return _create(arch, f"for images of {channels}x{side}x{side}", arguments)


def make_shapes(arch: str, num_classes: int, side: int) -> nn.Module:
    """The same for 3 channels, without values and, where timm can make it so, without memory."""
    try:
        with without_initial_values():
            return make_timm(arch, num_classes, 3, side)
    except CifarHpcError:  # hybrids run a part of themselves to find its output's shape
        return make_timm(arch, num_classes, 3, side)


def closed_parts() -> tuple[tuple[type[nn.Module], ...], tuple[Callable[..., Any], ...]]:
    """The modules and the functions that timm says torch.fx cannot trace, and need not."""
    _timm()
    from timm.layers import get_notrace_functions, get_notrace_modules

    return tuple(get_notrace_modules()), tuple(function for function in get_notrace_functions() if callable(function))


def pretrained_path(arch: str) -> Path | None:
    """The file of the pretrained weights in the cache of the Hugging Face hub or of torch.hub; None: not here."""
    import torch.hub
    from huggingface_hub import try_to_load_from_cache

    for repository, file in pretrained(arch).files:
        if repository is None:
            found: Any = str(Path(torch.hub.get_dir()) / "checkpoints" / file)
        else:
            base, _, revision = repository.partition("@")
            found = try_to_load_from_cache(base, file, revision=revision or None)
        if isinstance(found, str) and Path(found).is_file():
            return Path(found)
    return None


def cache_folders() -> list[Path]:
    """Where the weights are looked for."""
    import torch.hub
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path(HF_HUB_CACHE), Path(torch.hub.get_dir()) / "checkpoints"]


def fetch_pretrained(arch: str, say: Callable[[str], None]) -> None:
    """Bring the pretrained weights by timm's own loader. Raises DataError where they cannot be reached."""
    say(f"fetching the weights of {arch} to {cache_folders()[0]}")
    try:
        _timm().create_model(arch.removeprefix(TIMM), pretrained=True)
    except Exception as error:  # the hub's client has some twenty kinds of errors, timm its own
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"weights: timm cannot fetch those of {arch} ({type(error).__name__}: {reason})") from error


def _create(arch: str, what: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        network: nn.Module = _timm().create_model(arch.removeprefix(TIMM), **arguments)
    except Exception as error:  # constructors check their arguments by any kind of error
        reason = str(error).strip().split("\n")[0]
        raise CifarHpcError(f"{arch}: timm cannot make it {what} ({type(error).__name__}: {reason})") from error
    return network


@functools.cache
def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        found = f"{TIMM}NAME needs timm, which cannot be imported here ({error})"
        raise UnusableArchError(
            found, "`pip install 'cifar-hpc[timm]'`, or an architecture that `cifar-hpc arch` lists"
        ) from error
    logging.getLogger("timm").setLevel(logging.ERROR)  # its loader warns of each classifier that is exchanged
    return timm
