"""The schema that editors read, the spec that `init` writes, and the catalogue's facts against their source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cifar_hpc.cli.spec_commands import init, schema
from cifar_hpc.config import catalog
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.spec.keys import TRIAL_KEYS
from cifar_hpc.spec.load import load_spec
from cifar_hpc.spec.schema import describe_keys, json_schema


def parts(schema_: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"Spec": schema_["properties"], **{name: part["properties"] for name, part in schema_["$defs"].items()}}


def test_every_key_of_the_schema_has_a_description() -> None:
    found = parts(json_schema())
    assert [f"{part}.{key}" for part, keys in found.items() for key, kind in keys.items() if not kind.get("description")] == []
    assert found["Resources"]["minutes"]["description"] != found["Stop"]["max_minutes"]["description"]


def test_what_may_stand_at_a_key_holds_its_default() -> None:
    keys = {row["key"]: row for row in describe_keys()}
    assert [key for key, row in keys.items() if row["default"] == "null" and "null" not in row["allowed"]] == []
    assert keys["keep"]["default"] == "" and "default" not in json_schema()["properties"]["keep"]  # absent, it keeps the best


def test_the_schema_names_every_trial_key_with_its_choices() -> None:
    found = parts(json_schema())
    assert set(found["Point"]) == {"dataset", *TRIAL_KEYS} == set(found["Axes"])
    assert set(found["Pattern"]) == {"dataset", "seed", *TRIAL_KEYS}
    assert set(found["Point"]["arch"]["anyOf"][0]["enum"]) == set(catalog.ARCHS)
    assert json_schema()["additionalProperties"] is False
    assert json_schema()["required"] == ["name"]


def test_the_schema_command_prints_json(capsys) -> None:
    schema()
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(json_schema()))


def test_what_init_writes_runs_and_is_never_overwritten(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    init("mine")
    path = Path(capsys.readouterr().out.strip())
    assert path == Path("mine.yaml")
    spec = load_spec(path)
    assert (spec.name, len(spec.trials), spec.warnings) == ("mine", 8, ())
    commented = path.read_text().replace("# stop:", "stop:").replace("# exclude:", "exclude:").replace("# when:", "when:")
    path.write_text(commented.replace("# resources:", "resources:"))
    assert len(load_spec(path).trials) == 6
    with pytest.raises(CifarHpcError, match=r"mine\.yaml is there already"):
        init("mine")
    (tmp_path / "sweeps").mkdir()
    init("other")
    assert Path("sweeps/other.yaml").is_file()


def test_the_catalogue_knows_the_weights_that_torchvision_has() -> None:
    from torchvision import models

    assert set(models.list_models(module=models)) == set(catalog.TORCHVISION_ARCHS)
    for arch in catalog.TORCHVISION_ARCHS:
        known = catalog.imagenet_weights(arch)
        weights = models.get_model_weights(arch)
        assert known[0] == weights.DEFAULT.name
        assert set(known) == {weight.name for weight in weights} - {"IMAGENET1K_FEATURES"}  # a network without a classifier


def test_every_augmentation_name_stands_for_operations_that_exist() -> None:
    for names in catalog.AUGMENTATIONS.values():
        assert set(names) <= set(catalog.AUGMENT_OPS)
        assert not set(names[:-1]) & set(catalog.BATCH_OPS)
    for args in catalog.AUGMENT_OPS.values():
        assert all(arg.low <= arg.default <= arg.high for arg in args.values())
