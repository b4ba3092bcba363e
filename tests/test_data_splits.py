"""Sub-samples and validation splits: stratified, disjoint, the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_hpc.data.splits import allot, split_val, subsample
from cifar_hpc.errors import UnusableError

counts = st.lists(st.integers(4, 60), min_size=2, max_size=8)
seeds = st.integers(0, 2**31)
GOLDEN_VAL = [13, 16, 18, 19, 20, 22, 25, 27]
GOLDEN_SUBSAMPLE = [2, 12, 13, 17, 19, 26, 31, 36]


def _labels(counts_K: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts_K)), counts_K))


@settings(max_examples=60, deadline=None)
@given(counts, seeds, st.data())
def test_a_subsample_is_stratified_and_has_the_size_asked(counts_K, seed, data):
    labels_N = _labels(counts_K)
    size = data.draw(st.integers(len(counts_K), len(labels_N)))
    at = subsample(labels_N, size, seed)
    assert len(set(at.tolist())) == size
    taken_K = np.bincount(labels_N[at], minlength=len(counts_K))
    assert taken_K.min() >= 1
    ideal_K = size * np.array(counts_K) / len(labels_N)
    if ideal_K.min() >= 1:  # no class had to be lifted to one image
        assert np.abs(taken_K - ideal_K).max() < 1


@settings(max_examples=60, deadline=None)
@given(counts, seeds, st.floats(0.25, 0.75))
def test_training_and_validation_are_disjoint_whole_and_hold_every_class(counts_K, seed, val_frac):
    labels_N = _labels(counts_K)
    train, val = split_val(labels_N, val_frac, seed)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(labels_N)))
    for part in (train, val):
        assert set(labels_N[part].tolist()) == set(range(len(counts_K)))
    ideal_K = round(val_frac * len(labels_N)) * np.array(counts_K) / len(labels_N)
    assert np.abs(np.bincount(labels_N[val], minlength=len(counts_K)) - ideal_K).max() <= 1


def test_a_split_depends_on_its_seed_alone_and_stays_what_it_was():
    labels_N = np.arange(40) % 4
    assert split_val(labels_N, 0.2, 0)[1].tolist() == split_val(labels_N, 0.2, 0)[1].tolist()
    assert split_val(labels_N, 0.2, 0)[1].tolist() != split_val(labels_N, 0.2, 1)[1].tolist()
    assert split_val(labels_N, 0.2, 0)[1].tolist() == GOLDEN_VAL  # trained records name these images
    assert subsample(labels_N, 8, 0).tolist() == GOLDEN_SUBSAMPLE


def test_a_larger_subsample_of_the_same_seed_contains_the_smaller():
    labels_N = np.arange(100) % 5
    assert set(subsample(labels_N, 20, 3)) < set(subsample(labels_N, 60, 3))


def test_largest_remainders_get_what_is_left():
    assert allot(10, np.array([50, 30, 25])).tolist() == [5, 3, 2]
    assert allot(3, np.array([90, 5, 5])).tolist() == [1, 1, 1]


@pytest.mark.parametrize("size", [3, 41])
def test_a_train_size_that_cannot_be_is_refused(size):
    with pytest.raises(UnusableError, match=f"train_size: {size}"):
        subsample(np.arange(40) % 4, size, 0)


def test_a_class_with_one_image_cannot_be_split():
    with pytest.raises(UnusableError, match="val_frac"):
        split_val(np.array([0, 0, 0, 0, 1]), 0.4, 0)
