"""Files that are no spec at all, or no YAML: what is told of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_hpc.errors import SpecError
from cifar_hpc.spec.load import load_spec
from tests.helpers.spec_answers import HEAD, RUNS, Case, check_answer

CASES: dict[str, Case] = {
    "an empty file": ("", [("x.yaml", "an empty file", "a spec is a mapping; `cifar-hpc init NAME` writes one")]),
    "only comments": ("# later\n", [("x.yaml", "an empty file", "a spec is a mapping; `cifar-hpc init NAME` writes one")]),
    "a list": ("- a\n", [("x.yaml:1", "the list ['a']", "a spec is a mapping; `cifar-hpc init NAME` writes one")]),
    "a tab": ("name: x\n\tdataset: y\n", [("x.yaml:2", "a tab where YAML wants spaces", "valid YAML is needed")]),
    "a key twice": (
        "name: x\ndataset: cifar10\nname: y\n",
        [("x.yaml:3", "'name' a second time (first on line 1)", "each key stands once")],
    ),
    "a tag that would run code": (
        "name: !!python/object/apply:os.system ['true']\n",
        [("x.yaml:1: name", "the tag 'tag:yaml.org,2002:python/object/apply:os.system'", "a spec holds plain values only")],
    ),
    "the merge key of YAML 1.1": (
        RUNS + "grid:\n  <<: {lr: [1]}\n",
        [("x.yaml:5: grid", "the merge key '<<' of YAML 1.1", "write the keys out, or use base")],
    ),
    "a bomb of aliases": (
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{n}: &{n} [{','.join([f'*{o}'] * 10)}]\n" for o, n in zip("abcdefgh", "bcdefghi", strict=True)),
        [("x.yaml:1", "more than 200000 values once aliases are followed", "a spec is small")],
    ),
    "an alias that holds itself": (
        HEAD + "base: &a [*a]\n",
        [("x.yaml:3", "an alias that holds itself", "an alias may only repeat a finished value")],
    ),
    "absurd nesting": ("[" * 20_000, [("x.yaml:1", "nested deeper than 16", "a spec is not so deep")]),
    "a list as a key": (HEAD + "? [a, b]\n: 3\n", [("x.yaml:3", "a list or mapping as a key", "a key is a word")]),
    "two documents": ("---\nname: x\n---\nname: y\n", [("x.yaml:3", "a second document ('---')", "one file holds one spec")]),
    "broken YAML": ("name: [x\n", "x.yaml:2: not YAML: "),
}


@pytest.mark.parametrize("title", CASES)
def test_a_file_that_is_no_spec_is_told_what_it_is_instead(title: str, tmp_path: Path, monkeypatch) -> None:
    check_answer(CASES[title], tmp_path, monkeypatch)


def test_binary_files_are_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"name: x\n\xff\xfe\x00\x01")
    with pytest.raises(SpecError, match=r"x\.yaml:2: not UTF-8 text"):
        load_spec(path)
    path.write_bytes(b"name: x\x00\n")
    with pytest.raises(SpecError, match=r"x\.yaml:1: unacceptable character"):
        load_spec(path)


def test_a_file_of_megabytes_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# " + "x" * 3_000_000)
    with pytest.raises(SpecError, match="more than 2000000 bytes"):
        load_spec(path)


def test_a_missing_spec_and_a_folder_are_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.yaml: no such file"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path)
