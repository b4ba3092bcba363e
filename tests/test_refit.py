"""The best points again on training and validation images together: real trials that no validation figure ranks."""

from __future__ import annotations

import csv
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cifar_hpc.collect.refitted import Refitted
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.normalize import refitted
from cifar_hpc.data.dataset import load_dataset
from cifar_hpc.planning.estimate import Speed
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import EnsembleMember, EnsembleRecord, PlanRecord, TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.report.summary import refitted_text
from cifar_hpc.spec.parts import SweepTrial
from cifar_hpc.status.names import names_of
from cifar_hpc.sweep import calibration, refit
from cifar_hpc.sweep.where import On, Where
from tests.helpers.training import digits_config
from tests.test_cli_sweep import call, results

SPEC = """\
name: small
dataset: {name: digits, train_size: 300, val_frac: 0.2}
base: {arch: simple_cnn, epochs: 4, batch_size: 64, warmup_epochs: 2}
grid: {lr: [0.001, 0.1]}
seeds: 2
stop: {patience: 2}
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the spec, whose sweep has run and been reported."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(SPEC)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("CIFAR_HPC_RESULTS", str(folder / "results"))
        patched.setattr(calibration, "machine_speed", lambda resources, listener: Speed(1e-10, 1e-3))
        assert call("sweep", "small.yaml", "--on", "inline").exit_code == 0
        assert call("report", "small").exit_code == 0
    return folder


@pytest.fixture
def swept(spec, trained):
    """A copy of them."""
    shutil.copytree(trained / "results", results_root())


def test_the_best_point_trains_again_on_all_labelled_images_and_labels_new_ones(swept, tmp_path):
    before = set(results())
    done = call("refit", "small", "--on", "inline")
    assert done.exit_code == 0, done.output
    layout = Layout(results_root())
    new = [read_record(layout.trial(i).result, TrialResult) for i in set(results()) - before]
    old = [read_record(layout.trial(i).result, TrialResult) for i in before]
    best = [result for result in old if result.config["lr"] == 0.1]
    assert len(new) == 2 and {result.train_n for result in new} == {300}
    epochs = round(np.mean([result.best_epoch for result in best]))
    for result in new:
        assert (result.config["lr"], len(result.curves), result.best_epoch) == (0.1, epochs, epochs)
        assert result.val is None and result.test is not None and result.test.n == best[0].test.n
        assert {(epoch.val_acc, epoch.val_loss) for epoch in result.curves} == {(None, None)}
    assert len({result.point_id for result in new}) == 1
    board = json.loads(call("report", "small-refit", "--format", "json").stdout)
    assert len(board) == 1 and board[0]["place"] is None and board[0]["test_acc"] > 0.3
    told = call("report", "small-refit").stderr
    assert "Nothing ranks 1 configuration that held out no images to validate on." in told
    assert "0 of 1 configuration measured on validation." in told
    assert "test acc" in done.stderr and "diverged" not in done.stderr
    assert "nothing to start" in call("refit", "small", "--on", "inline").stderr
    (tmp_path / "new").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "new" / "a.png")
    labelled = call("predict", new[0].point_id, tmp_path / "new")
    assert labelled.exit_code == 0 and labelled.stdout.startswith("id,label,probability\na.png,"), labelled.output
    assert (
        "val acc" not in call("report").stdout.splitlines()[0]
        or len(json.loads(call("report", "--format", "json").stdout)) == 3
    )


@pytest.mark.parametrize("method", ["greedy", "stacking"])
def test_an_ensembles_members_train_again_and_label_images_with_its_weights_and_no_validation_figure(swept, tmp_path, method):
    layout = Layout(results_root())
    path = layout.sweep("small").report / "ensembles" / f"{method}.json"
    old, before = read_record(path, EnsembleRecord), set(results())
    refused = call("refit", path, "--top", "2")
    assert refused.exit_code == 2 and "--top" in refused.stderr and set(results()) == before
    done = call("refit", path, "--on", "inline")
    assert done.exit_code == 0, done.output
    made_at = layout.sweep(f"small-{method}-refit").ensemble
    new = read_record(made_at, EnsembleRecord)
    assert (new.val_acc, new.val_n) == (None, None)
    kept = [(member.weight, member.temperature) for member in old.members]
    assert [(member.weight, member.temperature) for member in new.members] == kept
    assert (new.coefficients, new.intercept, new.method) == (old.coefficients, old.intercept, old.method)
    bests = {}
    for result in (read_record(layout.trial(i).result, TrialResult) for i in before):
        bests.setdefault(result.config["lr"], []).append(result.best_epoch)
    for one, other in zip(old.members, new.members, strict=True):
        was, now = (read_record(layout.trial(member.trial_id).result, TrialResult) for member in (one, other))
        assert (now.train_n, now.config["seed"], now.config["lr"]) == (300, was.config["seed"], was.config["lr"])
        assert len(now.curves) == round(np.mean(bests[was.config["lr"]]))
    test = load_dataset(DatasetConfig(name="digits"), 8, tmp_path).test
    assert new.test_n == len(test.labels_N) and new.test_acc > 0.3
    (tmp_path / "new").mkdir()
    for i in range(60):
        Image.fromarray(test.images_NCHW[i, 0].numpy()).save(tmp_path / "new" / f"{i:03d}.png")
    assert f"predict small-{method}-refit/ensemble FOLDER" in done.stderr
    labelled = call("predict", f"small-{method}-refit/ensemble", tmp_path / "new")
    rows = list(csv.DictReader(io.StringIO(labelled.stdout)))
    right = np.mean([int(row["label"]) == label for row, label in zip(rows, test.labels_N.tolist(), strict=False)])
    assert len(rows) == 60 and abs(right - new.test_acc) < 0.2
    again = call("refit", path, "--on", "inline")
    assert again.exit_code == 0 and "nothing to start" in again.stderr
    assert "refits already" in call("refit", made_at).stderr
    told = " ".join(call("report", f"small-{method}-refit").stderr.split())
    of = f"Ensemble small-{method}-refit/ensemble, {method} of {len(new.members)} refit"
    assert of in told and f"{100 * new.test_acc:.1f} % on test of {new.test_n} images, measured once" in told
    page = (layout.sweep(f"small-{method}-refit").report / "index.html").read_text()
    assert "on which its members trained" in page
    member = layout.trial(new.members[0].trial_id).predictions
    member.write_bytes(member.read_bytes() + b" ")  # another file than the one that was measured
    told = " ".join(call("report", f"small-{method}-refit").stderr.split())
    assert "have not the predictions of which it was made: `cifar-hpc refit" in told and "measured once" not in told


def test_a_refit_says_which_seeds_it_leaves_out(swept, monkeypatch):
    layout = Layout(results_root())
    best = [result.trial_id for result in map(result_of, results()) if result.config["lr"] == 0.1]
    shutil.rmtree(layout.trial(best[0]).folder)
    trained = []
    monkeypatch.setattr(refit, "train_refits", lambda layout, name, refits, *rest: trained.extend(refits))
    told = []
    refit.refit_named(layout, "small#2", None, Where(On.INLINE, None), type("Notes", (), {"note": staticmethod(told.append)})())
    assert [one.axes["seed"] for one in trained] == [result_of(best[1]).config["seed"]]
    assert told[0] == "lr=0.1: without a best epoch that counts: 1 of its 2 trials"


def result_of(trial_id):
    return read_record(Layout(results_root()).trial(trial_id).result, TrialResult)


def test_two_members_that_become_one_refit_are_one_member_and_stacking_is_not_refitted(spec, tmp_path):
    spec.write_text(
        SPEC.replace("seeds: 2", "seeds: 1").replace("lr: [0.001, 0.1]", "epochs: [1, 2]").replace("epochs: 4, ", "")
    )
    spec.write_text(spec.read_text().replace("warmup_epochs: 2", "lr: 0.1, schedule: constant"))
    assert call("sweep", spec, "--on", "inline").exit_code == 0
    layout = Layout(results_root())
    for path in layout.pool.glob("*/result.json"):  # as if both were best after one epoch
        result = json.loads(path.read_text())
        del result["digest"]
        result["best_epoch"] = 1
        for split, curve in (("val", "val_acc"), ("train", "train_acc")):
            result[split]["acc"] = result["curves"][0][curve]
        path.write_text(json.dumps(result))
    members = [{"trial_id": i, "weight": 0.5, "temperature": 1.0} for i in results()]
    record = {"method": "stacking", "created_at": "", "classes": [], "members": members, "coefficients": [[0.0]]}
    record |= {"intercept": [0.0], "val_acc": 0.5, "val_n": 60, "test_acc": None, "test_n": None}
    (tmp_path / "own.json").write_text(json.dumps(record))
    told = call("refit", tmp_path / "own.json", "--on", "inline")
    assert told.exit_code == 2 and "members of their own" in told.stderr, told.output
    assert len(results()) == 2
    record |= {"method": "greedy", "coefficients": None, "intercept": None, "classes": list("0123456789")}
    (tmp_path / "mean.json").write_text(json.dumps(record))
    told = call("refit", tmp_path / "mean.json", "--on", "inline")
    assert told.exit_code == 0 and "greedy of 1: " in told.stderr, told.output
    made = read_record(layout.sweep("mean-refit").ensemble, EnsembleRecord)
    assert [member.weight for member in made.members] == [1.0]


def test_a_refit_holds_out_nothing_stops_early_at_nothing_and_keeps_the_share_of_its_warm_up():
    config = refitted(digits_config(epochs=10, warmup_epochs=5.0, objective="val_loss", patience=3), 4)
    assert (config.epochs, config.warmup_epochs, config.stop.patience, config.objective) == (4, 2.0, None, "val_acc")
    assert (config.dataset.val_frac, config.dataset.train_size, config.keep) == (0.0, 400, "weights")
    assert config.trial_id != digits_config(epochs=4).trial_id


def test_without_validation_every_labelled_image_is_trained_on_once(tmp_path):
    data = load_dataset(DatasetConfig(name="digits", val_frac=0.0), 8, tmp_path)
    halves = load_dataset(DatasetConfig(name="digits", val_frac=0.5), 8, tmp_path)
    assert sorted(data.train.index_N.tolist()) == sorted([*halves.train.index_N.tolist(), *halves.val.index_N.tolist()])
    assert len(data.val.labels_N) == 0 and data.val.images_NCHW.shape[1:] == data.train.images_NCHW.shape[1:]
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "own" / split / label).mkdir(parents=True)
            for n in range(3):
                Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / "own" / split / label / f"{n}.png")
    own = DatasetConfig(name="folder", folder=str(tmp_path / "own"), val_frac=0.0)
    whole = load_dataset(own, 8, tmp_path)
    assert len(whole.train.labels_N) == 12 == len(set(whole.train.index_N.tolist())) and len(whole.val.labels_N) == 0


def test_a_refit_that_ends_before_its_unfreezing_says_so(tmp_path, monkeypatch):
    """It is as many epochs as the best one, which may lie before that."""
    monkeypatch.setattr(refit, "run_plan", lambda *args: None)
    config = refitted(digits_config(arch="simple_cnn", epochs=8, unfreeze_epoch=6), 3)
    told = []
    like = PlanRecord(sweep="s", spec_path="s.yaml", created_at="", objective="val_acc", trials=(), cohorts=())
    listener, where = SimpleNamespace(note=told.append), Where(On.INLINE, None)
    refit.train_refits(Layout(tmp_path), "s-refit", [SweepTrial(config, {})], like, ("cifar-hpc", "refit"), where, listener)
    assert told == ["warning: unfreeze_epoch 6 of 3 epochs: only the classifier is trained (all trials)"]


def test_folds_that_become_one_refit_are_told_by_what_they_have_in_common():
    one = [SweepTrial(digits_config(), {"lr": 0.05, "seed": 0, refit.FROM_FOLD: fold}) for fold in (1, 2)]
    (found,) = refit._each_once(one)
    assert found.axes == {"lr": 0.05, "seed": 0} and found.config == digits_config()


def test_a_sweep_that_happens_to_be_called_so_keeps_its_plan(spec):
    text = SPEC.replace("seeds: 2\n", "").replace("simple_cnn, epochs: 4", "linear, epochs: 3").replace("[0.001, 0.1]", "[0.1]")
    spec.write_text(text)
    spec.with_name("other.yaml").write_text(text.replace("name: small", "name: small-refit").replace("[0.1]", "[0.2]"))
    for path in (spec, spec.with_name("other.yaml")):
        assert call("sweep", path, "--on", "inline").exit_code == 0
    plan = Layout(results_root()).sweep("small-refit").plan.read_bytes()
    told = call("refit", "small", "--on", "inline")
    assert told.exit_code == 2 and "'small-refit' is a sweep already" in told.stderr
    assert Layout(results_root()).sweep("small-refit").plan.read_bytes() == plan


def test_a_refit_says_that_the_networks_which_it_starts_from_are_not_trained_again_and_which_each_is(spec):
    spec.write_text(
        "name: staged\ndataset: {name: digits, train_size: 90}\nfolds: 2\nbase: {arch: linear, lr: 0.1, warmup_epochs: 0}\n"
        "stages:\n  first: {base: {epochs: 1}}\n  second: {base: {epochs: 2, weights: {stage: first}}}\n"
    )
    assert call("sweep", spec, "--on", "inline").exit_code == 0
    before = set(results())
    done = call("refit", "staged", "--on", "inline")
    assert done.exit_code == 0, done.output
    assert "the networks that these start from stay as trained, without what was held out then" in " ".join(done.stderr.split())
    assert len(set(results()) - before) == 2  # of each fold's, and none in their place
    trials = read_plan(Layout(results_root()), "staged-refit").trials
    assert set(names_of(trials).values()) == {"from_fold=1", "from_fold=2"}, "what the live picture calls them"
    assert "from_fold" in call("status", "staged-refit", "status=completed").stdout
    told = " ".join(call("report", "staged-refit").stderr.split())
    assert "to validate on. Networks of other trials that they start from stay as they were." in told
    assert "such as from 2: its number is their mean" in told


def test_what_keeps_no_weights_is_not_trained_again_and_the_best_that_does_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(
        "name: x\ndataset: {name: digits, train_size: 300}\nbase: {arch: linear, logreg_c: 1e-5}\n"
        "grid: {classifier: [knn, logreg]}\nfolds: 3\n"
    )
    assert call("sweep", "x.yaml", "--on", "inline").exit_code == 0
    knn, logreg = json.loads(call("report", "x", "--format", "json").stdout)
    assert (knn["classifier"], logreg["classifier"]) == ("knn", "logreg")
    refused = call("refit", "x", "--on", "inline")
    assert refused.exit_code == 2, refused.output
    assert (
        f"keeps no weights that could label new images; the best that does: `cifar-hpc refit {logreg['point_id']}`"
        in refused.stderr
    )
    assert f"`cifar-hpc refit {logreg['point_id']}` trains classifier=logreg" in call("report", "x").stderr
    both = call("refit", "x", "--top", "2", "--on", "inline")
    assert both.exit_code == 0 and "classifier=knn: its classifier keeps no weights" in both.stderr, both.output
    assert json.loads(call("status", "x-refit", "--format", "json").stdout)


def test_a_replaced_refit_stays_readable_and_nothing_that_may_not_is_said_to_bring_it_back(swept):
    rows = [row["point_id"] for row in json.loads(call("report", "small", "--format", "json").stdout)]
    assert call("refit", rows[0], "--on", "inline").exit_code == 0
    told = call("refit", rows[1], "--on", "inline").stderr
    assert "the plan that this one replaces stays readable in " in told and "brings it back" not in told


def test_an_ensemble_of_refits_tells_each_of_its_networks_once():
    """Two members whose refits are one keep temperatures of their own."""
    members = tuple(EnsembleMember(trial_id="a" * 12, weight=0.5, temperature=at) for at in (1.0, 2.0))
    nothing = dict.fromkeys(("coefficients", "intercept", "val_acc", "val_n", "test_acc", "test_n"))
    record = EnsembleRecord(method="greedy", created_at="", classes=("a", "b"), members=members, **nothing)
    assert refitted_text([Refitted("s/ensemble", record)]) == ["Ensemble s/ensemble, greedy of 1 refit: test was not measured."]


def test_of_several_configurations_that_train_again_the_next_step_names_the_best(monkeypatch):
    """Nothing ranks refits, so that the first of their rows is any of them."""
    told: list[str] = []
    plan = SimpleNamespace(sweep="s-refit", trials=[SimpleNamespace(point_id=one) for one in ("best", "second")])
    monkeypatch.setattr(refit, "refit_named", lambda *_: SimpleNamespace(plan=plan))
    monkeypatch.setattr("cifar_hpc.collect.names.find_ensemble", lambda *_: None)
    monkeypatch.setattr("cifar_hpc.cli.refit.conclude", lambda _, then: told.append(then))
    assert call("refit", "s").exit_code == 0 and "cifar-hpc predict best FOLDER" in told[0]
