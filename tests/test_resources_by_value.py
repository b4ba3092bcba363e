"""Resources that a rule of the spec sets for some trials: other jobs, the same trials."""

from __future__ import annotations

import pytest

from cifar_hpc.errors import SpecError
from cifar_hpc.executors.slurm.arrays import plan_submission
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.site import Limits
from cifar_hpc.planning.plan import jobs_for, make_plan, plan_record, recorded_plan
from cifar_hpc.spec.load import load_spec
from cifar_hpc.spec.sweep import SweepSpec

SPEC = """
name: s
dataset: digits
base: {freeze: all, augment: none, image_size: 32}
grid: {arch: [resnet18, densenet121], lr: [1e-3, 1e-2]}
resources: {minutes: 10, memory_gb: 4}
"""
RULE = "when: [{if: {arch: densenet121}, set: {resources: {minutes: 60, memory_gb: 32}}}]\n"


def _spec(folder, text: str) -> SweepSpec:
    (folder / "s.yaml").write_text(text)
    return load_spec(folder / "s.yaml")


def _asked(plan) -> dict[str, tuple[float | None, float | None]]:
    jobs = jobs_for(plan, [trial.trial_id for trial in plan.trials], 1)
    return {job.cohorts[0].trials[0].arch: (job.resources.minutes, job.resources.memory_gb) for job in jobs}


def test_trials_of_a_rule_get_its_resources_and_keep_their_ids_and_axes(tmp_path):
    plain, ruled = _spec(tmp_path, SPEC), _spec(tmp_path, SPEC + RULE)
    assert [t.config.trial_id for t in ruled.trials] == [t.config.trial_id for t in plain.trials]
    assert [t.axes for t in ruled.trials] == [t.axes for t in plain.trials]
    assert _asked(make_plan(ruled)) == {"resnet18": (10, 4), "densenet121": (60, 32)}


def test_a_later_rule_changes_only_what_it_says(tmp_path):
    later = RULE.replace("}]", "}, {if: {arch: [densenet121]}, set: {resources: {minutes: 90}}}]")
    assert _asked(make_plan(_spec(tmp_path, SPEC + later)))["densenet121"] == (90, 32)


def test_trials_of_unequal_resources_share_no_cohort(tmp_path):
    rule = "when: [{if: {lr: 1e-2}, set: {resources: {minutes: 60}}}]\n"
    together, apart = (make_plan(_spec(tmp_path, text)) for text in (SPEC, SPEC + rule))
    assert len(together.cohorts) == 2 and len(apart.cohorts) == 4
    assert [cohort.trials[0] for cohort in apart.cohorts] == list(apart.trials)


def test_the_plan_on_disk_knows_them(tmp_path):
    plan = make_plan(_spec(tmp_path, SPEC + RULE))
    assert _asked(recorded_plan(plan_record(plan))) == _asked(plan)


def test_each_class_is_an_array_of_its_own(tmp_path):
    plan = make_plan(_spec(tmp_path, SPEC + RULE.replace("memory_gb: 32", "memory_gb: 32, cpus_per_gpu: 8")))
    jobs = jobs_for(plan, [trial.trial_id for trial in plan.trials], 1)
    submission = plan_submission(jobs, SlurmProfile(), Limits(1001, None), {}, canary=False)
    assert sorted((array.needs.memory_gb, array.needs.cpus == 8) for array in submission.arrays) == [(4, False), (32, True)]


def test_stages_have_rules_of_their_own(tmp_path):
    text = "name: s\ndataset: digits\nstages:\n  a: {base: {arch: linear}}\n  b:\n    base: {arch: simple_cnn}\n"
    text += "    when: [{if: {arch: simple_cnn}, set: {resources: {minutes: 7}}}]\n"
    assert [trial.resources for trial in _spec(tmp_path, text).trials] == [{}, {"minutes": 7}]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("minutes: 60", "minuts: 60", "s.yaml:7: when[0].set.resources.minuts: the key 'minuts'"),
        ("minutes: 60", "minutes: -1", "above 0"),
        ("minutes: 60", "gpus: 1.5", "s.yaml:7: when[0].set.resources.gpus: 1.5"),
    ],
)
def test_a_wrong_resource_of_a_rule_has_its_line(tmp_path, old, new, found):
    with pytest.raises(SpecError) as error:
        _spec(tmp_path, SPEC + RULE.replace(old, new))
    assert found in str(error.value)
