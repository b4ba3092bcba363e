"""Sends the jobs of a sweep to Slurm as arrays, behind a canary, and leaves. What became of them is asked of `queue`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from cifar_hpc.executors.slurm.arrays import (
    ALONE_ROOM,
    OWN_FAILURES,
    ArrayPlan,
    History,
    Needs,
    Submission,
    after_timeouts,
    canary_job,
    plan_submission,
)
from cifar_hpc.executors.slurm.dependencies import RELAY, Order
from cifar_hpc.executors.slurm.handles import handle_of, job_of, local_part
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.sender import GoOn, NoRoomError, Sender, Start
from cifar_hpc.executors.slurm.site import Limits, read_limits
from cifar_hpc.planning.plan import Job, Resources
from cifar_hpc.records.jobs import JobState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.starts import TIME, earlier_claims, fruitless_starts, task_of

RELAY_GB, RELAY_MINUTES = 2.0, 15


class SlurmExecutor:
    """The protocol's executor on one results folder and one profile.

    Each job stands in jobs.jsonl before it is sent. After `start`, `waiting` holds the jobs that the limits kept out; `notes`
    says so in sentences. go_on: the words after `python` of a job that submits what waits, which may keep files beside its
    script; it stands in the queue until the first array has ended. Without it, or where nodes may not submit, the next `sweep`
    does.
    """

    name = "slurm"
    attached = False

    def __init__(self, profile: SlurmProfile, layout: Layout, *, canary: bool = True, go_on: GoOn | None = None) -> None:
        self._go_on = go_on
        self.profile = profile
        self.layout = layout
        self.canary = canary
        self.queue = SlurmQueue(layout.queue)
        self.waiting: Sequence[Job] = ()
        self.notes: Sequence[str] = ()
        self.jobs_n = 0  # array tasks that `start` sent, the canaries among them

    @classmethod
    def open(
        cls, layout: Layout, *, profile: SlurmProfile | None = None, canary: bool = True, go_on: GoOn | None = None
    ) -> SlurmExecutor:
        """profile: that of the site; what only asks and cancels needs none."""
        return cls(profile or SlurmProfile(), layout, canary=canary, go_on=go_on)

    def start(self, layout: Layout, jobs: Sequence[Job], started: Callable[[Job, str], None]) -> None:
        """Submits the jobs as arrays, behind a canary where one has several workers; returns when sbatch has them.

        Raises CifarHpcError with Slurm's words where it refuses; what it took before stands.
        """
        if not jobs:
            return
        limits = read_limits(self.profile)
        submission = self.plan(jobs, limits)
        if submission.waiting and self._go_on and limits.room and limits.room > ALONE_ROOM:
            submission = self.plan(jobs, dataclasses.replace(limits, room=limits.room - 1))  # one place for the relay
        self.waiting = submission.waiting
        sender = Sender(layout, jobs[0].sweep, self.profile, self.queue)
        order = self.order(submission, jobs[0].sweep)
        sent: list[str] = []
        relay: str | None = None
        try:
            for place, array in enumerate(submission.arrays):
                try:
                    handle = self._send(sender, order, array, started)
                except NoRoomError as error:
                    limits = Limits(limits.max_array_size, 0, str(error))
                    self.waiting = (*(job for other in submission.arrays[place:] for job in other.jobs), *self.waiting)
                    break
                sent.append(handle)
            if self.waiting and sent:
                relay = self._send_relay(sender, order, sent[0], started)
        finally:
            self.queue.forget()
            self._note(submission, limits, relay)

    def _send(self, sender: Sender, order: Order, array: ArrayPlan, started: Callable[[Job, str], None]) -> str:
        """The array, and its canary before it where it needs one. With room for one of both, the array as one worker."""
        mark = order.mark(array)
        if not order.has_canary(array):
            order.forget_broken(array)
        if order.needs_canary(array):
            canary = ArrayPlan(array.needs, (canary_job(array),), minutes=(array.needs.minutes,))
            handle = sender.send(canary, order.dependency(array, of_canary=True), Start("canary"), mark)
            order.canary_sent(array, handle)
            self.jobs_n += 1
            started(canary.jobs[0], handle)
        handle = sender.send(array, order.dependency(array), Start("run"), mark)
        self.jobs_n += array.workers
        order.sent(array.jobs, handle)
        for job in array.jobs:
            started(job, handle)
        return handle

    def _send_relay(self, sender: Sender, order: Order, after: str, started: Callable[[Job, str], None]) -> str | None:
        """The handle of the job that submits what waits, one that stands in the queue already included; None without."""
        if self._go_on is None:
            return None
        if there := order.queued_relay():
            return there
        first = self.waiting[0]
        relay = RELAY + first.job_id.rsplit("-", 1)[1]
        job = Job(sweep=first.sweep, job_id=relay, cohorts=(), resources=Resources(gpus=0))
        needs = Needs(nodes=1, gpus=0, cpus=1, memory_gb=RELAY_GB, minutes=RELAY_MINUTES, at_once=1, exclude=())
        try:
            handle = sender.send(ArrayPlan(needs, (job,)), f"afterany:{job_of(after)}", Start("relay", go_on=self._go_on))
        except NoRoomError:
            return None
        started(job, handle)
        return handle

    def plan(self, jobs: Sequence[Job], limits: Limits) -> Submission:
        """What `start` would submit now; `sweep --dry-run` shows it."""
        histories = self.histories(jobs)
        timed = [after_timeouts(job, histories) for job in jobs]
        return plan_submission(timed, self.profile, limits, histories, self.canary)

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
        """All tasks of an array end with it. Raises SlurmError."""
        self.queue.cancel(handles)

    def histories(self, jobs: Iterable[Job]) -> Mapping[str, History]:
        """How earlier starts of the jobs' trials ended, from their claims, the batch scripts' notes and Slurm's memory."""
        left: dict[str, list[str]] = {}  # trial -> array tasks that had it and ended without a word, the newest last
        for trial_id in dict.fromkeys(trial_id for job in jobs for trial_id in job.trial_ids):
            claims = earlier_claims(self.layout.trial(trial_id))
            tasks = [
                task_of(claim.restart_token) for claim in reversed(claims) if claim.released_at is None or claim.ended == TIME
            ]
            if claims:
                left[trial_id] = [handle_of(task, self.queue.cluster) for task in tasks if task is not None]
        endings = self.queue.endings([handle for handles in left.values() for handle in handles])
        own = {local_part(handle) for handle, entry in endings.items() if entry.state in OWN_FAILURES}
        return {
            trial_id: History(
                tuple(endings[handle] for handle in handles if handle in endings),
                fruitless_starts(self.layout, trial_id, own.__contains__),
            )
            for trial_id, handles in left.items()
        }

    def _note(self, submission: Submission, limits: Limits, relay: str | None) -> None:
        notes: list[str] = []
        if self.waiting:
            trials = sum(len(job.trial_ids) for job in self.waiting)
            then = f"Job {relay} submits them once others have ended." if relay else "Run the same `sweep` again later."
            who = "1 trial waits" if trials == 1 else f"{trials} trials wait"
            notes.append(f"{who} for room in the queue: {limits.why}. {then}")
        for reason in dict.fromkeys(submission.given_up.values()):
            ids = [trial_id for trial_id, why in submission.given_up.items() if why == reason]
            more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
            notes.append(f"not started again (max_attempts is {self.profile.max_attempts}): {ids[0]}{more}: {reason}")
        self.notes = notes
