"""Sends job arrays to Slurm through submitit, and leaves. The only file that imports submitit.

submitit writes the batch scripts and calls sbatch; it does not watch, since its watcher asks for each job, holds the NODE_FAIL
of a requeued job for final and sees no crash on a cluster without accounting. What became of a job is asked of slurm_queue.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.base import RunJob, run_on_node
from cifar_hpc.executors.slurm.arrays import ArrayPlan, History, Needs, Submission, plan_submission
from cifar_hpc.executors.slurm.dependencies import RELAY, Order
from cifar_hpc.executors.slurm.node import Element, canary_of, run_canary, run_element, run_relay
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmError, SlurmQueue, run_slurm
from cifar_hpc.executors.slurm.site import Limits, read_limits
from cifar_hpc.executors.slurm.snapshot import snapshot_package
from cifar_hpc.planning.plan import Job, Resources
from cifar_hpc.records.jobs import JobState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import JobEvent
from cifar_hpc.records.store import read_records

RELAY_GB, RELAY_MINUTES = 2.0, 15
SENDS = 3  # tries of one array whose sbatch had no answer
_NO_ROOM = re.compile(
    r"MaxSubmit|SubmitJobsPer|SubmitJobLimit|job submit limit|submit.*limit|temporarily unable to accept", re.I
)
_NO_ANSWER = re.compile(r"timed out|Unable to contact|Connection refused|Zero Bytes|Communication connection failure", re.I)


class SlurmExecutor:
    """The protocol's executor on one results folder and one profile. run: what executes a job on a node (the runner).

    After `start`, `waiting` holds the jobs that the limits kept out; `notes` says so in sentences. marks: what is to be
    recorded with each handle, for later submissions. go_on: submits what waits; a small job in the queue calls it, on a node,
    when about half of what was submitted has ended. Without it, or where nodes may not submit, the next `sweep` does.
    """

    name = "slurm"
    attached = False

    def __init__(
        self,
        profile: SlurmProfile,
        layout: Layout,
        *,
        canary: bool = True,
        run: RunJob = run_on_node,
        go_on: Callable[[], None] | None = None,
    ) -> None:
        self._run = run
        self._go_on = go_on
        self.profile = profile
        self.layout = layout
        self.canary = canary
        self.queue = SlurmQueue(layout.queue)
        self.waiting: Sequence[Job] = ()
        self.marks: Mapping[str, str] = {}
        self.notes: Sequence[str] = ()

    @classmethod
    def open(
        cls,
        layout: Layout,
        *,
        profile: SlurmProfile | None = None,
        canary: bool = True,
        go_on: Callable[[], None] | None = None,
    ) -> SlurmExecutor:
        """profile: that of the site; what only asks and cancels needs none."""
        return cls(profile or SlurmProfile(), layout, canary=canary, go_on=go_on)

    def start(self, layout: Layout, jobs: Sequence[Job], started: Callable[[Job, str], None]) -> None:
        """Submits the jobs as arrays, behind a canary where there are several elements; returns when sbatch has them.

        Raises CifarHpcError with Slurm's words where it refuses; what it took before stands.
        """
        if not jobs:
            return
        limits = read_limits(self.profile)
        submission = self.plan(jobs, limits)
        if submission.waiting and self._go_on and limits.room:
            submission = self.plan(jobs, dataclasses.replace(limits, room=limits.room - 1))  # one place for the relay
        self.waiting = submission.waiting
        sender = _Sender(layout, jobs[0].sweep, self.profile)
        order = self.order(submission, jobs[0].sweep)
        sent: list[str] = []
        relay: str | None = None
        watch, work = (functools.partial(function, run=self._run) for function in (run_canary, run_element))
        try:
            for place, array in enumerate(submission.arrays):
                try:
                    if order.needs_canary(array):
                        canary = ArrayPlan(array.needs, (canary_of(array.elements[0]),))
                        (handle,) = sender.send(watch, canary, order.dependency(array, of_canary=True))
                        order.canary_sent(array, handle)
                        started(canary.jobs[0], handle)
                    handles = sender.send(work, array, order.dependency(array))
                except _NoRoomError as error:
                    limits = Limits(limits.max_array_size, 0, str(error))
                    self.waiting = (*(job for other in submission.arrays[place:] for job in other.jobs), *self.waiting)
                    break
                order.sent(array, handles)
                self.marks = order.marks
                for element, handle in zip(array.elements, handles, strict=True):
                    for job in element.jobs:
                        started(job, handle)
                sent += handles
            if self.waiting and sent:
                relay = self._send_relay(sender, order, sent[len(sent) // 2], started)
        finally:
            self.queue.forget()
            self._note(submission, limits, relay)

    def _send_relay(self, sender: _Sender, order: Order, after: str, started: Callable[[Job, str], None]) -> str | None:
        """The handle of the job that submits what waits, one that stands in the queue already included; None without."""
        if self._go_on is None:
            return None
        if there := order.queued_relay():
            return there
        first = self.waiting[0]
        relay = RELAY + first.job_id.rsplit("-", 1)[1]
        job = Job(sweep=first.sweep, job_id=relay, cohorts=(), resources=Resources(gpus=0))
        element = Element(index=0, root=self.layout.root, jobs=())
        needs = Needs(nodes=1, gpus=0, cpus=1, memory_gb=RELAY_GB, minutes=RELAY_MINUTES, at_once=1, exclude=())
        function = functools.partial(run_relay, go_on=self._go_on)
        try:
            (handle,) = sender.send(function, ArrayPlan(needs, (element,)), f"afterany:{after}")
        except _NoRoomError:
            return None
        started(job, handle)
        return handle

    def plan(self, jobs: Sequence[Job], limits: Limits) -> Submission:
        """What `start` would submit now; `sweep --dry-run` shows it."""
        return plan_submission(jobs, self.layout.root, self.profile, limits, self.histories(jobs), self.canary)

    def order(self, submission: Submission, sweep: str) -> Order:
        """Which arrays of the submission wait for what."""
        return Order(self.layout.sweep(sweep), self.queue, self.profile, submission, self.canary)

    def script(self, array: ArrayPlan, sweep: str) -> str:
        """The batch script of an array, for `sweep --dry-run -v`. Submits nothing."""
        return _Sender(self.layout, sweep, self.profile).script(array)

    def states(self, handles: Sequence[str]) -> Mapping[str, JobState]:
        """One squeue at most, none where somebody asked within ten seconds."""
        return self.queue.states(handles)

    def cancel(self, handles: Sequence[str]) -> None:
        """All jobs packed into an element end with it. Raises SlurmError."""
        self.queue.cancel(handles)

    def histories(self, jobs: Iterable[Job]) -> Mapping[str, History]:
        """How earlier starts of the jobs' trials ended, from jobs.jsonl and Slurm's memory."""
        jobs = list(jobs)
        wanted = {trial_id for job in jobs for trial_id in job.trial_ids}
        starts: dict[str, list[str]] = {}
        for sweep in {job.sweep for job in jobs}:
            for event in read_records(self.layout.sweep(sweep).jobs, JobEvent):
                if event.event == "submitted" and event.executor == self.name:
                    for trial_id in wanted.intersection(event.trial_ids):
                        starts.setdefault(trial_id, []).append(event.handle)
        endings = self.queue.endings([handle for handles in starts.values() for handle in handles])
        return {t: History(tuple(endings[h] for h in handles if h in endings)) for t, handles in starts.items()}

    def _note(self, submission: Submission, limits: Limits, relay: str | None) -> None:
        notes: list[str] = []
        if self.waiting:
            trials = sum(len(job.trial_ids) for job in self.waiting)
            then = f"Job {relay} submits them once others have ended." if relay else "Run the same `sweep` again later."
            notes.append(f"{trials} trials wait for room in the queue: {limits.why}. {then}")
        for reason in dict.fromkeys(submission.given_up.values()):
            ids = [trial_id for trial_id, why in submission.given_up.items() if why == reason]
            notes.append(
                f"{len(ids)} trials are not started again: {reason} (max_attempts is {self.profile.max_attempts}); "
                f"first of them {ids[0]}"
            )
        self.notes = notes


class _NoRoomError(SlurmError):
    """A submit limit was reached."""


class _Sender:
    """Writes and submits the batch scripts of one sweep."""

    def __init__(self, layout: Layout, sweep: str, profile: SlurmProfile) -> None:
        self.files = layout.sweep(sweep)
        self.layout = layout
        self.profile = profile

    def send(self, function: Callable[[Element], None], array: ArrayPlan, after: str | None) -> list[str]:
        """The handles of the elements, in order. after: the dependency. Raises _NoRoomError at a submit limit, SlurmError
        otherwise.

        An sbatch that had no answer may have been heard: the array is looked for by its name before it is sent again.
        """
        self.files.logs.mkdir(parents=True, exist_ok=True)
        name = f"{self.files.name}-{uuid.uuid4().hex[:8]}"
        executor = self._executor(array.needs, name, after)
        before = set(self.files.logs.glob("*.pkl"))
        for attempt in range(SENDS):
            try:
                return [job.job_id for job in executor.map_array(function, array.elements)]
            except Exception as error:
                words = " ".join(str(error).split())
                fresh = set(self.files.logs.glob("*.pkl")) - before
                if _NO_ANSWER.search(words):
                    time.sleep(2 * (attempt + 1))
                    if taken := self._find(name):
                        return self._adopt(taken, fresh, len(array.elements))
                for path in fresh:
                    path.unlink(missing_ok=True)
                if _NO_ROOM.search(words):
                    raise _NoRoomError(words) from error
                if not _NO_ANSWER.search(words) or attempt + 1 == SENDS:
                    raise SlurmError(f"sbatch refused the jobs of {self.files.name}: {words[-400:]}") from error
        raise AssertionError("unreachable")

    def script(self, array: ArrayPlan) -> str:
        from submitit.slurm.slurm import _make_sbatch_string

        executor = self._executor(array.needs, self.files.name, None, snapshot=False)
        elements = len(array.elements)
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
            try:
                lines = run_slurm(["squeue", "-h", "-t", "all", "-n", name, "-o", "%F"]).split()
            except SlurmError:
                time.sleep(2)
                continue
            return lines[0] if lines else None
        raise SlurmError(f"sbatch and squeue do not answer; whether {name} was submitted shows `squeue -n {name}` later")

    def _adopt(self, job_id: str, pickles: Iterable[Path], elements: int) -> list[str]:
        """Gives the elements' inputs the names that submitit would have given them after sbatch's answer."""
        from submitit.core.utils import DelayedSubmission

        for path in pickles:
            index = DelayedSubmission.load(path).args[0].index
            path.rename(self.files.logs / f"{job_id}_{index}_submitted.pkl" if elements > 1 else f"{job_id}_submitted.pkl")
        return [f"{job_id}_{index}" for index in range(elements)] if elements > 1 else [job_id]


def check_slurm(profile: SlurmProfile) -> None:
    """Raises CifarHpcError where this machine cannot submit, before anything is written."""
    try:
        read_limits(profile)
    except SlurmError as error:
        raise CifarHpcError(f"{error}. `cifar-hpc doctor` looks closer; --on inline or --on ray run here") from error
