"""What counts epochs and steps keeps to the rules of known libraries, and tells where a trial is too short for it."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from cifar_hpc.config.schedule import LrSchedule
from cifar_hpc.config.trial import StopConfig
from cifar_hpc.records.schema import EpochRecord, Outcome
from cifar_hpc.spec.keys import TRIAL_KEYS
from cifar_hpc.spec.load import load_spec
from cifar_hpc.train.early_stopping import EarlyStopping
from cifar_hpc.train.lr_finder import find_valley
from cifar_hpc.train.progress import Progress
from tests.helpers.training import digits_config
from tests.test_train_loop import run_alone


@pytest.mark.parametrize(("epochs", "steps"), [(1, 2), (1, 3), (3, 7), (4, 10), (9, 7)])
def test_the_one_cycle_schedule_is_torchs_from_its_start_to_its_floor(epochs: int, steps: int) -> None:
    total = epochs * steps
    config = digits_config(schedule="onecycle", epochs=epochs)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total, cycle_momentum=False)
    for step in range(total):
        assert LrSchedule(config, steps, 1.0).rate(step, 0) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < total - 1:
            reference.step()
    assert LrSchedule(config, steps, 1.0).rate(total - 1, 0) == pytest.approx(1 / 25 / 1e4)


def rule_of_fastai(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Its `valley` in other words: a third and half of a third of the longest falling subsequence from its start."""
    longest, end = [1] * len(losses), 0
    for i, loss in enumerate(losses):
        longest[i] += max((longest[j] for j in range(i) if losses[j] > loss), default=0)
        end = i if longest[i] > longest[end] else end
    third = (longest[end] if end else 0) / 3
    return rates[(end - longest[end] if end else 0) + int(third) + int(third / 2)]


def test_the_valley_of_a_curve_is_fastais() -> None:
    rng = random.Random(0)
    rates = [10 ** (-6 + 6 * i / 84) for i in range(85)]
    for _ in range(200):
        turn, noise = rng.randrange(10, 80), rng.choice([0.0, 0.02, 0.3])
        losses = [2.3 - 0.02 * min(i, turn) + 0.1 * max(i - turn, 0) + rng.gauss(0, noise) for i in range(85)]
        assert find_valley(rates, losses) == rule_of_fastai(rates, losses)
    assert find_valley([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]) == 1.0  # that falls nowhere
    assert find_valley([1.0, 2.0, 3.0], [0.2, 0.1, 0.3]) == 1.0  # of two steps; fastai's index is -1 there, its last rate


def test_patience_counts_from_the_value_that_last_was_gain_enough(tmp_path: Path) -> None:
    """By the rule of Keras and Lightning: many gains, each below min_delta, add up to one."""
    delta, patience = 0.04, 3
    config = digits_config(arch="linear", epochs=40, lr=0.01, schedule="constant", objective="val_loss")
    free = run_alone(tmp_path / "free", config)
    losses = [epoch.val_loss for epoch in free.curves]

    def epochs_of(reference_moves_with_each_best: bool) -> int:
        best = reference = math.inf
        waited = 0
        for epoch, value in enumerate(losses, 1):
            gained = value + delta < (best if reference_moves_with_each_best else reference)
            waited, reference = (0, value) if gained else (waited + 1, reference)
            best = min(best, value)
            if waited >= patience:
                return epoch
        return len(losses)

    assert epochs_of(True) < epochs_of(False) < 40, "the curve does not tell the two rules apart"
    stop = dataclasses.replace(config.stop, patience=patience, min_delta=delta)
    stopped = run_alone(tmp_path / "stopped", dataclasses.replace(config, stop=stop))
    assert (len(stopped.curves), stopped.outcome) == (epochs_of(False), Outcome.EARLY_STOPPED)


@pytest.mark.parametrize(("patience", "epochs"), [(2, "2 epochs"), (1, "1 epoch")])
def test_an_improvement_of_just_min_delta_counts_not_and_the_reason_names_it(patience: int, epochs: str) -> None:
    config = digits_config(epochs=9, stop=StopConfig(patience=patience, min_delta=0.25))
    progress, rule = Progress(), EarlyStopping(config)
    seen = {"lr": 0.1, "train_loss": 1.0, "train_acc": 0.5, "val_loss": 1.0, "train_s": 1.0, "val_s": 1.0}
    for epoch, acc in enumerate((0.5, 0.75, 0.75)[: patience + 1], 1):
        rule.judge(progress, EpochRecord(epoch=epoch, val_acc=acc, **seen))
    assert progress.outcome is Outcome.EARLY_STOPPED and progress.best_epoch == 2
    assert progress.reason == f"val_acc not improved by more than 0.25 for {epochs}"
    assert "by more than this" in TRIAL_KEYS["stop.min_delta"].doc


