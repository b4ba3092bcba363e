"""A trial that starts from another trial's weights: its identity, its start, and what it says where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.pool import Images, write_plan, write_trial
from cifar_hpc.cli import app
from cifar_hpc.errors import SpecError
from cifar_hpc.planning.lineage import awaits_parent, fail_with_parent, parent_failure
from cifar_hpc.records.claims import claim_trial, read_state
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import ErrorRecord, Status
from cifar_hpc.records.store import write_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.logs import log_text
from cifar_hpc.status.state import SweepReader
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of
from tests.test_train_loop import result_of

SPEC = "name: child\ndataset: {name: digits, train_size: 400, val_frac: 0.2}\nbase: {arch: simple_cnn, weights: {trial: %s}}\n"


def child_of(parent, **changes):
    return digits_config(weights=f"trial/{parent.trial_id}", **changes)


def test_a_child_starts_where_its_parent_ended_and_a_repetition_of_it_too():
    layout = Layout(results_root())
    parent = digits_config(epochs=8, keep="weights")
    child = child_of(parent, freeze="all", lr=1e-9, epochs=1)
    run_job(job_of(parent, child), layout, executor="inline")
    before, after = (np.load(layout.trial(c.trial_id).predictions)["test_logits"] for c in (parent, child))
    assert np.allclose(before, after, atol=2e-2)
    scratch = digits_config(freeze="all", lr=1e-9, epochs=1)
    run_job(job_of(scratch), layout, executor="inline")
    assert result_of(layout, child).test.acc > result_of(layout, scratch).test.acc + 0.3
    assert result_of(layout, child).provenance.weights_sha256 is not None
    again = CliRunner().invoke(app, ["reproduce", child.trial_id])
    assert again.exit_code == 0 and "to the last bit" in again.stdout, again.output


def test_the_parents_id_is_part_of_the_childs():
    one, other = digits_config(), digits_config(seed=1)
    assert child_of(one).trial_id != child_of(other).trial_id != digits_config().trial_id
    assert child_of(one).point_id != child_of(other).point_id


def test_a_child_waits_for_its_parent_fails_with_it_and_others_go_on(monkeypatch):
    layout = Layout(results_root())
    parent, unkept, fine = digits_config(lr=0.03), digits_config(lr=0.04), digits_config()
    run_job(job_of(unkept, child_of(unkept), child_of(parent), fine), layout, executor="inline")
    states = [read_state(layout.trial(c.trial_id), c.trial_id) for c in (child_of(unkept), child_of(parent), fine)]
    assert [state.status for state in states] == [Status.FAILED, Status.PLANNED, Status.COMPLETED]
    assert f"`cifar-hpc reproduce {unkept.trial_id}` brings them back" in states[0].reason
    with monkeypatch.context() as patched:
        patched.setattr("cifar_hpc.train.member.Member.end_epoch", lambda *_: 1 / 0)
        run_job(job_of(parent), layout, executor="inline")
    run_job(job_of(child_of(parent, epochs=1)), layout, executor="inline")
    state = read_state(layout.trial(child_of(parent, epochs=1).trial_id), child_of(parent, epochs=1).trial_id)
    assert "failed: ZeroDivisionError: division by zero" in state.reason


def test_what_never_keeps_weights_is_not_said_to_bring_them_back(tmp_path):
    layout, knn = Layout(tmp_path), digits_config(freeze="all", classifier="knn")
    write_trial(layout, knn, Images.draw(20, 0))
    assert str(parent_failure(knn.trial_id, layout)).endswith("has no weights: its classifier, knn, keeps none")


def test_whoever_failed_with_a_parent_and_its_parent_is_planned_once_that_is_mended(tmp_path):
    layout, first = Layout(tmp_path), digits_config(keep="weights")
    chain = [first, child := child_of(first, keep="weights"), child_of(child)]
    write_plan(layout, chain, "s")
    files, told = (
        layout.trial(first.trial_id),
        {"kind": "OSError", "message": "disk", "traceback": "", "host": "h", "job": "s/j"},
    )
    write_record(files.error, ErrorRecord(trial_id=first.trial_id, attempt=1, failed_at="2026-01-01T00:00:00Z", **told))
    assert all(fail_with_parent(config, layout) for config in chain[1:])

    def statuses() -> list[str]:
        return [state.status.value for state in SweepReader(layout, read_plan(layout, "s")).read().values()]

    assert statuses() == ["failed"] * 3
    assert "attempt" not in log_text(layout, child.trial_id), "nobody has begun one"
    files.error.unlink()
    assert statuses() == ["planned"] * 3


def test_a_child_waits_while_a_parent_that_a_search_had_stopped_is_trained_anew():
    layout, parent = Layout(results_root()), digits_config(keep="weights", epochs=3)
    files = layout.trial(parent.trial_id)
    run_job(job_of(parent), layout, executor="ray", on_epoch=lambda trial_id, record: False)
    assert files.weights.exists() and awaits_parent(child_of(parent), layout)  # weights of one epoch of three
    assert claim_trial(files, parent.trial_id, "another/job-0001") is not None
    assert awaits_parent(child_of(parent), layout)


def test_a_child_does_not_start_from_the_weights_of_a_trial_that_a_search_stopped():
    layout, parent = Layout(results_root()), digits_config(keep="weights", epochs=3)
    run_job(job_of(parent), layout, executor="ray", on_epoch=lambda trial_id, record: False)
    child = child_of(parent)
    run_job(job_of(child), layout, executor="inline")
    assert read_state(layout.trial(child.trial_id), child.trial_id).status is Status.PLANNED
    run_job(job_of(parent, child), layout, executor="inline")
    assert len(result_of(layout, parent).curves) == 3
    assert read_state(layout.trial(child.trial_id), child.trial_id).status is Status.COMPLETED


def test_a_spec_names_a_parent_by_its_id_and_a_sweep_starts_nothing_without_it(tmp_path):
    path = tmp_path / "child.yaml"
    path.write_text(SPEC % digits_config().trial_id)
    assert load_spec(path).trials[0].config.weights == f"trial/{digits_config().trial_id}"
    answer = CliRunner().invoke(app, ["sweep", str(path), "--on", "inline"])
    assert answer.exit_code == 2 and "is not finished in" in answer.stderr
    path.write_text(SPEC % "nonsense")
    with pytest.raises(SpecError, match="the trial 'nonsense'; the 12 letters and digits of a trial's id"):
        load_spec(path)
