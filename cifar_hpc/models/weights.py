"""Weight files: which file a `weights` value means, whether it is here, and how to bring it. Imports no torch.

Torchvision's files have several sources with one sum: the digest in the name. They are looked for where torch.hub keeps them
($TORCH_HOME, or the user's cache) and in $CIFAR_HPC_DATA/weights; a fetch writes to the latter where that variable is set. Must
not know: networks, what is in a file. The weights of timm's models lie where timm's own loader keeps them: models/timm_nets.py.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from cifar_hpc.config import catalog
from cifar_hpc.download.address import MIRROR, AddressSource, mirror_source
from cifar_hpc.download.files import clear, work_folder
from cifar_hpc.download.nearby import nearby
from cifar_hpc.download.package import WheelPackage
from cifar_hpc.download.race import Source, race
from cifar_hpc.errors import CifarHpcError, DataError, did_you_mean, nearest

SUFFIXES = (".pt", ".pth", ".safetensors")
OFFICIAL = "https://download.pytorch.org/models/{file}"
# Who else has the very file: repositories on Hugging Face; packages, as (package, folder, file, SHA-256, bytes in all).
HUGGING_FACE: Mapping[str, str] = {"resnet50-11ad3fa6.pth": "Addax-Data-Science/Japan_Gifu_v0.2"}
PACKAGES: Mapping[str, tuple[str, str, str, str, int]] = {
    "mobilenet_v3_small-047dcff4.pth": (
        "yiku-seg==0.1.5a4",
        "yiku/assets",
        "mobilenet_v3_small.pth",
        "047dcff4addef86ea5bc2eff13c9614dc11f47ab1160d0a71a25e7db994f4e1f",
        12_177_635,
    ),
}


def is_file(weights: str) -> bool:
    """Whether `weights` names a file, not one of torchvision's."""
    return weights.endswith(SUFFIXES)


def weights_name(arch: str, weights: str) -> str:
    """The name of torchvision's weight enum that 'imagenet' or a name stands for; timm's have no other name. Raises
    CifarHpcError."""
    names = _names(arch)
    if weights == "imagenet" and names:
        return names[0]
    if weights in names:
        return weights
    published = dict.fromkeys(("imagenet", *names) if names else ())
    allowed = ", ".join(["null", *published, "a file " + ", ".join(SUFFIXES)])
    spelled = {name.lower(): name for name in published}
    near = nearest(weights, spelled)
    raise CifarHpcError(f"weights: {weights!r} for {arch}; allowed: {allowed}.{did_you_mean(near and spelled[near])}")


def weights_missing(arch: str, weights: str | None) -> str | None:
    """What is missing and how to mend it, or None where the file is here. Raises CifarHpcError on an unknown name."""
    if weights is None or _find(arch, weights) is not None:
        return None
    if is_file(weights):
        return f"weights: the file {weights} does not exist"
    name = weights_name(arch, weights)
    if arch.startswith(catalog.TIMM):
        from cifar_hpc.models.timm_nets import cache_folders, pretrained

        file = "/".join(part for part in pretrained(arch).files[0] if part)
        folders = " or ".join(map(str, cache_folders()))
        return (
            f"weights: {file} ({arch}, {name}) is not in {folders}; run `cifar-hpc fetch SPEC` where there is "
            "network, or set HF_HOME to the Hugging Face folder that holds it"
        )
    folders = " or ".join(map(str, _folders()))
    return (
        f"weights: {file_name_of(arch, name)} ({arch}, {name}) is not in {folders}; run `cifar-hpc fetch SPEC` where "
        "there is network, or set TORCH_HOME to the torch folder that holds it"
    )


def weights_path(arch: str, weights: str) -> Path:
    """The file, or its copy on this node. Raises DataError where it is missing, CifarHpcError on an unknown name."""
    path = _find(arch, weights)
    if path is None:
        raise DataError(weights_missing(arch, weights) or f"weights: {weights} is missing")
    return nearby(path)


def weights_sha256(arch: str, weights: str | None) -> str | None:
    """The digest of the file, None without weights. Raises DataError where it is missing."""
    return None if weights is None else _sha256(weights_path(arch, weights))


def check_published(arch: str, weights: str) -> None:
    """Raises DataError where a published file is not the one that the digest in its name stands for."""
    path = _find(arch, weights)
    if path is not None and not is_file(weights):
        _check_digest(path)


