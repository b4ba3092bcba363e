"""What waits for what: canaries and parents, on a scripted cluster."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.executors.slurm.executor import SlurmExecutor
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.site import Limits
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.layout import Layout
from tests.helpers.scripted_slurm import ScriptedSlurm
from tests.helpers.training import digits_config


def _job(number: int, parent: Job | None = None, minutes: float = 60.0) -> Job:
    config = digits_config(seed=number)
    if parent is not None:
        config = replace(config, weights=f"{PARENT_PREFIX}{parent.trial_ids[0]}")
    needs = Resources(gpus=1.0, minutes=minutes)
    return Job(
        sweep="s",
        job_id=f"job-{number:04d}",
        cohorts=(Cohort(trials=(config,)),),
        resources=needs,
        level=0 if parent is None else parent.level + 1,
    )


@pytest.fixture
def send(tmp_path, monkeypatch):
    """Submits jobs as the command line does; the dependencies of the batch scripts in the order of their ids."""
    scripted = ScriptedSlurm(tmp_path / "bin").install(monkeypatch)
    layout = Layout(tmp_path / "results")

    def send(*jobs: Job, **profile) -> tuple[list[str | None], SlurmExecutor]:
        before = {path.name for path in scripted.folder.glob("*.sh")}
        executor = SlurmExecutor(SlurmProfile(**profile), layout)
        executor.start(layout, jobs, lambda job, handle: None)
        new = sorted(path for path in scripted.folder.glob("*.sh") if path.name not in before)
        return [_dependency(path) for path in new], executor

    return send


def _dependency(script: Path) -> str | None:
    text = script.read_text()
    found = re.search(r"#SBATCH --dependency=(\S+)\n", text)
    return found[1] if found else None


def test_children_wait_for_the_canary_and_their_parents_only_to_have_ended(send):
    parents = [_job(0), _job(1)]
    children = [_job(number, parents[number % 2]) for number in range(2, 5)]
    grandchild = _job(5, children[0])
    told, _ = send(*parents, *children, grandchild)
    assert told == [None, "afterany:1000", "afterany:1000:1001", "afterany:1000:1002"]


def test_many_children_of_one_parent_stand_behind_a_canary_of_their_own(send):
    parent = _job(0)
    children = [_job(number, parent) for number in range(1, 4)]
    grandchild = _job(4, children[0])
    told, executor = send(parent, *children, grandchild, max_submit=6)
    assert told == [None, "afterany:1000", "afterany:1001:1000", "afterany:1001:1002"]
    assert not executor.waiting, "1 parent, the canary, 3 children and 1 grandchild are the 6 that the queue takes"


def test_a_child_waits_for_a_parent_that_an_earlier_sweep_submitted(send):
    parent = _job(0)
    assert send(parent)[0] == [None]
    assert send(_job(1, parent))[0] == ["afterany:1000"]


def test_children_of_parents_that_wait_for_room_wait_too(send):
    parents = [_job(0), replace(_job(1), resources=Resources(gpus=2.0, minutes=60.0))]
    _, executor = send(*parents, _job(4, parents[0]), max_submit=1)
    assert [job.job_id for job in executor.waiting] == ["job-0001", "job-0004"]


def test_a_class_that_has_passed_a_canary_needs_none_until_its_profile_changes(send):
    executor = send(_job(0), _job(1))[1]
    assert send(_job(2), _job(3))[0] == [None, "afterany:1002"], "the first canary has not ended"
    (mark,) = {order.mark(array) for order, array in _orders(executor, _job(2), _job(3))}
    path = executor.layout.sweep("s").resource_class(mark)
    path.write_text("passed\n")  # as the canary does
    assert send(_job(4), _job(5))[0] == [None]
    assert send(_job(8), _job(9), account="other")[0] == [None, "afterany:1005"]
    path.write_text("broken\njob 1000 ended with status 1\n")
    assert send(_job(6), _job(7))[0] == [None, "afterany:1007"]
    assert not path.exists(), "what was broken may be mended: its next canary says"


def _orders(executor: SlurmExecutor, *jobs: Job):
    submission = executor.plan(jobs, Limits(1001, None))
    order = executor.order(submission, "s")
    return [(order, array) for array in submission.arrays]
