"""Exports to tracking tools: what their own readers find is what the records say."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c
from typer.testing import CliRunner

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.cli import app
from cifar_hpc.records.layout import RESULTS_VARIABLE, Layout
from cifar_hpc.records.schema import Outcome, TrialResult
from cifar_hpc.records.store import read_record, write_record


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    trials = list(configs(2, 2, 3))
    for config in trials:
        write_trial(layout, config, Images.draw(50, 20))
    write_plan(layout, trials, "small")
    return layout


def run(layout: Layout, *words: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, words, env={RESULTS_VARIABLE: str(layout.root)})
    return found.exit_code, found.stdout, found.stderr


def events(path: Path) -> list[Event]:
    """The records of a TensorBoard event file: length, its checksum, the event, its checksum."""
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        body = data[12 : 12 + size]
        assert int.from_bytes(data[12 + size : 16 + size], "little") == masked_crc32c(body)
        found.append(Event.FromString(body))
        data = data[16 + size :]
    return found


def test_tensorboard_files_hold_every_epoch_of_every_trial_and_are_written_once(layout: Layout) -> None:
    code, out, _ = run(layout, "report", "small", "--export", "tensorboard")
    folder = layout.sweep("small").report / "tensorboard"
    assert (code, out.strip()) == (0, f"tensorboard --logdir {folder}")
    files = sorted(folder.glob("*/events*"))
    assert len(files) == 2
    for path in files:
        trial_id = path.parent.name.split()[-1]
        values = {(v.tag, e.step): v.simple_value for e in events(path) for v in e.summary.value if not v.HasField("metadata")}
        result = json.loads(layout.trial(trial_id).result.read_text())
        for epoch in result["curves"]:
            assert values["val/acc", epoch["epoch"]] == pytest.approx(epoch["val_acc"], abs=1e-6)
            assert values["train/loss", epoch["epoch"]] == pytest.approx(epoch["train_loss"], abs=1e-6)
        assert values["final/test_acc", 3] == pytest.approx(result["test"]["acc"], abs=1e-6)
    run(layout, "report", "small", "--export", "tensorboard")
    assert sorted(folder.glob("*/events*")) == files


def test_a_trial_whose_sweep_grew_by_an_axis_stands_in_tensorboard_once(layout: Layout) -> None:
    folder = layout.sweep("small").report / "tensorboard"
    run(layout, "report", "small", "--export", "tensorboard")
    before = {path.name.split()[-1]: path.name for path in folder.iterdir()}
    trials = list(configs(4, 2, 3))
    for config in trials[2:]:
        write_trial(layout, config, Images.draw(50, 20))
    write_plan(layout, trials, "small")
    run(layout, "report", "small", "--export", "tensorboard")
    after = {path.name.split()[-1]: path.name for path in folder.iterdir()}
    assert len(list(folder.iterdir())) == len(after) == 4
    assert any(after[trial_id] != name for trial_id, name in before.items())  # else this test is of nothing


def test_what_trained_on_after_a_search_had_stopped_it_stands_there_anew_and_what_left_the_sweep_does_not(
    layout: Layout,
) -> None:
    folder, trials = layout.sweep("small").report / "tensorboard", list(configs(2, 2, 3))
    path = layout.trial(trials[0].trial_id).result
    finished = read_record(path, TrialResult)
    write_record(path, dataclasses.replace(finished, outcome=Outcome.PRUNED))
    run(layout, "report", "--export", "tensorboard")
    everywhere = layout.report / "tensorboard"
    assert any(place.name.endswith(f" {trials[0].trial_id}-3") for place in everywhere.iterdir())
    write_record(path, finished)
    run(layout, "report", "--export", "tensorboard")
    assert {place.name.split()[-1] for place in everywhere.iterdir()} == {trial.trial_id for trial in trials}
    run(layout, "report", "small", "--export", "tensorboard")
    write_plan(layout, trials[1:], "small")
    run(layout, "report", "small", "--export", "tensorboard")
    assert [place.name.split()[-1] for place in folder.iterdir()] == [trials[1].trial_id]


def test_a_tracker_that_is_not_installed_is_named(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar_hpc.report.export.find_spec", lambda name: None)
    code, _, err = run(layout, "report", "small", "--export", "wandb")
    assert (code, "pip install 'cifar-hpc[wandb]'" in err) == (2, True)


if find_spec("mlflow") is not None:  # an extra, heavier than all that this package needs

    def test_mlflow_finds_the_runs_with_their_parameters_and_curves(layout: Layout) -> None:
        from mlflow.tracking import MlflowClient

        for _ in range(2):  # the second adds nothing
            assert run(layout, "report", "small", "--export", "mlflow")[0] == 0
        client = MlflowClient(tracking_uri=f"sqlite:///{layout.sweep('small').report / 'mlflow' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("small")
        runs = client.search_runs([experiment.experiment_id])
        assert {one.data.params["seed"] for one in runs} == {"0", "1"}
        assert len(runs) == 2
        assert len(client.get_metric_history(runs[0].info.run_id, "val/acc")) == 3
