"""What `--help` of each command, and the guide, show as examples. Knows no command's code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EXAMPLES: Mapping[str, Sequence[str]] = {
    "sweep": (
        "cifar-hpc sweep sweeps/quickstart.yaml",
        "cifar-hpc sweep quickstart --dry-run --list",
        "cifar-hpc sweep sweeps/quickstart.yaml --set epochs=2 --set 'grid.lr=[1e-3]'",
    ),
    "retry": ("cifar-hpc retry photos", "cifar-hpc retry photos#3 --on inline"),
    "cancel": ("cifar-hpc cancel photos", "cifar-hpc cancel photos arch=resnet18 'lr>1e-3'"),
    "status": ("cifar-hpc status", "cifar-hpc status photos status=failed", "cifar-hpc status photos#3"),
    "logs": ("cifar-hpc logs photos", "cifar-hpc logs photos -f", "cifar-hpc logs photos#3"),
    "arch": (
        "cifar-hpc arch",
        "cifar-hpc arch resnet18",
        "cifar-hpc arch --plan photos",
        "cifar-hpc arch --rank sweeps/quickstart.yaml",
    ),
    "data": ("cifar-hpc data photos", "cifar-hpc data sweeps/quickstart.yaml"),
    "augment": ("cifar-hpc augment sweeps/quickstart.yaml", "cifar-hpc augment photos -o seen.png"),
    "lr-find": ("cifar-hpc lr-find sweeps/quickstart.yaml --set batch_size=64",),
    "schema": ("cifar-hpc schema --format table", "cifar-hpc schema > spec.schema.json"),
    "report": (
        "cifar-hpc report photos --open",
        "cifar-hpc report photos 'lr>1e-3' --format csv",
        "cifar-hpc report photos#3",
        "cifar-hpc report photos --watch --serve 8000",
    ),
    "compare": ("cifar-hpc compare photos#1 photos#2", "cifar-hpc compare photos 'photos freeze=none'"),
    "labels": ("cifar-hpc labels photos",),
    "predict": ("cifar-hpc predict photos-refit new_photos > labels.csv", "cifar-hpc predict photos/greedy new_photos"),
    "export": ("cifar-hpc export photos", "cifar-hpc export photos#3 --to onnx -o network.onnx"),
    "reproduce": ("cifar-hpc reproduce photos",),
    "refit": ("cifar-hpc refit photos", "cifar-hpc refit photos#3", "cifar-hpc refit photos/greedy"),
    "soup": ("cifar-hpc soup photos",),
    "init": ("cifar-hpc init photos",),
    "fetch": ("cifar-hpc fetch cifar10", "cifar-hpc fetch sweeps/quickstart.yaml"),
    "doctor": ("cifar-hpc doctor",),
    "prune": ("cifar-hpc prune", "cifar-hpc prune --yes"),
}


def epilog_of(command: str) -> str:
    """A paragraph each, since rich joins the lines of one; brackets as they are."""
    lines = (example.replace("[", "\\[") for example in EXAMPLES.get(command, ()))
    return "\n\n".join(["Examples:", *lines]) if command in EXAMPLES else ""
