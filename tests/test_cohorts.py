"""Which trials train side by side."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.keys import Role
from cifar_hpc.config.normalize import normalise
from cifar_hpc.config.roles import keys_with
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.planning.cohorts import MOST_MEMBERS, group_cohorts, parts_of, trunk_passes, work_of

BASE = TrialConfig(dataset=DatasetConfig(name="cifar10"), arch="resnet18", image_size=32)


def trials_of(**axes):
    """Every combination of the axes."""
    configs = [BASE]
    for key, values in axes.items():
        configs = [dataclasses.replace(config, **{key: value}) for config in configs for value in values]
    return [normalise(config) for config in configs]


def sizes(configs, memory_gb=None):
    return sorted(len(cohort.trials) for cohort in group_cohorts(configs, memory_gb))


def test_learning_rates_of_one_frozen_trunk_train_together():
    assert sizes(trials_of(freeze=["all"], lr=[0.1, 0.2, 0.3, 0.4])) == [4]


def test_trials_that_freeze_nothing_train_alone():
    assert sizes(trials_of(freeze=["none"], lr=[0.1, 0.2])) == [1, 1]


def test_linear_classifiers_of_pixels_train_together_although_nothing_is_frozen():
    assert sizes(trials_of(arch=["linear"], lr=[0.1, 0.2, 0.3])) == [3]


def test_seeds_augmentations_and_architectures_share_nothing():
    axes = {"freeze": ["all"], "seed": [0, 1], "augment": ["none", "flip"], "arch": ["resnet18", "vgg11_bn"]}
    assert sizes(trials_of(**axes)) == [1] * 8


def test_depths_share_the_part_of_the_trunk_that_they_have_in_common():
    assert sizes(trials_of(augment=["flip"], freeze=["layer1", "layer2", "all"], lr=[0.1, 0.2], epochs=[5])) == [6]


def test_a_cohort_stops_growing_where_its_trunk_hardly_costs_anything():
    groups = sizes(trials_of(freeze=["layer1"], lr=[0.01 * i for i in range(1, 21)], epochs=[20]))
    assert len(groups) > 1, "with kept features one trunk pass is nothing beside 20 epochs of three stages"
    assert sizes(trials_of(freeze=["all"], augment=["flip"], lr=[0.01 * i for i in range(1, 21)])) == [20]


def test_a_cohort_stays_within_the_memory_that_the_spec_states():
    configs = trials_of(arch=["vgg19"], augment=["flip"], freeze=["features.34"], lr=[0.1, 0.2, 0.3, 0.4])
    assert max(sizes(configs, memory_gb=64)) > max(sizes(configs, memory_gb=8)) == 1


def test_the_trunk_of_images_that_are_not_augmented_is_passed_once():
    plain, flipped = trials_of(freeze=["all"], augment=["none", "flip"], epochs=[7])
    assert trunk_passes([plain]) == 1 and trunk_passes([flipped]) == 7
    assert trunk_passes(trials_of(freeze=["none"])) == 0


def test_sharing_is_less_work_than_training_alone():
    configs = trials_of(freeze=["all"], augment=["flip"], lr=[0.1, 0.2, 0.3, 0.4])
    (shared,) = group_cohorts(configs, None)
    apart = [cohort for config in configs for cohort in group_cohorts([config], None)]
    assert 3.5 * work_of(shared) < sum(map(work_of, apart))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_every_trial_is_in_one_cohort_whose_members_differ_only_in_what_may_differ(data):
    axes = {
        "arch": st.sampled_from(["linear", "simple_cnn", "resnet18", "vit_b_16", "timm/unknown"]),
        "freeze": st.sampled_from(["none", "all", 0.5, 1]),
        "augment": st.sampled_from(["none", "flip"]),
        "lr": st.floats(1e-4, 1),
        "epochs": st.integers(1, 30),
        "seed": st.integers(0, 2),
    }
    rows = data.draw(st.lists(st.fixed_dictionaries(axes), min_size=1, max_size=80))
    configs = list(
        {
            config.trial_id: config
            for row in rows
            if not (row["arch"] in ("linear", "timm/unknown") and row["freeze"] != "none")
            for config in [normalise(dataclasses.replace(BASE, **row))]
        }.values()
    )
    if not configs:
        return
    cohorts = group_cohorts(configs, None)
    assert sorted(t for cohort in cohorts for t in cohort.trial_ids) == sorted(c.trial_id for c in configs)
    common = [key for key in keys_with(Role.COMMON) if "." not in key]
    for cohort in cohorts:
        assert len(cohort.trials) <= MOST_MEMBERS
        assert len({tuple(getattr(trial, name) for name in common) for trial in cohort.trials}) == 1


def test_a_cohort_is_cut_into_parts_that_a_devices_memory_holds_and_keeps_its_order():
    trials = trials_of(freeze=["none"], lr=[0.1, 0.2, 0.3, 0.4, 0.5])  # 0.22 GB each, copies counted
    assert [len(part) for part in parts_of(trials, 0.5)] == [2, 2, 1]
    assert [trial for part in parts_of(trials, 0.5) for trial in part] == trials
    assert [len(part) for part in parts_of(trials, 0.1)] == [1] * 5
    assert [len(part) for part in parts_of(trials, 40.0)] == [5] and parts_of([], 1.0) == []


def test_a_thousand_linear_probes_are_one_cohort_and_the_trunk_runs_once() -> None:
    base = normalise(TrialConfig(dataset=DatasetConfig(name="cifar10"), arch="resnet18", image_size=32, freeze="all"))
    probes = [dataclasses.replace(base, lr=(i + 1) / 1000) for i in range(1000)]
    (cohort,) = group_cohorts(probes, None)
    assert len(cohort.trials) == 1000 and trunk_passes(cohort.trials) == 1
