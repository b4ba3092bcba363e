"""The Python API: a sweep from a dict or a file, its results as frames, the best network; and the notebook that shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cifar_hpc as ch
from tests.test_plugins import MINE

SPEC = {
    "name": "api",
    "dataset": {"name": "digits", "train_size": 300},
    "base": {"epochs": 2, "batch_size": 64},
    "grid": {"arch": ["linear", "simple_cnn"], "lr": [0.01]},
    "keep": "weights",
}


class Told(ch.Listener):
    """Remembers the events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def note(self, text: str) -> None:
        self.events.append("note")

    def begun(self, begun: object) -> None:
        self.events.append("begun")

    def progress(self, plan: object, states: object) -> None:
        self.events.append("progress")

    def ended(self) -> None:
        self.events.append("ended")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def finished(root):
    """A sweep that has run once in this process, its results, its outcome and what was told."""
    told = Told()
    sweep = ch.Sweep(SPEC, results=root)
    return sweep, ch.read_results(root), sweep.run(on="inline", listener=told), told


def test_a_dict_is_a_spec_and_its_outcome_tells_of_every_trial(finished, capsys, monkeypatch):
    sweep, _, outcome, told = finished
    assert outcome.ok and len(outcome.completed) == 2 and not outcome.failed
    assert outcome.best is not None and outcome.best.metric == "val_acc"
    assert repr(outcome).startswith(f"SweepOutcome({outcome.plan.sweep}: 2 of 2 trials finished; best: ")
    monkeypatch.setattr(type(outcome.plan), "trials_at_most", 5)  # as of a search that was interrupted
    assert "2 of up to 5 trials finished" in repr(outcome)
    monkeypatch.undo()
    ranges = {"lr": {"low": 1e-3, "high": 1}}
    search = {
        "name": "s",
        "dataset": "digits",
        "base": {"arch": "linear"},
        "search": {"num_points": 1, "ranges": ranges},
        "seeds": 2,
    }
    assert repr(ch.Sweep(search)) == "Sweep('s', at most 1 configuration with 2 seeds each, sampled at random)"
    assert told.events[0] == "begun" and told.events[-1] == "ended" and "progress" in told.events
    again = sweep.run(on="inline", listener=ch.Listener())
    assert not again.started and again.ok
    assert "2 trials" in sweep.plan(on="inline")[0]
    assert capsys.readouterr() == ("", "")  # the driver prints nothing


def test_a_file_with_other_values_is_the_sweep_that_the_commands_have(tmp_path):
    (tmp_path / "s.yaml").write_text(json.dumps(SPEC))
    sweep = ch.Sweep.load(tmp_path / "s.yaml", set={"epochs": 1, "grid.lr": [0.1, 0.2]}, results=tmp_path)
    assert (sweep.name, len(sweep)) == ("api", 4)
    assert "4 trials" in sweep.plan(on="inline")[0] and "at most 4 epochs" in sweep.plan(on="inline")[1]


def test_plug_ins_of_a_dict_are_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    sweep = ch.Sweep({**SPEC, "plugins": ["mine.py"], "base": {**SPEC["base"], "optimizer": "rmsprop"}}, results=tmp_path / "r")
    assert len(sweep) == 2


def test_a_wrong_dict_is_answered_as_a_wrong_file_is():
    with pytest.raises(ch.SpecError) as told:
        ch.Sweep({**SPEC, "grid": {"arch": ["lineer"]}})
    assert "Did you mean 'linear'?" in str(told.value)
    with pytest.raises(TypeError, match="a spec holds text"):
        ch.Sweep({**SPEC, "base": {"lr": object()}})


def test_status_and_leaderboard_and_curves_are_frames_of_the_same_trials(finished):
    sweep, results, outcome, _ = finished
    assert set(sweep.status("status=completed")["trial_id"]) == set(outcome.completed)
    assert list(sweep.status("arch=linear")["arch"]) == ["linear"]
    board = results.leaderboard("api")
    assert board["arch"].iloc[0] == results.best("api").axes["arch"]
    assert board["val_acc"].is_monotonic_decreasing and board["val_acc"].between(0, 1).all()
    curves = results.curves("api", "arch=linear")
    assert list(curves["epoch"]) == [1, 2] and set(curves["arch"]) == {"linear"}
    assert results.sweeps == ("api",)
    with pytest.raises(ch.CifarHpcError, match="Did you mean 'api'"):
        results.leaderboard("apy")


