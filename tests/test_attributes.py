"""Where the attributes of the package's classes begin, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[1] / "cifar_hpc").rglob("*.py"))
BEGINNINGS = {"Trainable": {"setup"}}  # Ray's, whose own __init__ calls it


def born_elsewhere(source: str) -> list[str]:
    """Attributes that a method other than `__init__` gives an object first, as 'Class.name in method'."""
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return [found for node in classes for found in _born_elsewhere(node)]


def _born_elsewhere(node: ast.ClassDef) -> Iterator[str]:
    bases = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
    beginnings = {"__init__"}.union(*(BEGINNINGS.get(base, set()) for base in bases))
    declared = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}  # setters of properties among them
    for item in node.body:
        targets = [item.target] if isinstance(item, ast.AnnAssign) else item.targets if isinstance(item, ast.Assign) else []
        declared |= {target.id for target in targets if isinstance(target, ast.Name)}
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.args.args and not _is_static(item)]
    given = [(method.name, name) for method in methods for name in _given(method)]
    declared |= {name for method, name in given if method in beginnings}
    yield from sorted({f"{node.name}.{name} in {method}" for method, name in given if name not in declared})


def _is_static(method: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in method.decorator_list)


def _given(method: ast.FunctionDef) -> Iterator[str]:
    own = method.args.args[0].arg
    stored = (n for n in ast.walk(method) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
    yield from (node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id == own)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_no_attribute_is_born_outside_init(path):
    assert born_elsewhere(path.read_text()) == []


def test_one_that_is_born_elsewhere_is_found():
    source = (
        "class A:\n    x: int = 0\n    def __init__(self): self.y = 1\n    def go(self):\n        self.x = self.y = self.z = 2"
    )
    assert born_elsewhere(source) == ["A.z in go"]
