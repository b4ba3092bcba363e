"""A key's value that is a mapping or a list has one text, which every command prints and every filter takes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.pool import Images, write_trial
from cifar_hpc.cli import app
from cifar_hpc.collect.sections import chosen_sections
from cifar_hpc.collect.trials import value_text
from cifar_hpc.config.spelled import as_text
from cifar_hpc.errors import SpecError
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.store import write_record
from cifar_hpc.report.tables import section_records
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.axes import axes_of
from cifar_hpc.status.names import names_of
from cifar_hpc.status.query import config_text, flat_config, parse_filter, spell

SPECS = {
    "class_weights": ["null", "balanced", '{"3": 20.0}', '{"3": 20.0, "8": 2.5}'],
    "unfreeze": ["null", "{1: classifier, 2: features.8, 3: features.0}", "{1: classifier, 3: features.8, 4: features.0}"],
    "train": ["all", "bias", "[features.4, features.8]"],
    "augment": ["none", "[{rotate: {degrees: 10}}, {erase: {p: 0.4}}]"],
}


def call(*words: str):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


def swept(tmp_path, grid: str, **more: str) -> Layout:
    """The records of a sweep `s` with two seeds, all finished."""
    dataset = more.get("dataset", "dataset: {name: digits, train_size: 200}")
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\n{dataset}\nbase: {{arch: simple_cnn, image_size: 16, epochs: 4}}\n{grid}\nseeds: 2\n")
    plan, layout = make_plan(load_spec(path)), Layout(results_root())
    write_record(layout.sweep("s").plan, plan_record(plan))
    for config in plan.trials:
        write_trial(layout, config, Images.draw(60, 30))
    return layout


def of_status(*words: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(call("status", "s", *words, "--format", "csv").stdout)))


@pytest.mark.parametrize("key", SPECS)
def test_a_value_has_one_text_that_status_reports_and_filters_have_in_common(tmp_path, key):
    layout = swept(tmp_path, f"grid: {{{key}: [{', '.join(SPECS[key])}]}}")
    rows = [row for section in chosen_sections(layout, ["s"], "") for row in section.board.rows]
    records = {one["point_id"]: one for one in section_records(chosen_sections(layout, ["s"], ""))}
    told = {row["trial_id"]: row for row in of_status()}
    assert len(rows) == len(SPECS[key])
    for row in rows:
        axis = next(axis for axis in row.all_axes if axis.startswith(key))
        value = row.all_axes[axis]
        assert records[row.point_id].get(axis, value) == value and not isinstance(value, list | tuple | dict)
        assert {told[trial.trial_id][axis] for trial in row.trials} == {"" if value is None else str(value)}
        for text in (spell(value, axis), "null" if value is None else str(value)):
            found = [one.point_id for part in chosen_sections(layout, ["s"], f"{axis}={text}") for one in part.board.rows]
            assert found == [row.point_id]
            assert {one["trial_id"] for one in of_status(f"{axis}={text}")} == {trial.trial_id for trial in row.trials}


def test_what_a_spec_writes_otherwise_is_told_by_the_key_that_says_it(tmp_path):
    grid = "include: [{}, {class_weights: {1: 1, 2: 1}}, {unfreeze: {1: classifier, 3: features.0}}]"
    layout = swept(tmp_path, grid)
    rows = [row for section in chosen_sections(layout, ["s"], "") for row in section.board.rows]
    assert sorted(str(row.axes["unfreeze_epoch"]) for row in rows) == ["2", "None"]  # weights of 1 are no weights
    assert {one["unfreeze_epoch"] for one in of_status()} == {"2", ""}
    assert {one["unfreeze_epoch"] for one in of_status("unfreeze_epoch=2")} == {"2"}


def test_an_unfreezing_that_leaves_blocks_frozen_is_told_by_its_epoch_and_what_stays_frozen(tmp_path):
    layout = swept(tmp_path, "grid: {unfreeze: [null, {1: classifier, 2: features.4}]}")
    told = [(row["unfreeze_epoch"], row["freeze"]) for row in of_status()]
    assert sorted(set(told)) == [("", "none"), ("1", "1")] and "unfreeze" not in of_status()[0]
    rows = [row for section in chosen_sections(layout, ["s"], "") for row in section.board.rows]
    assert sorted((str(row.axes["unfreeze_epoch"]), str(row.axes["freeze"])) for row in rows) == [("1", "1"), ("None", "none")]
    assert set(names_of(read_plan(layout, "s").trials, seed=False).values()) == {
        "unfreeze_epoch=- freeze=none",
        "unfreeze_epoch=1 freeze=1",
    }


def test_a_list_that_trains_the_end_of_a_network_is_told_by_the_depth_that_it_is(tmp_path: Path) -> None:
    swept(tmp_path, "grid: {train: [[head], bias]}")
    assert {(row["train"], row["freeze"]) for row in of_status()} == {("all", "all"), ("bias", "none")}


@pytest.mark.parametrize(
    "grid",
    [
        "{unfreeze: [null, {1: classifier, 2: features.4}], freeze: [none, 2]}",
        "{classifier: [linear, svm], freeze: [none, all]}",
        "{train: [all, [features.8]], freeze: [none, all]}",
    ],
    ids=["unfreeze", "svm", "train"],
)
def test_what_stays_frozen_is_told_as_other_keys_leave_it_beside_a_swept_freeze(tmp_path, grid):
    layout = swept(tmp_path, f"grid: {grid}")
    planned = {trial.trial_id: str(trial.config["freeze"]) for trial in read_plan(layout, "s").trials}
    assert {row["trial_id"]: row["freeze"] for row in of_status()} == planned
    for names in (["s"], []):
        rows = [row for section in chosen_sections(layout, names, "") for row in section.board.rows]
        assert {trial.trial_id: str(row.config["freeze"]) for row in rows for trial in row.trials} == planned


def test_status_without_a_filter_takes_no_config_apart_where_nothing_runs(tmp_path):
    swept(tmp_path, "grid: {lr: [0.1, 0.2]}")
    flat_config.cache_clear()
    assert call("status", "s").exit_code == 0 and flat_config.cache_info().currsize == 0
    assert call("status", "s", "lr=0.1").exit_code == 0 and flat_config.cache_info().currsize == 2


def test_data_sets_of_one_name_are_told_apart_in_status_as_in_a_report(tmp_path):
    data = "[{name: digits, train_size: 200}, {name: digits, train_size: 100}]"
    layout = swept(tmp_path, f"grid: {{dataset: {data}}}", dataset="")
    assert {row["dataset.train_size"] for row in of_status()} == {"100", "200"}
    assert len(of_status("dataset.train_size=100")) == 2 and len(chosen_sections(layout, ["s"], "dataset.train_size=100")) == 1


def test_a_filter_takes_class_names_with_blanks_commas_and_brackets():
    configs = [
        {},
        {"Formica rufa": 2.0},
        {"Apis, the bee": 3.5, "wolf [grey]": 2.0},
        {"a:1+b": 2.0},
        {"a": 1.0, "b": 2.0},
        {"a\nb": 2.0},
    ]
    rows = [flat_config(config_text({"class_weights": weights or None, "dataset": {"name": "x"}})) for weights in configs]
    for row in rows:
        chosen = parse_filter(f"class_weights={spell(row['class_weights'])} dataset=x", row)
        assert [chosen.matches(other) for other in rows] == [other is row for other in rows]
    classes = [("a+b", "c"), ("a", "b+c"), ("a", "b", "c"), ("a+b", "c+d"), ()]
    assert len({as_text(names) for names in classes}) == 5 and all(map(as_text, classes))
    for names in classes:
        chosen = parse_filter(f"dataset.classes={as_text(names)}", ["dataset.classes"])
        assert [chosen.matches({"dataset.classes": as_text(other)}) for other in classes] == [
            other is names for other in classes
        ]
    either = parse_filter("class_weights=null,Formica rufa:2", rows[0])
    assert [either.matches(row) for row in rows] == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    "values", ["[true, 1]", "[1, 1.0]", '[1, "1"]', '[null, "None"]', '["-", null]', '[null, "null"]', '["1e-5", 0.00001]']
)
def test_values_of_an_argument_that_read_alike_are_refused(values: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("def N(num_classes, in_channels, a=None): ...\n")
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ndataset: digits\nbase: {{arch: 'nets.py:N'}}\ngrid:\n  arch_args.a: {values}\n")
    with pytest.raises(SpecError, match=r"x.yaml:5: grid.arch_args.a\[1\]: .* read alike"):
        load_spec(path)


@pytest.mark.parametrize("args", ["[null, {a: null}]", "[{a: 1}, {a: '1'}]", "[{a: 1}, {a: true}]", "[{a: none}, {b: 1}, {}]"])
def test_configurations_that_read_the_same_are_refused(args: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("def N(num_classes, in_channels, a=None, b=None): ...\n")
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ndataset: digits\nbase: {{arch: 'nets.py:N'}}\ngrid: {{arch_args: {args}}}\n")
    with pytest.raises(SpecError, match=r"x.yaml:4: grid.arch_args\[\d\]: .* beside .* arguments that read differently"):
        load_spec(path)


@pytest.mark.parametrize("values", ["[1000000.5, 1000001.5]", "[1.0e-6, 1.0000001e-6]"])
def test_numbers_that_tables_write_with_as_many_digits_as_tell_them_apart_are_no_values_of_one_name(values, tmp_path) -> None:
    net = "nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))"
    (tmp_path / "nets.py").write_text(f"from torch import nn\n\ndef N(num_classes, in_channels, a=None):\n    return {net}\n")
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ndataset: digits\nbase: {{arch: 'nets.py:N'}}\ngrid:\n  arch_args.a: {values}\n")
    trials = plan_record(make_plan(load_spec(path))).trials
    assert len({spell(own["arch_args.a"]) for own in axes_of(trials).values()}) == len(trials) >= 2


def test_axis_values_read_as_a_person_writes_them() -> None:
    assert [value_text(v) for v in (None, 1e-5, 0.001, 3, "all", ("snake", "turtle"))] == [
        "-", "1e-5", "0.001", "3", "all", "snake+turtle",
    ]  # fmt: skip


@pytest.mark.parametrize("grid", ["arch_args.a: [4, 8]", "arch_args: [{a: 4}, {a: 8}]"])
@pytest.mark.parametrize("rule", ["arch_args.a: 4", "arch_args: {a: 4}"])
def test_rules_meet_an_argument_however_it_is_written(grid: str, rule: str, tmp_path: Path) -> None:
    net = "nn.Sequential(nn.Conv2d(in_channels, a, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(a, num_classes))"
    (tmp_path / "nets.py").write_text(f"from torch import nn\n\ndef N(num_classes, in_channels, a):\n    return {net}\n")
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ndataset: digits\nbase: {{arch: 'nets.py:N'}}\ngrid: {{{grid}}}\nexclude: [{{{rule}}}]\n")
    assert [trial.config.arch_args for trial in load_spec(path).trials] == [(("a", 8),)]


@pytest.mark.parametrize("theirs", ["arch_args.a: [4, 8]", "arch_args: [{a: 4}, {a: 8}]"])
@pytest.mark.parametrize("ours", ["freeze: [none, 1]", "arch_args.a: [4, 8]", "arch_args: [{a: 4}, {a: 8}]"])
def test_a_stage_starts_from_networks_of_its_own_arguments(theirs: str, ours: str, tmp_path: Path) -> None:
    net = "nn.Sequential(nn.Conv2d(in_channels, a, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(a, num_classes))"
    (tmp_path / "nets.py").write_text(f"from torch import nn\n\ndef N(num_classes, in_channels, a=2):\n    return {net}\n")
    path = tmp_path / "x.yaml"
    path.write_text(
        f"name: x\ndataset: digits\nstages:\n  pre:\n    base: {{arch: 'nets.py:N'}}\n    grid: {{{theirs}}}\n"
        f"  tune:\n    base: {{weights: {{stage: pre}}}}\n    grid: {{{ours}}}\n"
    )
    trials = load_spec(path).trials
    assert len({str(trial.axes) for trial in trials}) == len(trials), "no two are told by the same axes"
    configs = {trial.config.trial_id: trial.config for trial in trials}
    begun = [config for config in configs.values() if config.weights]
    assert len(begun) == (4 if "freeze" in ours else 2)
    assert all(config.arch_args == configs[config.weights.removeprefix("trial/")].arch_args for config in begun)
