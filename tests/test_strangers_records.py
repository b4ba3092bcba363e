"""What is under results/ may be a stranger's: no name leads out of it, one bad record hides no other, nothing hangs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.collect.scan import scan
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.records import claims, owners, store
from cifar_hpc.records.codec import Record
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import Claim, EnsembleRecord, PlanRecord, Status, TrialResult
from cifar_hpc.records.usage import Accounting, Budget, Usage

IMAGES = Images.draw(20, 20)
TRIALS = list(configs(3, 1, 2))


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "results")
    for config in TRIALS:
        write_trial(layout, config, IMAGES)
    write_plan(layout, TRIALS)
    return layout


def _deep(data: dict) -> str:
    return json.dumps(data)[:-1] + ', "config": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}"


def _no_utf8(data: dict) -> bytes:
    return json.dumps({**data, "reason": "?"}).encode().replace(b"?", b"\xed\xa0\x80")


def _huge(data: dict) -> str:
    return json.dumps({**data, "params_total": 2**70})


def _huge_in_config(data: dict) -> str:
    return json.dumps({**data, "config": {**data["config"], "seed": 2**64}})


def _not_finite(data: dict) -> str:
    return json.dumps({**data, "config": {**data["config"], "lr": float("inf")}})


def _negative_loss(data: dict) -> str:
    return json.dumps({**data, "test": {**data["test"], "loss": -0.1}})


def _no_images(data: dict) -> str:
    return json.dumps({**data, "val": {**data["val"], "n": 0}})


@pytest.mark.parametrize(
    "spoil",
    [
        *(_deep, _huge, _huge_in_config, _not_finite, _negative_loss, _no_images),
        lambda data: "\ud800".encode("utf-8", "surrogatepass"),
    ],
)
def test_one_bad_result_is_left_out_and_named_and_the_others_stand(layout, spoil):
    bad = layout.trial(TRIALS[1].trial_id).result
    text = spoil(json.loads(bad.read_text()))
    bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    pool = scan(layout, ["pool"])
    assert {trial.trial_id for trial in pool.trials} == {TRIALS[0].trial_id, TRIALS[2].trial_id}
    assert [rejected.path for rejected in pool.rejected] == [str(bad)]
    assert claims.read_state(layout.trial(TRIALS[1].trial_id), TRIALS[1].trial_id).status is Status.FAILED


def _edits() -> Iterator[tuple[type[Record], tuple[str, ...], Any]]:
    """Each number of each record, as it cannot be."""
    for kind, keys in {
        TrialResult: "train_s attempts frozen_blocks total_blocks params_total params_trained flops train_n best_epoch lost_s "
        "saved_s trunk_shared_by lr_found c_found micro_batch val.n test.acc val.loss hardware.world_size hardware.threads "
        "hardware.peak_memory_gb curves.0.epoch curves.0.train_s curves.0.val_s curves.0.val_acc curves.0.val_loss",
        EnsembleRecord: "val_acc val_n test_acc test_n members.0.weight members.0.temperature",
        Claim: "attempt pid pid_started shared_by lost_s",
        Usage: "restarts seconds gpus cpus",
        Budget: "gpu_hours cpu_hours",
        Accounting: "jobs starts hours gpu_hours cpu_hours trained_hours",
    }.items():
        for key in keys.split():
            yield kind, tuple(key.split(".")), -1
    yield TrialResult, ("curves", "0", "train_acc"), 1.5
    yield TrialResult, ("test", "acc"), 1.5
    yield TrialResult, ("test", "more", "macro_f1"), 1.5
    yield TrialResult, ("train", "acc"), 0.987
    yield TrialResult, ("frozen_blocks",), 10**6
    yield TrialResult, ("params_trained",), 10**12
    yield TrialResult, ("train_s",), math.nan


def test_no_record_holds_a_number_that_cannot_be(layout):
    member = {"trial_id": TRIALS[0].trial_id, "weight": 1, "temperature": 1}
    numbers = dict.fromkeys(("coefficients", "intercept", "val_acc", "val_n", "test_acc", "test_n"))
    hours = dict.fromkeys(("jobs", "starts", "hours", "gpu_hours", "cpu_hours", "trained_hours"), 1)
    good = {
        TrialResult: json.loads(layout.trial(TRIALS[0].trial_id).result.read_text()),
        EnsembleRecord: {"method": "m", "created_at": "t", "classes": [], "members": [member], **numbers},
        Claim: {
            "trial_id": "t",
            "attempt": 1,
            "host": "",
            "boot_id": "",
            "pid": 1,
            "pid_started": 1,
            "job": "",
            "claimed_at": "",
        },
        Usage: {"task": "", "restarts": 0, "seconds": 0, "gpus": 0, "cpus": 0},
        Budget: {"gpu_hours": 1},
        Accounting: {"at": "", "ended": True, **hours},
    }
    for kind, path, value in _edits():
        record = json.loads(json.dumps(good[kind]))
        kind.decode(json.dumps(record).encode())
        place = record
        for key in path[:-1]:
            place = place[int(key) if key.isdecimal() else key]
        place[path[-1]] = value
        with pytest.raises(RecordError, match=f"{path[-1]}|more is frozen or trained"):
            kind.decode(json.dumps(record).encode())


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _link_to_itself(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("put", [_pipe, _folder, _link_to_itself])
@pytest.mark.parametrize("name", ["result", "trial", "metrics", "error", "predictions"])
def test_only_regular_files_are_opened(layout, put, name):
    files = layout.trial(TRIALS[1].trial_id)
    if name != "predictions":
        files.result.unlink()
    put(getattr(files, name))
    pool = scan(layout)
    assert {TRIALS[0].trial_id, TRIALS[2].trial_id} <= {trial.trial_id for trial in pool.trials}
    claims.read_state(files, TRIALS[1].trial_id)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("put", [_pipe, _folder])
def test_a_plan_or_a_list_of_jobs_that_is_no_file_is_an_error_that_names_it(layout, put):
    sweep = layout.sweep("pool")
    put(sweep.jobs)
    with pytest.raises(RecordError, match=r"jobs\.jsonl: a .*not a regular file"):
        store.read_records(sweep.jobs, JobEvent)
    put(sweep.plan)
    with pytest.raises(RecordError, match=r"plan\.json: a .*not a regular file"):
        read_plan(layout, "pool")


def test_a_plan_of_another_sweeps_name_is_refused_and_nothing_outside_is_touched(layout):
    victim = layout.root.parent / "victim"
    victim.mkdir()
    path = layout.sweep("pool").plan
    for name in ("../victim", "other"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sweep": name}))
        with pytest.raises(RecordError, match=r"plan\.json"):
            scan(layout, ["pool"])
    assert list(victim.iterdir()) == []


@pytest.mark.parametrize("name", ["../victim", "/etc", ".", "..", "", "a/b", "a\x00b", "x" * 200, ".hidden", "a\n"])
def test_a_name_that_leads_elsewhere_is_no_name(layout, name):
    for path_of in (layout.trial, layout.sweep, layout.sweep("pool").log, layout.sweep("pool").task_logs):
        with pytest.raises(RecordError, match="names no trial, sweep or job"):
            path_of(name)
    with pytest.raises(CifarHpcError, match="is no sweep under"):
        read_plan(layout, name)
    assert not layout.has_sweep(name)


@pytest.mark.parametrize("kind", [PlanRecord, JobEvent, TrialResult, EnsembleRecord])
def test_names_in_records_are_checked_where_they_are_read(layout, kind):
    bad = '"../../victim"'
    member = {"trial_id": TRIALS[0].trial_id, "weight": 1, "temperature": 1}
    good = {
        PlanRecord: layout.sweep("pool").plan.read_text(),
        TrialResult: layout.trial(TRIALS[0].trial_id).result.read_text(),
        JobEvent: json.dumps(
            {"at": "t", "event": "ended", "job_id": "job-1", "trial_ids": [TRIALS[0].trial_id], "executor": "", "handle": ""}
        ),
        EnsembleRecord: json.dumps(
            {"method": "m", "created_at": "t", "classes": [], "members": [member]}
            | dict.fromkeys(("coefficients", "intercept", "val_acc", "val_n", "test_acc", "test_n"))
        ),
    }[kind]  # fmt: skip
    assert kind.decode(good.encode())
    with pytest.raises(RecordError, match="trial_id"):
        kind.decode(good.replace(f'"{TRIALS[0].trial_id}"', bad).encode())


def test_a_claim_with_a_foreign_number_is_no_claim(tmp_path):
    files = Layout(tmp_path).trial("t")
    files.folder.mkdir(parents=True)
    (files.folder / "claim-x.json").write_text("{}")
    (files.folder / f"claim-{'9' * 5000}.json"[:200]).write_text("{}")
    claim = claims.claim_trial(files, "t", "s/job-0001")
    assert claim and claim.attempt == 1


def test_temporary_files_of_killed_writers_go_with_the_next_write(tmp_path):
    dead = owners.Process(owners.own_process().host, owners.boot_id(), 2**22 + 1, 5.0)
    left = tmp_path / f".x.json.{owners.machine_mark(dead)}-{dead.pid}-5-{'0' * 12}.tmp"
    foreign = tmp_path / f".x.json.{'0' * 12}-7-5-{'0' * 12}.tmp"
    old = tmp_path / f".y.npz.{'1' * 12}-7-5-{'0' * 12}.tmp"
    mine = owners.temporary_for(tmp_path / "z")
    for path in (left, foreign, old, mine):
        path.touch()
    os.utime(old, (1, 1))
    store.write_atomic(tmp_path / "x.json", lambda stream: stream.write(b"1"))
    assert sorted(tmp_path.iterdir()) == sorted([foreign, mine, tmp_path / "x.json"])


def test_a_folder_whose_writer_was_killed_between_its_two_renames_comes_back(tmp_path):
    folder = tmp_path / "soup"
    with store.replaced_whole(folder) as fresh:
        (fresh / "a").touch()
    place = owners.temporary_for(folder)
    place.mkdir()
    folder.rename(place / "old")  # killed here
    with pytest.raises(KeyError), store.replaced_whole(folder):
        raise KeyError
    assert [path.name for path in folder.iterdir()] == ["a"]


def _other_users(monkeypatch) -> None:
    """As /proc with hidepid=2 and kill answer of a process of another user."""
    original = Path.read_text

    def hidden(path, *args, **kwargs):
        if str(path).startswith("/proc/") and str(path).endswith("/stat"):
            raise FileNotFoundError(str(path))
        return original(path, *args, **kwargs)

    def refuse(pid, number):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", hidden)
    monkeypatch.setattr(os, "kill", refuse)


def test_a_process_that_proc_hides_lives_as_long_as_its_claim_is_touched(tmp_path, monkeypatch):
    files = Layout(tmp_path).trial("t")
    claim = claims.claim_trial(files, "t", "s/job-0001")
    _other_users(monkeypatch)
    assert owners.lives(owners.Process(claim.host, claim.boot_id, claim.pid, claim.pid_started)) is None
    assert claims.read_state(files, "t").status is Status.RUNNING
    assert claims.claim_trial(files, "t", "s/job-0002") is None
    os.utime(files.claim(1), (1, 1))
    assert claims.read_state(files, "t").status is Status.LOST


def test_a_process_of_another_container_of_this_host_lives_as_long_as_its_claim_is_touched(tmp_path):
    own = owners.own_process()
    boot = own.boot_id.partition(":")[0]
    assert owners.lives(owners.Process(own.host, f"{boot}:1", 1, own.started)) is None
    assert owners.lives(own) is True
    assert owners.lives(owners.Process(own.host, own.boot_id, own.pid, own.started - 1)) is False


@pytest.mark.parametrize("fast_s", [-3600, 180, 86400])
def test_a_wrong_clock_takes_no_living_trial(tmp_path, monkeypatch, fast_s):
    files = Layout(tmp_path).trial("t")
    claim = claims.claim_trial(files, "t", "s/job-0001")
    store.write_record(files.claim(1), _elsewhere(claim))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + fast_s)
    monkeypatch.setattr(owners, "_CLOCKS", {})
    assert claims.read_state(files, "t").status is Status.RUNNING
    assert sorted(path.name for path in files.folder.iterdir()) == ["claim-0001.json"]


def _elsewhere(claim):
    return dataclasses.replace(claim, host="elsewhere")


def test_a_pool_without_write_permission_is_judged_by_this_machines_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(owners, "_CLOCKS", {})

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert abs(owners.file_system_now(tmp_path) - time.time()) < 60


def test_a_node_that_does_not_see_the_results_folder_does_not_make_it(tmp_path):
    layout = Layout(tmp_path / "share" / "results")
    with pytest.raises(RecordError, match=r"no folder .*results"):
        layout.require_root()
    assert not layout.root.parent.exists()
