"""`train` and `unfreeze`: each is what twenty lines of torch do, alone, in a cohort, interrupted, and only that changes."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import scan
from cifar_hpc.config.freeze import FreezeError
from cifar_hpc.config.seeds import stream_seed
from cifar_hpc.config.trained import ever_trained, trained_in
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.dataset import load_dataset_of
from cifar_hpc.data.files import data_root
from cifar_hpc.errors import Interrupted, SpecError
from cifar_hpc.models.loading import pack_state
from cifar_hpc.models.zoo import build_model, make_network, network_of
from cifar_hpc.planning.cohorts import group_cohorts
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.report.tables import params_text
from cifar_hpc.report.trial_page import trial_summary, what_stayed
from cifar_hpc.spec.load import load_spec, spec_of
from cifar_hpc.sweep.inputs import judge_inputs
from cifar_hpc.worker.job import run_job
from tests.helpers.killed import cohorts_of
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_cli_sweep import call

RESNET18 = ("conv1", *(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)), "fc")
CASES = {  # config keys, and which parameters train in which epoch, by their names
    "bias": ({"train": "bias"}, lambda name, epoch: name.endswith("bias") or "classifier" in name),
    "norm": ({"train": "norm"}, lambda name, epoch: name.split(".")[1] in ("1", "5", "9") or "classifier" in name),
    "one block": ({"train": ("features.4",)}, lambda name, epoch: name[9:10] in "45"),
    "surgical": (
        {"train": ("features.0", "classifier"), "optimizer": "adamw", "ema": 0.9},
        lambda name, epoch: name[:10] in ("features.0", "features.1", "classifier"),
    ),
    "anchor": ({"anchor": 0.5, "weight_decay": 0.1}, lambda name, epoch: True),
    "stepwise": (
        {"unfreeze": ((1, "classifier"), (2, "features.8"), (3, "features.4")), "layer_decay": 0.5},
        lambda name, epoch: "classifier" in name or (epoch > 1 and name[9] in "89") or (epoch > 2 and name[9] in "45"),
    ),
}


def config_of(case: str, **changes) -> TrialConfig:
    return digits_config(**{"epochs": 3, "lr": 0.02, "seed": 1, "keep": "weights", **CASES[case][0], **changes})


def result_of(layout, config) -> TrialResult:
    return read_record(layout.trial(config.trial_id).result, TrialResult)


def twenty_lines(config: TrialConfig, trains, start=None, normalisation=None) -> list[float]:
    """The losses of the training images in each epoch, of a network that was never cut. start: its weights."""
    data = load_dataset_of(config, data_root())
    net = network_of(config, 10, 1)
    net.load_state_dict(start or build_model(config, 10, 1).state_dict())
    first = {name: p.detach().clone() for name, p in net.named_parameters()}
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in normalisation or (data.mean, data.std))
    x = (data.train.images_NCHW / 255 - mean) / std
    ever = [(n, p) for n, p in net.named_parameters() if any(trains(n, e) for e in range(1, config.epochs + 1))]
    height = {name: 0 if "classifier" in name else 3 - int(name[9]) // 4 for name, _ in ever}  # features.0, 4 and 8
    decay = {name: config.weight_decay if config.anchor is None or "classifier" in name else 0.0 for name, _ in ever}
    groups = [{"params": [p], "name": name, "weight_decay": decay[name]} for name, p in ever]
    optimizer = torch.optim.AdamW(groups) if config.optimizer == "adamw" else torch.optim.SGD(groups, 1.0, 0.9, nesterov=True)
    losses, steps = [], -(-len(x) // config.batch_size)
    for epoch in range(1, config.epochs + 1):
        blocks = {name.rpartition(".")[0] for name, _ in ever if trains(name, epoch)}
        for path, module in net.named_modules():  # statistics go with the norm's own weights, and with those of its block
            before = f"features.{int(path[9:]) - 1}" if isinstance(module, nn.BatchNorm2d) else path
            module.training = (path in blocks and config.train != "bias") or before in blocks
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(stream_seed(config.seed, "order", epoch)))
        total = 0.0
        for step, index in enumerate(torch.tensor_split(order, steps)):
            done = ((epoch - 1) * steps + step) / (config.epochs * steps)
            for group in optimizer.param_groups:
                share = (config.layer_decay or 1.0) ** height[group["name"]]
                group["lr"] = config.lr * (1 + math.cos(math.pi * done)) / 2 * share
            for name, p in net.named_parameters():
                p.requires_grad_(trains(name, epoch))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[index]), data.train.labels_N[index])
            if config.anchor is not None:  # the penalty of the paper's equation 4, its beta being the plain decay
                away = sum((p - first[n]).square().sum() for n, p in ever if "classifier" not in n)
                (loss + config.anchor / 2 * away).backward()
            else:
                loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
        losses.append(total / len(x))
    return losses


@pytest.mark.parametrize("case", CASES)
def test_each_way_of_tuning_is_what_twenty_lines_of_torch_do(case, tmp_path):
    config, layout = config_of(case), Layout(tmp_path)
    run_job(job_of(config), layout, executor="inline")
    result = result_of(layout, config)
    told = twenty_lines(config, CASES[case][1])
    assert [record.train_loss for record in result.curves] == pytest.approx(told, rel=2e-5)
    net = network_of(config, 10, 1)
    trained = {n: p.numel() for n, p in net.named_parameters() if any(CASES[case][1](n, e) for e in (1, 2, 3))}
    assert result.params_trained == sum(trained.values())


def test_members_of_one_cohort_and_interrupted_ones_have_the_bits_of_trials_alone(tmp_path):
    configs = [config_of(case, keep=None, augment="flip_crop") for case in CASES]
    together, apart = Layout(tmp_path / "together"), Layout(tmp_path / "apart")
    run_job(job_of(*configs, together=True), together, executor="inline")
    rng, configs_alone = random.Random(0), configs[1:]
    while any(not apart.trial(config.trial_id).result.exists() for config in configs_alone):
        left, stop_at = itertools.count(), rng.randrange(3, 12)
        try:
            run_job(job_of(*configs_alone), apart, executor="inline", interrupted=lambda: next(left) >= stop_at)  # noqa: B023
        except Interrupted:
            continue
    for config in configs_alone:
        assert numbers(result_of(apart, config)) == numbers(result_of(together, config))


NET = """\
from torch import nn


