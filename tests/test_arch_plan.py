"""`arch --plan`: the table of blocks, epochs and learning rates is what training does."""

from __future__ import annotations

import json

import pytest
import torch

from cifar_hpc.models.zoo import build_model
from cifar_hpc.spec.load import load_spec
from cifar_hpc.train.features import Trunk
from cifar_hpc.train.member import Member
from cifar_hpc.train.optimizers import set_rates
from tests.test_cli_sweep import call

SPEC = """\
name: x
dataset: {name: digits, train_size: 400}
base: {arch: simple_cnn, epochs: 4, layer_decay: 0.5, schedule: step, lr: 0.1}
grid: {freeze: [none, 2], unfreeze_epoch: [null, 2]}
"""


def test_the_table_is_what_a_member_trains_in_each_epoch_and_block(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(SPEC)
    rows = json.loads(call("arch", "--plan", path, "--format", "json").stdout)
    for trial in load_spec(path).trials:
        config = trial.config
        model = build_model(config, 10, 1)
        member = Member(config, model, Trunk(model, torch.float32), 100)
        for epoch in range(1, 5):
            member.progress.epoch = epoch
            told = [
                row["rate"]
                for row in rows
                if (row["freeze"], row["unfreeze_epoch"], row["epoch"]) == (config.freeze, config.unfreeze_epoch, epoch)
            ]
            assert len(told) == len(model.blocks)
            assert [rate is None for rate in told] == [i < member.depth for i in range(len(told))]
            peak = 0.1 * (1.0 if epoch <= 2 else 0.1 if epoch == 3 else 0.01)
            set_rates(member.optimizer, lambda height: peak * (config.layer_decay or 1.0) ** height)  # noqa: B023 - called at once
            rates = [group["lr"] for group in member.optimizer.param_groups][::-1][-(len(told) - member.depth) :]
            assert [rate for rate in told if rate is not None] == pytest.approx(rates, rel=1e-12)


PARTS = """\
name: x
dataset: {name: digits, train_size: 400}
base: {epochs: 3, image_size: 64, lr: 0.1}
include:
- {arch: efficientnet_v2_s}
- {arch: mobilenet_v3_small, lora: {rank: 8}}
- {arch: mobilenet_v3_small, train: norm}
- {arch: mobilenet_v3_small, train: bias, freeze: 2, unfreeze_epoch: 1}
- {arch: vit_b_16, lora: {rank: 8}, unfreeze: {1: head, 2: encoder_layer_10}}
- {arch: vit_b_16, train: norm}
"""


def test_a_block_has_a_rate_in_the_epochs_in_which_a_parameter_of_it_has_a_gradient(tmp_path):
    """Shares that round to 0, blocks without a normalisation layer or a linear one that `lora` can adapt."""
    path = tmp_path / "x.yaml"
    path.write_text(PARTS)
    rows = json.loads(call("arch", "--plan", path, "--format", "json").stdout)
    for trial in load_spec(path).trials:
        model = build_model(trial.config, 10, 3)
        member = Member(trial.config, model, Trunk(model, torch.float32), 100)
        for epoch in (1, 2, 3):
            member.progress.epoch = epoch
            member.begin_epoch()
            told, rows = rows[: len(model.blocks)], rows[len(model.blocks) :]
            moves = [any(parameter.requires_grad for parameter in block.parameters()) for block in member.suffix.blocks]
            assert [row["rate"] is not None for row in told] == [False] * member.frozen + moves, trial.axes
    assert not rows
    told = call("arch", "mobilenet_v3_small", "--plan", path)
    assert "in the middle of an epoch of 1,000 steps" in " ".join(told.stderr.split())
    assert "lora trains its matrices alone and keeps batch statistics" in told.stderr


def test_plans_that_differ_are_shown_once_each_and_a_network_can_be_named(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(SPEC.replace("arch: simple_cnn, ", "").replace("grid: {", "grid: {arch: [simple_cnn, resnet9], seeds: 3, "))
    path.write_text(path.read_text().replace("seeds: 3, ", "") + "seeds: 3\n")
    told = call("arch", "resnet9", "--plan", path)
    assert told.exit_code == 0 and told.stdout.count("arch=resnet9") == 4 and "simple_cnn" not in told.stdout
    assert "epoch 3" in told.stdout and "0.01" in told.stdout
    wrong = call("arch", "resnet8", "--plan", path)
    assert wrong.exit_code == 2 and "it has simple_cnn, resnet9. Did you mean 'resnet9'?" in wrong.stderr
