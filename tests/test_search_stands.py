"""What `status` and `sweep --dry-run` say of a search that lives, and of one that has ended before its bound."""

from __future__ import annotations

import dataclasses

import pytest
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.errors import Interrupted, SpecError
from cifar_hpc.executors.ray.search import tune_judge, tune_searcher
from cifar_hpc.executors.ray.worker import Orders
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import EpochRecord, Status
from cifar_hpc.records.store import write_record
from cifar_hpc.search.run import SearchRun, Suggestion
from cifar_hpc.spec.load import load_spec
from cifar_hpc.spec.search import Scheduler
from cifar_hpc.spec.sweep import SweepSpec
from cifar_hpc.status.advice import next_lines
from cifar_hpc.sweep.driver import run_spec
from cifar_hpc.sweep.holding import held, living_owner
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.preview import search_lines
from cifar_hpc.sweep.where import Where
from cifar_hpc.worker.job import run_job

SPEC = """\
name: hunt
dataset: {name: digits, train_size: 200}
base: {arch: linear, epochs: 2}
search: {num_points: 6, ranges: {lr: {low: 1e-4, high: 0.3, log: true}}}
"""
NET = """\
from torch import nn


def small(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))
"""


@pytest.fixture
def search(tmp_path, monkeypatch):
    """A search of at most six points, of which three are sampled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hunt.yaml").write_text(SPEC)
    layout, spec = Layout(tmp_path / "results"), load_spec(tmp_path / "hunt.yaml")
    run = SearchRun(layout, spec, None, first_job=1, write=lambda record: None)
    for _ in range(3):
        run.next()
    write_record(layout.sweep("hunt").plan, run.record)
    return layout, spec, run.record


def trained(layout: Layout, spec: SweepSpec, n: int) -> None:
    """Trains the first n points that the search samples, as another sweep's."""
    run = SearchRun(layout, spec, None, first_job=1, write=lambda record: None)
    for _ in range(n):
        run_job(run.next().job, layout, executor="inline")


def asked_for(spec: SweepSpec, n: int) -> SweepSpec:
    return dataclasses.replace(spec, search=dataclasses.replace(spec.search, num_points=n))


def test_a_search_that_ended_before_its_bound_has_nothing_to_start(tmp_path):
    """As where fewer points than the bound train unlike."""
    (tmp_path / "hunt.yaml").write_text(
        SPEC.replace("{lr: {low: 1e-4, high: 0.3, log: true}}", "{batch_size: {low: 32, high: 33}}")
    )
    layout, spec = Layout(tmp_path / "results"), load_spec(tmp_path / "hunt.yaml")
    assert any("at most 6 trials" in line for line in search_lines(layout, spec, Where(), Silent()))
    trained(layout, spec, 2)
    lines = search_lines(layout, spec, Where(), Silent())
    assert lines[0].startswith("hunt: 2 configurations")
    assert "  to start  none: the search has ended" in lines and not any("epochs" in line for line in lines)


def test_a_search_whose_points_other_sweeps_trained_has_them_all_at_once(search):
    """Where it grows too: what is sampled is in its plan, whoever trained it, and the dry run says that none is to start."""
    layout, spec, _ = search
    layout.sweep("hunt").plan.unlink()
    trained(layout, spec, 6)
    for n in (4, 6):
        asked = asked_for(spec, n)
        assert "  to start  none: the search has ended" in search_lines(layout, asked, Where(), Silent())
        outcome = run_spec(layout, asked, Where(), Silent())
        assert not outcome.started and len(outcome.completed) == n
        plan = read_plan(layout, "hunt")
        assert len(plan.trials) == n and plan.to_come == 0 and layout.sweep("hunt").spec.is_file()
    assert any("at most 2 trials" in line for line in search_lines(layout, asked_for(spec, 8), Where(), Silent()))


def test_a_living_search_between_two_trials_is_not_advised_to_be_started_again(search):
    layout, _, record = search
    files = layout.sweep("hunt")
    between = {trial.trial_id: TrialState(trial.trial_id, Status.COMPLETED) for trial in record.trials}
    with held(files, "runs this search"):
        owner = living_owner(files)
        assert owner is not None and owner.startswith("process ")
        assert next_lines(record, between, owner) == [f"next: nothing yet: {owner} goes on with it"]
        assert f"{owner} goes on with it" in CliRunner().invoke(app, ["status", "hunt"]).stderr
    assert living_owner(files) is None
    assert "cifar-hpc sweep" in CliRunner().invoke(app, ["status", "hunt"]).stderr
    whole = dataclasses.replace(record, search={**record.search, "trials_at_most": 3})
    assert next_lines(whole, between, "process 1 on x") == ["next: cifar-hpc report hunt"]


