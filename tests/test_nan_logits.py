"""A logit that is NaN says nothing: the image is never right, is taken for no class, and hides no other image's answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cifar_hpc.api.predictor import Predictions
from cifar_hpc.collect.diagnosis import diagnose
from cifar_hpc.collect.ensemble import Library, measure_disagreement
from cifar_hpc.collect.predictions import SplitPredictions
from cifar_hpc.config import metrics
from cifar_hpc.data.dataset import Split
from cifar_hpc.deploy.soup import Soup, save_soup
from cifar_hpc.records.layout import Layout
from cifar_hpc.train.inspection import worst_errors
from cifar_hpc.train.progress import Sums
from cifar_hpc.train.stack import guesses_of

LABELS = np.array([0, 1, 2, 0, 1])
LOGITS = np.array([[np.nan, 0, 0], [0, np.nan, 0], [0, 0, 9], [0, 5, 0], [np.nan] * 3], np.float32)  # the third alone is right


def test_it_is_right_by_no_measure():
    found = SplitPredictions(LOGITS, LABELS, None)
    assert found.right.tolist() == metrics.right_of(LOGITS, LABELS).tolist() == [False, False, True, False, False]
    assert metrics.taken_of(LOGITS).tolist() == [-1, -1, 2, 1, -1]
    assert metrics.balanced_acc(LOGITS, LABELS) == pytest.approx(1 / 3)
    assert metrics.macro_f1(LOGITS, LABELS) == metrics.f1_counts(LOGITS, LABELS).mean() == pytest.approx(1 / 3)
    assert Library(("a",), (1.0,), LOGITS[None], LABELS).right().tolist() == [found.right.tolist()]
    assert measure_disagreement([LOGITS, np.nan_to_num(LOGITS)]).tolist() == [[0, 0.6], [0.6, 0]]
    sums = Sums(torch.device("cpu"))
    sums.add(torch.tensor(1.0), 5, guesses_of(torch.tensor(LOGITS)), torch.tensor(LABELS))
    assert sums.hits.item() == 1


def test_a_trials_page_counts_it_among_its_classes_images_and_for_no_class():
    found = diagnose(SplitPredictions(LOGITS, LABELS, None), list("abc"))
    assert found.confusion.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert found.untold.tolist() == [1, 2, 0] and found.totals.tolist() == [2, 2, 1]
    assert {name: (score.images, score.recall) for name, score in found.scores.items()} == {
        "a": (2, 0),
        "b": (2, 0),
        "c": (1, 1),
    }
    assert [one[:3] for one in found.confident_errors] == [(3, "a", "b")] and found.reliability.count.sum() == 2
    nothing = diagnose(SplitPredictions(LOGITS[:1], LABELS[:1], None), list("abc"))
    assert (nothing.reliability.ece, nothing.confusions) == (0.0, ())


def test_no_picture_shows_it_as_an_error_that_was_made_with_confidence():
    images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    found = worst_errors("test", Split(images, torch.tensor(LABELS), torch.arange(5)), torch.tensor(LOGITS))
    assert found["test_errors"].tolist() == [3]


def test_a_soup_is_not_right_by_it_and_new_images_get_no_label_from_it(tmp_path):
    arrays = {"val_labels": LABELS, "test_labels": LABELS, "test_logits": LOGITS.astype(np.float16)}
    record = save_soup(Soup("uniform", ("a" * 16,), tuple("abc"), 0.2, b"", arrays), Layout(tmp_path), tmp_path, "soup")
    assert record.test_acc == pytest.approx(0.2)
    named = Predictions(tuple("12345"), tuple("abc"), LOGITS.astype(np.float64), ())
    assert named.labels == [None, None, "c", "b", None]
