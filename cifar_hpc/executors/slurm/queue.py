"""What Slurm says of jobs: one squeue for all of them, at most one sacct for those that left the queue, shared for ten seconds.

A handle is '<array job id>_<index>' or '<job id>'. Knows no trials and starts nothing. Clusters without accounting are served:
what squeue no longer knows is GONE, and how it ended is known only where somebody looked while Slurm still remembered.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.jobs import JobState
from cifar_hpc.records.store import write_atomic

FRESH_S = 10.0
TIMEOUT_S = 40.0  # Slurm's own commands give up after MessageTimeout, 10 s by default, tried more than once

_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED"}
_RUNNING = {"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}
_ENTRY = re.compile(r"(?P<job>\d+)(?:_(?:\[(?P<indices>[\d,:-]+)(?:%\d+)?\]|(?P<index>\d+)))?")


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One job or array task. state: Slurm's word, such as OUT_OF_MEMORY; reason: why it waits; nodes: where it ran last."""

    state: str
    reason: str = ""
    nodes: str = ""

    @property
    def job_state(self) -> JobState:
        if self.state in _WAITING:
            return JobState.QUEUED
        return JobState.RUNNING if self.state in _RUNNING else JobState.GONE


class SlurmError(CifarHpcError):
    """A Slurm command that failed, with its own words."""


def run_slurm(command: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    """The output of a Slurm command. Raises SlurmError where it fails, is missing or does not answer."""
    # Without SLURM_BITSTR_LEN=0 squeue cuts long index lists after 64 characters.
    environment = {**os.environ, "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}
    for key in [key for key in environment if key.startswith(("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_"))]:
        del environment[key]  # a user's own formats and filters
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=environment)
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]}: no such command; this is no Slurm login node") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]}: no answer within {timeout_s:g} s") from error
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise SlurmError(f"{command[0]}: {' '.join(words[-2:])}")
    return done.stdout


def parse_squeue(text: str) -> dict[str, QueueEntry]:
    """Entries of `squeue -o '%i|%T|%r|%N'` by handle; index lists are expanded. Lines that are none are left out."""
    entries: dict[str, QueueEntry] = {}
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) < 2 or not (match := _ENTRY.fullmatch(parts[0])):
            continue
        reason, nodes = (*parts[2:4], "", "")[:2]
        entry = QueueEntry(parts[1].split()[0], "" if reason == "None" else reason, nodes)
        for handle in _handles(match):
            entries[handle] = entry
    return entries


def parse_sacct(text: str) -> dict[str, QueueEntry]:
    """Entries of `sacct -X -n -P -o JobID,State,NodeList`; 'CANCELLED by 0' is CANCELLED."""
    entries: dict[str, QueueEntry] = {}
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) < 2 or not parts[1] or not (match := _ENTRY.fullmatch(parts[0])):
            continue
        words = parts[1].split()
        nodes = parts[2] if len(parts) > 2 and parts[2] != "None assigned" else ""
        entry = QueueEntry(words[0].rstrip("+"), " ".join(words[1:]), nodes)
        for handle in _handles(match):
            entries[handle] = entry
    return entries


