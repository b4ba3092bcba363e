"""What the reading commands print: on terminals of every width, in a pipe, and for programs."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from benchmarks.pool import Images, write_trial
from cifar_hpc.cli import app
from cifar_hpc.config import catalog
from cifar_hpc.errors import nearest
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.claims import claim_trial
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import EpochRecord, ErrorRecord, Status
from cifar_hpc.records.store import append_records, read_records, write_record
from cifar_hpc.spec.keys import TRIAL_KEYS
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.progress import Pace
from cifar_hpc.status.state import SweepReader


def call(*arguments: str, columns: int | None = None):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": None if columns is None else str(columns)})


def test_arch_without_a_name_lists_every_architecture():
    assert [row["arch"] for row in json.loads(call("arch", "--format", "json").stdout)] == list(catalog.ARCHS)
    lines = call("arch", columns=80).stdout.splitlines()
    assert len(lines) == 1 + len(catalog.ARCHS)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("word", "meant"),
    [("resnet19", "resnet18"), ("vgg12", "vgg11"), ("efficientnet_b9", "efficientnet_b7"), ("resnet3", "resnet34")],
)
def test_a_wrong_number_is_answered_with_the_nearest_number_and_a_short_list(word, meant):
    assert nearest(word, catalog.ARCHS) == meant
    told = call("arch", word)
    assert told.exit_code == 2
    assert f"Did you mean '{meant}'?" in told.stderr
    assert len(told.stderr) < 160


SPEC = """\
name: small
dataset: {name: digits, train_size: 200}
base: {epochs: 2, batch_size: 64}
grid: {arch: [linear, simple_cnn], lr: [0.01, 0.1], augment: [none, flip_crop]}
"""


@pytest.fixture
def half_done(tmp_path, monkeypatch):
    """A sweep of which one trial finished, one was interrupted after an epoch and one failed."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    plan = make_plan(load_spec(path))
    layout = Layout(results_root())
    write_record(layout.sweep("small").plan, plan_record(plan))
    layout.sweep("small").spec.write_text(SPEC)
    done, begun, failed = (trial for trial in plan.trials[:3])
    write_trial(layout, done, Images.draw(50, 10))
    epoch = EpochRecord(epoch=1, lr=0.1, train_loss=1.0, train_acc=0.5, val_loss=1.0, val_acc=0.5, train_s=3.0, val_s=1.0)
    append_records(layout.trial(begun.trial_id).metrics, [epoch])
    error = ErrorRecord(
        trial_id=failed.trial_id, attempt=1, kind="RuntimeError", message="no such luck\nat all", traceback="", host="here",
        job="small/job-0001", failed_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    write_record(layout.trial(failed.trial_id).error, error)
    return plan, layout


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_status_fits_the_terminal_in_percent_and_without_empty_columns(half_done, columns):
    lines = call("status", "small", "lr>0", columns=columns).stdout.splitlines()
    head, *rows = lines[1:10]
    assert max(map(len, lines)) <= columns
    assert {"arch", "lr", "augment", "status", "val"} <= set(head.split())
    assert ("trial" in head, "test" in head) == (columns >= 80, columns >= 80)  # an id leaves before an accuracy does
    assert columns < 80 or len({len(row.split()[0]) for row in rows}) == 1  # an id on each line: none is folded
    assert sum("completed" in row for row in rows) == 1
    measured = json.loads(call("status", "small", "status=completed", "--format", "json").stdout)[0]
    assert any(f"  {100 * measured['val_acc']:.0f} " in f"{row} " for row in rows if "completed" in row)  # of 20 images
    assert "dataset" not in head and ("test acc" in head) is (columns >= 80)
    assert "1 x RuntimeError: no such luck" in lines[10] + lines[11]
    assert max(map(len, call("status", columns=columns).stdout.splitlines())) <= columns


def test_status_in_a_pipe_leaves_no_column_out_and_gives_programs_fractions_and_whole_ids(half_done):
    plan, _ = half_done
    assert "test acc %" in call("status", "small", "lr>0").stdout
    rows = json.loads(call("status", "small", "--format", "json").stdout)
    assert [row["trial_id"] for row in rows] == [trial.trial_id for trial in plan.trials]
    assert 0 < rows[0]["val_acc"] < 1
    assert json.loads(call("status", "--format", "json").stdout)[0]["failed"] == 1


def test_status_says_the_epoch_that_an_interrupted_trial_goes_on_from(half_done):
    told = call("status", "small", "augment=flip_crop")
    assert "1 x interrupted after epoch 1" in told.stdout
    assert "small.yaml   (of what had begun no checkpoint stands: it begins again)" in told.stderr


def test_begun_trials_are_said_to_go_on_where_a_checkpoint_stands_and_their_epochs_count_there_alone(half_done):
    plan, layout = half_done
    files, other = (layout.trial(plan.trials[i].trial_id) for i in (1, 4))

    def left() -> str:
        (line,) = (line for line in call("sweep", "small.yaml", "--dry-run").stdout.splitlines() if "to start" in line)
        return line.partition("jobs, ")[2]

    def following() -> str:
        return call("status", "small", "status=planned,lost").stderr

    assert left() == "at most 12 epochs" and "no checkpoint stands: it begins again" in following()
    files.checkpoint.write_bytes(b"state")
    assert left() == "at most 11 epochs" and "(what had begun goes on from its checkpoint)" in following()
    append_records(other.metrics, read_records(files.metrics, EpochRecord))
    assert (
        left() == "at most 11 epochs"
        and "(1 of 2 begun trials goes on from a checkpoint, the other begins again)" in following()
    )
    claim = claim_trial(files, plan.trials[1].trial_id, "small/job-0001")
    write_record(files.claim(claim.attempt), dataclasses.replace(claim, pid_started=claim.pid_started - 1000))
    assert left() == "at most 11 epochs, and what 1 lost trial had trained since the last checkpoint"


def test_retry_refuses_a_spec_that_was_mended_and_names_sweep(half_done, tmp_path):
    assert "mend them, then cifar-hpc sweep" in call("status", "small").stderr
    (tmp_path / "small.yaml").write_text(SPEC.replace("0.01", "0.02"))
    told = call("retry", "small")
    assert told.exit_code == 2
    assert "has changed since small was planned" in told.stderr
    assert "cifar-hpc sweep" in told.stderr


def test_a_plan_of_another_version_hides_no_other_sweep(half_done):
    _, layout = half_done
    layout.sweep("newer").folder.mkdir()
    layout.sweep("newer").plan.write_text('{"schema_version": 99}')
    told = call("status")
    assert "small" in told.stdout
    assert "newer" in told.stderr


def test_logs_never_end_without_a_word(half_done):
    plan, layout = half_done
    assert "no trial matches 'lr>5'; lr is 0.01, 0.1" in call("logs", "small", "lr>5").stderr
    assert "no trial matches 'arch=resnet18'; arch is linear, simple_cnn" in call("status", "small", "arch=resnet18").stderr
    assert json.loads(call("status", "small", "arch=resnet18", "--format", "json").stdout) == []
    for trial in plan.trials[:3]:
        assert len(call("logs", trial.trial_id[:8]).stdout.splitlines()) > 1
    (error,) = layout.root.glob("trials/*/error.json")
    error.write_text("{")
    corrupt = call("logs", error.parent.name[:8])
    assert corrupt.exit_code == 0 and f"its error is not known: {error}: " in corrupt.stdout


def test_the_time_left_counts_what_trains_side_by_side_and_is_never_zero(half_done):
    plan, layout = half_done
    reader = SweepReader(layout, plan_record(plan))
    states = reader.read()
    pace, record = Pace(), reader.plan
    assert pace.left_s(record, states, 100.0) is None
    line = states[plan.trials[1].trial_id].epochs[0]
    waiting = [trial.trial_id for trial in plan.trials[3:7]]
    states |= {i: dataclasses.replace(states[i], status=Status.RUNNING, epochs=(line,)) for i in waiting}
    assert pace.left_s(record, states, 104.0) == pytest.approx(7, abs=3)  # seven epochs are left, four took four seconds
    assert pace.left_s(record, states, 150.0) is None


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("sweep", "x.yaml", "--on", "slrum"), "'slrum' is not one of 'auto', 'inline', 'ray', 'slurm'. Did you mean 'slurm'?"),
        (("status", "--format", "tabel"), "Did you mean 'table'?"),
        (("statsu",), "Did you mean 'status'?"),
        (("fetch", "digit"), "Did you mean 'digits'?"),
        (("status", "sweeps/small.yaml"), "Did you mean 'small'?"),
        (("logs", "smal"), "Did you mean 'small'?"),
        (("sweep", "smal"), "Did you mean 'small'?"),
    ],
)
def test_a_mistyped_word_of_a_command_is_answered_in_plain_words(half_done, arguments, answer):
    told = call(*arguments, columns=200)
    assert told.exit_code == 2
    assert answer in told.stderr
    assert "Value error" not in told.stderr


def test_a_place_that_cannot_be_written_is_told_without_a_traceback(half_done, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(tmp_path / "file"))
    told = call("sweep", "small.yaml", "--on", "inline")
    assert told.exit_code == 2
    assert told.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'file'}")
    assert told.stderr.endswith(": Not a directory\n")


def test_the_schema_reads_as_a_table_with_every_key_on_a_terminal_of_80_columns():
    lines = call("schema", "--format", "table", columns=80).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert {*TRIAL_KEYS, "seeds", "resources.gpus", "objective.metric"} <= {line.split()[0] for line in lines}
