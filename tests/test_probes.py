"""Linear classifiers stepped as one batch learn as torch's own optimisers would, and the same in any company."""

from __future__ import annotations

import itertools

import pytest

from cifar_hpc.errors import Interrupted
from cifar_hpc.records.layout import Layout
from cifar_hpc.train import steps
from cifar_hpc.worker import job as runner
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_train_loop import result_of, run_alone

HEADS = [
    {"lr": 0.05},
    {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0},
    {"lr": 0.02, "label_smoothing": 0.1, "epochs": 4},
    {"lr": 0.003, "optimizer": "adam"},
    {"lr": 0.003, "optimizer": "adamw", "weight_decay": 0.05, "epochs": 3},
    {"lr": 0.3, "schedule": "onecycle"},
]


@pytest.mark.parametrize(("augment", "heads"), [("none", HEADS), ("flip_crop", HEADS[:3]), ("mixup", HEADS[3:])])
def test_a_head_has_the_same_bits_alone_and_beside_others(tmp_path, augment, heads):
    layout = Layout(tmp_path / "results")
    configs = [digits_config(freeze="all", augment=augment, **changes) for changes in heads]
    runner.run_job(job_of(*configs, together=True), layout, executor="inline")
    for config in configs:
        assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config)), config


def test_batched_heads_follow_torchs_optimisers(tmp_path, monkeypatch):
    configs = [digits_config(freeze="all", augment="flip_crop", **changes) for changes in HEADS]
    batched, stepped = Layout(tmp_path / "batched"), Layout(tmp_path / "stepped")
    runner.run_job(job_of(*configs, together=True), batched, executor="inline")
    monkeypatch.setattr(steps, "can_step", lambda member: False)
    runner.run_job(job_of(*configs, together=True), stepped, executor="inline")
    for config in configs:
        for one, other in zip(result_of(batched, config).curves, result_of(stepped, config).curves, strict=True):
            assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
            assert one.val_loss == pytest.approx(other.val_loss, rel=1e-5)
            assert one.lr == other.lr


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_heads_interrupted_at_any_step_go_on_alone_to_the_same_bits(tmp_path, optimizer):
    layout = Layout(tmp_path / "results")
    configs = [digits_config(freeze="all", optimizer=optimizer, lr=lr, epochs=3) for lr in (0.001, 0.01)]
    left = itertools.count()
    with pytest.raises(Interrupted):
        runner.run_job(job_of(*configs, together=True), layout, executor="inline", interrupted=lambda: next(left) >= 7)
    sizes = [layout.trial(config.trial_id).checkpoint.stat().st_size for config in configs]
    layout_alone = Layout(tmp_path / "alone")
    with pytest.raises(Interrupted):
        left = itertools.count()
        runner.run_job(job_of(configs[0]), layout_alone, executor="inline", interrupted=lambda: next(left) >= 7)
    assert max(sizes) < 1.1 * layout_alone.trial(configs[0].trial_id).checkpoint.stat().st_size
    for config in configs:
        runner.run_job(job_of(config), layout, executor="inline")
        assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config))


def test_a_classifier_with_dropout_or_clipped_gradients_is_not_batched(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(steps, "can_step", lambda member: asked.append(can_step(member)) or asked[-1])
    from cifar_hpc.train.probes import can_step

    for changes in ({"dropout": 0.5}, {"grad_clip": 1.0}, {"ema": 0.9}, {"freeze": "none"}):
        asked.clear()
        run_alone(tmp_path, digits_config(**({"freeze": "all", "epochs": 1} | changes)))
        assert asked and not any(asked), changes
