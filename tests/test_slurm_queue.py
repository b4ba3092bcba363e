"""What squeue and sacct print, over versions, and how seldom they are asked."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest

from cifar_hpc.executors.slurm import queue as slurm_queue
from cifar_hpc.executors.slurm.queue import QueueEntry, SlurmQueue, parse_sacct, parse_squeue
from cifar_hpc.executors.slurm.site import parse_minutes
from cifar_hpc.records.jobs import JobState


def test_index_lists_of_waiting_elements_are_expanded():
    entries = parse_squeue("12_[0-2,7,10-14:2%4]|PENDING|Priority|\n12_3|RUNNING|None|gpu01\n13|PENDING|Dependency|\n")
    assert sorted(entries) == sorted([f"12_{i}" for i in (0, 1, 2, 7, 10, 12, 14, 3)] + ["13"])
    assert entries["12_3"] == QueueEntry("RUNNING", "", "gpu01")
    assert entries["13"].job_state is JobState.QUEUED


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", JobState.QUEUED),
        ("REQUEUED", JobState.QUEUED),
        ("REQUEUE_HOLD", JobState.QUEUED),
        ("SUSPENDED", JobState.QUEUED),
        ("CONFIGURING", JobState.QUEUED),
        ("RUNNING", JobState.RUNNING),
        ("COMPLETING", JobState.RUNNING),
        ("COMPLETED", JobState.GONE),
        ("OUT_OF_MEMORY", JobState.GONE),
        ("NODE_FAIL", JobState.GONE),
        ("A_WORD_OF_THE_FUTURE", JobState.RUNNING),
    ],
)
def test_slurms_states_in_three_words(word, state):
    assert parse_squeue(f"1_0|{word}|None|n1")["1_0"].job_state is state


def test_what_is_no_job_line_is_left_out():
    text = "slurm_load_jobs: Socket timed out\n\nJOBID|STATE\n5_x|RUNNING|None|n1\n7|RUNNING\n8+0|RUNNING|None|n1\n"
    assert list(parse_squeue(text)) == ["7"]


def test_sacct_tells_who_cancelled_in_a_second_word_and_cuts_long_ones():
    entries = parse_sacct(
        "9_0|CANCELLED by 1000|None assigned\n9_1|OUT_OF_MEMORY|n2\n9_[2-3]|PENDING|None assigned\n9_4|COMPLETED+|n1\n"
    )
    assert entries["9_0"] == QueueEntry("CANCELLED", "by 1000", "")
    assert entries["9_1"].nodes == "n2"
    assert entries["9_3"].state == "PENDING" and entries["9_4"].state == "COMPLETED"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("1-00:00:00", 1440),
        ("30:00", 30),
        ("2:30:30", 150.5),
        ("2-12", 3600),
        ("infinite", None),
        ("n/a", None),
        ("UNLIMITED", None),
    ],
)
def test_slurms_durations(text, minutes):
    assert parse_minutes(text) == minutes


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Writes a program onto PATH that logs its calls: script(name, output, status)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(name: str, output: str, status: int = 0) -> Path:
        calls = folder / f"{name}.calls"
        path = folder / name
        path.write_text(f"#!/bin/sh\necho \"$*\" >> '{calls}'\ncat <<'END'\n{output}\nEND\nexit {status}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return calls

    return write


def test_ten_thousand_handles_cost_one_query_shared_by_all_who_ask_within_ten_seconds(script, tmp_path):
    calls = script("squeue", "1_[0-999]|PENDING|Resources|")
    handles = [f"{job}_{index}" for job in range(1, 11) for index in range(1000)]
    first = SlurmQueue(tmp_path / "queue.json").look(handles)
    second = SlurmQueue(tmp_path / "queue.json").look(handles[:1500])
    assert len(first) == 1000 and len(second) == 1000
    assert len(calls.read_text().splitlines()) == 1
    memory = json.loads((tmp_path / "queue.json").read_text())
    (only,) = memory["clusters"].values()
    only["looked_at"] = time.time() - 11
    (tmp_path / "queue.json").write_text(json.dumps(memory))
    SlurmQueue(tmp_path / "queue.json").look(handles)
    assert len(calls.read_text().splitlines()) == 2


def test_a_controller_that_does_not_answer_makes_no_job_gone(script, tmp_path):
    script("squeue", "slurm_load_jobs error: Socket timed out on send/recv operation", 1)
    assert SlurmQueue(tmp_path / "queue.json").look(["1_0"]) is None


def test_a_job_that_slurm_forgot_is_gone(script, tmp_path):
    script("squeue", "slurm_load_jobs error: Invalid job id specified", 1)
    assert SlurmQueue(tmp_path / "queue.json").look(["1_0"]) == {}


def test_one_sacct_explains_what_left_the_queue_and_is_not_asked_twice(script, tmp_path):
    script("squeue", "1_2|RUNNING|None|n1")
    calls = script("sacct", "1_0|OUT_OF_MEMORY|n1\n1_1|TIMEOUT|n2\n2_0|NODE_FAIL|n3")
    queue = SlurmQueue(tmp_path / "queue.json")
    handles = ["1_0", "1_1", "1_2", "2_0"]
    assert {h: e.state for h, e in queue.endings(handles).items()} == {
        "1_0": "OUT_OF_MEMORY",
        "1_1": "TIMEOUT",
        "2_0": "NODE_FAIL",
    }
    queue.forget()
    queue.endings(handles)
    assert calls.read_text().splitlines() == ["-X -n -P -o JobID,State,NodeList -j 1,2"]


def test_without_accounting_an_ending_that_squeue_showed_is_remembered(script, tmp_path):
    script("squeue", "1_0|FAILED|NonZeroExitCode|n1")
    sacct = script("sacct", "Slurm accounting storage is disabled", 1)
    queue = SlurmQueue(tmp_path / "queue.json")
    queue.look(["1_0"])
    script("squeue", "")
    queue.forget()
    assert queue.endings(["1_0"])["1_0"].state == "FAILED"
    assert "1_1" not in queue.endings(["1_0", "1_1"]) and queue.endings(["1_1"]) == {}
    assert len(sacct.read_text().splitlines()) == 1


def test_an_element_that_slurm_starts_again_has_not_ended(script, tmp_path):
    queue = SlurmQueue(tmp_path / "queue.json")
    script("squeue", "1_0|NODE_FAIL|None|n1")
    queue.look(["1_0"])
    script("squeue", "1_0|PENDING|BeginTime|")
    queue.forget()
    assert queue.look(["1_0"])["1_0"].job_state is JobState.QUEUED
    assert queue.endings(["1_0"]) == {}


def test_a_results_folder_that_cannot_be_written_only_costs_the_memory(script, tmp_path, monkeypatch):
    script("squeue", "1_0|RUNNING|None|n1")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slurm_queue, "write_atomic", refuse)
    assert SlurmQueue(tmp_path / "queue.json").look(["1_0"])["1_0"].state == "RUNNING"


def test_a_users_own_squeue_format_does_not_reach_the_query(script, tmp_path, monkeypatch):
    monkeypatch.setenv("SQUEUE_FORMAT", "%all")
    folder = tmp_path / "bin"
    (folder / "squeue").write_text('#!/bin/sh\necho "1_0|RUNNING|None|${SQUEUE_FORMAT:-unset}/$SLURM_BITSTR_LEN"\n')
    (folder / "squeue").chmod(0o755)
    assert SlurmQueue(tmp_path / "queue.json").look(["1_0"])["1_0"].nodes == "unset/0"
