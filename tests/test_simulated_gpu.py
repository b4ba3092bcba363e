"""The GPU's path where there is no GPU: tensors of cuda:0 in the host's memory, kernels counted and computed by the CPU.

Steps are replayed by the graphs' twin: the same places, the same numbers, no capture.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.simulated_gpu.build import build, why_not

TRIALS = [
    "members",
    "probes sgd",
    "probes adamw",
    "augmented",
    "ghosts",
    "svm",
    "knn",
    "lr auto",
    "weights kept",
    "host kept",
    "streamed",
]
OTHERS = ["dropout", "resumed", "given back", "augmentations", "launches"]
LAUNCHES = {  # of a step done eagerly, in float32; captured ones are a single launch
    "simple_cnn": 55,
    "simple_cnn with ghosts": 142,  # whatever the number of parts
    "resnet18": 226,  # all but 18 of them its own layers, forward and back: none is done twice, but nothing in torch joins two
    "resnet18 with an average": 230,
    "resnet18 with muon": 514,
    "probes": 23,
    "probes with adamw": 29,
}

pytestmark = [pytest.mark.skipif(why_not() is not None, reason=str(why_not())), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    environment = {**os.environ, **build(tmp_path_factory.mktemp("gpu")), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.helpers.simulated_gpu.run", *TRIALS, *OTHERS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = {record["name"]: record for record in map(json.loads, done.stdout.splitlines())}
    assert set(found) == {*TRIALS, *OTHERS}, done.stderr[-3000:]
    return found


def losses(trial) -> list[float]:
    return [loss for pair in trial["losses"] for loss in pair] + [trial["test"]]


@pytest.mark.parametrize("name", TRIALS)
def test_trials_on_a_gpu_have_the_cpus_losses_and_their_steps_wait_for_nothing(told, name):
    assert "error" not in told[name], told[name]["error"]
    for here, cpu in zip(told[name]["gpu"], told[name]["cpu"], strict=True):
        assert (here["device"], cpu["device"]) == ("cuda", "cpu")
        assert losses(here) == pytest.approx(losses(cpu), rel=1e-4 if name in ("members", "lr auto") else 1e-5)
    assert told[name]["waits"] == {}


def test_dropout_draws_on_the_device_without_a_wait(told):
    assert told["dropout"].get("waits") == {}, told["dropout"]


def test_an_interrupted_trial_with_dropout_goes_on_to_the_same_numbers(told):
    assert told["resumed"].get("resumed") == told["resumed"]["straight"], told["resumed"]


def test_what_a_cohort_took_of_the_device_is_given_back(told):
    first, *later = told["given back"]["bytes"]
    assert all(taken - first < 2**20 for taken in later), told["given back"]


def test_every_augmentation_makes_the_cpus_batches_and_waits_for_nothing(told):
    found = told["augmentations"]["augmentations"]
    assert len(found) > 30
    assert {name: gap for name, (gap, _) in found.items() if gap > 1e-4} == {}
    assert {name: waits for name, (_, waits) in found.items() if waits} == {}


def test_a_step_launches_no_more_kernels_than_it_needs(told):
    counted = told["launches"]["launches"]
    assert {name: n for name, n in counted.items() if n > LAUNCHES[name]} == {}
