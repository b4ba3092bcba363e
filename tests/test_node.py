"""What a worker knows of its node: one object, read once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cifar_hpc.records.node import Node

PACKAGE = Path(__file__).parents[1] / "cifar_hpc"
ARRAY_TASK = {
    "SLURM_JOB_ID": "82",
    "SLURM_ARRAY_JOB_ID": "77",
    "SLURM_ARRAY_TASK_ID": "5",
    "SLURM_RESTART_COUNT": "2",
    "SLURM_PROCID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_CPUS_PER_TASK": "4",
    "CUDA_VISIBLE_DEVICES": "0,3",
    "SLURM_JOB_END_TIME": "1700000000",
}


def test_an_array_task_knows_its_place_and_what_it_was_granted():
    node = Node.here({**ARRAY_TASK, "SLURM_MEM_PER_NODE": "2048"})
    assert (node.job_id, node.handle, node.restarts, node.task, node.tasks) == ("82", "77_5", 2, 1, 2)
    assert (node.cpus, node.memory_bytes, node.gpus, node.ends_at) == (4, 2**31, ("0", "3"), 1_700_000_000)
    assert not node.leads


def test_a_job_outside_an_array_goes_by_its_number_and_what_slurm_does_not_say_is_absent():
    assert Node.here({"SLURM_JOB_ID": "82"}) == Node(job_id="82", handle="82")


def test_away_from_slurm_nothing_is_known():
    assert Node.here({"CUDA_VISIBLE_DEVICES": "0", "SLURM_PROCID": "3"}) == Node()


@pytest.mark.parametrize(
    ("told", "granted_mb"),
    [
        ({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "4"}, 4000),
        ({"SLURM_MEM_PER_GPU": "3000"}, 6000),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
    ],
)
def test_memory_by_the_cpu_and_by_the_gpu_is_told_for_the_node_and_0_is_no_limit(told, granted_mb):
    memory_bytes = Node.here({**ARRAY_TASK, **told}).memory_bytes
    assert memory_bytes == (None if granted_mb is None else granted_mb * 2**20)


def _reads(path: Path) -> list[str]:
    """Variables of Slurm's that a file takes from the environment of its own process."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Subscript(
                value=ast.Name(id="environ") | ast.Attribute(attr="environ"), slice=ast.Constant(value=str(key))
            ):
                found.append(key)
            case ast.Call(func=function, args=[ast.Constant(value=str(key)), *_]):
                found += [key] if re.search(r"environ\.\w+$|getenv$", ast.unparse(function)) else []
    of_a_job = [key for key in found if key.startswith(("SLURM_", "SLURMD_"))]
    return [key for key in of_a_job if key != "SLURM_CONF"]  # which says where the controller is, in a job or out of it


def test_nobody_else_reads_a_variable_of_slurms():
    readers = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if _reads(path)}
    assert readers <= {"records/node.py"}


def test_a_reader_is_found(tmp_path):
    (tmp_path / "bad.py").write_text("import os\na = os.environ['SLURM_PROCID']\nb = os.environ.get('SLURM_JOB_ID', '0')\n")
    assert _reads(tmp_path / "bad.py") == ["SLURM_PROCID", "SLURM_JOB_ID"]
