"""The commands that are attacked: what is typed, in which state it begins, and the numbers that must come out."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SPEC = """\
name: faulty
dataset: {name: digits, train_size: 200}
base: {arch: simple_cnn, epochs: 2, batch_size: 64, lr: 0.05}
keep: weights
stages:
  first: {seeds: 1}
  then:
    base: {weights: {stage: first}}
    grid: {label_smoothing: [0.0, 0.1]}
"""
DATASET = "fashion_mnist"
UNNAMED = "a" * 12  # a trial that no sweep names, for `prune`


@dataclass(frozen=True)
class Command:
    """words: what is typed; start: the state it begins from; numbers: what must come out, however it was disturbed."""

    name: str
    words: tuple[str, ...]
    start: str
    numbers: Callable[[Path], Any]
    sweep: str | None = None  # whose failed trials `retry` runs again


def _results(home: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(home.glob("results/trials/*/result.json")):
        record = json.loads(path.read_text())
        curves = [{key: value for key, value in epoch.items() if not key.endswith("_s")} for epoch in record["curves"]]
        weights = hashlib.sha256((path.parent / "weights.safetensors").read_bytes()).hexdigest()
        found[path.parent.name] = [record["val"], record["test"], curves, weights]
    return found


def _board(home: Path) -> dict[str, str]:
    folder = home / "results/faulty/report"
    return {path.name: path.read_text() for path in (folder / "leaderboard.csv", folder / "leaderboard.md")} | {
        "page": str((folder / "index.html").stat().st_size > 1000)
    }


def _soups(home: Path) -> dict[str, Any]:
    records = {path.name: json.loads(path.read_text()) for path in home.glob("results/faulty/report/soups/*.json")}
    return {name: [record["val_acc"], record["test_acc"], record["members"]] for name, record in records.items()}


def _left(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("results/trials/*"))


def _fetched(home: Path) -> dict[str, str]:
    files = (path for path in home.glob("data/**/*") if path.is_file() and ".fetch" not in path.parts)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


COMMANDS = (
    Command("sweep", ("sweep", "faulty.yaml", "--on", "inline"), "empty", _results, "faulty"),
    Command("report", ("report", "faulty"), "swept", _board),
    Command("refit", ("refit", "faulty", "--on", "inline"), "swept", _results, "faulty-refit"),
    Command("soup", ("soup", "faulty"), "swept", _soups),
    Command("prune", ("prune", "--yes"), "unnamed", _left),
    Command("fetch", ("fetch", DATASET), "empty", _fetched),
)


def make_mirror(folder: Path) -> None:
    from tests.helpers.official_files import write_idx

    write_idx(folder, packed=True)


def know_the_mirror(folder: Path) -> None:
    """Takes the mirror's small files for the official ones, and asks nobody else."""
    from cifar_hpc.data import hosts, official

    sums = {path.name: f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}" for path in folder.iterdir()}
    for path in folder.iterdir():
        sums[path.stem] = f"md5:{hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest()}"
    official.SUMS[DATASET] = {**official.SUMS[DATASET], **sums}  # type: ignore[index]
    files = {name: sums[name] for name in hosts.SERVED[DATASET].files}
    hosts.SERVED[DATASET] = replace(hosts.SERVED[DATASET], files=files, hosts=(), package=None)  # type: ignore[index]
