"""A batch that does not fit is taken in parts with the same outcome, where the network allows; otherwise the error says so."""

from __future__ import annotations

import pytest
import torch

from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.runner import run_job
from tests.test_train_loop import run_alone
from tests.training import digits_config, job_of


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
