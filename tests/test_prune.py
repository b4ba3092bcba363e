"""What prune removes: trials that no sweep asks for, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.config.trial import PARENT_PREFIX, TrialConfig
from cifar_hpc.records.claims import claim_trial
from cifar_hpc.records.layout import Layout, results_root
from tests.test_cli_sweep import call

IMAGES = Images.draw(20, 10)


@pytest.fixture
def layout() -> Layout:
    return Layout(results_root())


def finished(layout: Layout, config: TrialConfig) -> str:
    write_trial(layout, config, IMAGES, sweep="small")
    return config.trial_id


def child_of(parent: TrialConfig, weights: str, **changes: object) -> TrialConfig:
    return dataclasses.replace(parent, weights=weights, **changes)


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_only_what_no_sweep_needs_and_nobody_trains_is_removed_and_only_with_yes(layout, tmp_path):
    named, ancestor, running, interrupted, unnamed, elsewhere = configs(6, seeds=1, epochs=2)
    middle = child_of(ancestor, f"{PARENT_PREFIX}{ancestor.trial_id}", lr=0.3)
    by_path = child_of(unnamed, str(layout.trial(finished(layout, unnamed)).weights), lr=0.4)
    planned = child_of(middle, f"{PARENT_PREFIX}{middle.trial_id}", lr=0.5)
    kept = [finished(layout, config) for config in (named, ancestor, middle, planned, by_path)] + [unnamed.trial_id]
    lost = dataclasses.replace(named, seed=9)
    claim_trial(layout.trial(running.trial_id), running.trial_id, "other/job-0001")
    layout.trial(interrupted.trial_id).folder.mkdir()
    layout.trial(interrupted.trial_id).checkpoint.write_bytes(b"x" * 2000)
    write_plan(layout, [named, planned, by_path], "small")
    (tmp_path / elsewhere.trial_id).mkdir()
    layout.trial(elsewhere.trial_id).folder.symlink_to(tmp_path / elsewhere.trial_id)
    (layout.pool / "notes").mkdir()
    gone = [finished(layout, lost), interrupted.trial_id]

    before = everything(layout.root)
    shown = call("prune")
    assert shown.exit_code == 0 and everything(layout.root) == before
    assert [line.split()[:2] for line in shown.stdout.splitlines()[1:]] == [["planned", "1"], ["completed", "1"]]
    assert (
        "2 kB" in shown.stdout
        and "prune --yes" in shown.stderr
        and "1 trial that no sweep names runs or waits, and stays" in shown.stderr
    )

    done = call("prune", "--yes")
    assert done.exit_code == 0 and "removed 2 trials" in done.stderr, done.output
    left = {name: data for name, data in before.items() if Path(name).parts[1] not in gone}
    assert everything(layout.root) == left
    assert set(layout.trial_ids()) == {*kept, running.trial_id, elsewhere.trial_id, "notes"}
    assert not layout.leaving.exists()
    assert "nothing to remove" in call("prune", "--yes").stderr


@pytest.mark.parametrize("damage", ["corrupt", "missing"])
def test_a_plan_that_cannot_be_read_lets_nothing_be_removed(layout, damage):
    trial = next(iter(configs(1, seeds=1, epochs=2)))
    finished(layout, trial)
    write_plan(layout, [trial], "small")
    layout.sweep("small").spec.write_text("name: small\n")
    layout.sweep("small").plan.write_text("{") if damage == "corrupt" else layout.sweep("small").plan.unlink()
    told = call("prune", "--yes")
    assert told.exit_code == 2 and "plan.json" in told.stderr
    assert layout.trial(trial.trial_id).result.exists()
