"""A network of one's own as blocks: what they do is what the network does, in training as in evaluation, or it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_hpc.config.own import OwnNetwork
from cifar_hpc.config.sources import find_source
from cifar_hpc.errors import UnusableArchError
from cifar_hpc.models.freezing import freeze_blocks
from cifar_hpc.models.own_nets import cut_own, make_own
from cifar_hpc.models.zoo import build_model
from tests.helpers.training import digits_config

NETS = """
import random

import torch
from torch import nn
from torch.nn import functional


def conv(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())


class TinyNet(nn.Module):
    def __init__(self, num_classes, in_channels, width=4):
        super().__init__()
        self.stem = conv(in_channels, width)
        self.body = conv(width, width)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


class Quiet(TinyNet):
    def train(self, mode=True):
        super().train(mode)  # and returns nothing


class Held(TinyNet):
    def train(self, mode=True):
        super().train(mode)
        self.stem.eval()
        return self


class Functional(TinyNet):
    def forward(self, x):
        x = functional.dropout(self.body(self.stem(x)), 0.9, training=self.training)
        return self.head(x)


class Told(TinyNet):
    def blocks(self):
        return {"stem": self.stem, "body": self.body, "classifier": self.head}


class Dropping(Told):
    def forward(self, x):
        return self.head(functional.dropout(self.body(self.stem(x)), 0.9, training=self.training))


class Sealed(TinyNet):
    def forward(self, x):
        with torch.no_grad():
            x = self.stem(x)
        return self.head(self.body(x))


class Noisy(TinyNet):
    def forward(self, x):
        x = self.stem(x)
        if not (self.training and random.random() < 0.1):
            x = self.body(x)
        return self.head(x)


class Louder(TinyNet):
    def forward(self, x):
        x = self.body(self.stem(x))
        return self.head(x * 2 if self.training else x)


class Scaled(TinyNet):
    def __init__(self, num_classes, in_channels, width=4):
        super().__init__(num_classes, in_channels, width)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.head(self.body(self.stem(x) * self.scale)) * self.scale


class Tied(TinyNet):
    def __init__(self, num_classes, in_channels, width=4):
        super().__init__(num_classes, width, width)
        self.first = conv(in_channels, width)
        self.stem[0].weight = self.body[0].weight

    def forward(self, x):
        return self.head(self.body(self.stem(self.first(x))))


class Normed(TinyNet):
    def __init__(self, num_classes, in_channels, width=4):
        super().__init__(num_classes, in_channels, width)
        self.norm = nn.BatchNorm2d(width, affine=False)

    def forward(self, x):
        return self.head(self.norm(self.body(self.norm(self.stem(x)))))


class ToldNormed(Normed):
    def blocks(self):
        return {"stem": self.stem, "one": self.norm, "body": self.body, "two": self.norm, "head": self.head}


class Shifted(TinyNet):
    def __init__(self, num_classes, in_channels, width=4):
        super().__init__(num_classes, in_channels, width)
        self.register_buffer("shift", torch.ones(1))

    def forward(self, x):
        return self.head(self.body(self.stem(x) - self.shift) - self.shift)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mynets.py").write_text(NETS)
    return tmp_path


def network_of(folder: Path, name: str) -> OwnNetwork:
    return OwnNetwork(find_source("arch", f"mynets.py:{name}", folder), (), 8, 1)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Noisy", "its forward draws random numbers, which tracing it would draw once for all"),
        ("Louder", "its forward does not do the same each time, such as in training and in evaluation"),
        ("Dropping", "one after another, give other logits than the network in training"),
        ("Held", "one after another, give other logits than the network in training"),
        ("Sealed", "one after another, train other parameters than the network"),
        ("Scaled", "the parameter scale of mynets.py:Scaled is part of two blocks, stem and head"),
        ("Tied", "the parameter stem.0.weight, also body.0.weight, of mynets.py:Tied is part of two blocks"),
        ("Normed", "the buffer norm.running_mean of mynets.py:Normed is part of two blocks, stem and body"),
        ("ToldNormed", "the buffer norm.running_mean of mynets.py:ToldNormed is part of two blocks, stem and body"),
    ],
)
def test_a_network_that_its_blocks_do_not_repeat_is_refused(folder: Path, name: str, told: str) -> None:
    network = network_of(folder, name)
    with pytest.raises(UnusableArchError) as refused:
        cut_own(network, make_own(network, 10, 1))
    assert told in str(refused.value)


@pytest.mark.parametrize("name", ["TinyNet", "Told", "Quiet", "Functional", "Shifted"])
def test_blocks_leave_a_network_as_it_was(folder: Path, name: str) -> None:
    network = network_of(folder, name)
    module = make_own(network, 10, 1)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert len(cut_own(network, module).names) == 3 and module.training
    torch.testing.assert_close(dict(module.state_dict()), before)


def test_a_dropout_that_a_network_calls_as_a_function_drops_in_training_alone(folder: Path) -> None:
    """A trace held that the network was training: it was measured, ranked and predicted with dropout."""
    network = network_of(folder, "Functional")
    config = replace(digits_config(), arch=network.source.name, sources=(network.source,))
    uncut, model = make_own(network, 10, 1), build_model(config, 10, 1)
    x_NCHW = torch.rand(8, 1, 8, 8)
    uncut.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(x_NCHW), uncut.eval()(x_NCHW))
    assert not torch.equal(model.train()(x_NCHW), model(x_NCHW))
    freeze_blocks(model, 2)
    assert model.names == ("stem", "body", "head") and not torch.equal(model.train()(x_NCHW), model(x_NCHW))
    told = build_model(replace(config, dropout=0.0), 10, 1).train()
    torch.testing.assert_close(told(x_NCHW), told(x_NCHW))
