"""What Slurm says of jobs: one squeue for all of them, at most one sacct for those that left the queue, shared for ten seconds.

Knows no trials and starts nothing. Clusters without accounting are served:
what squeue no longer knows is GONE, and how it ended is known only where somebody looked while Slurm still remembered.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_hpc.executors.slurm.commands import SlurmError, run_slurm
from cifar_hpc.executors.slurm.handles import cluster_of, is_place, job_of, local_part
from cifar_hpc.records.jobs import JobState
from cifar_hpc.records.store import write_atomic

FRESH_S = 10.0
NO_ANSWER = "Slurm does not answer"

_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED"}
_GONE = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED"}
_GONE |= {"REVOKED"}  # a word that a later Slurm may have is taken for a job that lives
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
        return JobState.GONE if self.state in _GONE else JobState.RUNNING


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
    """Answers from Slurm, remembered in one small file for all who ask within FRESH_S. cache: that file.

    Only jobs of the cluster that this machine belongs to can be asked about. Handles are those of `handles`.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._silent_at = -math.inf  # when Slurm last did not answer this process, of its own clock

    @functools.cached_property
    def cluster(self) -> str | None:
        """The name of this machine's cluster; None where Slurm never told it. Asked for once a machine and configuration."""
        place = f"{socket.gethostname()} {os.environ.get('SLURM_CONF', '')}".strip()
        known: str | None = self._read_all()["machines"].get(place)
        if known is None:
            with contextlib.suppress(SlurmError):
                found = re.search(r"^ClusterName\s*=\s*(\S+)", run_slurm(["scontrol", "show", "config"]), re.MULTILINE)
                if known := found[1] if found else None:
                    everything = self._read_all()
                    everything["machines"][place] = known
                    self._write_all(everything)
        return known

    def look(self, handles: Iterable[str], fresh_s: float = FRESH_S) -> Mapping[str, QueueEntry] | None:
        """What squeue knows of the handles of this cluster, one query at most; None where Slurm did not answer."""
        wanted = self._askable(handles)
        jobs = sorted({job_of(handle) for handle in wanted}, key=int)
        if not jobs:
            return {}
        memory = self._read()
        age_s = time.time() - memory["looked_at"]
        if not (0 <= age_s < fresh_s and set(jobs) <= set(memory["jobs"])):
            if time.monotonic() - self._silent_at < fresh_s:
                return None
            try:
                entries = _squeue(jobs)
            except SlurmError:
                self._silent_at = time.monotonic()
                return None
            memory["jobs"], memory["looked_at"] = jobs, time.time()
            memory["queue"] = {local: _to_json(entry) for local, entry in entries.items()}
            self._remember_endings(memory, entries)
            self._write(memory)
        found = _with_arrays(memory["queue"])
        return {handle: found[local] for handle, local in wanted.items() if local in found}

    def states(self, handles: Sequence[str]) -> Mapping[str, JobState]:
        """QUEUED, RUNNING, GONE; UNKNOWN where Slurm did not answer, of another cluster's, and of what has no id yet."""
        askable = self._askable(handles)
        entries = self.look(handles)
        states = dict.fromkeys(handles, JobState.UNKNOWN)
        if entries is not None:
            states |= {h: entries[h].job_state if h in entries else JobState.GONE for h in askable}
        return states

    def explain(self, handles: Sequence[str]) -> Mapping[str, str]:
        """Why each handle waits, how it ended, or why nothing is known of it; absent where Slurm does not say."""
        if (living := self.look(handles)) is None:
            return {handle: self._foreign(handle) or NO_ANSWER for handle in handles}
        entries = {**self.endings(handles)}
        entries |= {handle: entry for handle, entry in living.items() if entry.job_state is not JobState.GONE}
        words = {h: f"{entry.state} ({entry.reason})" if entry.reason else entry.state for h, entry in entries.items()}
        return words | {handle: why for handle in handles if (why := self._foreign(handle))}

    def cancel(self, handles: Sequence[str]) -> None:
        """scancel, some hundred handles a call; those already gone are ignored. Raises SlurmError."""
        unique = list(self._askable(handles).values())
        for start in range(0, len(unique), 500):
            try:
                run_slurm(["scancel", "--quiet", *unique[start : start + 500]])
            except SlurmError as error:
                if "Invalid job id" not in str(error):
                    raise
        self.forget()

    def endings(self, handles: Iterable[str]) -> Mapping[str, QueueEntry]:
        """How those of the handles that are gone ended, as far as Slurm knows; one sacct at most for the unknown ones."""
        wanted = self._askable(handles)
        living = self.look(wanted)
        if living is None:
            return {}
        memory = self._read()
        gone = {h: local for h, local in wanted.items() if h not in living or living[h].job_state is JobState.GONE}
        known = _with_arrays(memory["endings"])
        unknown = [local for local in gone.values() if local not in known]
        if unknown and time.time() - memory["no_accounting_at"] > 3600:
            jobs = sorted({job_of(local) for local in unknown}, key=int)
            try:
                text = run_slurm(["sacct", "-X", "-n", "-P", "-o", "JobID,State,NodeList", "-j", ",".join(jobs)])
                self._remember_endings(memory, parse_sacct(text))
            except SlurmError as error:
                memory["no_accounting_at"] = time.time() if "disabled" in str(error) else 0.0
            self._write(memory)
            known = _with_arrays(memory["endings"])
        return {h: known[local] for h, local in gone.items() if local in known}

    def find(self, names: Sequence[str]) -> Mapping[str, str] | None:
        """The ids of the arrays with these names; None where Slurm did not answer."""
        try:
            lines = run_slurm(["squeue", "-h", "-a", "-t", "all", "-n", ",".join(names), "-o", "%F|%j"]).splitlines()
        except SlurmError:
            return None
        found = (line.strip().partition("|") for line in lines)
        return {name: job_id for job_id, _, name in found if job_id.isdigit()}

    def forget(self) -> None:
        """After a submission or a cancel: the next query asks Slurm."""
        memory = self._read()
        memory["looked_at"] = 0.0
        self._write(memory)

    def _askable(self, handles: Iterable[str]) -> dict[str, str]:
        """Those of this cluster that have an id, by what Slurm calls them."""
        return {h: local_part(h) for h in handles if not is_place(h) and self._is_here(h)}

    def _is_here(self, handle: str) -> bool:
        return (named := cluster_of(handle)) is None or named == self.cluster

    def _foreign(self, handle: str) -> str | None:
        """Why Slurm cannot be asked about the handle; None where it can."""
        if not self._is_here(handle):
            here = f"this machine belongs to {self.cluster}" if self.cluster else NO_ANSWER
            return f"its job is on the cluster {cluster_of(handle)}, and {here}"
        return "whether sbatch took it is not known yet" if is_place(handle) else None

    @staticmethod
    def _remember_endings(memory: dict[str, Any], entries: Mapping[str, QueueEntry]) -> None:
        for handle, entry in entries.items():
            if entry.job_state is JobState.GONE:
                memory["endings"][handle] = _to_json(entry)
            else:
                memory["endings"].pop(handle, None)

    def _read(self) -> dict[str, Any]:
        """What is remembered of this cluster."""
        memory: dict[str, Any] = {"looked_at": 0.0, "no_accounting_at": 0.0, "jobs": [], "queue": {}, "endings": {}}
        known = self._read_all()["clusters"].get(self.cluster or "", {})
        return memory | {key: value for key, value in known.items() if isinstance(value, type(memory.get(key)))}

    def _write(self, memory: dict[str, Any]) -> None:
        everything = self._read_all()
        everything["clusters"][self.cluster or ""] = memory
        self._write_all(everything)

    def _read_all(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"machines": {}, "clusters": {}}
        with contextlib.suppress(OSError, ValueError, TypeError):
            found = json.loads(self._cache.read_bytes())
            return empty | {key: value for key, value in found.items() if key in empty and isinstance(value, dict)}
        return empty

    def _write_all(self, everything: dict[str, Any]) -> None:
        """A folder that this user may not write to, or a full disk, only means that nothing is remembered."""
        text = json.dumps(everything, separators=(",", ":")).encode()
        with contextlib.suppress(OSError):
            write_atomic(self._cache, lambda stream: stream.write(text))


