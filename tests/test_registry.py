"""What the package knows of an optimiser, a schedule, a classifier, an objective stands in one entry each."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.registry import CLASSIFIERS, OBJECTIVES, OPTIMIZERS, SCHEDULES, OptimizerInfo, load
from cifar_hpc.errors import UnknownNameError
from cifar_hpc.models.zoo import build_model
from cifar_hpc.train.classifiers import build_member
from cifar_hpc.train.features import Trunk
from cifar_hpc.train.optimizers import build_optimizer
from cifar_hpc.train.probes import Probes, can_step
from cifar_hpc.train.stack import RULES
from tests.helpers.training import digits_config


@pytest.fixture
def optimizers(monkeypatch):
    """A copy of the optimisers that a test may add to."""
    entries = dict(OPTIMIZERS)
    monkeypatch.setattr(OPTIMIZERS, "_entries", entries)
    return entries


def test_a_name_without_an_entry_raises_with_the_nearest_one():
    with pytest.raises(UnknownNameError) as caught:
        OPTIMIZERS["adamv"]
    assert (caught.value.found, caught.value.near) == ("'adamv'", "adam")
    assert str(caught.value) == "optimizer: 'adamv'; one of sgd, adam, adamw, muon. Did you mean 'adam'?"
    with pytest.raises(UnknownNameError, match="optimizer: 'rmsprop'"):
        build_optimizer(dataclasses.replace(digits_config(), optimizer="rmsprop"), [])


def test_an_entry_that_does_not_say_everything_cannot_be_made():
    with pytest.raises(TypeError, match="probe_rule"):
        OptimizerInfo(doc="x", build="a:b", momentum=False, usual_lr=0.1)


def test_everything_that_an_entry_names_is_there():
    for entries, attribute in ((OPTIMIZERS, "build"), (SCHEDULES, "shape"), (CLASSIFIERS, "build")):
        assert all(callable(load(getattr(info, attribute))) for info in entries.values())
    assert {info.probe_rule for info in OPTIMIZERS.values()} - {None} == set(RULES)
    assert {info.mode for info in OBJECTIVES.values()} == {"max", "min"}


def test_an_optimiser_of_which_nobody_says_how_probes_step_is_never_stepped_as_one(optimizers):
    optimizers["rmsprop"] = OptimizerInfo(
        doc="RMSprop",
        build=lambda config, groups, blocks: torch.optim.RMSprop(groups, float(config.lr)),
        probe_rule=None,
        momentum=False,
        usual_lr=1e-3,
    )
    config = digits_config(optimizer="rmsprop", freeze="all")
    assert config.momentum is None
    start = build_model(config, 10, 1)
    member = build_member(config, start, Trunk(start, torch.float32), 10)
    assert type(member.optimizer) is torch.optim.RMSprop
    assert not can_step(member)
    optimizers["rmsprop"] = dataclasses.replace(optimizers["rmsprop"], probe_rule="rmsprop")
    assert can_step(member)
    with pytest.raises(ValueError, match="no rule 'rmsprop' for linear probes"):
        Probes([member])


def test_what_does_not_act_is_normalised_by_the_entry_alone(optimizers):
    optimizers["heavy"] = dataclasses.replace(optimizers["adam"], momentum=True)
    assert normalise(digits_config(optimizer="heavy", momentum=None)).momentum == 0.0
    assert normalise(digits_config(optimizer="adam", momentum=0.5)).momentum is None
