"""What does not fit is taken in parts with the same outcome: batches where the network allows it, cohorts always."""

from __future__ import annotations

import dataclasses
import weakref

import pytest
import torch

from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.train.member import Member
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_train_loop import result_of, run_alone


@pytest.fixture
def small_device(monkeypatch):
    """A device on which a training pass of more than so many images runs out of memory."""
    forward = BlockModel.forward_blocks

    def limit(images_n):
        def limited(model, x, start, stop):
            if torch.is_grad_enabled() and len(x) > images_n:
                raise torch.OutOfMemoryError("out of memory, on purpose")
            return forward(model, x, start, stop)

        monkeypatch.setattr(BlockModel, "forward_blocks", limited)

    return limit


def test_a_batch_in_parts_learns_what_the_whole_one_does_and_the_result_says_it(tmp_path, small_device):
    config = digits_config(arch="alexnet_cifar", image_size=32, dropout=0.0, lr=0.01)  # without batch statistics
    config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, train_size=160, classes=("3", "8")))
    whole = run_alone(tmp_path / "whole", config)
    small_device(20)
    parts = run_alone(tmp_path / "parts", config)
    assert (whole.micro_batch, parts.micro_batch) == (None, 16)
    for one, other in zip(whole.curves, parts.curves, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-4)
        assert one.train_acc == pytest.approx(other.train_acc, abs=0.01)


@pytest.mark.parametrize(
    ("arch", "images_n", "reason"),
    [
        ("convnet5", 20, "has batch statistics, so that a step cannot be split: batch_size 3"),
        ("linear", 0, "out of memory with one image in a step: linear does not fit"),
    ],
)
def test_what_cannot_be_split_fails_with_what_would_fit(tmp_path, small_device, arch, images_n, reason):
    layout, config = Layout(tmp_path / "results"), digits_config(arch=arch, image_size=32, grad_clip=10.0)
    small_device(images_n)
    run_job(job_of(config), layout, executor="inline")
    state = read_state(layout.trial(config.trial_id), config.trial_id)
    assert state.status is Status.FAILED and reason in state.reason


def test_a_cohort_that_runs_out_of_memory_is_split_and_loses_no_bit(tmp_path, monkeypatch, capsys):
    """Room for two trials beside each other, and the second epoch is where it shows."""
    lrs = (0.01, 0.02, 0.03, 0.04, 0.05)
    configs = [digits_config(freeze=1, lr=lr, epochs=3, dropout=0.2, optimizer="adamw") for lr in lrs]
    undisturbed = Layout(tmp_path / "undisturbed")
    run_job(job_of(*configs, together=True), undisturbed, executor="inline")
    whole = [numbers(result_of(undisturbed, config)) for config in configs]  # as alone: the loop's tests hold that
    alive: weakref.WeakSet[Member] = weakref.WeakSet()
    join, step = Member.join, Member.train_step

    def counted(member, world):
        alive.add(member)
        join(member, world)

    def limited(member, tap, target):
        if len(alive) > 2 and member.progress.epoch == 2:
            raise torch.OutOfMemoryError("out of memory, on purpose")
        step(member, tap, target)

    monkeypatch.setattr(Member, "join", counted)
    monkeypatch.setattr(Member, "train_step", limited)
    layout = Layout(tmp_path / "results")
    run_job(job_of(*configs, together=True), layout, executor="inline")
    results = [result_of(layout, config) for config in configs]
    assert [numbers(result) for result in results] == whole
    assert [result.trunk_shared_by for result in results] == [2, 2, 1, 2, 2]
    assert "out of memory with 5 trials side by side: going on with 3" in capsys.readouterr().err


def test_frozen_blocks_and_evaluation_take_as_many_images_as_fit(tmp_path, monkeypatch):
    config = digits_config(freeze=1)
    whole = run_alone(tmp_path / "whole", config)
    forward = BlockModel.forward_blocks

    def limited(model, x, start, stop):
        if not torch.is_grad_enabled() and len(x) > 30:
            raise torch.OutOfMemoryError("out of memory, on purpose")
        return forward(model, x, start, stop)

    monkeypatch.setattr(BlockModel, "forward_blocks", limited)
    parts = run_alone(tmp_path / "parts", config)
    assert parts.test.acc == pytest.approx(whole.test.acc, abs=0.01)
    assert [c.train_loss for c in parts.curves] == pytest.approx([c.train_loss for c in whole.curves], rel=1e-4)
