"""Attacks on commands: kills -9 at random moments, and writes that the disk refuses; then the same numbers as undisturbed.

    python -m tests.faults [--kills 100] [--failures 200] [--seconds 600] [--seed 0]

Real commands on real data (digits, and files of a mirror), each in a process of its own. It is forked from one that has
imported what the commands import: starting would take most of the time. Attacks follow one another on what the last has left,
up to MOST_CHAINED, then the command goes on in peace and its numbers are compared. Every site of a command that writes below
the results or the data is refused once before any is refused twice, as far as the number of failures goes. Prints its counts;
exit status 1 where an attack left a traceback or another number.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import importlib
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.attacked import COMMANDS, DATASET, SPEC, UNNAMED, Command, know_the_mirror, make_mirror
from tests.helpers.refused_writes import Refusal, refusing

REFUSALS = (errno.ENOSPC, errno.EIO)
MOST_CHAINED = 4  # kills, or refused writes, of one command before it may end


@dataclass
class Ended:
    """status: of the process, negative where a signal ended it. sites: of its writes, in their order; refused: whether one was;
    modules: what it had imported in the end. All three are empty where it was killed."""

    status: int
    said: str
    sites: list[str] = field(default_factory=list)
    refused: bool = False
    modules: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> str:
        """What it should not have done, or nothing."""
        if "Traceback" in self.said or self.status not in (0, 1, 2, 130, -signal.SIGKILL):
            return f"status {self.status}:\n{self.said}"
        return ""


class Place:
    """A folder with the states that commands begin from, and what each does and gives when nothing disturbs it."""

    def __init__(self, root: Path, commands: Sequence[Command] = COMMANDS) -> None:
        self.root = root
        self.commands = tuple(commands)
        self.sites: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self.numbers: dict[str, Any] = {}
        empty = root / "empty"
        (empty / "results").mkdir(parents=True)
        (empty / "faulty.yaml").write_text(SPEC)
        make_mirror(root / "mirror" / DATASET)
        home = self._undisturbed(COMMANDS[0])
        home.rename(root / "swept")
        shutil.copytree(root / "swept", root / "unnamed")
        named = next(iter((root / "unnamed/results/trials").iterdir()))
        shutil.copytree(named, named.with_name(UNNAMED))
        for command in self.commands:
            if command is not COMMANDS[0]:
                self._undisturbed(command)
        gc.freeze()  # what is imported is the same in all processes: no collection of theirs goes through it

    def _undisturbed(self, command: Command) -> Path:
        """Once to see what it imports, and once more without the time that this takes."""
        for _ in range(2):
            home = self.copy(command.start, f"reference-{command.name}")
            begun = time.monotonic()
            ended = self.run(home, command.words)
            assert ended.status == 0, f"{command.name} fails by itself:\n{ended.said}"
            self.seconds[command.name] = time.monotonic() - begun
            self.sites[command.name] = ended.sites
            self.numbers[command.name] = command.numbers(home)
            _import(ended.modules)
        return home

    def copy(self, state: str, name: str) -> Path:
        home = self.root / name
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(self.root / state, home, symlinks=True)
        return home

    def run(
        self, home: Path, words: tuple[str, ...], refusal: Refusal | None = None, kill_after_s: float | None = None
    ) -> Ended:
        log, told = self.root / f"{home.name}.log", self.root / f"{home.name}.json"
        told.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            _become(home, words, log, told, refusal, self.root / "mirror")
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        facts = json.loads(told.read_text()) if told.exists() else {}
        return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), **facts)

    def next_words(self, command: Command, last: Ended | None) -> tuple[str, ...]:
        """What is typed after a run that ended so: failed trials are run again by `retry` alone, others by `sweep`."""
        retried = command.sweep is not None and last is not None and last.status == 1 and "cifar-hpc retry" in last.said
        return ("retry", str(command.sweep), "--on", "inline") if retried else command.words

    def recover(self, home: Path, command: Command, last: Ended | None) -> str:
        """Goes on without disturbance; what is wrong then, in words, or nothing."""
        for _ in range(6):
            last = self.run(home, self.next_words(command, last))
            if last.wrong:
                return f"on the way back {last.wrong}"
            if last.status == 0:
                break
        else:
            return f"did not recover:\n{last.said if last else ''}"
        found = command.numbers(home)
        if found != self.numbers[command.name]:
            return f"other numbers:\n{json.dumps(found)[:1500]}\nthan\n{json.dumps(self.numbers[command.name])[:1500]}"
        left = [str(path.relative_to(home)) for path in home.glob("results/**/.*.tmp")]
        return f"temporary files stay: {left[:5]}" if left else ""


def attack_with_kills(place: Place, command: Command, draw: random.Random, name: str, most: int) -> tuple[int, str]:
    """Kills the command up to `most` times in a row; how often it was killed at work, and what was wrong."""
    home, last, kills = place.copy(command.start, name), None, 0
    for _ in range(most):
        last = place.run(home, place.next_words(command, last), kill_after_s=draw.uniform(0, place.seconds[command.name]))
        kills += last.status == -signal.SIGKILL
        if last.wrong:
            return kills, f"{command.name}, killed {kills} times: {last.wrong}"
        if last.status >= 0:
            break
    wrong = place.recover(home, command, last)
    return kills, f"{command.name}, killed {kills} times: {wrong}" if wrong else ""


def attack_with_refusals(place: Place, command: Command, refusals: Sequence[Refusal], name: str) -> tuple[list[Refusal], str]:
    """Each refusal in a run of its own on what the last has left, until one comes to its end without: those that came to pass,
    and what was wrong."""
    home, last = place.copy(command.start, name), None
    done: list[Refusal] = []
    for refusal in refusals:
        last = place.run(home, place.next_words(command, last), refusal)
        done += [refusal] if last.refused else []
        if last.wrong:
            return done, f"{_told(command, done)}: {last.wrong}"
        if not last.refused:
            break
    wrong = place.recover(home, command, last)
    return done, f"{_told(command, done)}: {wrong}\nit had said: {last.said[-1500:] if last else ''}" if wrong else ""


def _told(command: Command, done: Sequence[Refusal]) -> str:
    return f"{command.name}, " + ", then ".join(map(str, done))


def _import(modules: Sequence[str]) -> None:
    """What a command has imported, in its order, so that the next ones need not."""
    for name in modules:
        if name not in sys.modules and name != "__main__":
            with contextlib.suppress(ImportError):  # a name that its package made up
                importlib.import_module(name)


def _become(home: Path, words: tuple[str, ...], log: Path, told: Path, refusal: Refusal | None, mirror: Path) -> None:
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

        know_the_mirror(mirror / DATASET)
        with refusing(home, refusal) as writes:
            try:
                app(list(words))
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        facts = json.dumps({"sites": writes.sites, "refused": writes.refused, "modules": list(sys.modules)})
        part = told.with_suffix(".part")  # renamed when it is whole: the kill may come here too
        part.write_text(facts)
        part.replace(told)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


@dataclass
class Score:
    """kills: of each command; refusals: of each command and site; wrong: what was, in words."""

    kills: Counter[str] = field(default_factory=Counter)
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, wrong: str) -> None:
        if wrong:
            print(wrong, end="\n\n", flush=True)
            self.wrong.append(wrong)

    def dump(self) -> str:
        return json.dumps([list(self.kills.items()), list(self.refusals.items()), self.wrong])

    def load(self, dumped: str) -> None:
        """Adds what another process has dumped."""
        kills, refusals, wrong = json.loads(dumped)
        self.kills.update(dict(kills))
        self.refusals.update({(command, site): count for (command, site), count in refusals})
        self.wrong += wrong


def attack(place: Place, kills: int, failures: int, until: float, seed: int) -> Score:
    """As many attacks as asked for, shared among as many processes as there are cores, until the time is up."""
    workers, total = len(os.sched_getaffinity(0)), Score()
    goals = draw_goals(place, failures, random.Random(seed))
    children = []
    for number in range(workers):
        child = os.fork()
        if child == 0:
            try:
                share = kills // workers + (number < kills % workers)
                score = attack_as(number, place, share, goals[number::workers], until, seed)
                (place.root / f"score-{number}.json").write_text(score.dump())
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        children.append(child)
    for number, child in enumerate(children):
        os.waitpid(child, 0)
        found = place.root / f"score-{number}.json"
        if found.exists():
            total.load(found.read_text())
        else:
            total.wrong.append(f"process {number} of the attackers ended by itself")
    return total


Goal = tuple[Command, Refusal]


def draw_goals(place: Place, failures: int, draw: random.Random) -> list[Goal]:
    """Which writes are refused: one at every site of every command, then any."""
    every = [(command, site) for command in place.commands for site in place.sites[command.name]]
    once = list(dict.fromkeys(every))
    draw.shuffle(once)
    chosen = once[:failures] + draw.choices(every, k=max(failures - len(once), 0))
    return [
        (
            command,
            Refusal(site, draw.randint(1, place.sites[command.name].count(site)), draw.choice(REFUSALS), draw.random() < 0.5),
        )
        for command, site in chosen
    ]


def attack_as(worker: int, place: Place, kills: int, goals: Sequence[Goal], until: float, seed: int) -> Score:
    """One process's share: both kinds in turns over all commands."""
    draw, score, name = random.Random(1000 * seed + worker), Score(), f"attacked-{worker}"
    waiting = {command: [refusal for other, refusal in goals if other is command] for command in place.commands}
    number = worker * (len(place.commands) // 2)
    while time.monotonic() < until and (score.kills.total() < kills or any(waiting.values())):
        command = place.commands[number % len(place.commands)]
        number += 1
        if (left := kills - score.kills.total()) > 0:
            done, wrong = attack_with_kills(place, command, draw, name, min(MOST_CHAINED, left))
            score.kills[command.name] += done
            score.add(wrong)
        if chain := waiting[command][:MOST_CHAINED]:
            order = place.sites[command.name]
            came, wrong = attack_with_refusals(place, command, sorted(chain, key=lambda one: order.index(one.site)), name)
            score.refusals.update((command.name, one.site) for one in came)
            score.add(wrong)
            again = (
                [] if not came else [one for one in chain if one not in came]
            )  # one that does not come to pass from the start on never will
            waiting[command] = waiting[command][MOST_CHAINED:] + again
    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--failures", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        place = Place(Path(folder))
        print(f"{time.monotonic() - begun:.0f} s to make ready; undisturbed: {_each(place.seconds)} s", flush=True)
        score = attack(place, args.kills, args.failures, begun + args.seconds, args.seed)
    by_command: Counter[str] = Counter()
    for (name, _), count in score.refusals.items():
        by_command[name] += count
    sites = sum(len(set(sites)) for sites in place.sites.values())
    print(f"kills -9: {score.kills.total()} of {args.kills} ({_each(score.kills)})")
    print(f"refused writes: {by_command.total()} of {args.failures} ({_each(by_command)})")
    print(f"at {len(score.refusals)} of the {sites} sites where the commands write")
    print(f"{len(score.wrong)} left a traceback or other numbers; {time.monotonic() - begun:.0f} s, seed {args.seed}")
    sys.stdout.flush()
    os._exit(1 if score.wrong else 0)  # compiled modules that a command never unloads would have their say here


def _each(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {n:.3g}" for name, n in counts.items())


if __name__ == "__main__":
    main()
