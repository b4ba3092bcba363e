"""Attacks on commands: kills -9 at random moments, and writes that the disk refuses; then the same numbers as undisturbed.

    python -m tests.faults [--kills 100] [--failures 200] [--seconds 600] [--seed 0]

Real commands on real data (digits, and files of a mirror), each in a process of its own that is forked from one which has
imported everything. A write is refused where Python hands it to the system (opening, writing, syncing, renaming, linking,
making folders), below the results or the data. Prints its counts; exit status 1 where an attack left a traceback or another
number.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
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
REFUSALS = (errno.ENOSPC, errno.EIO)
MOST_CHAINED = 4  # kills of one command before it may end
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


@dataclass
class Ended:
    """status: of the process, negative where a signal ended it; writes: how many the system was asked for."""

    status: int
    said: str
    writes: int


class Place:
    """A folder with the states that commands begin from, and what each gives when nothing disturbs it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.writes: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.numbers: dict[str, Any] = {}
        empty = root / "empty"
        (empty / "results").mkdir(parents=True)
        (empty / "faulty.yaml").write_text(SPEC)
        _make_mirror(root / "mirror" / DATASET)
        self._undisturbed(COMMANDS[0])
        (root / "reference-sweep").rename(root / "swept")
        shutil.copytree(root / "swept", root / "unnamed")
        named = next(iter((root / "unnamed/results/trials").iterdir()))
        shutil.copytree(named, named.with_name(UNNAMED))
        for command in COMMANDS[1:]:
            self._undisturbed(command)

    def _undisturbed(self, command: Command) -> None:
        home = self.copy(command.start, f"reference-{command.name}")
        begun = time.monotonic()
        ended = self.run(home, command.words)
        assert ended.status == 0, f"{command.name} fails by itself:\n{ended.said}"
        self.seconds[command.name] = time.monotonic() - begun
        self.writes[command.name] = ended.writes
        self.numbers[command.name] = command.numbers(home)

    def copy(self, state: str, name: str) -> Path:
        home = self.root / name
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(self.root / state, home, symlinks=True)
        return home

    def run(
        self,
        home: Path,
        words: tuple[str, ...],
        refuse: tuple[int, int, bool] | None = None,
        kill_after_s: float | None = None,
    ) -> Ended:
        """refuse: the number of the write that fails, its errno, whether all later ones fail too."""
        log, counted = self.root / f"{home.name}.log", self.root / f"{home.name}.writes"
        counted.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            _become(home, words, log, counted, refuse, self.root / "mirror")
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        writes = int(counted.read_text()) if counted.exists() else 0
        return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), writes)

    def recover(self, home: Path, command: Command) -> str:
        """Goes on without disturbance; what is wrong then, in words, or nothing."""
        said = ""
        for _ in range(3):
            ended = self.run(home, command.words)
            said = ended.said
            if ended.status == 1 and command.sweep:
                ended = self.run(home, ("retry", command.sweep, "--on", "inline"))
                said += ended.said
            if "Traceback" in said:
                return f"a traceback on the way back:\n{said}"
            if ended.status == 0:
                break
        else:
            return f"did not recover:\n{said}"
        found = command.numbers(home)
        if found != self.numbers[command.name]:
            return f"other numbers:\n{json.dumps(found)[:1500]}\nthan\n{json.dumps(self.numbers[command.name])[:1500]}"
        left = [str(path.relative_to(home)) for path in home.glob("results/**/.*.tmp")]
        return f"temporary files stay: {left[:5]}" if left else ""


def attack_with_kills(place: Place, command: Command, draw: random.Random, name: str, most: int) -> tuple[int, str]:
    """Kills the command up to `most` times in a row; how often it was killed at work, and what was wrong."""
    home = place.copy(command.start, name)
    kills = 0
    for _ in range(most):
        ended = place.run(home, command.words, kill_after_s=draw.uniform(0, place.seconds[command.name]))
        kills += ended.status == -signal.SIGKILL
        if "Traceback" in ended.said:
            return kills, f"{command.name}: a traceback:\n{ended.said}"
        if ended.status >= 0:
            break
    wrong = place.recover(home, command)
    return kills, f"{command.name} after {kills} kills: {wrong}" if wrong else ""


