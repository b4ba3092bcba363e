"""`status`, `report` and `report --watch` have one answer on where a trial stands, and one filter."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.pool import Images, write_trial
from cifar_hpc.cli import app
from cifar_hpc.cli.speech import conclude
from cifar_hpc.collect.chosen import chosen_pool
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import chosen_sections
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.claims import TrialState, claim_trial, release_claim
from cifar_hpc.records.jobs import JobEvent, JobState, own_handle
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import EpochRecord, Outcome, Status, TrialResult
from cifar_hpc.records.store import append_records, read_record, write_record
from cifar_hpc.report.caveats import progress_text
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.advice import left_out_line, reasons_of
from cifar_hpc.status.names import names_of, select_trials
from cifar_hpc.status.progress import Counts
from cifar_hpc.status.query import spell
from cifar_hpc.status.state import read_states
from cifar_hpc.sweep.listener import SweepOutcome
from cifar_hpc.sweep.where import reader_of

SPEC = """\
name: s
dataset: {name: digits, train_size: 200}
base: {epochs: 3}
grid: {arch: [linear, simple_cnn], lr: [0.1, 1e-5]}
"""
EPOCH = EpochRecord(epoch=2, lr=0.1, train_loss=1.0, train_acc=0.5, val_loss=1.0, val_acc=0.5, train_s=3.0, val_s=1.0)


def call(*words: str):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "s.yaml").write_text(SPEC)
    plan = make_plan(load_spec(tmp_path / "s.yaml"))
    layout = Layout(results_root())
    write_record(layout.sweep("s").plan, plan_record(plan))
    return layout, plan


def _of_status(layout: Layout) -> dict[str, str]:
    return {row["trial_id"]: row["status"] for row in json.loads(call("status", "s", "--format", "json").stdout)}


def _of_report(layout: Layout) -> dict[str, str]:
    rows = json.loads(call("report", "s", "--format", "json").stdout)
    found = {trial_id: "completed" for row in rows for trial_id in row["trials"]}
    found |= {trial_id: word for row in rows for word in ("failed", "lost") for trial_id in row[word]}
    for trial_id in (i for row in rows for i in row["unfinished"]):
        told = call("report", "s", f"id={trial_id}", "--format", "json").stderr
        found[trial_id] = next(word for word in ("planned", "queued", "running", "cancelled") if word in told)
    return found


def _event(event: str, trial_id: str, executor: str, handle: str) -> JobEvent:
    about = {"at": "2026-01-01T00:00:00Z", "job_id": "job-0001", "executor": executor, "handle": handle}
    return JobEvent(event=event, trial_ids=(trial_id,), **about)


def test_a_trial_that_another_sweeps_search_stopped_is_planned_for_both(sweep):
    layout, plan = sweep
    for config in plan.trials[:2]:
        write_trial(layout, config, Images.draw(50, 10))
    files = layout.trial(plan.trials[1].trial_id)
    stopped = dataclasses.replace(read_record(files.result, TrialResult), outcome=Outcome.PRUNED, job="other/job-0001")
    write_record(files.result, stopped)
    assert _of_status(layout)[plan.trials[1].trial_id] == "planned"
    assert _of_report(layout) == _of_status(layout)


def test_of_a_search_that_was_killed_the_trials_that_may_still_come_are_counted(sweep, capsys):
    layout, made = sweep
    for config in made.trials:
        write_trial(layout, config, Images.draw(20, 10), sweep="s")
    plan = dataclasses.replace(plan_record(made), search={"trials_at_most": 24})
    write_record(layout.sweep("s").plan, plan)
    states = read_states(layout, [trial.trial_id for trial in plan.trials], [plan])
    assert str(Counts.of(plan, states)) == "4 of up to 24 trials, 12 of up to 72 epochs"
    told = call("status", "s")
    assert told.stdout.startswith("s: 4 completed, up to 20 more to sample")
    assert "s.yaml   (the search goes on: up to 20 more trials)" in told.output
    assert "up to 24" in call("status").stdout
    (section,) = chosen_sections(layout, ["s"], "")
    assert progress_text(section.pool, section.board) == (
        "4 of up to 24 trials finished, 4 of 4 configurations measured: up to 20 more to sample."
    )
    conclude(SweepOutcome(plan=plan, states=states))
    assert "s: 4 of up to 24 trials finished" in capsys.readouterr().err


def test_what_is_not_shown_of_reasons_is_said_to_be_missing_and_where_it_stands(sweep, capsys):
    _, made = sweep
    plan = plan_record(made)
    long = ["RuntimeError: " + "letters " * 40, "RuntimeError: first line\nsecond line", "OSError: short", "OSError: short"]
    states = {
        trial.trial_id: TrialState(trial.trial_id, Status.FAILED, reason)
        for trial, reason in zip(plan.trials, long, strict=True)
    }
    reasons = reasons_of(states.values())
    where = f"cifar-hpc status {plan.sweep} --format json"
    assert left_out_line(plan, reasons, 3) == [f"... the whole of what is cut off: {where}"]
    assert left_out_line(plan, reasons, 2) == [f"... 1 more reason and the whole of what is cut off: {where}"]
    assert [reason.endswith(" ...") for _, reason in reasons] == [True, True, False]
    assert left_out_line(plan, reasons_of([states[plan.trials[2].trial_id]]), 2) == []
    with contextlib.suppress(typer.Exit):
        conclude(SweepOutcome(plan=plan, states=states))
    assert "the whole of what is cut off" in capsys.readouterr().err


@pytest.fixture
def finished(sweep, monkeypatch):
    """Files of a finished trial, its bytes and its record; a retry starts nothing."""
    layout, plan = sweep
    for config in plan.trials:
        write_trial(layout, config, Images.draw(50, 10))
    files = layout.trial(plan.trials[0].trial_id)
    write_record(files.result, read_record(files.result, TrialResult))
    monkeypatch.setattr("cifar_hpc.sweep.retry.drive", lambda *words: None)
    return layout, files, files.result.read_bytes()


def _sealed(plain: dict) -> bytes:
    """As a program of another version, which knows more, writes it."""
    body = json.dumps({key: value for key, value in plain.items() if key != "digest"}, separators=(",", ":"))
    return f'{body[:-1]},"digest":"{hashlib.sha256(body.encode()).hexdigest()}"}}\n'.encode()


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: _sealed(json.loads(data) | {"classes": json.loads(data)["classes"][::-1]}),  # of another data set
        lambda data: _sealed(json.loads(data) | {"trial_id": "x" * 12}),  # copied here
        lambda data: data.replace(b'"train_s":', b'"train_s":9'),  # edited by hand
        lambda data: data[:300],  # corrupt
        lambda data: b'["digest"]',  # no object
        lambda data: b'{"outcome": {"digest": 1}}',  # has no digest of its own
    ],
)
def test_what_is_no_result_is_none_for_both_and_retry_puts_it_aside(finished, edit):
    layout, files, data = finished
    files.result.write_bytes(edit(data))
    assert _of_status(layout)[files.folder.name] == "failed"
    assert _of_report(layout) == _of_status(layout)
    logs = call("logs", "s")
    assert logs.exit_code == 0 and f"its result is refused: {files.result}: " in logs.stdout
    told = call("retry", "s").stderr.replace("\n", " ")
    assert f"put aside as result.json.refused: {files.result}: " in told and "cifar-hpc retry" not in told
    assert (files.folder / "result.json.refused").read_bytes() == edit(data) and not files.result.exists()
    assert _of_status(layout)[files.folder.name] == "planned"
    assert files.refused_result().name == "result.json.refused-2"


@pytest.mark.parametrize(
    "later",
    [
        lambda plain: {"config": plain["config"] | {"later_key": None}},
        lambda plain: {"config": plain["config"] | {"lr": 77.0}},  # hashes to another id: of another id scheme
        lambda plain: {"outcome": "a later one"},
        lambda plain: {"schema_version": 99},
    ],
)
def test_retry_leaves_a_result_of_another_version_of_this_program_alone_and_says_so(finished, later):
    layout, files, data = finished
    plain = json.loads(data)
    written = _sealed(plain | later(plain))
    files.result.write_bytes(written)
    assert _of_status(layout)[files.folder.name] == "failed"
    told = call("retry", "s").stderr.replace("\n", " ")
    assert "left as it is" in told and f"mv {files.result} {files.result}.refused" in told
    assert files.result.read_bytes() == written
    advised = call("status", "s").stderr
    assert f"mv {files.result} {files.result}.refused" in advised and "cifar-hpc retry" not in advised


def test_a_result_that_a_search_ended_stays_where_another_version_of_this_program_wrote_it(finished):
    _, files, data = finished
    plain = json.loads(data) | {"outcome": "pruned"}
    written = _sealed(plain | {"config": plain["config"] | {"lr": 77.0}})
    files.result.write_bytes(written)
    assert claim_trial(files, files.folder.name, "s/job-0002") is None
    assert files.result.read_bytes() == written
    files.result.write_bytes(_sealed(plain))  # this version's goes
    assert claim_trial(files, files.folder.name, "s/job-0002") is not None and not files.result.exists()


def test_retry_puts_nothing_aside_where_the_plan_itself_cannot_run(finished):
    layout, files, data = finished
    files.result.write_bytes(data[:300])
    plan = layout.sweep("s").plan
    plain = json.loads(plan.read_bytes())
    plain["trials"][0]["config"]["later_key"] = None
    plan.write_bytes(_sealed(plain))
    told = call("retry", "s")
    assert told.exit_code == 2 and "is not a plan of this version" in told.stderr.replace("\n", " ")
    assert files.result.read_bytes() == data[:300]


def test_trials_in_slurms_queue_are_queued_for_both(sweep, monkeypatch):
    layout, plan = sweep
    append_records(layout.sweep("s").jobs, [_event("submitted", plan.trials[0].trial_id, "slurm", "77_0")])
    queue = "cifar_hpc.executors.slurm.queue.SlurmQueue"
    monkeypatch.setattr(f"{queue}.states", lambda self, handles: dict.fromkeys(handles, JobState.QUEUED))
    monkeypatch.setattr(f"{queue}.explain", lambda self, handles: dict.fromkeys(handles, "PENDING (Priority)"))
    assert _of_status(layout)[plan.trials[0].trial_id] == "queued"
    assert _of_report(layout) == _of_status(layout)
    assert "1 x PENDING (Priority)" in call("status", "s").stdout
    monkeypatch.setattr(f"{queue}.states", lambda self, handles: dict.fromkeys(handles, JobState.RUNNING))
    monkeypatch.setattr(f"{queue}.explain", lambda self, handles: dict.fromkeys(handles, "RUNNING"))
    for event in ("submitted", "ended"):  # it helped the queue
        append_records(layout.sweep("s").jobs, [_event(event, plan.trials[0].trial_id, "inline", own_handle())])
    assert "1 x its job runs and has not come to it" in call("status", "s").stdout


def test_what_waits_behind_a_trial_that_a_process_of_another_host_trains_is_queued(sweep):
    layout, plan = sweep
    first, second = (trial.trial_id for trial in plan.trials[:2])
    append_records(layout.sweep("s").jobs, [_event("submitted", one, "inline", "elsewhere/b:1/7/9") for one in (first, second)])
    assert _of_status(layout)[second] == "planned"
    assert claim_trial(layout.trial(first), first, "s/job-0001")
    assert _of_status(layout)[second] == "queued"


def test_an_interrupted_trial_says_its_epoch_and_is_no_failure_for_both(sweep):
    layout, plan = sweep
    trial_id = plan.trials[0].trial_id
    claim = claim_trial(layout.trial(trial_id), trial_id, "s/job-0001")
    append_records(layout.trial(trial_id).metrics, [EPOCH])
    release_claim(layout.trial(trial_id), claim)
    assert "interrupted after epoch 2" in call("status", "s").stdout
    assert _of_report(layout) == _of_status(layout)
    assert "lost" not in call("report", "s").stderr


def test_a_trial_whose_process_died_is_lost_and_not_failed_for_both(sweep):
    layout, plan = sweep
    trial_id = plan.trials[0].trial_id
    claim = claim_trial(layout.trial(trial_id), trial_id, "s/job-0001")
    write_record(layout.trial(trial_id).claim(1), dataclasses.replace(claim, pid_started=claim.pid_started + 1))
    assert _of_status(layout)[trial_id] == "lost"
    assert _of_report(layout) == _of_status(layout)
    told = call("report", "s")
    assert "Lost: attempt ended without a word" in told.stderr and "ailed" not in told.stderr
    page = (layout.sweep("s").folder / "report" / "index.html").read_text()
    assert "Lost: attempt ended without a word" in page and "ailed:" not in page


@pytest.mark.parametrize("saved", [False, True])
def test_a_begun_trial_whose_job_runs_again_is_not_told_that_it_was_never_begun(sweep, monkeypatch, saved):
    layout, plan = sweep
    trial_id = plan.trials[0].trial_id
    claim = claim_trial(layout.trial(trial_id), trial_id, "s/job-0001")
    write_record(layout.trial(trial_id).claim(1), dataclasses.replace(claim, pid_started=claim.pid_started + 1))
    if saved:
        append_records(layout.trial(trial_id).metrics, [EPOCH])
        release_claim(layout.trial(trial_id), claim)
    append_records(layout.sweep("s").jobs, [_event("submitted", trial_id, "slurm", "77_0")])
    queue = "cifar_hpc.executors.slurm.queue.SlurmQueue"
    monkeypatch.setattr(f"{queue}.states", lambda self, handles: dict.fromkeys(handles, JobState.RUNNING))
    monkeypatch.setattr(f"{queue}.explain", lambda self, handles: dict.fromkeys(handles, "RUNNING"))
    assert "its job runs and has not come to it again" in " ".join(call("status", "s").stdout.split())


def test_a_watched_report_ends_where_a_trial_was_cancelled_and_nobody_trains(sweep, monkeypatch):
    layout, plan = sweep
    for config in plan.trials[1:]:
        write_trial(layout, config, Images.draw(50, 10))
    job = plan.trials[0].trial_id, "inline", own_handle()
    append_records(layout.sweep("s").jobs, [_event("submitted", *job), _event("cancelled", *job)])
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits for a trial that nobody will train"))
    told = call("report", "s", "--watch")
    assert told.exit_code == 0
    assert "1 cancelled" in told.stderr


def test_a_served_report_goes_on_where_an_interrupted_sweep_does(sweep, monkeypatch):
    layout, plan = sweep
    for config in plan.trials[1:]:
        write_trial(layout, config, Images.draw(50, 10))
    pages = []

    def sleep(seconds: float) -> None:
        pages.append((layout.sweep("s").report / "index.html").read_text())
        if len(pages) == 2:
            raise KeyboardInterrupt
        write_trial(layout, plan.trials[0], Images.draw(50, 10))  # by another shell

    monkeypatch.setattr("cifar_hpc.report.watching.time.sleep", sleep)
    assert call("report", "s", "--serve", "0").exit_code == 0
    assert "3 of 4 trials finished" in pages[0] and "4 of 4 trials finished" in pages[1]
    assert "renewed while <code>" in pages[1]
    assert "renewed while <code>" not in (layout.sweep("s").report / "index.html").read_text()


@pytest.mark.parametrize("command", ["status", "report"])
@pytest.mark.parametrize("term", ["test_acc>0", "status=completed", "lr=1e-5", "epochs_done>=1", "outcome=finished"])
def test_what_one_prints_filters_the_other(sweep, command, term):
    layout, plan = sweep
    for config in plan.trials[:2]:
        write_trial(layout, config, Images.draw(50, 10))
    told = call(command, "s", term, "--format", "json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)


def test_a_value_as_a_table_prints_it_is_a_value_of_the_filter(sweep):
    layout, plan = sweep
    for config in plan.trials:
        write_trial(layout, config, Images.draw(50, 10))
    shown = call("report", "s").stdout
    assert "1e-5" in shown and "1e-5" in call("status", "s", "lr<1").stdout
    for command in ("status", "report"):
        rows = json.loads(call(command, "s", "weights=none given", "--format", "json").stdout)
        assert len(rows) == len(plan.trials)


def test_a_filter_means_the_same_trials_for_status_and_for_report_where_the_spec_gives_a_key_as_null(tmp_path):
    (tmp_path / "n.yaml").write_text(
        "name: n\ndataset: {name: digits, train_size: 60}\nbase: {arch: linear, epochs: 1, lr: 0.1}\n"
        "grid: {momentum: [0, 0.9]}\ninclude: [{lr: 0.3, momentum: null}]\n"
    )
    plan, layout = make_plan(load_spec(tmp_path / "n.yaml")), Layout(tmp_path / "results")
    for trial in plan.trials:
        write_trial(layout, trial, Images.draw(50, 10), sweep="n")
    record = plan_record(plan)
    write_record(layout.sweep("n").plan, record)
    states = reader_of(layout, record).read()
    for terms, n in (("momentum=0", 2), ("momentum=0.9", 1), ("momentum=null", 0), ("lr=0.3 momentum=0", 1)):
        chosen = {trial.trial_id for trial in select_trials(record, states, [terms])[0]}
        shown = chosen_pool(layout, ["n"], terms).trials if n else ()
        assert chosen == {trial.trial_id for trial in shown} and len(chosen) == n, terms
    assert set(names_of(record.trials).values()) == {f"momentum={m} lr={lr}" for m, lr in ((0, 0.1), (0.9, 0.1), (0, 0.3))}


def test_lists_have_one_name_in_every_command(tmp_path):
    (tmp_path / "l.yaml").write_text(
        "name: l\ndataset: {name: digits, train_size: 60}\nbase: {arch: linear, epochs: 1}\n"
        "grid: {dataset.classes: [['3', '1'], ['5', '2', '4']], augment: [none, [flip, {crop: {pad_frac: 0.1}}]]}\n"
    )
    plan, layout = make_plan(load_spec(tmp_path / "l.yaml")), Layout(tmp_path / "results")
    record = plan_record(plan)
    write_record(layout.sweep("l").plan, record)
    states = reader_of(layout, record).read()
    labels = {
        f"{key}={spell(t.config[key], key)}" for t in scan(layout, ["l"]).unfinished for key in ("dataset.classes", "augment")
    }
    assert len(labels) == 4 and "dataset.classes=1+3" in labels
    for label in labels:
        assert any(label in name for name in names_of(record.trials).values()), label
        assert len(select_trials(record, states, [label.replace(" ", "*")])[0]) == 2


def test_a_freezing_depth_has_one_name_in_the_whole_pool_also_where_a_trial_left_its_plan(tmp_path):
    layout = Layout(tmp_path / "results")
    for lr in (0.1, 0.3):
        (tmp_path / "d.yaml").write_text(
            f"name: d\ndataset: digits\nbase: {{arch: simple_cnn, epochs: 1, lr: {lr}}}\ngrid: {{freeze: [none, 0.5]}}\n"
        )
        plan = make_plan(load_spec(tmp_path / "d.yaml"))
        for trial in plan.trials:
            write_trial(layout, trial, Images.draw(50, 10), sweep="d")
        write_record(layout.sweep("d").plan, plan_record(plan))
    assert sorted(str(trial.config["freeze"]) for trial in scan(layout).trials) == ["0.5", "0.5", "none", "none"]


@pytest.mark.parametrize("shared_by", [1, 4])
def test_time_left_is_told_of_a_trial_that_trains_alone(sweep, shared_by):
    layout, plan = sweep
    trial_id = plan.trials[0].trial_id
    assert claim_trial(layout.trial(trial_id), trial_id, "s/job-0001", shared_by)
    append_records(layout.trial(trial_id).metrics, [dataclasses.replace(EPOCH, epoch=1)])
    call("report", "s")
    (path,) = layout.sweep("s").report.rglob("running.csv")
    _, row = path.read_text().splitlines()
    assert row.endswith(",4.0 s,8.0 s" if shared_by == 1 else ",,"), "an epoch of one among others is its part of theirs"