def fetch_weights(arch: str, weights: str | None, say: Callable[[str], None]) -> None:
    """Bring torchvision's or timm's file and check it against the digest in its name; one that is here and right stays.

    Two at once do no harm: the file appears whole, under its name, at the end. Raises DataError where the network is closed,
    where a file is corrupt, or where `weights` is a file of the user's that does not exist.
    """
    if weights is None:
        return
    path = _find(arch, weights)
    if path is not None:
        if not is_file(weights):
            _check_digest(path)
        say(f"{path.name}: there")
        return
    if is_file(weights):
        raise DataError(f"weights: the file {weights} does not exist")
    name = weights_name(arch, weights)
    if arch.startswith(catalog.TIMM):
        from cifar_hpc.models.timm_nets import fetch_pretrained

        fetch_pretrained(arch, say)
        return
    fetch_file(_folders()[-1] / file_name_of(arch, name), say)


def sources_of(file: str) -> tuple[Source, ...]:
    """Whom to ask for one of torchvision's files, in order: the user's mirror, the official host, Hugging Face, a package."""
    total = f"sha256:{_digest_prefix(file) or ''}"
    sources: list[Source] = [*mirror_source("weights", [(file, total)])]
    sources.append(AddressSource("the official host", [(OFFICIAL.format(file=file), file, total)]))
    if file in HUGGING_FACE:
        address = f"https://huggingface.co/{HUGGING_FACE[file]}/resolve/main/{file}"
        sources.append(AddressSource("Hugging Face", [(address, file, total)]))
    if file in PACKAGES:
        package, inside, inner, digest, size = PACKAGES[file]
        sources.append(WheelPackage(package, inside, {inner: f"sha256:{digest}"}, size))
    return tuple(sources)


def fetch_file(path: Path, say: Callable[[str], None]) -> None:
    by_hand = f"bring {path.name} here by other means and put it into {path.parent}, or let ${MIRROR}/weights hold it"
    try:
        with work_folder(path.parent / ".fetch" / path.name, path.name, say) as work:
            if path.is_file():  # another fetch brought it, while this one waited
                return
            _, (brought,) = race(sources_of(path.name), work, path.name, say, by_hand)
            os.replace(brought, path)
            clear(work)
    except DataError as error:
        raise DataError(f"weights: {path.name} cannot be fetched. Tried:\n{error}To do without: {by_hand}.") from error
    except OSError as error:
        raise DataError(f"weights: {path} cannot be written: {error.strerror or error}") from error
    say(f"weights: fetched {path}")


def _find(arch: str, weights: str) -> Path | None:
    if is_file(weights):
        candidates = [Path(weights).expanduser()]
    elif arch.startswith(catalog.TIMM):
        from cifar_hpc.models.timm_nets import pretrained_path

        weights_name(arch, weights)  # refuses other names
        return pretrained_path(arch)
    else:
        file_name = file_name_of(arch, weights_name(arch, weights))
        candidates = [folder / file_name for folder in _folders()]
    return next((path for path in candidates if path.is_file()), None)


def _names(arch: str) -> tuple[str, ...]:
    """Of the published weights, the one that 'imagenet' means first."""
    if arch.startswith(catalog.TIMM):
        from cifar_hpc.models.timm_nets import pretrained

        return ("imagenet",) if pretrained(arch).files else ()
    return catalog.imagenet_weights(arch)


def file_name_of(arch: str, name: str) -> str:
    info = catalog.architecture(arch)
    assert info is not None  # weights_name has refused architectures without weights
    return info.weights[name]


def _folders() -> list[Path]:
    """Where torch.hub looks, then our own; the last is where a fetch writes."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    torch_home = Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch").expanduser()
    own = os.environ.get("CIFAR_HPC_DATA")
    return [torch_home / "hub" / "checkpoints", *([Path(own).expanduser() / "weights"] if own else [])]


def _digest_prefix(file: str) -> str | None:
    """The first hexadecimal digits of the file's SHA-256, which torchvision puts into its name."""
    match = re.search(r"-([0-9a-f]{8,})\.", file)
    return match.group(1) if match else None


def _check_digest(path: Path) -> None:
    prefix = _digest_prefix(path.name)
    if prefix and not _sha256(path).startswith(prefix):
        raise DataError(f"weights: {path} is corrupt: its SHA-256 does not begin with {prefix}; delete it and fetch again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