def test_an_average_longer_than_the_trial_does_not_judge_it_by_its_first_weights(tmp_path: Path) -> None:
    plain, averaged = (run_alone(tmp_path / str(ema), digits_config(epochs=3, lr=0.1, ema=ema)) for ema in (None, 0.999))
    assert plain.val.acc > 0.7
    assert averaged.val.acc > plain.val.acc - 0.1


HEAD = "name: x\ndataset: {name: cifar10, train_size: 1000}\n"


@pytest.mark.parametrize(
    ("rest", "warning"),
    [
        (
            "base: {arch: linear, ema: 0.999, epochs: 8}",
            "ema 0.999 averages over 1,000 steps and there are 64: the decay stays at most 0.88 (all trials)",
        ),
        (
            "base: {arch: linear, ema: 0.9999, epochs: 625}",
            "ema 0.9999 averages over 10,000 steps and there are 5,000: the decay stays at most 0.9982 (all trials)",
        ),
        (
            "base: {arch: resnet18, ghost_batches: 2, train: bias, weights: imagenet, image_size: 64}",
            "ghost_batches has no effect: only the classifier is trained, BatchNorm keeps its statistics, or the parts are 1",
        ),
        (
            "base: {arch: resnet18, unfreeze_epoch: 4}\ngrid: {epochs: [3, 9]}",
            "unfreeze_epoch 4 of 3 epochs: only the classifier is trained (1 of 2 trials)",
        ),
        (
            "base: {arch: resnet18, unfreeze_epoch: 9, epochs: 9}",
            "unfreeze_epoch 9 of 9 epochs: only the classifier is trained (all trials)",
        ),
        (
            "base: {arch: simple_cnn, unfreeze: {1: head, 3: features.8, 12: features.0}}",
            "unfreeze from epoch 12 of 10 epochs: what features.0 begins is never trained (all trials)",
        ),
        (
            "base: {arch: linear, warmup_epochs: 6, epochs: 10}",
            "warmup_epochs 6 of 10 epochs: the learning rate rises for most of the training (all trials)",
        ),
        (
            "base: {arch: linear}\ngrid: {epochs: [3, 9]}\nstop: {patience: 5}",
            "stop.patience has no effect in 1 of 2 trials: there it is not set or not below epochs",
        ),
    ],
)
def test_a_setting_that_outlasts_a_trial_is_warned_of(tmp_path: Path, rest: str, warning: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"{HEAD}{rest}\n")
    assert load_spec(path).warnings == (warning,)


def test_batch_sizes_that_make_the_same_steps_are_told(tmp_path) -> None:
    path = tmp_path / "x.yaml"
    text = (
        "name: x\ndataset: {name: digits, train_size: 100, val_frac: 0.2}\nbase: {arch: linear}\ngrid: {batch_size: [SIZES]}\n"
    )
    for sizes, told in (
        ("41, 50, 60", "batch_size 41, 50 and 60 cut 80 training images into the same 2 steps"),
        ("20, 41", ""),
    ):
        path.write_text(text.replace("SIZES", sizes))
        assert load_spec(path).warnings == ((told,) if told else ())


@pytest.mark.parametrize("key", ["unfreeze: {1: fc}", "unfreeze: {1: fc, 2: layer4}", "train: [fc]"])
def test_blocks_that_are_left_out_are_told_to_stay_random(key: str, tmp_path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ndataset: digits\nbase: {{arch: resnet18, epochs: 4, {key}}}\n")
    assert load_spec(path).warnings == ("all trials freeze blocks with random weights (weights: null)",)


@pytest.mark.parametrize(
    ("rest", "idle"),
    [
        ("", {"val_frac", "split_seed"}),
        (", train_size: 4", {"val_frac"}),
    ],
)
def test_keys_of_a_split_that_the_data_set_brings_itself_are_told_to_have_no_effect(
    rest: str, idle: set[str], tmp_path
) -> None:
    for n in range(8):
        for split in ("train", "val"):
            (tmp_path / f"photos/{split}/{'ab'[n % 2]}").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (30 * n, 9, 9)).save(tmp_path / f"photos/{split}/{'ab'[n % 2]}/{split}{n}.png")
    path = tmp_path / "x.yaml"
    dataset = f"{{folder: {tmp_path}/photos, val_frac: 0.3, split_seed: 3{rest}}}"
    path.write_text(f"name: x\ndataset: {dataset}\nbase: {{arch: linear, image_size: 8}}\n")
    told = {key for key in ("val_frac", "split_seed") for w in load_spec(path).warnings if f"dataset.{key} has no effect" in w}
    assert told == idle