def net(num_classes, in_channels):
    def block(fan_in, fan_out):
        return nn.Sequential(nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU())

    network, head = nn.Sequential(), nn.Linear(24, num_classes)
    for name, part in {"flat": nn.Flatten(), "low": block(64, 32), "high": block(32, 24), "head": head}.items():
        network.add_module(name, part)
    return network
"""
KILLED = """\
name: x
dataset: {name: digits, train_size: 120}
base: {arch: net.py:net, weights: start.safetensors, batch_size: 20, epochs: 2, lr: 0.05}
include:
- {train: bias}
- {train: norm, optimizer: adamw}
- {train: [high]}
- {anchor: 0.1, ema: 0.9}
- {unfreeze: {1: head, 2: high}}
- {lora: {rank: 4}}
- {start: probe}
"""


def test_each_way_of_tuning_that_is_killed_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "x.yaml").write_text(KILLED.replace("weights: start.safetensors, ", "").partition("include")[0])
    start = build_model(load_spec(tmp_path / "x.yaml").trials[0].config, 10, 1)
    (tmp_path / "start.safetensors").write_bytes(pack_state(start.state_dict(), {"mean": "[0.3]", "std": "[0.4]"}))
    (tmp_path / "x.yaml").write_text(KILLED)
    killed, straight = (Layout(tmp_path / name) for name in ("killed", "straight"))
    command = [sys.executable, "-m", "tests.helpers.killed", str(tmp_path / "x.yaml"), str(killed.root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 2 * sum(members[0].trains for members in cohorts_of(tmp_path / "x.yaml")) == 4
    for members in cohorts_of(tmp_path / "x.yaml"):
        for layout in (killed, straight):
            run_job(job_of(*members, together=True), layout, executor="inline")
        for config in members:
            again, undisturbed = (result_of(layout, config) for layout in (killed, straight))
            assert again.attempts == 1 + 2 * config.trains
            assert numbers(again) == numbers(undisturbed), config.to_json()


def test_the_trunk_of_a_list_is_what_stands_before_its_first_block(tmp_path):
    spec = """\
