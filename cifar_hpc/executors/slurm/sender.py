"""Sends one array: writes it down, calls sbatch, writes down what came of it. The only file that imports submitit.

Owns: the lines "sending", "submitted" and "unsent" of jobs.jsonl, and the array's name, by which it is found where this process
ended, or Slurm went silent, between sbatch and its answer. submitit writes the batch scripts, flags and set-up round the lines
of `script`; it neither sends nor watches, and no pickle carries the work, which is JSON beside the script.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_hpc.executors.slurm.arrays import ArrayPlan
from cifar_hpc.executors.slurm.commands import SlurmError, run_slurm
from cifar_hpc.executors.slurm.flags import mps_lines, sbatch_flags, srun_flags
from cifar_hpc.executors.slurm.handles import handle_of, place_of
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.refusals import is_room, is_silence, keys_to_change
from cifar_hpc.executors.slurm.script import Script
from cifar_hpc.executors.slurm.snapshot import snapshot_package
from cifar_hpc.executors.slurm.work import Task, Work
from cifar_hpc.records.jobs import JobEvent, own_handle
from cifar_hpc.records.layout import ArrayFiles, Layout
from cifar_hpc.records.store import append_records, utc_now

SENDS = 3  # tries of one array whose sbatch had no answer


_SRUN = ("--unbuffered", "--open-mode=append")
# Of several tasks the first one judges: it is not left waiting for one that died, nor the others for it.
_TOGETHER = ("--kill-on-bad-exit=1", "--wait=60")


GoOn = Callable[[ArrayFiles], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Start:
    """What the tasks of an array run: their work (run), that of a canary (canary), or what go_on says: the words after
    `python`."""

    kind: str
    go_on: GoOn | None = None


class NoRoomError(SlurmError):
    """A limit on submitted jobs was reached."""


class RefusedError(SlurmError):
    """A job that this cluster did not take, though nothing is wrong with the number of jobs."""


def unsent(sending: Iterable[JobEvent]) -> list[JobEvent]:
    """The lines that close lines "sending" of which no array came."""
    return [dataclasses.replace(event, at=utc_now(), event="unsent", detail="") for event in sending]


class Sender:
    """Writes and submits the batch scripts of one sweep."""

    def __init__(self, layout: Layout, sweep: str, profile: SlurmProfile, queue: SlurmQueue) -> None:
        self.files = layout.sweep(sweep)
        self.layout = layout
        self.profile = profile
        self._queue = queue

    def send(self, array: ArrayPlan, after: str | None, start: Start, mark: str = "") -> str:
        """The handle of the array. after: the dependency; start: what its tasks run; mark: of its resource class.

        Raises NoRoomError at a submit limit, RefusedError where Slurm does not take the job, SlurmError where it does not
        answer; in the last case, or where this process ends, the line "sending" stays, for `settle_names`.
        """
        files = self.files.array(f"{self.files.name}-{uuid.uuid4().hex[:8]}")
        files.folder.mkdir(parents=True)
        place = place_of(files.name, self._queue.cluster)
        sending = [job.event("sending", "slurm", place, own_handle()) for job in array.jobs]
        try:
            files.script.write_text(self._text(array, files, after, start, mark))
            append_records(self.files.jobs, sending)
        except OSError:  # a full disk: nothing was sent
            shutil.rmtree(files.folder, ignore_errors=True)
            raise
        try:
            job_id = self._sbatch(files.script, files.name)
        except (NoRoomError, RefusedError):
            shutil.rmtree(files.folder, ignore_errors=True)
            append_records(self.files.jobs, unsent(sending))
            raise
        handle = handle_of(job_id, self._queue.cluster)
        append_records(self.files.jobs, [job.event("submitted", "slurm", handle) for job in array.jobs])
        return handle

    def script(self, array: ArrayPlan) -> str:
        """The batch script as `send` would write it, but for the array's name and what it waits for. Writes nothing."""
        return self._text(array, self.files.array(self.files.name), None, Start("run"), "", snapshot=False)

    def _sbatch(self, path: Path, name: str) -> str:
        """The job id. An sbatch that had no answer may have been heard: the array is looked for before it is sent again."""
        for attempt in range(SENDS):
            try:
                words = run_slurm(["sbatch", str(path)]).split()
                return next(word for word in reversed(words) if word.isdigit())
            except SlurmError as error:
                words_of = " ".join(str(error).split())
                if is_silence(words_of):
                    time.sleep(2 * (attempt + 1))
                    if taken := self._find(name):
                        return taken
                    if attempt + 1 < SENDS:
                        continue
                    raise RefusedError(f"sbatch had no answer for the jobs of {self.files.name}: {words_of[-400:]}") from error
                if is_room(words_of):
                    raise NoRoomError(words_of) from error
                keys = keys_to_change(words_of)
                hint = f". What answers to it: {keys}" if keys else ""
                raise RefusedError(f"sbatch refused the jobs of {self.files.name}: {words_of[-400:]}{hint}") from error
        raise AssertionError("unreachable")

    def _text(
        self, array: ArrayPlan, files: ArrayFiles, after: str | None, start: Start, mark: str, snapshot: bool = True
    ) -> str:
        """Writes the work of the array, too."""
        import submitit

        needs = array.needs
        profile = self.profile.of_class(needs.site)
        if start.go_on is not None:
            words = start.go_on(files)
        else:
            words = ("-u", "-m", "cifar_hpc.executors.slurm.task", start.kind, str(files.work))
            if snapshot:
                self._work(array, mark).write(files.work)
        python = profile.python or shlex.quote(sys.executable)
        several = array.workers > 1
        output = f"{files.folder}/{'%A_%a' if several else '%j'}".replace("%", "%%", str(files.folder).count("%"))
        script = Script(
            folder=files.folder,
            mark=self.files.resource_class(mark) if mark else Path(os.devnull),
            command=" ".join(filter(None, (profile.container_command(self.layout.root), python, shlex.join(words)))),
            srun=(*_SRUN, f"--output={output}_%t_log.out", *(_TOGETHER if needs.nodes > 1 else ()), *srun_flags(profile)),
            requeue=profile.requeue,
            max_attempts=profile.max_attempts,
            signal_s=profile.signal_s,
            canary=start.kind == "canary",
        )
        executor = submitit.SlurmExecutor(folder=files.folder)
        executor.update_parameters(**self._parameters(array, files.name, after, script, f"{output}_0_log.out", snapshot))
        if several:
            executor.parameters["map_count"] = array.workers
        return str(executor._make_submission_file_text(script.run, files.name))

    def _work(self, array: ArrayPlan, mark: str) -> Work:
        needs, profile = array.needs, self.profile
        shares = needs.at_once > 1 or needs.shards
        return Work(
            sweep=self.files.name,
            tasks=tuple(
                Task.of(job if shares else job.unshared(), n) for job, n in zip(array.jobs, array.minutes, strict=False)
            ),
            workers=array.workers,
            at_once=needs.at_once,
            max_attempts=profile.max_attempts,
            gpus=needs.gpus_taken(profile),
            cpus=needs.cpus * needs.nodes,
            mark=mark,
            limit_minutes=needs.minutes,
            signal_s=profile.signal_s,
        )

    def _parameters(
        self, array: ArrayPlan, name: str, after: str | None, script: Script, output: str, snapshot: bool
    ) -> dict[str, Any]:
        """What submitit makes the flags and the set-up lines of. wckey: it sends one of its own where nobody says another."""
        needs = array.needs
        profile = self.profile.of_class(needs.site)
        flags = sbatch_flags(
            profile,
            nodes=needs.nodes,
            gpus=needs.gpus,
            cpus=needs.cpus,
            memory_gb=needs.memory_gb,
            shards=needs.shards,
            exclude=",".join(needs.exclude),
        )
        flags |= {"signal": f"B:USR2@{profile.signal_s}", "output": output}  # B: the script hears it, from its first line on
        if profile.time_min and profile.requeue and array.least_minutes < needs.minutes:
            flags["time-min"] = array.least_minutes
        shared = mps_lines() if profile.mps and needs.at_once > 1 else []
        parameters = {
            "job_name": name,
            "time": needs.minutes,
            "dependency": after,
            "array_parallelism": profile.parallel or 1_000_000,
            "stderr_to_stdout": True,
            "use_srun": False,
            "setup": [script.head, *self._setup(self._code if snapshot else self.files.code), *shared],
            "additional_parameters": flags,
        }
        return {**{key: value for key, value in parameters.items() if value is not None}, "wckey": None, "nodes": needs.nodes}

    @functools.cached_property
    def _code(self) -> Path:
        return snapshot_package(self.files)

    def _setup(self, code: Path) -> list[str]:
        """Shell lines before the job. srun does not hand cpus-per-task on by itself since Slurm 22.05."""
        return [
            "ulimit -c 0",
            "export SLURM_EXPORT_ENV=ALL",  # a site's or a shell's --export=NONE leaves srun, else, with no variable of these
            "unset PYTHONDONTWRITEBYTECODE",
            "export PYTHONSAFEPATH=1",  # else the folder that was submitted from comes before the copied package
            'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',
            *(f"export {key}={shlex.quote(value)}" for key, value in self.profile.environment.items()),
            *self.profile.setup,
            *([f'export CIFAR_HPC_SCRATCH="{self.profile.scratch}"'] if self.profile.scratch else []),
            f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        ]

    def _find(self, name: str) -> str | None:
        """The id of the array of this name, where sbatch was heard after all."""
        for _ in range(SENDS):
            found = self._queue.find([name])
            if found is None:
                time.sleep(2)
                continue
            return found.get(name)
        raise SlurmError(f"sbatch and squeue do not answer; whether {name} was submitted shows `squeue -n {name}` later")
