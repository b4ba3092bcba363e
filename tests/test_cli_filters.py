"""The filter language of the reading commands."""

from __future__ import annotations

import pytest

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.status.query import config_text, flat_config, parse_filter, spell

ROW = {"arch": "resnet18", "lr": 1e-3, "status": "failed", "weights": None, "freeze": 0.5, "note": "a b=3, c", "depth": "1.0"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("arch=resnet18 status=failed", True),
        ("arch=resnet18 status=completed", False),
        ("arch=vgg11,resnet*", True),
        ("arch!=resnet18", False),
        ("arch!=vgg11,densenet121", True),
        ("lr=0.001", True),
        ("lr>1e-3", False),
        ("lr>=1e-3 lr<0.01", True),
        ("weights=null", True),
        ("weights>0", False),
        ("freeze=.5", True),
        ("STATUS=failed".lower(), True),
        ('note="a b=3, c" lr=0.001', True),
        ('note=x,"a b=3, c"', True),
        ('note="a b=3" lr=0.001', False),
        ('note="x,a b=3, c"', False),
        ("note=a ?=3, c", False),
        ("depth=1", False),
        ("depth=1.0", True),
        ("depth>0", False),
        ("depth!=1", True),
        ("arch=resnet[12]8", False),
        ("arch=resnet?8", False),
    ],
)
def test_a_filter_matches_when_all_its_terms_hold(text, matches):
    assert parse_filter(text, ROW).matches(ROW) is matches


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("archs=resnet18", "Did you mean 'arch'?"),
        ("arch", "'arch' is no term"),
        ("lr>fast", "a number after >"),
        ("lr=", "is no term"),
    ],
)
def test_a_wrong_filter_is_answered_with_what_is_allowed(text, answer):
    with pytest.raises(CifarHpcError) as told:
        parse_filter(text, ROW)
    assert answer in str(told.value)


@pytest.mark.parametrize("value", [0.03162277660168379, 0.0031622776601683794, 1.23456789e-5, 123456789.0])
def test_a_value_is_found_as_a_table_prints_it_and_as_the_spec_has_it(value):
    row = {"lr": value}
    for text in (spell(value, "lr"), repr(value)):
        assert parse_filter(f"lr={text}", row).matches(row) and not parse_filter(f"lr!={text}", row).matches(row)
    assert not parse_filter("lr=0.0316", row).matches(row)


def test_nested_keys_are_asked_for_with_a_point():
    flat = flat_config(config_text({"dataset": {"name": "digits", "train_size": 400}}))
    assert {key: value for key, value in flat.items() if value is not None} == {
        "dataset": "digits",
        "dataset.train_size": 400,
    }


@pytest.mark.parametrize(
    "text",
    ["dataset.name=digits", "folds=null", "folds.n=null", "objective.metric=val_loss", "objective=val_loss", "sampler=null"],
)
def test_a_filter_knows_every_key_of_a_spec_that_a_trials_numbers_depend_on(text):
    row = flat_config(config_text({"dataset": {"name": "digits"}, "objective": "val_loss"}))  # of before there was a sampler
    assert parse_filter(text, row).matches(row) and not parse_filter(text.replace("=", "!="), row).matches(row)


def test_a_filter_of_what_no_number_depends_on_is_refused_with_the_keys_of_a_spec():
    with pytest.raises(CifarHpcError, match=r"'keep' is unknown; allowed: .*folds.*objective\.metric") as told:
        parse_filter("keep=null", flat_config(config_text({"dataset": {"name": "digits", "fingerprint": "ab"}})))
    assert "fingerprint" not in str(told.value)
