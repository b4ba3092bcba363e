"""A trial, a configuration and an ensemble have the same names in every command and in the Python API."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from benchmarks.pool import Images, write_trial
from cifar_hpc import Sweep, read_results
from cifar_hpc.cli import app
from cifar_hpc.collect.names import find_best, find_ensemble, find_named, find_trial, in_sweep
from cifar_hpc.collect.sections import chosen_sections
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError, SpecError
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import EnsembleMember, EnsembleRecord, TrialResult
from cifar_hpc.records.store import read_record, write_record
from cifar_hpc.report.words import words_of
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.names import names_of, parse_words
from cifar_hpc.status.query import config_text, flat_config, spell
from cifar_hpc.sweep.specs import find_spec, load_named

SPEC = """\
name: photos
dataset: {name: digits, train_size: 200}
base: {epochs: 2}
grid: {arch: [linear, simple_cnn], lr: [0.1, 1e-2, 1e-5]}
seeds: 2
"""


def call(*words: str, width: int = 200):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": str(width)})


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """A sweep of six configurations with two seeds each, of which one trial has not finished."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "photos.yaml").write_text(SPEC)
    plan = make_plan(load_spec((tmp_path / "sweeps" / "photos.yaml").relative_to(tmp_path)))
    layout = Layout(results_root())
    write_record(layout.sweep("photos").plan, plan_record(plan))
    images = Images.draw(60, 30)
    for config in plan.trials[:-1]:
        write_trial(layout, config, images)
    return layout


def _rows(layout: Layout, *words: str):
    asked = parse_words(words)
    return [row for section in chosen_sections(layout, asked.names, asked.terms) for row in section.board.rows]


def test_words_are_names_a_filter_and_a_row():
    assert parse_words("photos arch=linear lr>1e-3") == dataclasses.replace(parse_words("photos"), terms="arch=linear lr>1e-3")
    assert parse_words(["photos #3", "lr=0.1"]) == parse_words("photos#3 lr=0.1")
    assert (parse_words("#12").names, parse_words("#12").number) == ((), 12)
    for wrong in ("photos#0", "photos#best", "photos#", "photos#1 other#2"):
        with pytest.raises(CifarHpcError, match="#"):
            parse_words(wrong)


def test_a_sweep_is_its_best_configuration_and_a_row_that_of_its_leaderboard(layout):
    rows = _rows(layout, "photos")
    assert [row.number for row in rows] == [1, 2, 3, 4, 5, 6]
    assert find_named(layout, "photos").row.point_id == rows[0].point_id
    assert find_named(layout, "photos#3").row.point_id == rows[2].point_id
    best_linear = next(row for row in rows if row.config["arch"] == "linear")
    assert find_named(layout, "photos arch=linear").row.point_id == best_linear.point_id


def test_a_row_keeps_its_number_under_a_filter(layout):
    numbers = {row.point_id: row.number for row in _rows(layout, "photos")}
    shown = _rows(layout, "photos", "arch=linear")
    assert len(shown) == 3
    assert {row.point_id: row.number for row in shown} == {row.point_id: numbers[row.point_id] for row in shown}