def attack_with_refusal(place: Place, command: Command, at: int, number: int, sticky: bool, name: str) -> str:
    """The write of that number is refused, and with sticky all that follow; what was wrong, or nothing."""
    home = place.copy(command.start, name)
    what = f"{command.name}, write {at} of {place.writes[command.name]}: {errno.errorcode[number]}{' from then on' * sticky}"
    ended = place.run(home, command.words, refuse=(at, number, sticky))
    if "Traceback" in ended.said or ended.status not in (0, 1, 2, 130):
        return f"{what}: status {ended.status}:\n{ended.said}"
    wrong = place.recover(home, command)
    return f"{what}: {wrong}\nit had said: {ended.said[-1500:]}" if wrong else ""


def import_everything() -> None:
    """What commands would import one by one in each process."""
    import cifar_hpc.cli
    import cifar_hpc.collect.scan
    import cifar_hpc.data.fetch
    import cifar_hpc.deploy.soup
    import cifar_hpc.report.bundle
    import cifar_hpc.worker.job  # noqa: F401


def _become(
    home: Path, words: tuple[str, ...], log: Path, counted: Path, refuse: tuple[int, int, bool] | None, mirror: Path
) -> None:
    """The child: this process is the command from here on."""
    status = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
        os.chdir(home)
        places = {"RESULTS": "results", "DATA": "data", "MIRROR": str(mirror)}
        os.environ.update({f"CIFAR_HPC_{name}": str(home / path) for name, path in places.items()})
        from cifar_hpc.cli import app

        _know_the_mirror(mirror / DATASET)
        with refusing(home, refuse) as writes:
            try:
                app(list(words))
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        counted.write_text(str(writes()))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


@contextlib.contextmanager
def refusing(below: Path, refuse: tuple[int, int, bool] | None) -> Iterator[Callable[[], int]]:
    """Counts the writes below the folder while inside, in this process, and refuses some; gives how many there were."""
    count = 0
    at, number, sticky = refuse or (0, 0, False)
    inside = f"{below}{os.sep}"
    known: dict[int, str] = {}
    absolute = os.path.abspath  # no Path: it would follow links, and ask the system

    def ask(path: object) -> None:
        nonlocal count
        if not absolute(os.fspath(path)).startswith(inside):  # type: ignore[call-overload]
            return
        count += 1
        if count == at or (sticky and 0 < at < count):
            raise OSError(number, os.strerror(number), os.fspath(path))  # type: ignore[call-overload]

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            ask(path_of(self.name))
            return super().write(data)

    def path_of(file: Any) -> Any:
        return known.get(file, "/") if isinstance(file, int) else file

    originals = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "rename", "link", "mkdir", "close")}
    original_open = io.open

    def os_open(path: Any, flags: int, *args: Any, **more: Any) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes:
            ask(path)
        handle: int = originals["open"](path, flags, *args, **more)
        known[handle] = absolute(os.fspath(path)) if not more else "/"
        return handle

    def stream_open(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *args: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+") or not absolute(os.fspath(path_of(file))).startswith(inside):
            return original_open(file, mode, buffering, encoding, *args, **more)
        if not isinstance(file, int):
            ask(file)
        raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd=more.get("closefd", True))
        if buffering == 0:
            return raw
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return binary
        return io.TextIOWrapper(binary, encoding or "utf-8", write_through=True)

    def asking(name: str, which: int) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            ask(path_of(args[which]))
            return originals[name](*args, **more)

        return call

    def close(handle: int) -> None:
        known.pop(handle, None)
        originals["close"](handle)

    patched = {name: asking(name, 1 if name in ("replace", "rename", "link") else 0) for name in originals}
    for name, call in {**patched, "open": os_open, "close": close}.items():
        setattr(os, name, call)
    io.open = builtins.open = stream_open
    try:
        yield lambda: count
    finally:
        for name, call in originals.items():
            setattr(os, name, call)
        io.open = builtins.open = original_open


