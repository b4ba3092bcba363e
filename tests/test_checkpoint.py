"""When a checkpoint is written, what is in it, what becomes of an old or corrupt one, and a disk that takes no more."""

from __future__ import annotations

import dataclasses
import errno
import resource

import pytest
import torch

from cifar_hpc.planning.plan import Resources
from cifar_hpc.records import claims
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.worker.attempt import Attempt
from cifar_hpc.worker.checkpoint import CheckpointWriter, load_checkpoint, save_checkpoint
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_train_loop import result_of, run_alone


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "results")


def test_a_full_disk_fails_the_trial_and_the_next_attempt_goes_on_from_the_last_checkpoint(layout, monkeypatch, tmp_path):
    from cifar_hpc.worker import checkpoint

    config = digits_config(epochs=3)
    written = []

    def full(path, write):
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        original(path, write)

    original = checkpoint.write_atomic
    job = dataclasses.replace(job_of(config), resources=Resources(checkpoint_minutes=1e-9))
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write_atomic", full)
        run_job(job, layout, executor="inline")
    state = claims.read_state(layout.trial(config.trial_id), config.trial_id)
    assert state.status is Status.FAILED and "No space left" in state.reason
    run_job(job_of(config), layout, executor="inline")
    assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config))


def test_a_corrupt_checkpoint_means_a_restart_with_the_same_numbers(layout, tmp_path):
    config = digits_config()
    files = layout.trial(config.trial_id)
    files.folder.mkdir(parents=True)
    files.checkpoint.write_bytes(b"PK\x03\x04 corrupt")
    run_job(job_of(config), layout, executor="inline")
    assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config))


def test_a_checkpoint_is_written_once_its_minutes_have_passed_and_an_older_one_is_gone_on_from(layout, tmp_path, monkeypatch):
    config = digits_config(epochs=5, dropout=0.2, ema=0.9)
    saved, save = [], Attempt.save

    def counted(attempt, member):
        saved.append(len(member.progress.curves))
        save(attempt, member)

    monkeypatch.setattr(Attempt, "save", counted)
    undisturbed = numbers(run_alone(tmp_path, config))
    assert saved == []
    job = dataclasses.replace(job_of(config), resources=Resources(checkpoint_minutes=1e-9))
    monkeypatch.setattr(Attempt, "save", lambda attempt, member: len(member.progress.curves) == 2 and save(attempt, member))

    def killed(trial_id, record):
        if record.epoch == 4:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        run_job(job, layout, executor="inline", on_epoch=killed)
    files = layout.trial(config.trial_id)
    assert len(files.metrics.read_text().splitlines()) == 3 and load_checkpoint(files.checkpoint)["progress"]["epoch"] == 3
    monkeypatch.undo()
    run_job(job_of(config), layout, executor="inline")
    assert numbers(result_of(layout, config)) == undisturbed


def test_the_best_weights_are_not_stored_beside_equal_ones(layout, monkeypatch):
    told, write = {}, CheckpointWriter.write

    def measured(writer, state):
        told[state["progress"]["epoch"]] = state["best"] is None, state["progress"]["best_epoch"]
        write(writer, state)

    monkeypatch.setattr(CheckpointWriter, "write", measured)
    job = dataclasses.replace(job_of(digits_config(epochs=4)), resources=Resources(checkpoint_minutes=1e-9))
    run_job(job, layout, executor="inline")
    assert told and all(equal == (best == epoch - 1) for epoch, (equal, best) in told.items())


def test_a_disk_that_is_full_is_told_in_its_own_words_and_the_former_checkpoint_stands(tmp_path):
    """torch.save answers a failed write by an error of its own, which says nothing of the disk."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"epoch": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as told:
            save_checkpoint(path, {"epoch": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.errno == errno.EFBIG
    assert load_checkpoint(path) == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]