def test_a_search_keeps_a_copy_of_the_code_that_its_trials_are_made_of(tmp_path):
    """As a grid does: what the user changes afterwards takes no trained network from its reader."""
    (tmp_path / "nets.py").write_text(NET)
    (tmp_path / "hunt.yaml").write_text(SPEC.replace("arch: linear", 'arch: "nets.py:small"'))
    layout, spec = Layout(tmp_path / "results"), load_spec(tmp_path / "hunt.yaml")
    trained(layout, spec, 6)
    run_spec(layout, spec, Where(), Silent())
    assert [path.name for path in layout.sources.glob("*/nets.py")] == ["nets.py"]


def test_a_search_that_is_asked_to_stop_samples_no_more(search):
    """What is sampled then would know less than in an undisturbed search."""
    layout, spec, record = search
    run = SearchRun(layout, spec, record, first_job=1, write=lambda record: None)
    asked = []
    searcher = tune_searcher(run, 9, asked.append, None, lambda: len(asked) > 2)
    given = [searcher.suggest(str(n)) for n in range(5)]
    assert given[3:] == ["FINISHED"] * 2 and len(asked) == len(run.record.trials) == 3


def test_a_search_whose_trials_diverged_goes_on(search, tmp_path):
    layout, spec, record = search
    asha = dataclasses.replace(spec.search, scheduler=Scheduler(name="asha"))
    by_loss = dataclasses.replace(spec, search=asha, objective="val_loss")
    run = SearchRun(layout, by_loss, record, first_job=1, write=lambda record: None)
    diverged = EpochRecord(epoch=1, lr=9.0, train_loss=None, train_acc=0.1, val_loss=None, val_acc=0.1, train_s=1.0, val_s=1.0)
    tune_judge(run, Orders(tmp_path)).learn(Suggestion("diverged", [diverged], None))


def test_what_asha_saves_is_told_of_trials_that_begin_alone(search):
    layout, spec, record = search
    asha = dataclasses.replace(spec, search=dataclasses.replace(spec.search, scheduler=Scheduler(name="asha")))
    (line,) = (line for line in search_lines(layout, asha, Where(), Silent()) if "stops trials" in line)
    assert "about 8 epochs" in line  # of all six: 6 x 1 + 2 x 1
    run = SearchRun(layout, spec, record, first_job=1, write=lambda record: None)
    ended = []
    with pytest.raises(Interrupted):
        run_job(
            run.next().job,
            layout,
            executor="inline",
            on_epoch=lambda *epoch: not ended.append(epoch),
            interrupted=lambda: bool(ended),
        )
    assert not any("stops trials" in line for line in search_lines(layout, asha, Where(), Silent()))


def test_a_key_is_fixed_or_sampled_and_set_fixes_it(tmp_path):
    path = tmp_path / "x.yaml"
    head = "name: x\ndataset: digits\nbase: {arch: linear, lr: 0.5}\ngrid: {momentum: [0.1, 0.2]}\n"
    path.write_text(head + "search: {num_points: 2, ranges: {lr: {low: 0.1, high: 0.2}}}\n")
    with pytest.raises(SpecError, match=r"x.yaml:5: search.ranges.lr: lr is in base too; a key is fixed in base or swept"):
        load_spec(path)
    path.write_text(path.read_text().replace(", lr: 0.5", ""))
    assert {config.lr for config in load_spec(path, ["lr=0.3"]).configs} == {0.3}


def test_a_rule_on_a_number_inside_a_range_is_not_said_to_meet_nothing(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\ndataset: digits\nbase: {arch: linear}\nsearch: {num_points: 9, ranges: {epochs: {low: 1, high: 4}}}\n"
        "exclude: [{epochs: 2}]\nwhen: [{if: {epochs: 3}, set: {lr: 0.5}}]\n"
    )
    spec = load_spec(path)
    assert spec.warnings == () and spec.search is not None
    told = {n: [trial.config.lr for trial in spec.search.space.trials({"epochs": n})] for n in range(1, 5)}
    assert told == {1: [0.01], 2: [], 3: [0.5], 4: [0.01]}
