"""Files of trials that were swapped, edited or trained again are noticed where they are used, and said."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.deploy.trained import load_trained
from cifar_hpc.deploy.wise import start_state
from cifar_hpc.errors import CifarHpcError, RecordError
from cifar_hpc.planning.estimate import read_experience
from cifar_hpc.planning.lineage import with_parents_file
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import EnsembleRecord, Status, TrialResult
from cifar_hpc.records.store import read_record, write_record
from cifar_hpc.records.ties import check_members, member_of, read_valid
from cifar_hpc.status.state import read_states
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of

PACKAGE = Path(__file__).parents[1] / "cifar_hpc"


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    configs = [digits_config(keep="weights" if seed < 2 else None, seed=seed, arch="linear", epochs=1) for seed in (0, 1, 2)]
    root = tmp_path_factory.mktemp("ties") / "results"
    run_job(job_of(*configs), Layout(root), executor="inline")
    return configs, root


@pytest.fixture
def trials(trained):
    """Three seeds, of which two kept their networks."""
    configs, root = trained
    shutil.copytree(root, results_root())
    return configs


@pytest.fixture
def layout():
    return Layout(results_root())


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(tmp_path / "=x.png")
    return tmp_path / "=x.png"


def swap(one, other):
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_networks_that_were_swapped_between_two_trials_are_refused_by_all_that_uses_them(layout, trials, picture, tmp_path):
    first, second = (layout.trial(config.trial_id) for config in trials[:2])
    assert run("predict", trials[0].trial_id, picture).exit_code == 0
    swap(first.weights, second.weights)
    for words in (("predict", trials[0].trial_id, picture), ("export", trials[0].trial_id, "-o", tmp_path / "x.safetensors")):
        answer = run(*words)
        assert answer.exit_code == 2 and f"is not the network that trial {trials[0].trial_id} kept" in answer.stderr
        assert f"cifar-hpc reproduce {trials[0].trial_id}" in answer.stderr
    child = digits_config(arch="linear", weights=f"{PARENT_PREFIX}{trials[0].trial_id}")
    with pytest.raises(RecordError, match="is not the network that"):
        with_parents_file(child, layout)
    run_job(job_of(child), layout, executor="inline")
    (state,) = read_states(layout, [child.trial_id]).values()
    assert state.status is Status.FAILED and "is not the network that" in state.reason  # and does not wait without a word
    swap(first.weights, second.weights)
    assert with_parents_file(child, layout).weights == str(first.weights)


def test_reproduce_ties_the_network_that_it_brings_back(layout, trials, picture):
    files = layout.trial(trials[2].trial_id)
    assert read_record(files.result, TrialResult).kept_sha256 is None and not files.weights.exists()
    assert run("reproduce", trials[2].trial_id).exit_code == 0
    assert run("predict", trials[2].trial_id, picture).exit_code == 0
    shutil.copy(layout.trial(trials[0].trial_id).weights, files.weights)
    assert "is not the network that" in run("predict", trials[2].trial_id, picture).stderr
    files.weights.unlink()
    assert run("reproduce", trials[2].trial_id).exit_code == 0
    assert run("predict", trials[2].trial_id, picture).exit_code == 0


def test_classes_in_another_order_are_refused_whatever_tells_the_right_one(layout, trials, picture):
    files = layout.trial(trials[0].trial_id)
    record = json.loads(files.result.read_text())
    names = record["classes"]
    del record["digest"]  # as an older record, which has none
    files.result.write_text(json.dumps({**record, "classes": names[::-1]}))
    with pytest.raises(RecordError, match="those of digits are 0, 1"):
        read_valid(files, trials[0].trial_id)
    assert run("predict", trials[0].trial_id, picture).exit_code == 2
    files.result.write_text(json.dumps(record))
    arrays = dict(np.load(files.predictions))
    assert tuple(arrays["classes"]) == tuple(names)
    np.savez(files.predictions, **arrays | {"classes": np.array(names[::-1])})
    answer = run("predict", trials[0].trial_id, picture)
    assert answer.exit_code == 2 and "is of the classes 9, 8" in answer.stderr
    shown = run("report", "--format", "json")
    assert trials[0].trial_id in shown.stderr and "is of the classes 9, 8" in shown.stderr
    assert all(trials[0].trial_id not in row["trials"] for row in json.loads(shown.stdout))


def test_a_result_whose_config_is_another_trials_is_refused_wherever_it_is_read(layout, trials, picture, tmp_path):
    files, other = (layout.trial(config.trial_id) for config in trials[:2])
    ensemble = tmp_path / "greedy.json"
    record = EnsembleRecord(
        method="greedy", created_at="", classes=read_record(files.result, TrialResult).classes,
        members=tuple(member_of(layout.trial(config.trial_id), 0.5) for config in trials[:2]),
        coefficients=None, intercept=None, val_acc=0.5, val_n=10, test_acc=None, test_n=None,
    )  # fmt: skip
    write_record(ensemble, record)
    result = json.loads(files.result.read_text())
    del result["digest"]  # as an older record, which has none
    child = digits_config(weights=f"{PARENT_PREFIX}{files.folder.name}", arch="linear")
    for wrong, said in (
        ({**result, "config": json.loads(other.result.read_text())["config"]}, "does not hash to its id"),
        ({**result, "trial_id": other.folder.name}, f"bears the id {other.folder.name}"),
    ):
        files.result.write_text(json.dumps(wrong))
        for words in (("predict", files.folder.name, picture), ("export", files.folder.name), ("refit", ensemble)):
            answer = run(*words)
            assert answer.exit_code == 2, (words, answer.output)
        assert said in run("predict", files.folder.name, picture).stderr
        with pytest.raises(RecordError, match=said):
            with_parents_file(child, layout)
        assert len(read_experience(layout, ("inline",)).samples) == 2


def test_a_trials_result_has_one_reader():
    """`read_valid`, whose checks none goes round."""
    readers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and TrialResult.__name__ in map(ast.unparse, node.args)
        if ast.unparse(node.func).endswith(("read_record", "read_records"))
    }
    assert readers == {"records/ties.py"}


def test_an_ensemble_of_predictions_that_are_no_more_is_refused(layout, trials, picture, tmp_path):
    members = tuple(member_of(layout.trial(config.trial_id), 0.5) for config in trials[:2])
    path = tmp_path / "greedy.json"
    record = EnsembleRecord(
        method="greedy", created_at="", classes=read_record(layout.trial(trials[0].trial_id).result, TrialResult).classes,
        members=members, coefficients=None, intercept=None, val_acc=0.5, val_n=10, test_acc=None, test_n=None,
    )  # fmt: skip
    write_record(path, record)
    assert run("predict", path, picture).exit_code == 0
    kept = path.read_text()
    path.write_text(kept.replace('"val_acc":0.5', '"val_acc":0.9'))
    for words in (("predict", path, picture), ("refit", path)):
        answer = run(*words)
        assert answer.exit_code == 2 and "was edited by hand" in answer.stderr and "`cifar-hpc report`" in answer.stderr
    path.write_text(kept)
    predictions = layout.trial(trials[1].trial_id).predictions
    arrays = dict(np.load(predictions))
    np.savez(predictions, **arrays | {"val_logits": arrays["val_logits"] + 1})
    for words in (("predict", path, picture), ("refit", path)):
        answer = run(*words)
        assert answer.exit_code == 2 and f"have now: {trials[1].trial_id}. " in answer.stderr
    predictions.unlink()
    with pytest.raises(CifarHpcError, match=rf"have now: {trials[1].trial_id}\. "):
        check_members(layout, members, "greedy")


def test_a_soup_is_made_of_networks_alone_and_says_when_its_own_is_gone(layout, trials, picture, tmp_path):
    files = layout.trial(trials[0].trial_id)
    files.predictions.unlink()
    member = member_of(files, 1.0)
    assert member.predictions_sha256 is None
    path = tmp_path / "uniform.json"
    record = EnsembleRecord(
        method="uniform soup", created_at="", classes=read_record(files.result, TrialResult).classes, members=(member,),
        coefficients=None, intercept=None, val_acc=0.5, val_n=10, test_acc=None, test_n=None,
        weights="uniform/weights.safetensors", weights_sha256="0" * 64,
    )  # fmt: skip
    write_record(path, record)
    answer = run("predict", path, picture)
    assert answer.exit_code == 2 and "is not there; `cifar-hpc soup` makes it again" in answer.stderr


def test_no_way_leads_back_to_a_start_that_is_kept_no_more(layout, trials):
    child = digits_config(arch="linear", weights=f"{PARENT_PREFIX}{trials[0].trial_id}", keep="weights", epochs=1)
    run_job(job_of(child), layout, executor="inline")
    files = layout.trial(child.trial_id)
    trained = load_trained(files)
    layout.trial(trials[0].trial_id).weights.unlink()
    with pytest.raises(CifarHpcError, match=f"started from trial {trials[0].trial_id}, of which no network is kept"):
        start_state(files, trained)
