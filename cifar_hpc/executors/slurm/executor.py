"""Sends the jobs of a sweep to Slurm as arrays, behind a canary, and leaves. What became of them is asked of `queue`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.base import RunJob, run_on_node
from cifar_hpc.executors.slurm.arrays import ArrayPlan, History, Needs, Submission, plan_submission
from cifar_hpc.executors.slurm.commands import SlurmError
from cifar_hpc.executors.slurm.dependencies import RELAY, Order
from cifar_hpc.executors.slurm.handles import local_part
from cifar_hpc.executors.slurm.node import Element, canary_of, run_canary, run_element, run_relay
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.sender import NoRoomError, Sender
from cifar_hpc.executors.slurm.site import Limits, read_limits
from cifar_hpc.planning.plan import Job, Resources
from cifar_hpc.records.jobs import JobState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import JobEvent
from cifar_hpc.records.store import read_records

RELAY_GB, RELAY_MINUTES = 2.0, 15


class SlurmExecutor:
    """The protocol's executor on one results folder and one profile. run: what executes a job on a node (the runner).

    Each job stands in jobs.jsonl before it is sent. After `start`, `waiting` holds the jobs that the limits kept out; `notes`
    says so in sentences. go_on: submits what waits; a small job in the queue calls it, on a node,
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
        sender = Sender(layout, jobs[0].sweep, self.profile, self.queue)
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
                    handles = sender.send(work, array, order.dependency(array), order.mark(array))
                except NoRoomError as error:
                    limits = Limits(limits.max_array_size, 0, str(error))
                    self.waiting = (*(job for other in submission.arrays[place:] for job in other.jobs), *self.waiting)
                    break
                order.sent(array, handles)
                for element, handle in zip(array.elements, handles, strict=True):
                    for job in element.jobs:
                        started(job, handle)
                sent += handles
            if self.waiting and sent:
                relay = self._send_relay(sender, order, sent[len(sent) // 2], started)
        finally:
            self.queue.forget()
            self._note(submission, limits, relay)

    def _send_relay(self, sender: Sender, order: Order, after: str, started: Callable[[Job, str], None]) -> str | None:
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
            (handle,) = sender.send(function, ArrayPlan(needs, (element,)), f"afterany:{local_part(after)}", jobs=[[job]])
        except NoRoomError:
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
        return Sender(self.layout, sweep, self.profile, self.queue).script(array)

    def states(self, handles: Sequence[str]) -> Mapping[str, JobState]:
        """One squeue at most, none where somebody asked within ten seconds."""
        return self.queue.states(handles)

    def explain(self, handles: Sequence[str]) -> Mapping[str, str]:
        return self.queue.explain(handles)

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


def check_slurm(profile: SlurmProfile) -> None:
    """Raises CifarHpcError where this machine cannot submit, before anything is written."""
    try:
        read_limits(profile)
    except SlurmError as error:
        raise CifarHpcError(f"{error}. `cifar-hpc doctor` looks closer; --on inline or --on ray run here") from error
