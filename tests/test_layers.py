"""The import table of ARCHITECTURE.md (the house's plan in CONTRIBUTING.md), read from the sources."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cifar_hpc"

# layer -> the layers that it may import. What all may import: the errors and a trial's config; `__init__` holds the version.
FOUNDATION = {"errors", "config", "__init__"}
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "config": FOUNDATION,
    "records": FOUNDATION,
    "spec": FOUNDATION,
    "download": FOUNDATION,
    "data": FOUNDATION | {"download"},
    "models": FOUNDATION | {"download"},
    "planning": FOUNDATION | {"records", "spec"},
    "search": FOUNDATION | {"records", "spec", "planning"},
    "distributed": FOUNDATION | {"records"},
    "train": FOUNDATION | {"distributed", "data", "models", "records"},
    "worker": FOUNDATION | {"train", "distributed", "data", "models", "records", "planning"},
    "deploy": FOUNDATION | {"worker", "train", "data", "models", "records"},
    "executors": FOUNDATION | {"records", "spec", "planning", "search"},
    "status": FOUNDATION | {"records", "spec", "planning", "executors"},
    "collect": FOUNDATION | {"records"},
    "terminal": FOUNDATION,
    "report": FOUNDATION | {"records", "collect", "terminal"},
    "cli": FOUNDATION | {"records", "spec", "planning", "search", "executors", "status", "collect", "report", "terminal"},
    "__main__": {"cli"},
}
# What a layer may import inside a function only: what runs on the node, and what a command or a name of timm needs.
DEFERRED = {"config": {"models"}, "spec": {"data"}, "executors": {"worker"}, "cli": {"data", "models", "train", "deploy"}}
# Third-party packages that have one door.
ONE_DOOR = {
    "ray": {"executors/ray"},
    "optuna": {"search/samplers.py"},
    "submitit": {"executors/slurm/executor.py"},
    "pydantic": {"spec", "records"},
    "pydantic_core": {"spec", "records"},
    "PIL": {"data"},
    "ruamel": {"spec", "executors/slurm/profile.py"},
    "typer": {"cli"},
    "rich": {"cli", "report", "terminal"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
    "pandas": {"collect", "report"},
    "pyarrow": {"collect", "data/brought.py"},
    "scipy": {"collect", "data"},
    "sklearn": {"data", "train", "collect"},
    "kornia": {"data"},
    "onnx": {"deploy"},
    "tensorboardX": {"report/export.py"},
    "mlflow": {"report/export.py"},
    "wandb": {"report/export.py"},
    "onnxruntime": {"deploy"},
    "timm": {"models/timm_nets.py"},
    "huggingface_hub": {"models/timm_nets.py"},
    "torchvision": {"data", "models", "train", "distributed", "worker"},
    "torch": {"data", "models", "train", "distributed", "worker", "deploy"},
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def _imports(path: Path) -> Iterator[tuple[str, bool, int]]:
    """(imported module, whether only inside a function, line); imports for type checking alone do not count."""
    deferred: set[int] = set()
    skipped: set[int] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            deferred |= {id(child) for child in ast.walk(node)}
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            modules = [f"cifar_hpc.{alias.name}" for alias in node.names] if node.module == "cifar_hpc" else [node.module or ""]
        else:
            continue
        for module in modules:
            yield module, id(node) in deferred, node.lineno


def _layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _wrong(path: Path) -> list[str]:
    layer, room = _layer(path), path.relative_to(PACKAGE).as_posix()
    found = []
    for module, deferred, line in _imports(path):
        top, *rest = module.split(".")
        if top == "cifar_hpc":
            target = rest[0] if rest and rest[0] in ALLOWED else "__init__"
            allowed = ALLOWED[layer] | {layer} | (DEFERRED.get(layer, set()) if deferred else set())
            if target not in allowed:
                found.append(f"{room}:{line}: {layer} imports {target}")
        elif top in ONE_DOOR and not any(room == door or room.startswith(f"{door}/") for door in ONE_DOOR[top]):
            found.append(f"{room}:{line}: {top} is for {sorted(ONE_DOOR[top])}")
        elif top not in ONE_DOOR and top not in sys.stdlib_module_names and top not in {"numpy", "safetensors"}:
            found.append(f"{room}:{line}: {top} is no dependency that this test knows")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_along_the_table(path):
    assert _wrong(path) == []


def test_every_layer_of_the_package_is_in_the_table():
    assert {_layer(path) for path in SOURCES} <= set(ALLOWED)


def test_an_import_against_the_table_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    bad = tmp_path / "train" / "loop.py"
    bad.parent.mkdir()
    bad.write_text("def f():\n    from cifar_hpc.report import tables\nimport submitit\n")
    assert _wrong(bad) == [
        "train/loop.py:3: submitit is for ['executors/slurm/executor.py']",
        "train/loop.py:2: train imports report",
    ]
