"""Sends one array: writes it down, calls sbatch, writes down what came of it. The only file that imports submitit.

Owns: the lines "sending", "submitted" and "unsent" of jobs.jsonl, and the array's name, by which it is found where this process
ended, or Slurm went silent, between sbatch and its answer. submitit writes the batch scripts and carries a function to the
node; it neither sends nor watches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_hpc.executors.slurm.arrays import ArrayPlan, Needs
from cifar_hpc.executors.slurm.commands import SlurmError, run_slurm
from cifar_hpc.executors.slurm.handles import handle_of, job_of, local_part, place_of
from cifar_hpc.executors.slurm.node import Element
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.refusals import is_room, is_silence, keys_to_change
from cifar_hpc.executors.slurm.snapshot import snapshot_package
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.jobs import own_handle
from cifar_hpc.records.layout import Layout, SweepFiles
from cifar_hpc.records.schema import JobEvent
from cifar_hpc.records.store import append_records, utc_now

SENDS = 3  # tries of one array whose sbatch had no answer


class NoRoomError(SlurmError):
    """A limit on submitted jobs was reached."""


class RefusedError(SlurmError):
    """A job that this cluster did not take, though nothing is wrong with the number of jobs."""


def unsent(sending: Iterable[JobEvent]) -> list[JobEvent]:
    """The lines that close lines "sending" of which no array came."""
    return [dataclasses.replace(event, at=utc_now(), event="unsent", detail="") for event in sending]


def name_inputs(files: SweepFiles, name: str, handles: Mapping[int, str]) -> None:
    """Gives what was written for the array `name` the names under which its tasks look for it. handles: by index."""
    for index, handle in handles.items():
        with contextlib.suppress(FileNotFoundError):
            (files.logs / f"{name}_{index}.pkl").rename(files.logs / f"{local_part(handle)}_submitted.pkl")
    for handle in list(handles.values())[:1]:
        with contextlib.suppress(FileNotFoundError):
            (files.logs / f"{name}.sh").rename(files.logs / f"{job_of(handle)}_submission.sh")


def remove(inputs: Iterable[Path], script: Path) -> None:
    """What was written for an array that was not sent."""
    for path in (*inputs, script):
        path.unlink(missing_ok=True)


class Sender:
    """Writes and submits the batch scripts of one sweep."""

    def __init__(self, layout: Layout, sweep: str, profile: SlurmProfile, queue: SlurmQueue) -> None:
        self.files = layout.sweep(sweep)
        self.layout = layout
        self.profile = profile
        self._queue = queue

    def send(
        self,
        function: Callable[[Element], None],
        array: ArrayPlan,
        after: str | None,
        mark: str = "",
        jobs: Sequence[Sequence[Job]] | None = None,
    ) -> list[str]:
        """The handles of the array tasks, in order. after: the dependency; mark: recorded with each job; jobs: what each array
        task is, where it is not the jobs of its element.

        Raises NoRoomError at a submit limit, RefusedError where Slurm does not take the job, SlurmError where it does not
        answer; in the last case, or where this process ends, the line "sending" stays, for `settle_names`.
        """
        name = f"{self.files.name}-{uuid.uuid4().hex[:8]}"
        tasks = [element.jobs for element in array.elements] if jobs is None else jobs
        self.files.logs.mkdir(parents=True, exist_ok=True)
        script = self._executor(array.needs, name, after)
        inputs = self._write_inputs(function, array, name)
        path = self.files.logs / f"{name}.sh"
        sending = self._events("sending", tasks, [self._place(name, index) for index in range(len(tasks))], own_handle())
        try:
            path.write_text(self._text(script, len(array.elements)))
            append_records(self.files.jobs, sending)
        except OSError:  # a full disk: nothing was sent
            remove(inputs, path)
            raise
        try:
            job_id = self._sbatch(path, name)
        except (NoRoomError, RefusedError):
            remove(inputs, path)
            append_records(self.files.jobs, unsent(sending))
            raise
        several = len(array.elements) > 1
        handles = [self._handle(f"{job_id}_{index}" if several else job_id) for index in range(len(tasks))]
        append_records(self.files.jobs, self._events("submitted", tasks, handles, mark))
        name_inputs(self.files, name, dict(enumerate(handles)))
        return handles

    def script(self, array: ArrayPlan) -> str:
        """The batch script as `send` would write it, but for the array's name and what it waits for."""
        return self._text(self._executor(array.needs, self.files.name, None, snapshot=False), len(array.elements))

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

    def _events(self, event: str, tasks: Sequence[Sequence[Job]], handles: Sequence[str], detail: str) -> list[JobEvent]:
        return [job.event(event, "slurm", handle, detail) for jobs, handle in zip(tasks, handles, strict=True) for job in jobs]

    def _handle(self, local: str) -> str:
        return handle_of(local, self._queue.cluster)

    def _place(self, name: str, index: int) -> str:
        return place_of(name, index, self._queue.cluster)

    def _write_inputs(self, function: Callable[[Element], None], array: ArrayPlan, name: str) -> list[Path]:
        """What each array task is given, in files that are renamed once its id is known."""
        from submitit.core.utils import DelayedSubmission

        paths = []
        for element in array.elements:
            given = DelayedSubmission(function, element)
            given.set_timeout(array.needs.minutes, 3)
            paths.append(self.files.logs / f"{name}_{element.index}.pkl")
            given.dump(paths[-1])
        return paths

    def _text(self, executor: Any, elements: int) -> str:
        from submitit.slurm.slurm import _make_sbatch_string

        return str(
            _make_sbatch_string(
                command=executor._submitit_command_str,
                folder=self.files.logs,
                **executor.parameters,
                **({"map_count": elements} if elements > 1 else {}),
            )
        )

    def _executor(self, needs: Needs, name: str, after: str | None, snapshot: bool = True) -> Any:
        import submitit

        profile = self.profile
        python = profile.python or shlex.quote(sys.executable)
        executor = submitit.SlurmExecutor(
            folder=self.files.logs, python=f"{profile.container} {python}" if profile.container else python
        )
        code = self._code if snapshot else self.files.code
        extra: dict[str, Any] = {"mail-user": profile.mail_user, "mail-type": profile.mail_type}
        extra |= {"requeue" if profile.requeue else "no-requeue": True, "kill-on-invalid-dep": "yes" if after else None}
        extra |= profile.sbatch
        parameters = {
            "job_name": name,
            "time": needs.minutes,
            "partition": profile.gpu_partition if needs.gpus else profile.cpu_partition,
            "account": profile.account,
            "qos": profile.qos,
            "constraint": profile.constraint,
            "exclude": ",".join(filter(None, (profile.exclude, *needs.exclude))) or None,
            "nodes": needs.nodes,
            "ntasks_per_node": 1,
            # Of several tasks the first one judges: it is not left waiting for one that died, nor the others for it.
            "srun_args": ["--kill-on-bad-exit=1", "--wait=60"] if needs.nodes > 1 else None,
            "cpus_per_task": needs.cpus,
            "mem": f"{round(needs.memory_gb * 1024)}M" if needs.memory_gb else None,
            "gres": f"{profile.gres}:{needs.gpus}" if needs.gpus else None,
            "dependency": after,
            "array_parallelism": profile.parallel or 1_000_000,
            "signal_delay_s": profile.signal_s,
            "stderr_to_stdout": True,
            "setup": self._setup(code),
            "additional_parameters": {flag: value for flag, value in extra.items() if value not in (None, False)},
        }
        executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
        return executor

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