def test_a_row_that_is_named_is_that_row_in_every_call(finished):
    _, results, _, _ = finished
    best, second = results.best("api"), results.best("api#2")
    assert results.leaderboard("api#2")["point_id"].tolist() == [second.point_id] != [best.point_id]
    assert results.leaderboard("api#2")["#"].tolist() == [2]
    assert set(results.curves("api", "#2")["point_id"]) == {second.point_id}
    with pytest.raises(ch.CifarHpcError, match="has no row #99"):
        results.curves("api#99")
    assert results.best("api", f"arch={second.axes['arch']}").axes == second.axes != {}


def test_a_report_is_the_folder_of_its_page(finished):
    _, results, _, _ = finished
    folder = results.report("api#1")
    assert folder.name in results.best("api#1").trial_ids
    assert (folder / "index.html").exists() and (folder / "figures" / "confusion.png").exists()
    with pytest.raises(ch.CifarHpcError, match="no row #9"):
        results.report("api#9")


def test_the_best_network_labels_images_as_it_did_in_the_test(finished):
    from cifar_hpc.config.trial import DatasetConfig
    from cifar_hpc.data.dataset import load_dataset

    _, results, _, _ = finished
    best = results.best("api", "arch=simple_cnn")
    found = best.test_logits()
    assert found.right.mean() == pytest.approx(best.test_acc, abs=0.005)
    dataset = load_dataset(DatasetConfig(name="digits", train_size=300), 8, Path())
    images_NCHW = dataset.test.images_NCHW.numpy()
    frame = best.predict(images_NCHW)
    assert list(frame["label"]) == [best.classes[k] for k in found.logits.argmax(1)]
    assert np.allclose(frame[[f"p_{name}" for name in best.classes]].sum(axis=1), 1)
    assert best.features(1, images_NCHW[:5]).shape[0] == 5
    assert not best.model().training
    with pytest.raises(ch.CifarHpcError, match="layer: 'blok'"):
        best.features("blok", images_NCHW[:1])
    with pytest.raises(ch.CifarHpcError, match="uint8 N x 1 x 8 x 8 is needed"):
        best.predict(images_NCHW[:, :, :4])


def test_the_seeds_that_a_filter_leaves_label_files_and_arrays_alike(tmp_path):
    from PIL import Image

    from cifar_hpc.api.predictor import members_of, predict_images
    from cifar_hpc.records.layout import Layout

    spec = {**SPEC, "grid": {"arch": ["linear"]}, "seeds": 2, "keep": "weights"}
    assert ch.Sweep(spec, results=tmp_path / "r").run(on="inline", listener=ch.Listener()).ok
    images_NCHW = np.random.default_rng(0).integers(0, 255, (3, 1, 8, 8), np.uint8)
    for number, image in enumerate(images_NCHW):
        Image.fromarray(image[0]).save(tmp_path / f"{number}.png")
    results = ch.read_results(tmp_path / "r")
    found = {}
    for words in (("api",), ("api", "seed=0"), ("api", "seed=1")):
        best = results.best(*words)
        files, arrays = best.predict(tmp_path / "0.png"), best.predict(images_NCHW)
        assert files["probability"][0] == pytest.approx(arrays["probability"][0], abs=1e-6)
        command = predict_images(
            Layout(tmp_path / "r"), members_of(Layout(tmp_path / "r"), " ".join(words)), tmp_path / "0.png"
        )
        assert files["probability"][0] == command.probabilities_NK.max(), words
        found[words] = files["probability"][0]
    assert len(set(found.values())) == 3


def test_results_are_read_without_torch_and_the_package_is_loaded_when_it_is_asked_for(finished, root):
    program = (
        "import sys, cifar_hpc as ch\n"
        "assert len(sys.modules) < 400 and 'Sweep' in dir(ch)\n"
        f"r = ch.read_results({str(root)!r})\n"
        "r.leaderboard('api'); r.curves('api'); r.best('api').test_logits()\n"
        "print(sorted({'torch', 'ray', 'submitit', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.strip() == "[]"


def test_the_example_notebook_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    path = Path(__file__).parents[1] / "examples" / "transfer_learning.ipynb"
    notebook = nbformat.read(path, as_version=4)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(str(cell.get("outputs", "")) for cell in notebook.cells)
    assert "val_acc" in shown and "probability" in shown