def test_the_beginning_of_an_id_is_a_trial_or_a_configuration(layout):
    row = _rows(layout, "photos")[1]
    trial = row.trials[1].trial_id
    assert find_named(layout, trial[:9]).trial_ids == (trial,)
    assert find_named(layout, row.point_id[:9]).trial_ids == row.trial_ids
    assert find_trial(layout, trial[:9].upper()) == trial
    for asked in (find_named, find_trial):
        with pytest.raises(CifarHpcError, match="sweeps: "):  # a misspelt sweep is not answered with some trial
            asked(layout, trial[:2])
    best = max(row.trials, key=lambda one: one.val_acc or 0.0)
    assert find_trial(layout, row.point_id[:9]) == find_trial(layout, "photos#2") == best.trial_id


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photo", "Did you mean 'photos'?"),
        ("photos#7", "allowed: #1 to #6$"),
        ("photos#7 lr=0.1", r"allowed: #\d, #\d$"),
        ("photos#2 arch=nothing", "arch is "),
        ("photos archs=linear", "Did you mean 'arch'?"),
        ("2222", "begins no id of a trial or configuration here;"),
        ("222", r"begins no id of a trial or configuration here \(4 letters or more name one\)"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one(layout, name, said):
    with pytest.raises(CifarHpcError, match=said.replace("?", r"\?")):
        find_named(layout, name)


def test_a_name_that_means_nothing_is_told_as_that_also_beside_top(layout):
    with pytest.raises(CifarHpcError, match="Did you mean 'photos'"):
        find_best(layout, "photo", top=2)


def test_a_refit_of_what_has_not_finished_says_so_of_the_filter_and_not_of_the_sweep(layout):
    failed = _rows(layout, "photos arch=simple_cnn lr=1e-5")
    for trial_id in failed[0].trial_ids:
        layout.trial(trial_id).result.unlink(missing_ok=True)
    for find in (find_best, find_named):
        with pytest.raises(CifarHpcError, match=r"^photos arch=simple_cnn lr=1e-5: no trial has a result that counts"):
            find(layout, "photos arch=simple_cnn lr=1e-5")
    assert find_best(layout, "photos")


def test_an_ensemble_is_named_by_its_sweep_and_method(layout):
    member = EnsembleMember(trial_id=_rows(layout, "photos")[0].trial_ids[0], weight=1.0, temperature=1.0)
    about = {"created_at": "2026-01-01T00:00:00Z", "classes": ("a",), "members": (member,), "coefficients": None}
    measured = {"intercept": None, "val_acc": 0.5, "val_n": 60, "test_acc": None, "test_n": None}
    report = layout.sweep("photos").report
    write_record(report / "ensembles" / "greedy.json", EnsembleRecord(method="greedy", **about, **measured))
    write_record(report / "soups" / "greedy.json", EnsembleRecord(method="greedy", **about, **measured))
    assert find_ensemble(layout, "photos/greedy") == report / "ensembles" / "greedy.json"
    assert find_ensemble(layout, "photos/soup-greedy") == report / "soups" / "greedy.json"
    assert find_ensemble(layout, "photos") is None
    with pytest.raises(CifarHpcError, match="Did you mean 'photos/greedy'"):
        find_ensemble(layout, "photos/gredy")


@pytest.mark.parametrize("command", ["compare", "reproduce", "status", "logs", "soup", "report"])
def test_an_ensemble_is_called_one_where_a_sweep_or_a_trial_is_meant(layout, command):
    told = call(command, "photos/greedy", *(["photos#1"] if command == "compare" else []))
    assert told.exit_code == 2 and "'photos/greedy' is written as an ensemble of photos is, which `predict`" in told.stderr


def test_what_is_of_one_sweep_becomes_ids_of_its_trials(layout):
    row = _rows(layout, "photos")[2]
    assert in_sweep(layout, "photos#3", ()) == in_sweep(layout, "photos", ["photos#3"]) == ("photos", list(row.trial_ids))
    assert in_sweep(layout, "photos", ["#3", "seed=0"])[1][0] in row.trial_ids
    assert in_sweep(layout, row.point_id[:9], ()) == ("photos", [row.point_id])
    assert in_sweep(layout, "photos", ["lr=0.1"]) == ("photos", ["lr=0.1"])


@pytest.mark.parametrize("command", ["status", "logs"])
def test_a_row_and_an_id_without_its_sweep_show_all_seeds(layout, command):
    row = _rows(layout, "photos")[0]
    for words in (["photos#1"], ["photos", "#1"], [row.point_id[:8]]):
        shown = call(command, *words).stdout
        assert all(trial_id[:8] in shown for trial_id in row.trial_ids), words


def test_status_and_the_leaderboard_filter_by_the_ids_that_they_show(layout):
    row = _rows(layout, "photos")[0]
    for command in ("status", "report"):
        for key, value in (("id", row.trial_ids[0][:8]), ("id", row.point_id[:8]), ("point", row.point_id[:8])):
            shown = json.loads(call(command, "photos", f"{key}={value}", "--format", "json").stdout)
            assert len(shown) == (2 if command == "status" and value == row.point_id[:8] else 1)


@pytest.mark.parametrize("format", ["table", "md", "csv"])
def test_every_leaderboard_shows_the_number_and_a_short_id(layout, format):
    shown = call("report", "photos", "--format", format).stdout
    row = _rows(layout, "photos")[0]
    assert "#" in shown.splitlines()[0] and "id" in shown.splitlines()[0]
    assert row.point_id[:8] in shown


def test_compare_takes_rows_and_refuses_one_configuration_twice(layout):
    done = call("compare", "photos#1", "photos#2")
    assert done.exit_code == 0 and " pp against" in done.stderr
    assert "are the same one" in call("compare", "photos", "photos#1").stderr


def test_a_freezing_depth_has_the_specs_words_in_every_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = Layout(results_root())
    for name, lr in (("one", 0.1), ("other", 0.2)):
        text = f"name: {name}\ndataset: cifar10\nbase: {{arch: resnet18, epochs: 2, lr: {lr}}}\ngrid: {{freeze: [0.5, all]}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
        plan = make_plan(load_spec(tmp_path / f"{name}.yaml"))
        write_record(layout.sweep(name).plan, plan_record(plan))
        for config in plan.trials:
            write_trial(layout, config, Images.draw(60, 30))
    half = find_named(layout, "one freeze=0.5").row.point_id
    for names in (["one"], ["one", "other"], []):  # of one sweep, of several, of the whole pool
        assert {row.axes["freeze"] for row in _rows(layout, *names)} == {0.5, "all"}
    for pair in (("one#1", "one#2"), ("one freeze=0.5", "other freeze=all")):
        assert "freeze=0.5" in call("compare", *pair).stderr
    assert call("report", half[:9]).exit_code == 0


@pytest.mark.parametrize("option", [("--watch",), ("--export", "tensorboard"), ("--pivot", "lr/arch")])
def test_what_is_for_sweeps_is_refused_for_a_row(layout, option):
    told = call("report", "photos#2", *option)
    assert told.exit_code == 2 and f"{option[0]} is for sweeps, and photos#2 names one" in " ".join(told.stderr.split())
    assert "is no sweep under" in call("report", "phots", *option).stderr


def test_a_name_that_is_no_sweeps_is_answered_with_one_sentence_whoever_is_asked(layout):
    for command in ("report", "status", "logs", "retry", "cancel", "refit"):
        told = " ".join(call(command, "phots").stderr.split())
        assert "'phots' is no sweep under " in told and told.endswith("; sweeps: photos. Did you mean 'photos'?"), told


def test_the_page_of_a_row_is_that_of_its_best_trial(layout):
    done = call("report", "photos#2")
    assert done.exit_code == 0, done.stderr
    assert find_trial(layout, "photos#2") in done.stderr
    classes = json.loads(call("report", "photos#2", "--format", "json").stdout)
    assert sum(one["images"] for one in classes) == 30 and {"class", "precision", "recall", "f1"} < set(classes[0])


def test_trials_without_a_sweep_are_named_by_row_and_id(layout):
    layout.sweep("photos").plan.unlink()
    rows = _rows(layout)
    assert find_named(layout, "#2").row.point_id == rows[1].point_id
    assert find_named(layout, rows[1].point_id[:9]).row.point_id == rows[1].point_id
    assert find_named(layout, rows[1].trial_ids[0][:9]).trial_id == rows[1].trial_ids[0]


def test_nothing_is_ranked_across_data_sets_under_one_name_either(layout):
    result = read_record(layout.trial(layout.trial_ids()[0]).result, TrialResult)
    other = TrialConfig.from_json(result.config)
    other = dataclasses.replace(other, dataset=dataclasses.replace(other.dataset, train_size=100))
    write_trial(layout, other, Images.draw(60, 30))
    layout.sweep("photos").plan.unlink()
    with pytest.raises(CifarHpcError, match="nothing is ranked across"):
        find_named(layout, [])
    numbers = [row.number for row in _rows(layout)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_configuration_that_a_filter_leaves_alone_is_named_as_without_it(layout):
    row = _rows(layout, "photos")[2]
    words = " ".join(f"{key}={spell(value, key)}" for key, value in row.axes.items())
    alone = find_named(layout, f"photos {words}").row
    assert alone.axes == {} and alone.label == row.label != "the only configuration"
    assert row.label in repr(read_results(layout.root).best("photos", words))
    assert (
        find_best(layout, f"photos {words}")[0].row.told_by
        == row.axes
        == read_results(layout.root).best(f"photos {words}").axes
    )


def test_python_names_things_as_the_commands_do(layout):
    results = read_results(layout.root)
    rows = _rows(layout, "photos")
    assert results.best("photos").point_id == results.best("photos#1").point_id == rows[0].point_id
    assert results.best("photos#3").point_id == results.best(rows[2].point_id[:9]).point_id == rows[2].point_id
    assert results.leaderboard("photos")["#"].tolist() == [1, 2, 3, 4, 5, 6]
    sweep = Sweep.load("photos")
    assert set(sweep.status("#3").trial_id) == set(rows[2].trial_ids)


def test_a_sweeps_name_means_its_spec_with_what_was_set(layout, tmp_path):
    plan = plan_record(make_plan(load_spec(tmp_path / "sweeps" / "photos.yaml", ("epochs=5",))))
    write_record(layout.sweep("photos").plan, plan)
    told: list[str] = []
    spec = load_named(layout, "photos", ("seeds=1",), told.append)
    assert {trial.config.epochs for trial in spec.trials} == {5} and len(spec.trials) == 6
    assert told == ["photos as it was planned, with --set epochs=5"]


def test_a_name_without_a_plan_is_the_file_in_sweeps(layout, tmp_path):
    (tmp_path / "sweeps" / "other.yaml").write_text(SPEC.replace("photos", "other"))
    assert str(find_spec(layout, "other").path) == "sweeps/other.yaml"
    with pytest.raises(SpecError, match=r"Did you mean 'sweeps/other\.yaml'"):
        find_spec(layout, "othr")


def test_the_spec_of_a_planned_name_that_is_gone_is_told_with_its_copy(layout, tmp_path):
    (tmp_path / "sweeps" / "photos.yaml").unlink()
    with pytest.raises(CifarHpcError, match=r"a copy is .*spec\.yaml"):
        find_spec(layout, "photos")


@pytest.mark.parametrize("words", [["sweep", "photos", "--dry-run"], ["arch", "--plan", "photos"], ["data", "photos"]])
def test_commands_that_take_a_spec_take_a_sweeps_name(layout, words):
    done = call(*words)
    assert done.exit_code == 0, done.stderr


def test_two_numbers_that_six_digits_do_not_tell_apart_have_two_names_that_every_command_takes(tmp_path):
    spec = tmp_path / "close.yaml"
    rates = "[0.1, 0.10000000149011612, 0.05]"  # the second is the float32 nearest to the first
    spec.write_text(f"name: close\ndataset: digits\nbase: {{arch: linear, epochs: 2}}\ngrid: {{lr: {rates}}}\nseeds: 3\n")
    plan = make_plan(load_spec(spec))
    layout = Layout(results_root())
    write_record(layout.sweep("close").plan, plan_record(plan))
    for config in plan.trials:
        write_trial(layout, config, Images.draw(60, 30))
    board = {row.label: row.point_id for row in _rows(layout, "close")}
    assert sorted(board) == ["lr=0.05", "lr=0.1", "lr=0.100000001"]
    assert {words_of(row) for row in _rows(layout, "close")} == {"lr 0.05", "lr 0.1", "lr 0.100000001"}
    for label, point in board.items():
        assert find_named(layout, f"close {label}").row.point_id == point and len(_rows(layout, "close", label)) == 1
        told = call("status", "close", label).stdout
        assert "3 completed" in told
    listed = call("sweep", str(spec), "--dry-run", "--list").stdout
    assert all(f"{label[3:]} " in listed for label in board)
    assert "lr=0.1 " in call("compare", "close lr=0.1", "close lr=0.100000001").output
    assert len(set(names_of(plan_record(plan).trials, seed=False).values())) == 3


def test_augmentations_whose_arguments_differ_in_the_eighth_digit_are_two_values():
    told = [flat_config(config_text({"augment": [{"name": "crop", "args": [["scale", at]]}]})) for at in (0.1, 0.10000001)]
    assert [config["augment"] for config in told] == ["crop(scale=0.1)", "crop(scale=0.10000001)"]


def test_compare_names_what_a_filter_fixes_of_classifiers_that_train_and_that_do_not(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(tmp_path / "results"))
    (tmp_path / "c.yaml").write_text(
        "name: c\ndataset: digits\nbase: {arch: simple_cnn, epochs: 1}\nseeds: 3\n"
        "grid: {classifier: [linear, knn], augment: [none, flip]}\n"
    )
    plan, layout = make_plan(load_spec(tmp_path / "c.yaml")), Layout(tmp_path / "results")
    for trial in plan.trials:
        write_trial(layout, trial, Images.draw(60, 20), sweep="c")
    write_record(layout.sweep("c").plan, plan_record(plan))
    said = CliRunner().invoke(app, ["compare", "c classifier=knn", "c classifier=linear"], env={"COLUMNS": "200"})
    assert "classifier=knn is " in said.stderr and "against classifier=linear augment=" in said.stderr, said.output
