"""What is on disk survives what happens to disks and processes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import RecordError
from cifar_hpc.records import claims, owners, plans, store
from cifar_hpc.records.codec import SCHEMA_VERSION
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan, since_when
from cifar_hpc.records.schema import Claim, EpochRecord, ErrorRecord, PlanRecord, Status, TrialRecord, TrialResult
from cifar_hpc.sweep.names import dropped_trials
from tests.helpers.training import digits_config

EPOCH = EpochRecord(epoch=1, lr=0.1, train_loss=1.5, train_acc=0.5, val_loss=None, val_acc=0.25, train_s=2.0, val_s=0.5)
EVENT = JobEvent(
    at="2026-01-01T00:00:00.000Z", event="submitted", job_id="job-0001", trial_ids=("a",), executor="ray", handle="7"
)


def test_a_record_comes_back_equal(tmp_path):
    store.write_record(tmp_path / "x.json", EPOCH)
    assert store.read_record(tmp_path / "x.json", EpochRecord) == EPOCH


@given(cut=st.integers(min_value=0, max_value=200))
def test_a_stream_corrupt_anywhere_loses_only_its_last_line_and_can_be_continued(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("stream") / "jobs.jsonl"
    store.append_records(path, [EVENT, EVENT])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + min(cut, len(whole) - first)])
    survivors = store.read_records(path, JobEvent)
    assert survivors[:1] == [EVENT] and len(survivors) in (1, 2)
    store.append_records(path, [EVENT])
    assert store.read_records(path, JobEvent) == [*survivors, EVENT]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x.json"
    store.write_record(path, EPOCH)

    def full(stream):
        stream.write(b"{")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        store.write_atomic(path, full)
    assert store.read_record(path, EpochRecord) == EPOCH
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_number_that_is_not_finite_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        store.write_record(tmp_path / "x.json", dataclasses.replace(EPOCH, train_loss=float("nan")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not JSON"),
        ('{"epoch": 1', "not JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('{"epoch": "one"}', "epoch: input should be a valid integer, found 'one'"),
        (json.dumps(EPOCH.to_json() | {"epoch": 2**63}), "epoch: input should be less than"),
        (json.dumps(EPOCH.to_json() | {"epoch": True}), "epoch: input should be a valid integer, found True"),
        (json.dumps(EPOCH.to_json()).replace("0.1", "NaN"), "lr: input should be a finite number"),
        ("[" * 100_000, "not JSON"),
        ('{"epoch": 1}', "missing"),
        (json.dumps({"schema_version": SCHEMA_VERSION + 1}), "newer than this program's"),
    ],
)
def test_a_file_that_is_not_the_record_is_an_error_that_names_the_file(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=f"x.json: .*{message}"):
        store.read_record(path, EpochRecord)


def test_a_number_of_a_result_that_was_corrected_by_hand_is_noticed_and_a_new_layout_is_none(tmp_path):
    result = write_trial(Layout(tmp_path), next(configs(1, seeds=1, epochs=2)), Images.draw(20, 10))
    files = Layout(tmp_path).trial(result.trial_id)
    assert store.read_record(files.result, TrialResult) == result
    plain = json.loads(files.result.read_text())
    files.result.write_text(json.dumps(plain, indent=1))
    assert store.read_record(files.result, TrialResult) == result
    for edited in (plain | {"train_s": 0.001}, plain | {"params_trained": 1}, plain | {"reason": "all well"}):
        for text in (json.dumps(edited), json.dumps(edited, separators=(",", ":"))):
            files.result.write_text(text)
            with pytest.raises(RecordError, match="edited by hand"):
                store.read_record(files.result, TrialResult)


def test_a_plan_that_was_edited_by_hand_is_refused_and_says_what_writes_it_again(tmp_path):
    layout = Layout(tmp_path)
    trials = list(configs(2, seeds=1, epochs=2))
    write_plan(layout, trials, "s")
    plan = read_plan(layout, "s")
    text = layout.sweep("s").plan.read_text()
    assert f'"lr":{trials[0].lr}' in text
    layout.sweep("s").plan.write_text(text.replace(f'"lr":{trials[0].lr}', '"lr":0.5'))
    with pytest.raises(RecordError, match=r"edited by hand.*or move it away, and `cifar-hpc sweep SPEC` plans it"):
        read_plan(layout, "s")
    refit = dataclasses.replace(plan, command=("cifar-hpc", "refit", "s"))
    with pytest.raises(RecordError, match="`cifar-hpc refit s` plans it"):
        PlanRecord.decode(refit.encode().replace(b'"lr":', b'"lr":1'))


@pytest.mark.parametrize("damage", [lambda text: text.replace('"lr":', '"lr":1'), lambda text: text[:90], lambda text: "{}"])
def test_no_plan_that_cannot_be_read_is_written_over_or_taken_for_none(tmp_path, damage):
    layout = Layout(tmp_path)
    write_plan(layout, list(configs(2, seeds=1, epochs=2)), "s")
    plan, path = read_plan(layout, "s"), layout.sweep("s").plan
    path.write_text(damage(path.read_text()))
    left = path.read_bytes()
    judged = dataclasses.replace(plan, halving={"reduction": 2, "first_job": 1})
    for writer in (
        lambda: plans.write_plan(layout, plan),
        lambda: since_when(layout, judged),
        lambda: dropped_trials(layout, plan),
    ):
        with pytest.raises(RecordError, match=r"plan\.json: .*put it back as it was, or move it away"):
            writer()
    assert path.read_bytes() == left


def test_an_older_plan_has_its_digest_once_it_is_planned_again(tmp_path):
    layout = Layout(tmp_path)
    write_plan(layout, list(configs(2, seeds=1, epochs=2)), "s")
    plan, path = read_plan(layout, "s"), layout.sweep("s").plan
    sealed = path.read_bytes()
    path.write_text(json.dumps(plan.to_json()))
    assert plans.write_plan(layout, dataclasses.replace(plan, created_at="later")) is None
    assert path.read_bytes() == sealed


def test_a_record_of_a_newer_program_with_more_keys_still_reads(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(EPOCH.to_json() | {"later": 1}))
    assert store.read_record(path, EpochRecord) == EPOCH


def test_a_config_comes_back_equal_and_keeps_its_id():
    config = digits_config(stop=digits_config(patience=3).stop, freeze=0.5)
    back = TrialConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert back == config and back.trial_id == config.trial_id
    assert TrialRecord(trial_id="x", config=config.to_json(), created_at="t").to_json()["config"]["dataset"]["classes"] is None


def _claim_in_child(root, out):
    files = Layout(root).trial("t")
    claim = claims.claim_trial(files, "t", f"s/job-{os.getpid()}")
    out.put(claim.attempt if claim else None)
    time.sleep(2)


def test_of_many_processes_that_claim_a_trial_at_once_one_gets_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    children = [context.Process(target=_claim_in_child, args=(tmp_path, out)) for _ in range(4)]
    for child in children:
        child.start()
    got = [out.get(timeout=60) for _ in children]
    assert sorted(got, key=str) == [1, None, None, None]
    for child in children:
        child.join()
    assert claims.read_state(Layout(tmp_path).trial("t"), "t").status is Status.LOST


def _foreign_claim(**changes):
    claim = Claim(
        trial_id="t",
        attempt=1,
        host="elsewhere",
        boot_id="b",
        pid=1,
        pid_started=1.0,
        job="s/job-0001",
        claimed_at="2026-01-01T00:00:00Z",
    )
    return dataclasses.replace(claim, **changes)


def test_a_claim_of_another_host_lives_as_long_as_its_file_is_touched(tmp_path):
    files = Layout(tmp_path).trial("t")
    store.write_record(files.claim(1), _foreign_claim())
    assert claims.read_state(files, "t").status is Status.RUNNING
    assert claims.claim_trial(files, "t", "s/job-0002") is None
    old = time.time() - owners.DEAD_AFTER_S - 1
    os.utime(files.claim(1), (old, old))
    assert claims.read_state(files, "t").status is Status.LOST
    assert claims.claim_trial(files, "t", "s/job-0002").attempt == 2


def test_a_process_id_used_again_after_a_reboot_or_by_another_process_is_not_the_owner(tmp_path):
    files = Layout(tmp_path).trial("t")
    mine = claims.claim_trial(files, "t", "s/job-0001")
    assert claims.is_alive(mine, files.claim(1))
    assert not claims.is_alive(dataclasses.replace(mine, pid_started=mine.pid_started - 1), files.claim(1))
    assert mine.host == socket.gethostname()


def test_a_corrupt_claim_is_nobodys(tmp_path):
    files = Layout(tmp_path).trial("t")
    files.folder.mkdir(parents=True)
    files.claim(3).write_text("{")
    assert claims.read_state(files, "t").status is Status.LOST
    assert claims.claim_trial(files, "t", "s/job-0001").attempt == 4


def test_a_claim_may_be_read_by_whom_the_umask_lets(tmp_path):
    files = Layout(tmp_path).trial("t")
    before = os.umask(0o022)
    try:
        claims.claim_trial(files, "t", "s/job-0001")
    finally:
        os.umask(before)
    assert files.claim(1).stat().st_mode & 0o777 == 0o644
    assert [path.name for path in files.folder.iterdir()] == ["claim-0001.json"]


def test_a_claim_that_cannot_be_read_lives_as_long_as_its_file_is_touched(tmp_path, monkeypatch):
    files = Layout(tmp_path).trial("t")
    store.write_record(files.claim(1), _foreign_claim())

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    original = store.read_regular
    monkeypatch.setattr(store, "read_regular", lambda path: refuse(path) if path == files.claim(1) else original(path))
    assert claims.read_state(files, "t").status is Status.RUNNING
    assert claims.claim_trial(files, "t", "s/job-0001") is None
    old = time.time() - owners.DEAD_AFTER_S - 1
    os.utime(files.claim(1), (old, old))
    assert claims.read_state(files, "t").status is Status.LOST
    assert claims.claim_trial(files, "t", "s/job-0001").attempt == 2


def test_on_a_full_disk_a_trial_is_given_back_all_the_same(tmp_path, monkeypatch):
    files = Layout(tmp_path).trial("t")
    claim = claims.claim_trial(files, "t", "s/job-0001")

    def full(path, record):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(claims, "write_record", full)
        claims.release_claim(files, claim)
    assert claims.read_state(files, "t").status is Status.PLANNED


def _kill_at(files, claim, checkpoint_s, heartbeat_s):
    """Leaves the claim as an owner leaves it who is gone: seconds from its claimed_at to its last signs of life."""
    store.write_record(files.trial, TrialRecord(trial_id=claim.trial_id, config={}, created_at="2026-01-01T00:00:00Z"))
    os.utime(files.trial, (CLAIMED,) * 2)
    store.write_record(files.claim(claim.attempt), dataclasses.replace(claim, host="elsewhere"))
    for path, seconds in ((files.checkpoint, checkpoint_s), (files.claim(claim.attempt), heartbeat_s)):
        if seconds is not None:
            path.touch()
            os.utime(path, (CLAIMED + seconds,) * 2)


CLAIMED = 1767225600.0  # the foreign claim's claimed_at


def test_what_killed_attempts_lost_adds_up_and_one_that_ended_in_order_lost_nothing(tmp_path):
    files = Layout(tmp_path).trial("t")
    files.folder.mkdir(parents=True)
    _kill_at(files, _foreign_claim(lost_s=0.0, shared_by=2), None, 60)
    second = claims.claim_trial(files, "t", "s/job-0002")
    assert second.lost_s == 30
    _kill_at(files, dataclasses.replace(second, claimed_at="2026-01-01T00:00:00Z"), 100, 110)
    third = claims.claim_trial(files, "t", "s/job-0003")
    assert third.lost_s == 40
    claims.release_claim(files, third)
    fourth = claims.claim_trial(files, "t", "s/job-0004")
    assert fourth.lost_s == 40
    _kill_at(files, dataclasses.replace(fourth, claimed_at="2026-01-01T00:00:00Z"), 100, 90)  # the checkpoint is the newer
    fifth = claims.claim_trial(files, "t", "s/job-0005")
    assert fifth.lost_s == 40
    _kill_at(files, dataclasses.replace(fifth, claimed_at="2026-01-01T00:00:00Z", waits=True), 100, 110)  # others trained
    assert claims.claim_trial(files, "t", "s/job-0006").lost_s == 40


def test_of_attempts_whose_result_was_refused_it_is_not_known_what_was_lost_with_them(tmp_path):
    files = Layout(tmp_path).trial("t")
    files.folder.mkdir(parents=True)
    files.refused_result().touch()
    assert claims.claim_trial(files, "t", "s/job-0001").lost_s is None


def test_what_a_failed_attempt_lost_counts_and_nothing_of_one_that_ended_in_order_before_an_error_came(tmp_path):
    def claim_after(name: str, failed_at: str, checkpoint_s: float | None = None) -> float | None:
        files = Layout(tmp_path).trial(name)
        files.folder.mkdir(parents=True)
        released = _foreign_claim(lost_s=5.0, shared_by=2, released_at="2026-01-01T00:01:40.000Z")
        _kill_at(files, released, checkpoint_s, 400)
        told = ErrorRecord(
            trial_id="t", attempt=1, kind="OutOfMemoryError", message="", traceback="", host="", job="s/a", failed_at=failed_at
        )
        store.write_record(files.error, told)
        return claims.claim_trial(files, name, "s/job-0002").lost_s

    assert claim_after("failed", "2026-01-01T00:01:39.000Z") == 55
    assert claim_after("saved", "2026-01-01T00:01:39.000Z", 80) == 15
    assert claim_after("ended", "2026-01-01T00:01:41.000Z") == 5  # of the trial that it starts from


def test_what_an_attempt_lost_is_not_known_of_a_copied_folder_and_nothing_before_it_trained(tmp_path):
    files = Layout(tmp_path).trial("t")
    files.folder.mkdir(parents=True)
    _kill_at(files, _foreign_claim(lost_s=0.0), None, 86_400)
    os.utime(files.trial, (CLAIMED + 86_400,) * 2)  # of a copy all files are as young
    assert claims.claim_trial(files, "t", "s/job-0002").lost_s is None
    begun = Layout(tmp_path).trial("u")
    begun.folder.mkdir()
    _kill_at(begun, _foreign_claim(lost_s=5.0), None, 86_400)
    begun.trial.unlink()
    assert claims.claim_trial(begun, "u", "s/job-0002").lost_s == 5.0


def test_what_an_attempt_lost_is_not_known_where_its_claim_is_corrupt_or_of_an_older_program(tmp_path):
    for name, text in (("corrupt", "{"), ("older", json.dumps(_foreign_claim().to_json() | {"lost_s": None}))):
        files = Layout(tmp_path).trial(name)
        files.folder.mkdir(parents=True)
        files.claim(1).write_text(text)
        os.utime(files.claim(1), (CLAIMED, CLAIMED))
        assert claims.claim_trial(files, name, "s/job-0002").lost_s is None
