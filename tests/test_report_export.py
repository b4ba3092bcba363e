"""Exports to tracking tools: what their own readers find is what the records say."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

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


class Trackers:
    """MLflow and W&B as far as an export uses them. told: what each run was told, by its name; those that none deleted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: dict[str, dict[str, Any]] = {}  # by MLflow's id, or W&B's folder
        self.logged = 0
        self.killed_at: int | None = None  # a batch, or an epoch, of all that are logged
        wandb = ModuleType("wandb")
        wandb.Settings = SimpleNamespace  # type: ignore[attr-defined]
        wandb.init = self._init  # type: ignore[attr-defined]
        entities, tracking = ModuleType("mlflow.entities"), ModuleType("mlflow.tracking")
        for name, fields in {"Metric": "key value timestamp step", "Param": "key value", "RunTag": "key value"}.items():
            made = dataclasses.make_dataclass(name, fields.split())
            setattr(entities, name, made)
        tracking.MlflowClient = lambda tracking_uri: self  # type: ignore[attr-defined]
        modules = {"wandb": wandb, "mlflow": ModuleType("mlflow"), "mlflow.entities": entities, "mlflow.tracking": tracking}
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr("cifar_hpc.report.export.find_spec", lambda name: True)

    @property
    def told(self) -> dict[str, dict[str, Any]]:
        found = {key: run for key, run in self.runs.items() if "/" not in key or Path(key).is_dir()}
        named = {run["name"]: run for run in found.values()}
        assert len(named) == len(found)
        return named

    def _kill(self) -> None:
        self.logged += 1
        if self.logged == self.killed_at:
            raise KeyboardInterrupt

    def _init(self, *, dir: Path, name: str, id: str, config: dict[str, Any], **_: Any) -> Any:
        place = dir / "wandb" / f"offline-run-20260101_00000{len(self.runs)}-{id}"
        place.mkdir(parents=True)
        run = self.runs[str(place)] = {"name": name, "params": config, "curve": {}, "final": {}}

        def log(metrics: dict[str, float], step: int) -> None:
            self._kill()
            run["curve"][step] = metrics

        return SimpleNamespace(log=log, summary=run["final"], finish=lambda exit_code: run.update(ended=exit_code))

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1")

    def search_runs(self, experiments: list[str], max_results: int) -> list[Any]:
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=key), data=SimpleNamespace(tags=run["tags"]))
            for key, run in self.runs.items()
        ]

    def create_run(self, experiment: str, start_time: int, run_name: str) -> Any:
        key = str(self.logged + 1000 * len(self.runs))
        self.runs[key] = {"name": run_name, "params": {}, "curve": {}, "final": {}, "tags": {}}
        return SimpleNamespace(info=SimpleNamespace(run_id=key))

    def log_batch(self, key: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        self._kill()
        for one in metrics:
            final = one.key.startswith("final/")
            place = self.runs[key]["final"] if final else self.runs[key]["curve"].setdefault(one.step, {})
            place[one.key] = one.value
        self.runs[key]["params"] |= {one.key: one.value for one in params}
        self.runs[key]["tags"] |= {one.key: one.value for one in tags}

    def set_terminated(self, key: str, status: str, end_time: int) -> None:
        self.runs[key]["ended"] = status

    def delete_run(self, key: str) -> None:
        del self.runs[key]


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> Trackers:
    return Trackers(monkeypatch)


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
        assert values["final/train_s", 3] == pytest.approx(result["train_s"], rel=1e-6)
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


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_runs_of_before_a_sweep_grew_by_an_axis_get_its_name_and_its_parameter(
    layout: Layout, trackers: Trackers, tracker: str
) -> None:
    assert run(layout, "report", "small", "--export", tracker)[0] == 0
    before = dict(trackers.told)
    trials = list(configs(4, 2, 3))
    for config in trials[2:]:
        write_trial(layout, config, Images.draw(50, 20))
    write_plan(layout, trials, "small")
    run(layout, "report", "small", "--export", tracker)
    assert {one.split()[-1] for one in trackers.told} == {trial.trial_id for trial in trials}
    assert not before.keys() & trackers.told.keys()
    for name, told in trackers.told.items():
        assert set(told["params"]) == {"arch", "seed"}
        assert f"arch={told['params']['arch']} " in name
    runs = dict(trackers.runs)
    run(layout, "report", "small", "--export", tracker)
    assert trackers.runs == runs  # nothing changed, nothing is written


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_run_whose_export_was_interrupted_is_written_again(layout: Layout, trackers: Trackers, tracker: str, at: int) -> None:
    trackers.killed_at = at
    assert run(layout, "report", "small", "--export", tracker)[0] != 0
    assert run(layout, "report", "small", "--export", tracker)[0] == 0
    assert len(trackers.told) == 2
    for name, told in trackers.told.items():
        result = json.loads(layout.trial(name.split()[-1]).result.read_text())
        assert {step: found["val/acc"] for step, found in told["curve"].items()} == {
            epoch["epoch"]: pytest.approx(epoch["val_acc"], abs=1e-6) for epoch in result["curves"]
        }
        assert told["final"]["final/test_acc"] == result["test"]["acc"]
        assert told["final"]["final/train_s"] == result["train_s"]


def test_an_objective_is_exported_by_the_characters_that_mlflow_takes(layout: Layout, trackers: Trackers) -> None:
    for trial in configs(2, 2, 3):
        path = layout.trial(trial.trial_id).result
        found = read_record(path, TrialResult)
        assert found.test is not None
        write_record(path, dataclasses.replace(found, test=dataclasses.replace(found.test, more={"F1, <own> (%)": 0.5})))
    run(layout, "report", "small", "--export", "mlflow")
    assert all(told["final"]["final/test_F1_ _own_ ___"] == 0.5 for told in trackers.told.values())


def test_a_result_that_was_trained_again_to_other_numbers_is_exported_again(layout: Layout, trackers: Trackers) -> None:
    run(layout, "report", "small", "--export", "wandb")
    trial = next(configs(2, 2, 3))
    found = read_record(layout.trial(trial.trial_id).result, TrialResult)
    assert found.test is not None
    write_record(layout.trial(trial.trial_id).result, dataclasses.replace(found, train_s=found.train_s + 1))
    run(layout, "report", "small", "--export", "wandb")
    told = {name.split()[-1]: one["final"]["final/train_s"] for name, one in trackers.told.items()}
    assert len(told) == 2 and told[trial.trial_id] == found.train_s + 1


@pytest.mark.parametrize(("tracker", "ends"), [("mlflow", ["FAILED", "KILLED"]), ("wandb", [1, 0])])
def test_a_run_is_told_as_it_ended(layout: Layout, trackers: Trackers, tracker: str, ends: list[object]) -> None:
    for config, outcome in zip(configs(2, 2, 3), (Outcome.DIVERGED, Outcome.PRUNED), strict=False):
        found = read_record(layout.trial(config.trial_id).result, TrialResult)
        write_record(layout.trial(config.trial_id).result, dataclasses.replace(found, outcome=outcome))
    run(layout, "report", "--export", tracker)
    told = {name.split()[-1][:12]: one["ended"] for name, one in trackers.told.items()}
    assert [told[config.trial_id[:12]] for config, _ in zip(configs(2, 2, 3), range(2), strict=False)] == ends


def test_a_run_of_long_foreign_words_has_a_name_that_a_folder_may_have(layout: Layout, tmp_path: Path) -> None:
    trials = [dataclasses.replace(one, arch=f"{sign * 120}.py:Net") for one, sign in zip(configs(2, 1, 3), "学習", strict=True)]
    for config in trials:
        write_trial(layout, config, Images.draw(50, 20))
    write_plan(layout, trials, "long")
    assert run(layout, "report", "long", "--export", "tensorboard")[0] == 0
    assert len(list((layout.sweep("long").report / "tensorboard").iterdir())) == 2


def test_an_export_says_which_trials_it_leaves_out(layout: Layout) -> None:
    corrupt, contradicted = configs(2, 2, 3)
    layout.trial(corrupt.trial_id).result.write_text("{")
    path = layout.trial(contradicted.trial_id).result
    result = read_record(path, TrialResult)
    assert result.test is not None
    write_record(path, dataclasses.replace(result, test=dataclasses.replace(result.test, acc=0.0)))
    code, _, err = run(layout, "report", "small", "--export", "tensorboard")
    assert code == 0 and "Left out: " in err and corrupt.trial_id in err and contradicted.trial_id in err
    assert not list((layout.sweep("small").report / "tensorboard").iterdir())


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