name: x
dataset: cifar10
base: {arch: resnet18, weights: imagenet, image_size: 64, augment: flip_crop}
grid: {train: [[layer2], [layer2, fc], [layer4, head], [layer2.1, layer3, layer4, fc], all]}
"""
    found = spec_of(spec, tmp_path / "x.yaml")
    trials = [trial.config for trial in found.trials]
    assert [(c.freeze, c.train) for c in trials] == [
        (3, ("layer2",)),
        (3, ("layer2", "fc")),
        (7, "all"),  # that list is a freeze
        (4, "all"),
        ("none", "all"),
    ]
    assert [len(cohort.trials) for cohort in group_cohorts(trials, None)] == [4, 1]
    assert [trial.axes["train"] for trial in found.trials] == [
        "layer2",
        "layer2+fc",
        "layer4+head",
        "layer2.1+layer3+layer4+fc",
        "all",
    ]
    assert any("1 of 5 trials never train the classifier" in warning for warning in found.warnings)
    frozen = spec_of(spec.replace("train: [[layer2]", "freeze: [layer3, layer1]} #"), tmp_path / "x.yaml")
    assert trials[2].trial_id == frozen.trials[0].config.trial_id  # one trial, whichever key asks for it


def test_what_trains_is_known_epoch_by_epoch_without_a_network():
    config = digits_config(arch="resnet18", freeze="layer1", unfreeze=((1, "head"), (3, "layer4"), (5, "layer2")), epochs=9)
    shown = {epoch: "".join(".x"[one] for one in trained_in(config, RESNET18, epoch)) for epoch in (1, 2, 3, 5, 9)}
    assert shown == {1: ".........x", 2: ".........x", 3: ".......xxx", 5: "...xxxxxxx", 9: "...xxxxxxx"}
    assert digits_config(arch="resnet18", unfreeze=((1, "fc"), (4, "layer3"))).unfreeze_epoch == 3  # one mechanism, one id
    gap = digits_config(arch="resnet18", train=("layer2.0", "layer3", "fc"))
    assert "".join(".x"[one] for one in ever_trained(gap, RESNET18)) == "...x.xx..x"
    with pytest.raises(FreezeError, match="train: epoch 1 trains no block"):
        trained_in(digits_config(arch="resnet18", train=("layer2",), unfreeze_epoch=1), RESNET18, 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train: biases", "train: 'biases'; all, bias, norm, or a list of blocks"),
        ("train: layer2", "Did you mean '[layer2]'?"),
        ("train: [layer9]", "no block is called 'layer9' with arch resnet18"),
        ("train: []", "an empty list"),
        ("train: [layer2], freeze: layer3", "'layer2.0', which freeze 7 keeps with arch resnet18"),
        ("train: [layer2], unfreeze_epoch: 2", "epoch 1 trains no block"),
        ("train: [layer2], unfreeze: {1: fc, 2: layer4}", "no block is ever trained"),
        ("unfreeze: {2: fc, 3: layer4}", "epoch 2 first; what trains from epoch 1 on"),
        ("unfreeze: {1: layer3, 3: fc}", "epoch 3 begins at 'fc', no nearer the input"),
        ("unfreeze: {1: fc, two: layer4}", "the epoch 'two'; a whole number"),
        ("unfreeze: {1: fc, 3: 4}", "4 from epoch 3 on"),
        ("unfreeze: {1: fc, 3: layer4, 5: layer1}, unfreeze_epoch: 2", "unfreeze beside unfreeze_epoch"),
    ],
)
def test_what_cannot_train_is_refused_with_the_line_and_what_is_allowed(tmp_path, line, words):
    text = f"name: x\ndataset: cifar10\nbase: {{arch: resnet18, image_size: 64, {line}}}\n"
    with pytest.raises(SpecError) as error:
        spec_of(text, tmp_path / "x.yaml")
    assert words in str(error.value), str(error.value)


@pytest.mark.parametrize(("keys", "runs"), [("train: bias", True), ("train: norm", False), ("freeze: all", True)])
def test_batches_of_one_image_are_for_what_keeps_the_statistics_of_batch_norm(tmp_path, keys, runs):
    base = f"base: {{arch: resnet18, image_size: 32, batch_size: 1, {keys}, epochs: 1}}"
    text = f"name: x\ndataset: {{name: digits, train_size: 20}}\n{base}\n"
    if not runs:
        with pytest.raises(SpecError, match="batches of one image"):
            spec_of(text, tmp_path / "x.yaml")
        return
    (trial,), layout = spec_of(text, tmp_path / "x.yaml").trials, Layout(tmp_path)
    run_job(job_of(trial.config), layout, executor="inline")
    assert result_of(layout, trial.config).outcome.value == "finished"


def test_the_plan_shows_which_blocks_train_and_when(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\ndataset: digits\nbase: {arch: simple_cnn, epochs: 4, lr: 0.1, schedule: constant}\n"
        "include: [{train: [features.4]}, {train: bias, freeze: 1}, {unfreeze: {1: head, 2: features.8, 4: features.4}}]\n"
    )
    rows = json.loads(call("arch", "--plan", path, "--format", "json").stdout)
    shown = ["".join(".x"[row["rate"] is not None] for row in rows[i : i + 4]) for i in range(0, len(rows), 4)]
    assert shown == [".x.."] * 4 + [".xxx"] * 4 + ["...x", "..xx", "..xx", ".xxx"]
    told = call("arch", "--plan", path)
    assert "train=features.4" in told.stdout and "unfreeze=1:classifier+2:features.8+4:features.4" in told.stdout
    assert "train: bias trains biases alone" in told.stderr
    assert load_spec(path).trials[2].axes == {"train": "all", "unfreeze": "1:head+2:features.8+4:features.4"}


def test_a_trials_page_says_what_of_it_trained():
    def told(frozen=1, **config):
        return what_stayed(SimpleNamespace(config=config, frozen_blocks=frozen, total_blocks=4))

    assert told(train="all", lora=None) == "1 of 4 blocks frozen" == told(train=None, lora=None)  # None: an SVM was fitted
    assert told(0, train="bias") == "of 4 blocks all but biases and the classifier frozen"
    assert told(train="bias") == "the first 1 of 4 blocks frozen, of the others all but biases and the classifier"
    assert told(train="features.4+head") == "of 4 blocks all but features.4, head frozen"
    assert told(lora="rank:8") == "the first 1 of 4 blocks frozen, of the others all but low-rank matrices and the classifier"


def test_what_was_to_be_unfrozen_after_a_trials_end_is_not_counted_as_trained(tmp_path):
    config, layout = digits_config(epochs=3, unfreeze_epoch=2), Layout(tmp_path)
    run_job(job_of(config), layout, executor="inline", on_epoch=lambda _, record: record.epoch < 2)
    result = result_of(layout, config)
    head = sum(p.numel() for name, p in network_of(config, 10, 1).named_parameters() if name.startswith("classifier."))
    assert len(result.curves) == 2 and result.params_trained == head < result.params_total
    (told,) = scan(layout).trials
    (row,) = make_leaderboard(scan(layout)).rows
    assert params_text(row) == ""
    for trial in (told, replace(told, params_trained=told.params_total)):  # as older records count them
        says = trial_summary(trial, SimpleNamespace(unread="", confusions=[], untold=np.zeros(2)), "val")[1]
        assert says.startswith(
            "It trained no more than it had unfrozen: it ended before epoch 3, which was to unfreeze others, in"
        )


def test_a_classifier_that_never_trains_and_that_the_weights_do_not_hold_is_told_of(tmp_path):
    def warnings(base, more="", data="digits"):
        spec = f"name: x\ndataset: {data}\nbase: {{arch: simple_cnn, epochs: 1{base}}}\n{more}"
        found = spec_of(spec, tmp_path / "x.yaml")
        return [one for one in found.warnings if "never train the classifier" in one], [one.config for one in found.trials]

    for classes_n in (3, 10):
        network = make_network("simple_cnn", classes_n, 1, 8, "imagenet")
        (tmp_path / f"{classes_n}.safetensors").write_bytes(pack_state(network.state_dict(), {}))
    told, configs = warnings(f", train: [features.4], weights: {tmp_path}/3.safetensors")
    chance = (
        "all trials never train the classifier: it stays as it was drawn by chance where the weights hold none for as many "
        "classes"
    )
    assert told == [chance]
    assert not judge_inputs(configs)
    (kept,) = configs
    (trained,) = warnings(f", train: [features.4, head], weights: {tmp_path}/3.safetensors")[1]
    layout = Layout(tmp_path / "results")
    for cohort in ((trained, kept), (replace(kept, lr=0.2), replace(trained, lr=0.2))):
        run_job(job_of(*cohort, together=True), layout, executor="inline")  # one start for both, whoever is first
        for config in cohort:
            said = read_record(layout.trial(config.trial_id).result, TrialResult).warnings
            assert any("stays as it was drawn by chance" in one for one in said) is (config.train == kept.train), config
    stages = "stages:\n  a: {}\n  b:\n    base: {weights: {stage: a}, train: [features.4]}\n"
    assert not warnings("", stages)[0]
    others = "    dataset: {name: cifar100, classes: reptiles, val_frac: 0.1}\n"
    assert warnings("", stages + others, "cifar10")[0] == [chance.replace("all", "1 of 2")]
