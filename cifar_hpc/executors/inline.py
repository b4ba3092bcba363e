"""Runs jobs in this process, one after another: for a debugger, a small machine, or a first look."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

from cifar_hpc.executors.base import LocalHandles, RunJob, Standing, record_death, run_on_node, stop_signals
from cifar_hpc.planning.plan import Job
from cifar_hpc.records.jobs import Withdrawn
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.node import Node


class InlineExecutor(LocalHandles):
    """No backend: start is the run. run: what executes a job (the runner)."""

    name = "inline"

    def __init__(self, run: RunJob = run_on_node) -> None:
        self._run = run

    def start(self, layout: Layout, jobs: Sequence[Job], started: Callable[[Job, str], None]) -> None:
        """As the protocol says; a job of which the runner itself raises leaves error records, and the next one runs."""
        for job in jobs:
            started(job, self.own_handle())
        node = Node.here()
        with stop_signals(layout, jobs) as stopped, Standing() as standing:
            for job in jobs:
                withdrawn = Withdrawn(layout.sweep(job.sweep), job.trial_ids)
                if withdrawn():
                    continue
                try:
                    interrupted = _either(stopped.is_set, withdrawn)
                    self._run(job.unshared(), layout, executor=self.name, node=node, interrupted=interrupted)
                    standing.job_ended()
                except Exception as error:
                    if not (stopped.is_set() or withdrawn()):
                        record_death(layout, job, type(error).__name__, str(error), traceback.format_exc())
                if stopped.is_set():
                    raise KeyboardInterrupt


def _either(one: Callable[[], bool], other: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: one() or other()
