"""Malformed specs and their answers: how one is asked for. A case: the file, and its problems or the whole answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_hpc.errors import Problem, SpecError
from cifar_hpc.spec.load import load_spec

Case = tuple[str, str | list[tuple[str, ...]]]
HEAD = "name: x\ndataset: cifar10\n"
RUNS = HEAD + "base: {arch: linear}\n"


def check_answer(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spec of the case is answered as it says."""
    text, answer = case
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec(Path("x.yaml"))
    if not isinstance(answer, str):
        assert list(caught.value.problems) == [Problem(*fields) for fields in answer]
    elif answer.endswith(" "):  # what follows are a parser's words
        assert str(caught.value).startswith(answer)
    else:
        assert str(caught.value) == answer
