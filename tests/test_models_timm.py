"""timm's models, `timm/NAME`: blocks, weights, a spec, a trial. Needs the extra; no network."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch
from safetensors.torch import save_file
from typer import Typer
from typer.testing import CliRunner

pytest.importorskip("timm")

from cifar_hpc.cli.arch import arch as arch_command
from cifar_hpc.config import architecture as rooms
from cifar_hpc.config.architecture import architecture
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.deploy.trained import TrainedTrial, export_trained
from cifar_hpc.errors import CifarHpcError, DataError, SpecError
from cifar_hpc.models.timm_nets import pretrained
from cifar_hpc.models.weights import fetch_weights, weights_missing, weights_path
from cifar_hpc.models.zoo import build_model, in_channels, make_network, normalisation
from cifar_hpc.planning.cohorts import group_cohorts
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import Status
from cifar_hpc.spec.load import load_spec
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of

RESNET = "timm/resnet10t"
VIT = "timm/test_vit"


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches of torch.hub and of the Hugging Face hub, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def _config(arch: str, **keys) -> TrialConfig:
    return TrialConfig(dataset=DatasetConfig(name="cifar10"), arch=arch, **keys)


def _spec(tmp_path, text: str):
    path = tmp_path / "x.yaml"
    path.write_text("name: x\ndataset: digits\n" + text)
    return load_spec(path)


def test_a_batch_of_one_image_that_starves_batchnorm_is_refused_when_the_spec_is_read(tmp_path):
    with pytest.raises(SpecError, match="BatchNorm of timm/resnet10t trains on two images or more at image_size 32"):
        _spec(tmp_path, f"base: {{arch: {RESNET}, image_size: 32, batch_size: 1}}\n")
    _spec(tmp_path, f"base: {{arch: {RESNET}, image_size: 32, batch_size: 1, freeze: all}}\n")  # none of it trains
    _spec(tmp_path, f"base: {{arch: {VIT}, image_size: 32, batch_size: 1}}\n")  # it has none


@pytest.mark.parametrize("arch", [RESNET, VIT, "timm/test_convnext", "timm/mobilenetv3_small_050"])
@pytest.mark.parametrize(("channels", "side"), [(1, 64), (3, 96)])
def test_a_model_of_timm_is_cut_into_blocks_that_compute_what_timm_computes(arch, channels, side):
    config = _config(arch, image_size=side, seed=5)
    model = build_model(config, 7, channels).eval()
    whole = make_network(arch, 7, channels, side, "imagenet").eval()
    whole.load_state_dict(model.state_dict())
    x_NCHW = torch.randn(2, channels, side, side)
    assert torch.equal(model(x_NCHW), whole(x_NCHW))
    classifier = [module for module in model.blocks[-1].modules() if any(True for _ in module.parameters(recurse=False))]
    assert [(type(layer).__name__, layer.out_features) for layer in classifier] == [("Linear", 7)]
    assert model.names == architecture(arch).blocks
    again = build_model(config, 7, channels).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())


def test_a_network_that_cannot_be_cut_is_refused_with_the_reason_and_the_line(tmp_path):
    with pytest.raises(SpecError, match=r"x.yaml:3: base.arch: .* cannot be cut .*: block .* hands on a tuple, not one"):
        _spec(tmp_path, "base: {arch: timm/cs3darknet_s}\n")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("arch: timm/resnet10tt", "base.arch: 'timm/resnet10tt' is no model of timm; .*Did you mean 'timm/resnet10t'"),
        ("arch: timm/resnet10t.c4_in1k", "base.arch: .*timm/resnet10t.c3_in1k"),
        ("arch: timm/resnet10t, freeze: layer9", "base.freeze: .* no block is called 'layer9'; .*Did you mean 'layer[1-4]'"),
        ("arch: timm/resnet10t, weights: IMAGENET1K_V1", "base.weights: .*; it has imagenet"),
        (f"arch: {VIT}, image_size: 41", "base.image_size: image_size 41 with arch timm/test_vit; "),
    ],
)
def test_a_spec_is_held_against_what_timm_has(tmp_path, base, message):
    with pytest.raises(SpecError, match=message):
        _spec(tmp_path, f"base: {{{base}}}\n")


def test_an_id_does_not_depend_on_whether_timm_is_installed(tmp_path, monkeypatch):
    text = f"base: {{arch: {RESNET}, image_size: 32}}\ngrid: {{freeze: [0, 0.5, layer3, all]}}\n"
    ids = [trial.config.trial_id for trial in _spec(tmp_path, text).trials]
    for name in ("contradictions.architecture", "contradictions.known_architecture", "checks.known_architecture"):
        monkeypatch.setattr(f"cifar_hpc.spec.{name}", lambda arch: None)
    assert [trial.config.trial_id for trial in _spec(tmp_path, text).trials] == ids


def test_without_timm_a_spec_says_what_to_install(tmp_path, monkeypatch):
    from cifar_hpc.models import timm_nets

    for found in (rooms.architecture, timm_nets.pretrained, timm_nets._timm):
        found.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(SpecError, match=r"base.arch: timm/NAME needs timm.*pip install 'cifar-hpc\[timm\]'"):
        _spec(tmp_path, f"base: {{arch: {RESNET}}}\n")


def test_freezing_depths_of_a_model_of_timm_train_in_one_cohort():
    configs = [_config(RESNET, freeze=freeze, augment="flip") for freeze in (3, 0.5, "layer3")]
    assert len(group_cohorts(configs, None)) == 1


def test_weights_in_a_file_fit_with_the_classifier_exchanged(tmp_path):
    whole = make_network(RESNET, 1000, 3, 32, "imagenet")
    path = tmp_path / "own.safetensors"
    save_file(whole.state_dict(), path)
    config = _config(RESNET, weights=str(path), image_size=32)
    model = build_model(config, 10, in_channels(config, 1))
    assert torch.equal(model.state_dict()["layer1.0.conv1.weight"], whole.state_dict()["layer1.0.conv1.weight"])
    assert model.state_dict()["fc.weight"].shape[0] == 10
    assert normalisation(config) == pretrained(RESNET).normalisation


@pytest.mark.parametrize("channels", [1, 3])
def test_the_channels_of_weights_in_a_file_are_not_those_of_a_depthwise_convolution(tmp_path, channels):
    """Which stands first in a .safetensors, whose tensors are sorted by their names."""
    arch, path = "timm/test_efficientnet", tmp_path / "own.safetensors"
    save_file(make_network(arch, 10, channels, 32, "imagenet").state_dict(), path)
    config, before = _config(arch, weights=str(path), image_size=32), torch.get_rng_state()
    assert in_channels(config, channels) == in_channels(config, 4 - channels) == channels
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("arch", [RESNET, VIT])
def test_pretrained_weights_are_found_in_the_hubs_cache_and_adapted_by_timm(arch, caches):
    side = 64 if arch == RESNET else 96  # a vit's positions are resampled
    missing = weights_missing(arch, "imagenet")
    assert missing is not None
    assert "cifar-hpc fetch" in missing and str(caches / "hub") in missing
    config = _config(arch, weights="imagenet", image_size=side)
    with pytest.raises(DataError, match="cifar-hpc fetch"):
        build_model(config, 10, 3)
    with pytest.raises(DataError, match=f"weights: timm cannot fetch those of {arch} "):
        fetch_weights(arch, "imagenet", lambda line: None)
    whole = make_network(arch, 1000, 3, pretrained(arch).side, "imagenet")
    repository, file = pretrained(arch).files[0]
    folder = caches / "hub" / f"models--{str(repository).replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file(whole.state_dict(), folder / "snapshots" / "abc" / file)
    assert weights_missing(arch, "imagenet") is None
    assert weights_path(arch, "imagenet").parent.name == "abc"
    model = build_model(config, 10, in_channels(config, 1))
    state, given = model.state_dict(), whole.state_dict()
    differing = {key for key in given if state[key].shape != given[key].shape or not torch.equal(state[key], given[key])}
    assert differing == ({"fc.weight", "fc.bias"} if arch == RESNET else {"pos_embed", "head.weight", "head.bias"})
    assert normalisation(config) == pretrained(arch).normalisation


def test_trials_of_timm_train_side_by_side_as_alone(tmp_path):
    configs = [digits_config(arch=RESNET, image_size=32, epochs=1, freeze=freeze) for freeze in (2, "layer3")]
    figures = []
    for together in (True, False):
        layout = Layout(tmp_path / str(together))
        run_job(job_of(*configs, together=together), layout, executor="inline")
        states = [read_state(layout.trial(config.trial_id), config.trial_id) for config in configs]
        assert [state.status for state in states] == [Status.COMPLETED] * 2
        assert states[0].result.provenance.timm == importlib.metadata.version("timm")
        figures.append([[(epoch.train_loss, epoch.val_acc) for epoch in state.epochs] for state in states])
    assert figures[0] == figures[1]


def test_arch_prints_the_blocks_of_a_model_of_timm():
    app = Typer()
    app.command()(arch_command)
    ran = CliRunner().invoke(app, [RESNET, "--format", "csv"])
    assert [line.split(",")[1] for line in ran.stdout.splitlines()[1:]] == list(architecture(RESNET).blocks)
    with pytest.raises(CifarHpcError, match="Did you mean 'timm/resnet10t'"):
        CliRunner().invoke(app, ["timm/resnet10tt"], catch_exceptions=False)


def test_a_network_that_holds_what_is_in_no_file_is_exported(tmp_path):
    """It was refused as if its logits differed."""
    config = digits_config(arch="timm/levit_128s", image_size=32)
    model = build_model(config, 10, 1).eval().requires_grad_(False)
    trained = TrainedTrial(config=config, classes=tuple("0123456789"), model=model, mean=(0.5,), std=(0.5,), channels=1)
    assert export_trained(trained, tmp_path / "out.safetensors", "safetensors") < 1e-6
