"""YAML 1.2 text -> plain values, and the line of each. Knows no key of a spec, so that profiles are read by it too.

Owns what a hostile or careless file may hold: duplicate keys, tags, NaN, bombs of aliases, absurd nesting, tabs, binary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, DocumentStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cifar_hpc.errors import Problem, SpecError, nearest

MAX_BYTES = 2_000_000
MAX_DEPTH = 16
MAX_VALUES = 200_000  # after aliases are followed

KeyPath = tuple[str | int, ...]  # of a value inside the file: ('grid', 'freeze', 1)

_PREFIX = "tag:yaml.org,2002:"
_BOOLEANS = {"true": True, "false": False}


@dataclass
class YamlTree:
    """Plain values (mappings with text keys, lists, text, numbers, booleans, None) and where each stands ('x.yaml:12')."""

    value: Any
    origin: str  # the file as the user named it
    places: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """'sweeps/x.yaml:12: grid.freeze[1]'; a value that is not written has the line of what should hold it."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        return f"{self.places.get(known, self.origin)}: {spell_path(path)}" if path else self.places.get((), self.origin)


def spell_path(path: KeyPath) -> str:
    """('grid', 'freeze', 1) -> 'grid.freeze[1]'."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def read_yaml(path: Path) -> tuple[YamlTree, str]:
    """The tree of a file and its text. Raises SpecError with every problem found."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise SpecError([Problem(str(path), found, "the path of a YAML file is needed", _nearest_file(path))]) from error
    if len(data) > MAX_BYTES:
        raise SpecError(
            [Problem(str(path), f"more than {MAX_BYTES} bytes", "write a grid instead of listing every configuration")]
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SpecError([Problem(f"{path}:{line}", "not UTF-8 text", "a spec is a YAML text file")]) from error
    return parse_yaml(text, str(path)), text


def _nearest_file(path: Path) -> str | None:
    """A YAML file in that folder, or in sweeps/, of the nearest name."""
    files = {file.stem: str(file) for folder in (Path("sweeps"), path.parent) for file in sorted(folder.glob("*.y*ml"))}
    return files.get(nearest(path.stem, files) or "")


def parse_yaml(text: str, origin: str, fixed_place: str | None = None) -> YamlTree:
    """The tree of a text. fixed_place: what stands for 'origin:line' everywhere (an override has no lines)."""
    tree = YamlTree(None, origin)
    reader = _Reader(tree, fixed_place)
    try:
        reader.refuse_nesting(text)
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = (mark.line if mark else 0) + 1
        raise SpecError([Problem(reader.place(line), _plain_words(error, text, line), "valid YAML is needed")]) from error
    except (YAMLError, ValueError) as error:  # ValueError: what the scanner itself cannot turn into characters
        first = str(error).strip().splitlines()[0]
        raise SpecError([Problem(reader.place(1), first, "valid YAML is needed")]) from error
    tree.value = None if root is None else reader.build(root, (), 0)
    if reader.problems:
        raise SpecError(reader.problems)
    return tree


def _plain_words(error: MarkedYAMLError, text: str, line: int) -> str:
    lines = text.splitlines()
    if 0 < line <= len(lines) and "\t" in lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]:
        return "a tab where YAML wants spaces"
    words = " ".join(part for part in (error.context, error.problem) if part)
    return f"not YAML: {words}"


class _Reader:
    """Builds the tree of one text and gathers its problems."""

    def __init__(self, tree: YamlTree, fixed_place: str | None) -> None:
        self.tree = tree
        self.fixed_place = fixed_place
        self.problems: list[Problem] = []
        self.values = 0

    def place(self, line: int) -> str:
        return self.fixed_place or f"{self.tree.origin}:{line}"

    def refuse_nesting(self, text: str) -> None:
        """The composer is recursive; the events before it are not."""
        depth = documents = 0
        for event in YAML(typ="safe", pure=True).parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            documents += isinstance(event, DocumentStartEvent)
            line = event.start_mark.line + 1
            if depth > MAX_DEPTH:
                raise SpecError([Problem(self.place(line), f"nested deeper than {MAX_DEPTH}", "a spec is not so deep")])
            if documents > 1:
                raise SpecError([Problem(self.place(line), "a second document ('---')", "one file holds one spec")])

    def build(self, node: Node, path: KeyPath, depth: int) -> Any:
        self.values += 1
        place = self.place(node.start_mark.line + 1)
        self.tree.places.setdefault(path, place)
        if self.values > MAX_VALUES:
            raise SpecError([Problem(place, f"more than {MAX_VALUES} values once aliases are followed", "a spec is small")])
        if depth > MAX_DEPTH:
            raise SpecError([Problem(place, "an alias that holds itself", "an alias may only repeat a finished value")])
        if isinstance(node, MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            self._refuse_tag(node, "seq", path)
            return [self.build(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: KeyPath, depth: int) -> dict[str, Any]:
        self._refuse_tag(node, "map", path)
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                self._problem(self.place(line), path, "a list or mapping as a key", "a key is a word")
                continue
            key = str(key_node.value)
            if key == "<<":
                self._problem(self.place(line), path, "the merge key '<<' of YAML 1.1", "write the keys out, or use base")
            elif key in result:
                first = f"{key!r} a second time (first on line {lines[key]})"
                self._problem(self.place(line), path, first, "each key stands once")
            else:
                lines[key] = line
                self.tree.places[(*path, key)] = self.place(line)
                result[key] = self.build(value_node, (*path, key), depth + 1)
        return result

    def _scalar(self, node: Node, path: KeyPath) -> Any:
        tag, text = str(node.tag).removeprefix(_PREFIX), str(node.value)
        place = self.place(node.start_mark.line + 1)
        if tag == "null":
            return None
        if tag == "bool":
            return _BOOLEANS.get(text.lower(), text)
        if tag in ("int", "float"):
            number = _number(tag, text)
            if number is None or not math.isfinite(number):
                self._problem(place, path, text[:40], "a finite number below 2^63 is needed")
                return None
            return number
        if tag in ("str", "timestamp"):  # a date has no meaning in a spec: it stays text
            return text
        self._problem(place, path, f"the tag {node.tag!r}", "a spec holds plain values only")
        return None

    def _refuse_tag(self, node: Node, plain: str, path: KeyPath) -> None:
        if str(node.tag) != _PREFIX + plain:
            place = self.place(node.start_mark.line + 1)
            self._problem(place, path, f"the tag {str(node.tag)!r}", "a spec holds plain values only")

    def _problem(self, place: str, path: KeyPath, found: str, allowed: str) -> None:
        where = f"{place}: {spell_path(path)}" if path else place
        self.problems.append(Problem(where, found, allowed))


def _number(tag: str, text: str) -> int | float | None:
    """A number as YAML 1.2 writes it, None where it has too many digits to be one; 0x and 0o are honoured."""
    plain = text.replace("_", "").lower()
    try:
        if tag == "float":
            return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
        sign = -1 if plain.startswith("-") else 1
        digits = plain.lstrip("+-")
        base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2], 10)
        number = sign * int(digits[2:] if base != 10 else digits, base)
    except ValueError:
        return None
    return number if abs(number) < 2**63 else None