def _squeue(jobs: Sequence[str]) -> dict[str, QueueEntry]:
    try:
        return parse_squeue(run_slurm(["squeue", "-h", "-a", "-t", "all", "-j", ",".join(jobs), "-o", "%i|%T|%r|%N"]))
    except SlurmError as error:
        if "Invalid job id" in str(error):  # said only where none of them is in Slurm's memory
            return {}
        raise


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


def _with_arrays(plain: Mapping[str, Any]) -> dict[str, QueueEntry]:
    """Remembered entries by array task and, of arrays, by array: what one of its tasks that runs does, else one that waits,
    else how they ended."""
    entries = {local: QueueEntry(*entry) for local, entry in plain.items()}
    arrays: dict[str, QueueEntry] = {}
    for local, entry in entries.items():
        if "_" in local:
            other = arrays.setdefault(job_of(local), entry)
            arrays[job_of(local)] = max(other, entry, key=_telling)
    return arrays | entries


def _telling(entry: QueueEntry) -> int:
    """How much an array task's state says of its array; of tasks that are over, one that ended badly says why trials are
    left."""
    if entry.job_state is not JobState.GONE:
        return 4 if entry.job_state is JobState.RUNNING else 3
    return {"COMPLETED": 0, "CANCELLED": 1}.get(entry.state, 2)


def _to_json(entry: QueueEntry) -> list[str]:
    return [entry.state, entry.reason, entry.nodes]