def _make_mirror(folder: Path) -> None:
    from tests.helpers.official_files import write_idx

    write_idx(folder, packed=True)


def _know_the_mirror(folder: Path) -> None:
    """Takes the mirror's small files for the official ones, and asks nobody else."""
    from cifar_hpc.data import hosts, official

    sums = {path.name: f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}" for path in folder.iterdir()}
    for path in folder.iterdir():
        sums[path.stem] = f"md5:{hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest()}"
    official.SUMS[DATASET] = {**official.SUMS[DATASET], **sums}  # type: ignore[index]
    files = {name: sums[name] for name in hosts.SERVED[DATASET].files}
    hosts.SERVED[DATASET] = replace(hosts.SERVED[DATASET], files=files, hosts=(), package=None)  # type: ignore[index]


@dataclass
class Score:
    kills: Counter[str]
    refusals: Counter[str]
    wrong: list[str]

    def add(self, wrong: str) -> None:
        if wrong:
            print(wrong, end="\n\n", flush=True)
            self.wrong.append(wrong)


def attack(root: Path, kills: int, refusals: int, until: float, seed: int) -> Score:
    """As many attacks as asked for, shared among as many processes as there are cores, until the time is up."""
    place, workers = Place(root), len(os.sched_getaffinity(0))
    shares = [(_share(kills, n, workers), _share(refusals, n, workers)) for n in range(workers)]
    children = []
    for number, share in enumerate(shares):
        child = os.fork()
        if child == 0:
            try:
                score = attack_as(number, place, *share, until, seed)
                (root / f"score-{number}.json").write_text(json.dumps([score.kills, score.refusals, score.wrong]))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        children.append(child)
    total = Score(Counter(), Counter(), [])
    for number, child in enumerate(children):
        os.waitpid(child, 0)
        found = root / f"score-{number}.json"
        if not found.exists():
            total.wrong.append(f"process {number} of the attackers ended by itself")
            continue
        done_kills, done_refusals, wrong = json.loads(found.read_text())
        total.kills.update(done_kills)
        total.refusals.update(done_refusals)
        total.wrong += wrong
    return total


def _share(count: int, number: int, workers: int) -> int:
    return count // workers + (number < count % workers)


def attack_as(worker: int, place: Place, kills: int, refusals: int, until: float, seed: int) -> Score:
    """One process's share: both kinds in turns over all commands."""
    draw, score, name = random.Random(1000 * seed + worker), Score(Counter(), Counter(), []), f"attacked-{worker}"
    number = worker * (len(COMMANDS) // 2)
    while time.monotonic() < until and (score.kills.total() < kills or score.refusals.total() < refusals):
        command = COMMANDS[number % len(COMMANDS)]
        number += 1
        if score.kills.total() < kills:
            most = min(MOST_CHAINED, kills - score.kills.total())
            done, wrong = attack_with_kills(place, command, draw, name, most)
            score.kills[command.name] += done
            score.add(wrong)
        for _ in range(3):
            if score.refusals.total() >= refusals or time.monotonic() > until:
                break
            at, refusal, sticky = draw.randint(1, place.writes[command.name]), draw.choice(REFUSALS), draw.random() < 0.5
            wrong = attack_with_refusal(place, command, at, refusal, sticky, name)
            score.refusals[command.name] += 1
            score.add(wrong)
    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--failures", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begun = time.monotonic()
    import_everything()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        score = attack(Path(folder), args.kills, args.failures, begun + args.seconds, args.seed)
    print(f"kills -9: {score.kills.total()} of {args.kills} ({_each(score.kills)})")
    print(f"refused writes: {score.refusals.total()} of {args.failures} ({_each(score.refusals)})")
    print(f"{len(score.wrong)} left a traceback or other numbers; {time.monotonic() - begun:.0f} s, seed {args.seed}")
    raise SystemExit(1 if score.wrong else 0)


def _each(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


if __name__ == "__main__":
    main()
