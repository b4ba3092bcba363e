"""From a spec to cohorts, jobs and plan.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cifar_hpc.planning.plan import Plan, Resources, jobs_for, make_plan, plan_record, recorded_plan
from cifar_hpc.records.schema import PlanRecord
from cifar_hpc.records.store import read_record, write_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.spec.parts import SweepTrial
from cifar_hpc.status.advice import sweep_command

SPEC = """\
name: p
dataset: cifar10
grid: {arch: [linear, simple_cnn], lr: [0.1, 0.01], augment: [none, [flip, rotate: {degrees: 20}]]}
seeds: 2
resources: {gpus: 0.5, minutes: 30}
"""


def plan_of(folder: Path, text: str = SPEC) -> Plan:
    path = folder / "p.yaml"
    path.write_text(text)
    return make_plan(load_spec(path))


def test_every_trial_of_the_spec_is_in_exactly_one_cohort(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    members = [trial_id for cohort in plan.cohorts for trial_id in cohort.trial_ids]
    assert sorted(members) == sorted(trial.config.trial_id for trial in plan.spec.trials)
    assert len(set(members)) == 16
    apart = make_plan(plan.spec, share=False)
    assert [cohort.trial_ids for cohort in apart.cohorts] == [(trial.trial_id,) for trial in plan.trials]


def test_jobs_carry_what_is_wanted_and_no_more(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    linear, network = plan.trials[5], plan.trials[10]
    assert (linear.arch, network.arch) == ("linear", "simple_cnn")
    jobs = jobs_for(plan, [linear.trial_id, network.trial_id, "of-another-sweep"], first_number=9)
    assert [job.trial_ids for job in jobs] == [(network.trial_id,), (linear.trial_id,)], "the longest first"
    assert [job.job_id for job in jobs] == ["job-0009", "job-0010"]
    assert {job.sweep for job in jobs} == {"p"}
    assert jobs[0].resources == Resources(gpus=0.5, minutes=30.0)
    assert jobs_for(plan, [], first_number=1) == ()


def test_a_plan_is_read_back_from_disk_as_it_was(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    record = plan_record(plan)
    write_record(tmp_path / "plan.json", record)
    back = read_record(tmp_path / "plan.json", PlanRecord)
    assert back == record
    again = recorded_plan(back)
    assert (again.trials, again.cohorts) == (plan.trials, plan.cohorts)
    assert again.spec.resources == plan.spec.resources
    assert [trial.trial_id for trial in again.trials] == [trial.trial_id for trial in back.trials]
    assert back.trials[-1].axes == {"arch": "simple_cnn", "lr": 0.01, "augment": "flip(p=0.5) + rotate(degrees=20)", "seed": 1}
    assert back.objective == "val_acc"


def test_a_grown_spec_keeps_the_ids_that_it_had(tmp_path: Path) -> None:
    old = {trial.trial_id for trial in plan_of(tmp_path).trials}
    new = {
        trial.trial_id
        for trial in plan_of(tmp_path, SPEC.replace("0.01]", "0.01, 0.03]").replace("seeds: 2", "seeds: 3")).trials
    }
    assert old < new
    assert len(new) == 36


def test_another_name_and_other_resources_change_no_id(tmp_path: Path) -> None:
    old = [trial.trial_id for trial in plan_of(tmp_path).trials]
    assert old == [trial.trial_id for trial in plan_of(tmp_path, SPEC.replace("name: p", "name: q").replace("0.5", "1")).trials]


def test_what_continues_a_sweep_names_its_overrides_and_survives_plan_json(tmp_path):
    (tmp_path / "x.yaml").write_text("name: x\ndataset: digits\nbase: {arch: linear}\ngrid: {lr: [0.1, 0.2]}\n")
    made = make_plan(load_spec(tmp_path / "x.yaml", ["grid.lr=[0.3, 0.4]", "epochs=2"]), share=False)
    record = PlanRecord.from_json(plan_record(made).to_json())
    assert sweep_command(record) == f"cifar-hpc sweep {tmp_path}/x.yaml --set 'grid.lr=[0.3, 0.4]' --set epochs=2 --no-share"
    assert recorded_plan(record).cohorts == made.cohorts


def test_a_trial_stands_a_level_above_its_parent_and_what_others_wait_for_begins_first(tmp_path: Path) -> None:
    parents = plan_of(tmp_path).trials[5:7]
    child = "name: p\ndataset: cifar10\nbase: {weights: {trial: %s}}\ngrid: {arch: [linear], lr: [1e-4]}\n"
    children = plan_of(tmp_path, child % parents[1].trial_id).spec
    grown = replace(children, trials=(*children.trials, *(SweepTrial(config, {}) for config in parents)))
    plan = make_plan(grown)
    assert plan.levels == (tuple(config.trial_id for config in parents), (children.trials[0].config.trial_id,))
    jobs = jobs_for(plan, [config.trial_id for config in plan.trials], 1)
    assert [(job.level, job.parent_ids) for job in jobs][-1] == (1, (parents[1].trial_id,))
    assert {(job.level, job.parent_ids) for job in jobs[:-1]} == {(0, ())}
    assert jobs[0].trial_ids == (parents[1].trial_id,), "what a child waits for begins first"
    assert make_plan(children).levels == ((children.trials[0].config.trial_id,),), "a parent of another sweep is no level"
