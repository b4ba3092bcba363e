"""The range test finds a rate that trains, the same each time, and `lr: auto` uses it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.data.files import data_root
from cifar_hpc.errors import CifarHpcError, Interrupted
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.spec.load import load_spec
from cifar_hpc.train.lr_finder import NO_FALL, does_fall, find_steep, find_valley, range_test_of
from cifar_hpc.train.member import Member
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_train_loop import result_of, run_alone


def test_the_rules_read_a_curve_as_a_person_would():
    """Flat up to 1e-4, falling to 1e-1, exploding beyond: the middle of the fall, and its steepest place."""
    rates = [10 ** (-7 + 8 * i / 99) for i in range(100)]
    place = [math.log10(rate) for rate in rates]
    losses = [2.3 - 2 / (1 + math.exp(-4 * (x + 2))) + (3 * (x + 0.5) if x > -0.5 else 0) for x in place]
    assert 1e-3 < find_steep(rates, losses) < 3e-2
    assert find_steep([*rates, 20.0], [*losses, 1.0]) == find_steep(rates, losses)  # a fall after the explosion
    falling = [2.0 if x < -4 else 2.0 - 0.5 * (x + 4) if x < -1 else 0.5 + 4 * (x + 1) for x in place]
    assert find_valley(rates, falling) == pytest.approx(10**-2.5, rel=0.3)
    noisy = [loss + (0.3 if i % 9 == 4 else 0) for i, loss in enumerate(falling)]
    assert find_valley(rates, noisy) == pytest.approx(10**-2.5, rel=0.6)


FLAT = """
name: flat
dataset: {name: digits, train_size: 300, val_frac: 0.3}
base: {arch: simple_cnn, epochs: 2, batch_size: 32, lr: auto}
grid: {freeze: [none, all], optimizer: [sgd]}
"""


def test_where_the_loss_never_falls_lr_find_and_a_trial_of_auto_say_that_no_rate_is_known_to_learn(tmp_path):
    """A classifier on random features by sgd: noise had a longest fall, and a steepest one where the loss rises."""
    path = tmp_path / "flat.yaml"
    path.write_text(FLAT)
    learning, flat = [trial.config for trial in load_spec(path).trials]
    answer = CliRunner().invoke(app, ["lr-find", str(path), "-o", str(tmp_path / "curves.png")])
    lines = dict(line.split(":", 1) for line in answer.stdout.splitlines())
    assert lines["freeze=none optimizer=sgd"].endswith("(steep)") and NO_FALL not in lines["freeze=none optimizer=sgd"]
    assert lines["freeze=all optimizer=sgd"].endswith(NO_FALL) and "steep" not in lines["freeze=all optimizer=sgd"]
    assert "Take the first, valley" in answer.stderr
    alone = CliRunner().invoke(app, ["lr-find", str(path), "-o", str(tmp_path / "curves.png"), "--set", "freeze=all"])
    assert alone.exit_code == 0 and "Take the first" not in alone.stderr
    assert CliRunner().invoke(app, ["sweep", str(path), "--on", "inline"]).exit_code == 0
    layout = Layout(results_root())
    assert result_of(layout, learning).warnings == ()
    (warning,) = result_of(layout, flat).warnings
    assert NO_FALL in warning and f"{result_of(layout, flat).lr_found:.1e}" in warning and "give lr a number" in warning
    reported = CliRunner().invoke(app, ["report", "flat"])
    assert " ".join(warning.split()) in " ".join(reported.output.split())
    assert warning in CliRunner().invoke(app, ["logs", flat.trial_id]).output


def test_a_fall_is_one_where_it_is_more_than_the_luck_of_the_first_batches():
    batches = [2.2, 2.4, 2.3, 2.25, 2.35]
    assert not does_fall([2.3, 2.25, 2.9], batches) and not does_fall([2.3, 2.4], batches)
    assert does_fall([2.3, 2.2, 2.9], batches)
    assert find_steep([0.1, 0.2, 0.3], [2.0, 2.1, 2.2]) is None


def test_auto_keeps_its_warning_when_it_goes_on_from_a_checkpoint(tmp_path):
    path = tmp_path / "flat.yaml"
    path.write_text(FLAT)
    config = load_spec(path).trials[1].config
    layout, left = Layout(tmp_path / "results"), itertools.count()
    with pytest.raises(Interrupted):
        run_job(job_of(config), layout, executor="inline", interrupted=lambda: next(left) >= 110)
    assert layout.trial(config.trial_id).checkpoint.exists()
    run_job(job_of(config), layout, executor="inline")
    assert len(result_of(layout, config).warnings) == 1


def test_auto_trains_at_the_rate_found_and_says_it(tmp_path):
    config = digits_config(lr="auto", optimizer="adamw", epochs=6, schedule="constant")
    result = run_alone(tmp_path, config)
    suggested = range_test_of(config, data_root())
    assert result.lr_found == suggested.valley == result.curves[-1].lr
    assert result.config["lr"] == "auto" and result.test.acc > 0.7
    assert len(suggested.rates) == len(suggested.losses) <= 100


def test_auto_has_the_same_bits_beside_others_and_after_an_interruption(tmp_path):
    configs = [
        digits_config(lr="auto", freeze=1, epochs=3),
        digits_config(lr="auto", freeze="all", optimizer="adamw", epochs=3),
        digits_config(lr=0.02, freeze=1, epochs=3),
    ]
    layout = Layout(tmp_path / "results")
    left = itertools.count()
    with pytest.raises(Interrupted):
        run_job(job_of(*configs, together=True), layout, executor="inline", interrupted=lambda: next(left) >= 6)
    run_job(job_of(*configs, together=True), layout, executor="inline")
    for config in configs:
        assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config)), config
    assert result_of(layout, configs[2]).lr_found is None
    assert result_of(layout, configs[0]).lr_found != result_of(layout, configs[1]).lr_found


SPEC = """
name: look
dataset: {name: digits, train_size: 400}
base: {batch_size: 64}
grid: {arch: [linear, simple_cnn], lr: [auto, 0.1], augment: [none, [flip, mixup]]}
seeds: 2
"""


def test_lr_find_draws_one_curve_for_trials_that_differ_in_more_than_the_rate(tmp_path):
    path, picture = tmp_path / "look.yaml", tmp_path / "curves.png"
    path.write_text(SPEC)
    assert len(load_spec(path).trials) == 16
    answer = CliRunner().invoke(app, ["lr-find", str(path), "-o", str(picture), "--set", "augment=none"])
    assert answer.exit_code == 0, answer.output
    lines = answer.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["arch=linear", "arch=simple_cnn"]
    assert "Take the first, valley" in answer.stderr
    assert all("(valley)" in line and "(steep)" in line for line in lines)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_lr_find_and_auto_look_by_the_trials_seed_and_at_each_image_alike_often(tmp_path):
    path = tmp_path / "look.yaml"
    path.write_text(
        "name: look\ndataset: {name: digits, train_size: 300, classes: ['1', '7', '8']}\nseeds: [5, 6]\n"
        "base: {arch: linear, lr: auto, epochs: 2, batch_size: 16}\ngrid: {sampler: [null, balanced]}\n"
        "include: [{sampler: balanced, stop.patience: 1}]\n"
    )
    configs = {trial.config.sampler: trial.config for trial in load_spec(path).trials if trial.config.seed == 5}
    found = [run_alone(tmp_path / str(sampler), config).lr_found for sampler, config in configs.items()]
    answer = CliRunner().invoke(app, ["lr-find", str(path), "-o", str(tmp_path / "curves.png")])
    assert [line.partition(" (valley)")[0] for line in answer.stdout.splitlines()] == [f"linear: lr {found[0]:.1e}"]
    assert found[0] == found[1]


def test_lr_find_looks_by_as_many_threads_as_a_trial_trains_with(tmp_path):
    """By two the rule took another rate than `lr: auto` by one."""
    path, before = tmp_path / "look.yaml", torch.get_num_threads()
    path.write_text(SPEC.replace("arch: [linear, simple_cnn]", "arch: [linear]"))
    try:
        torch.set_num_threads(2)
        CliRunner().invoke(app, ["lr-find", str(path), "-o", str(tmp_path / "curves.png"), "--set", "augment=none"])
        assert torch.get_num_threads() == load_spec(path).resources.cpus_per_gpu == 1
    finally:
        torch.set_num_threads(before)


def test_augment_draws_a_sheet_for_each_augmentation(tmp_path):
    path = tmp_path / "look.yaml"
    path.write_text(SPEC)
    answer = CliRunner().invoke(app, ["augment", str(path), "-o", str(tmp_path / "seen.png")])
    assert answer.exit_code == 0, answer.output
    told = CliRunner().invoke(app, ["augment", str(path), "--set", "augment=none"])
    assert told.stderr.splitlines()[-1] == str(results_root() / "look" / "augment.png")  # beside the sweep's other files
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["seen-flip+mixup.png", "seen-none.png"]
    assert len({p.read_bytes() for p in tmp_path.glob("*.png")}) == 2


def test_of_folds_one_is_looked_at(tmp_path):
    """Each had a sheet and a curve of its own, which nothing told apart."""
    path = tmp_path / "look.yaml"
    path.write_text(SPEC.replace("seeds: 2", "folds: 3").replace("arch: [linear, simple_cnn]", "arch: [linear]"))
    seen = CliRunner().invoke(app, ["augment", str(path), "-o", str(tmp_path / "seen.png")])
    assert seen.exit_code == 0, seen.output
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["seen-flip+mixup.png", "seen-none.png"]
    found = CliRunner().invoke(app, ["lr-find", str(path), "-o", str(tmp_path / "curves.png"), "--set", "augment=none"])
    assert [line.split(":")[0] for line in found.stdout.splitlines()] == ["arch=linear"]


def test_a_loss_that_is_least_in_a_lucky_first_batch_does_not_end_the_test(monkeypatch):
    """As that of a network which has learned its images: most batches have next to no loss."""
    config = digits_config(lr="auto")
    losses = itertools.chain([1e-4, 1e-2], itertools.repeat(5e-3, 18), itertools.repeat(1e3))
    monkeypatch.setattr(Member, "measured_step", lambda *step: next(losses))
    assert 20 <= len(range_test_of(config, data_root()).rates) < 25
    monkeypatch.setattr(Member, "measured_step", lambda *step: math.nan)
    with pytest.raises(CifarHpcError, match="the loss of simple_cnn is not finite at a rate of 1e-07; give a number"):
        range_test_of(config, data_root())