class SlurmQueue:
    """Answers from Slurm, remembered in one small file for all who look within FRESH_S. cache: that file."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def look(self, handles: Iterable[str], fresh_s: float = FRESH_S) -> Mapping[str, QueueEntry] | None:
        """What squeue knows of the handles, one query at most; None where Slurm did not answer."""
        wanted = dict.fromkeys(handles)
        jobs = sorted({_job_of(handle) for handle in wanted}, key=int)
        if not jobs:
            return {}
        memory = self._read()
        age_s = time.time() - memory["looked_at"]
        if not (0 <= age_s < fresh_s and set(jobs) <= set(memory["jobs"])):
            try:
                entries = _squeue(jobs)
            except SlurmError:
                return None
            memory["jobs"], memory["looked_at"] = jobs, time.time()
            memory["queue"] = {handle: _to_json(entry) for handle, entry in entries.items()}
            self._remember_endings(memory, entries)
            self._write(memory)
        return {handle: QueueEntry(*entry) for handle, entry in memory["queue"].items() if handle in wanted}

    def states(self, handles: Sequence[str]) -> Mapping[str, JobState]:
        """QUEUED, RUNNING, GONE; all UNKNOWN where Slurm did not answer."""
        entries = self.look(handles)
        if entries is None:
            return dict.fromkeys(handles, JobState.UNKNOWN)
        return {handle: entries[handle].job_state if handle in entries else JobState.GONE for handle in handles}

    def explain(self, handles: Sequence[str]) -> Mapping[str, str]:
        """Why each handle waits, or how it ended, in Slurm's words; absent where Slurm does not know."""
        entries = {**self.endings(handles)}
        entries |= {h: entry for h, entry in (self.look(handles) or {}).items() if entry.job_state is not JobState.GONE}
        return {h: f"{entry.state} ({entry.reason})" if entry.reason else entry.state for h, entry in entries.items()}

    def cancel(self, handles: Sequence[str]) -> None:
        """scancel, some hundred handles a call; those already gone are ignored. Raises SlurmError."""
        unique = list(dict.fromkeys(handles))
        for start in range(0, len(unique), 500):
            try:
                run_slurm(["scancel", "--quiet", *unique[start : start + 500]])
            except SlurmError as error:
                if "Invalid job id" not in str(error):
                    raise
        self.forget()

    def endings(self, handles: Iterable[str]) -> Mapping[str, QueueEntry]:
        """How those of the handles that are gone ended, as far as Slurm knows; one sacct at most for the unknown ones."""
        wanted = dict.fromkeys(handles)
        living = self.look(wanted)
        if living is None:
            return {}
        memory = self._read()
        gone = [h for h in wanted if h not in living or living[h].job_state is JobState.GONE]
        unknown = [handle for handle in gone if handle not in memory["endings"]]
        if unknown and time.time() - memory["no_accounting_at"] > 3600:
            jobs = sorted({_job_of(handle) for handle in unknown}, key=int)
            try:
                text = run_slurm(["sacct", "-X", "-n", "-P", "-o", "JobID,State,NodeList", "-j", ",".join(jobs)])
                self._remember_endings(memory, parse_sacct(text))
            except SlurmError as error:
                memory["no_accounting_at"] = time.time() if "disabled" in str(error) else 0.0
            self._write(memory)
        return {handle: QueueEntry(*memory["endings"][handle]) for handle in gone if handle in memory["endings"]}

    def forget(self) -> None:
        """After a submission or a cancel: the next look asks Slurm."""
        memory = self._read()
        memory["looked_at"] = 0.0
        self._write(memory)

    @staticmethod
    def _remember_endings(memory: dict[str, Any], entries: Mapping[str, QueueEntry]) -> None:
        for handle, entry in entries.items():
            if entry.job_state is JobState.GONE:
                memory["endings"][handle] = _to_json(entry)
            else:
                memory["endings"].pop(handle, None)

    def _read(self) -> dict[str, Any]:
        memory: dict[str, Any] = {"looked_at": 0.0, "no_accounting_at": 0.0, "jobs": [], "queue": {}, "endings": {}}
        with contextlib.suppress(OSError, ValueError, TypeError):
            memory.update(json.loads(self._cache.read_bytes()))
        return memory

    def _write(self, memory: dict[str, Any]) -> None:
        """A folder that this user may not write to, or a full disk, only means that nothing is remembered."""
        text = json.dumps(memory, separators=(",", ":")).encode()
        with contextlib.suppress(OSError):
            write_atomic(self._cache, lambda stream: stream.write(text))


def _squeue(jobs: Sequence[str]) -> dict[str, QueueEntry]:
    try:
        return parse_squeue(run_slurm(["squeue", "-h", "-a", "-t", "all", "-j", ",".join(jobs), "-o", "%i|%T|%r|%N"]))
    except SlurmError as error:
        if "Invalid job id" in str(error):  # said only where none of them is in Slurm's memory
            return {}
        raise


def _job_of(handle: str) -> str:
    return handle.split("_", 1)[0]


def _handles(match: re.Match[str]) -> Iterable[str]:
    job, indices, index = match["job"], match["indices"], match["index"]
    if index is not None:
        return [f"{job}_{index}"]
    if indices is None:
        return [job]
    handles = []
    for part in indices.split(","):
        ends, _, step = part.partition(":")
        first, _, last = ends.partition("-")
        handles += [f"{job}_{i}" for i in range(int(first), int(last or first) + 1, int(step or 1))]
    return handles


def _to_json(entry: QueueEntry) -> list[str]:
    return [entry.state, entry.reason, entry.nodes]
