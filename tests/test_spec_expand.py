"""Expansion, as laws that hold for any spec: grid, zip, include, when, exclude, seeds, the order of keys, overrides."""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cifar_hpc.errors import SpecError
from cifar_hpc.spec.load import load_spec
from cifar_hpc.spec.sweep import SweepSpec

VALUES: dict[str, list[Any]] = {
    "arch": ["convnet5", "resnet9", "resnet18", "squeezenet1_1"],
    "lr": [0.1, 0.03, 0.01, 1.0],
    "epochs": [1, 2, 5],
    "freeze": ["none", 1, 2, "all"],  # four depths in each of these networks
    "batch_size": [32, 64],
    "augment": ["none", "flip_crop", ["flip", {"rotate": {"degrees": 20}}]],
    "dataset.train_size": [500, 1000],
}


def some_values(key: str) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(VALUES[key]), min_size=1, max_size=3, unique_by=json.dumps)


@st.composite
def axes(draw: st.DrawFn, least: int = 1) -> dict[str, list[Any]]:
    keys = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=least, max_size=4, unique=True))
    return {key: draw(some_values(key)) for key in keys}


@st.composite
def patterns(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(["arch", "lr", "epochs", "freeze"]), min_size=1, max_size=2, unique=True))
    return {key: draw(st.sampled_from(VALUES[key])) for key in keys}


def load(spec: dict[str, Any], overrides: tuple[str, ...] = ()) -> SweepSpec:
    base = {} if "arch" in spec.get("grid", {}) else {"arch": "convnet5"}  # a key is fixed or swept
    spec = {"name": "x", "dataset": {"name": "cifar10"}, **spec, "base": {**base, **spec.get("base", {})}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.yaml"
        path.write_text(json.dumps(spec))  # JSON is YAML
        return load_spec(path, overrides)


def ids(spec: SweepSpec) -> list[str]:
    return [trial.config.trial_id for trial in spec.trials]


def value_of(trial: Any, key: str) -> Any:
    return trial.config.dataset.train_size if key == "dataset.train_size" else getattr(trial.config, key)


def has(trial: Any, pattern: dict[str, Any]) -> bool:
    return all(type(value_of(trial, k)) is type(v) and value_of(trial, k) == v for k, v in pattern.items())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(axes(), st.integers(1, 3))
def test_a_grid_is_the_product_of_its_axes_in_the_order_of_the_file_with_the_seed_fastest(
    grid: dict[str, list[Any]], n: int
) -> None:
    spec = load({"grid": grid, "seeds": n})
    expected = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    assert len(spec.trials) == len(expected) * n
    for index, trial in enumerate(spec.trials):
        assert trial.config.seed == index % n
        plain = {key: value for key, value in expected[index // n].items() if not isinstance(value, list)}
        assert has(trial, plain)
        assert list(trial.axes) == [*grid, *(["seed"] if n > 1 else [])]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(axes(), st.randoms(use_true_random=False))
def test_the_order_of_keys_and_values_changes_no_id(grid: dict[str, list[Any]], shuffle: random.Random) -> None:
    keys = list(grid)
    shuffle.shuffle(keys)
    assert set(ids(load({"grid": grid}))) == set(ids(load({"grid": {key: grid[key][::-1] for key in keys}})))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*(st.sampled_from(VALUES[key]) for key in ("lr", "freeze", "epochs"))), min_size=1, max_size=5))
def test_a_zip_is_the_list_of_its_rows(rows: list[tuple[Any, ...]]) -> None:
    columns = {key: list(column) for key, column in zip(("lr", "freeze", "epochs"), zip(*rows, strict=True), strict=True)}
    listed = [dict(zip(columns, row, strict=True)) for row in rows]
    assert ids(load({"zip": columns})) == ids(load({"include": listed}))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(axes(least=2), st.lists(patterns(), min_size=1, max_size=2))
def test_exclude_leaves_out_what_matches_and_nothing_else(grid: dict[str, list[Any]], exclude: list[dict[str, Any]]) -> None:
    whole = load({"grid": grid})
    matching = [{trial.config.trial_id for trial in whole.trials if has(trial, pattern)} for pattern in exclude]
    left = [trial_id for trial_id in ids(whole) if not any(trial_id in match for match in matching)]
    try:
        assert ids(load({"grid": grid, "exclude": exclude})) == left
        assert all(matching)
    except SpecError as error:
        assert (
            "no configuration matches" in str(error) if not all(matching) else "every configuration is left out" in str(error)
        )
        assert not (all(matching) and left)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(axes(least=2), patterns(), patterns())
def test_when_changes_what_matches_and_equal_points_are_one(
    grid: dict[str, list[Any]], condition: dict[str, Any], changes: dict[str, Any]
) -> None:
    assume(not set(condition) & set(changes))
    whole = load({"grid": grid})
    ruled = load({"grid": grid, "when": [{"if": condition, "set": changes}]})
    assert all(has(trial, changes) for trial in ruled.trials if has(trial, condition))
    untouched = [trial.config.trial_id for trial in whole.trials if not has(trial, condition)]
    assert set(untouched) <= set(ids(ruled))
    assert len(set(ids(ruled))) == len(ruled.trials) <= len(whole.trials)
    assert bool(ruled.warnings and "no configuration matches" in ruled.warnings[0]) == (len(untouched) == len(whole.trials))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(axes(), axes())
def test_a_grown_grid_keeps_its_old_trials(grid: dict[str, list[Any]], more: dict[str, list[Any]]) -> None:
    grown = {key: [*values, *(v for v in more.get(key, []) if v not in values)] for key, values in grid.items()}
    assert set(ids(load({"grid": grid}))) <= set(ids(load({"grid": grown})))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(axes(least=2))
def test_setting_an_axis_for_one_run_is_the_spec_with_that_value_in_base(grid: dict[str, list[Any]]) -> None:
    assume("epochs" in grid and len(grid) > 1)
    rest = {key: values for key, values in grid.items() if key != "epochs"}
    assert ids(load({"grid": grid}, ("epochs=7",))) == ids(load({"grid": rest, "base": {"epochs": 7}}))
