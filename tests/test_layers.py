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
    "config": set(),
    "records": set(),
    "spec": set(),
    "download": set(),
    "data": {"download"},
    "models": {"download"},
    "planning": {"records", "spec"},
    "search": {"records", "spec", "planning"},
    "distributed": {"records"},
    "train": {"distributed", "data", "models", "records"},
    "testing": {"train", "data", "models"},
    "worker": {"train", "distributed", "data", "models", "records", "planning"},
    "deploy": {"train", "data", "models", "records"},
    "executors": {"records", "spec", "planning", "search"},
    "status": {"records", "planning"},
    "collect": {"records", "status"},
    "terminal": {"records", "status", "sweep"},
    "report": {"records", "status", "collect", "terminal"},
    "sweep": {"records", "spec", "planning", "search", "executors", "status"},
    "api": {"records", "spec", "executors", "status", "sweep", "collect"},
    "cli": {"records", "spec", "planning", "executors", "status", "sweep", "collect", "report", "terminal"},
    "__main__": {"cli"},
}
# What a layer may import inside a function only: what runs on the node, and what a command or a name of timm needs.
DEFERRED = {
    "config": {"models"},
    "spec": {"data"},
    "executors": {"worker"},
    "sweep": {"data", "models", "collect"},
    "api": {"data", "deploy", "report", "terminal"},
    "cli": {"data", "models", "train", "deploy", "api"},
}
# Third-party packages that have one door.
ONE_DOOR = {
    "ray": {"executors/ray"},
    "optuna": {"search/samplers.py"},
    "submitit": {"executors/slurm/sender.py"},
    "pydantic": {"spec", "records"},
    "pydantic_core": {"spec", "records"},
    "PIL": {"data"},
    "ruamel": {"spec"},
    "typer": {"cli"},
    "rich": {"terminal"},
    "pandas": {"api"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
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
    "torchvision": {"data", "models", "distributed", "worker"},
    "torch": {"data", "models", "train", "distributed", "worker", "deploy", "testing.py"},
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def _imports(path: Path, skip_typing: bool = True) -> Iterator[tuple[str, bool, int]]:
    """(imported module, whether only inside a function, line). skip_typing: those for type checking alone do not count."""
    deferred: set[int] = set()
    skipped: set[int] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            deferred |= {id(child) for child in ast.walk(node)}
        if skip_typing and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
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
            allowed = FOUNDATION | ALLOWED[layer] | {layer} | (DEFERRED.get(layer, set()) if deferred else set())
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


def test_every_layer_of_the_package_is_in_the_table_and_the_table_has_no_dead_row():
    assert {_layer(path) for path in SOURCES} == set(ALLOWED)
    used: dict[tuple[str, str], bool] = {}  # whether at load
    doors: set[str] = set()
    for path in SOURCES:
        for module, deferred, _ in _imports(path):
            top, *rest = module.split(".")
            if top == "cifar_hpc" and rest:
                used[_layer(path), rest[0]] = used.get((_layer(path), rest[0]), False) or not deferred
            room = path.relative_to(PACKAGE).as_posix()
            doors |= {f"{top}: {door}" for door in ONE_DOOR.get(top, ()) if room == door or room.startswith(f"{door}/")}
    rows = {f"{layer}: {other}" for layer, others in ALLOWED.items() for other in others if (layer, other) not in used}
    rows |= {
        f"{layer}: {other}, deferred" for layer, others in DEFERRED.items() for other in others if (layer, other) not in used
    }
    rows |= {f"{top}: {door}" for top, places in ONE_DOOR.items() for door in places} - doors
    assert not rows, sorted(rows)


def _graph() -> dict[str, set[str]]:
    """File -> files that it imports, wherever in it and for whatever purpose."""
    names = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES
    }
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        own = {module for module in found & set(names) if module != name}
        graph[name] = own - {"cifar_hpc"}  # which holds the version, and hands names on lazily
    return graph


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Files that import each other, by whatever way round."""
    reach = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    groups = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph if name in reach[name]}
    return [list(group) for group in sorted(groups)]


def test_no_files_import_each_other_in_a_circle_not_even_inside_functions_or_for_types():
    assert _circles(_graph()) == []


def test_no_command_imports_another():
    shared = {"cifar_hpc.cli.speech", "cifar_hpc.cli", "cifar_hpc.cli.examples"}
    commands = {name: targets for name, targets in _graph().items() if name.startswith("cifar_hpc.cli.")}
    parts = {
        "cifar_hpc.cli.arch": {"cifar_hpc.cli.arch_plan", "cifar_hpc.cli.arch_rank"},
    }
    for name, targets in commands.items():
        assert {t for t in targets if t.startswith("cifar_hpc.cli")} <= shared | parts.get(name, set()), name


def test_a_circle_is_found():
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_an_import_against_the_table_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    bad = tmp_path / "train" / "loop.py"
    bad.parent.mkdir()
    bad.write_text("def f():\n    from cifar_hpc.report import tables\nimport submitit\n")
    assert _wrong(bad) == [
        "train/loop.py:3: submitit is for ['executors/slurm/sender.py']",
        "train/loop.py:2: train imports report",
    ]
