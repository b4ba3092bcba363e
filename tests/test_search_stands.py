"""What `status` and `sweep --dry-run` say of a search that lives, and of one that has ended before its bound."""

from __future__ import annotations

import dataclasses

import pytest
from typer.testing import CliRunner

from cifar_hpc.cli import app
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.records.store import write_record
from cifar_hpc.search.run import SearchRun
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.advice import next_lines
from cifar_hpc.sweep.holding import held, living_owner
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.preview import search_lines

SPEC = """\
name: hunt
dataset: {name: digits, train_size: 200}
base: {arch: linear, epochs: 2}
search: {num_points: 6, ranges: {lr: {low: 1e-4, high: 0.3, log: true}}}
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


def test_a_search_that_ended_before_its_bound_has_nothing_to_start(search):
    """As where fewer points than the bound train unlike; asked for more points it goes on."""
    layout, spec, record = search
    assert any("at most 6 trials" in line for line in search_lines(layout, spec, Silent()))
    write_record(layout.sweep("hunt").plan, dataclasses.replace(record, search={**record.search, "trials_at_most": 3}))
    assert any("at most 3 trials, at most 6 epochs" in line for line in search_lines(layout, spec, Silent()))
    ended = dataclasses.replace(record, trials=(), cohorts=(), search={**record.search, "trials_at_most": 0})
    write_record(layout.sweep("hunt").plan, ended)
    lines = search_lines(layout, spec, Silent())
    assert "at most" not in lines[0]
    assert "  to start  none: the search has ended" in lines and not any("epochs" in line for line in lines)
    more = dataclasses.replace(spec, search=dataclasses.replace(spec.search, num_points=8))
    assert any("at most 8 trials" in line for line in search_lines(layout, more, Silent()))


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


def test_the_first_line_of_an_ended_search_says_how_many_configurations_it_has_sampled(search):
    layout, spec, record = search
    assert search_lines(layout, spec, Silent())[0].startswith("hunt: at most 6 configurations")
    write_record(layout.sweep("hunt").plan, dataclasses.replace(record, search={**record.search, "trials_at_most": 3}))
    assert search_lines(layout, spec, Silent())[0].startswith("hunt: 3 configurations")
