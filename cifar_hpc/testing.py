"""Contract tests that authors of own networks, data sets and plug-ins run, in pytest or by hand; each raises AssertionError.

    from cifar_hpc.testing import check_network
    def test_my_network(): check_network("mynets.py:TinyNet", width=16)

Owns: what a part has to do beyond having the right form, which the spec checks. Knows no sweep and writes nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.own import OwnNetwork, arguments
from cifar_hpc.config.plugins import OwnPart, read_plugin
from cifar_hpc.config.registry import AugmentInfo, ObjectiveInfo, OptimizerInfo, ScheduleInfo, load
from cifar_hpc.config.sources import OwnCodeError, find_source
from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.data.own import read_own
from cifar_hpc.data.sources import OwnImages
from cifar_hpc.models.blocks import BlockModel
from cifar_hpc.models.freezing import freeze_blocks
from cifar_hpc.models.own_nets import cut_own, make_own
from cifar_hpc.train.optimizers import build_optimizer, set_rates

CLASSES, IMAGES = 3, 4


def check_network(what: str, *, side: int = 32, channels: int = 3, folder: Path | None = None, **args: Any) -> BlockModel:
    """It is built alike from one seed, cut into two blocks or more, gives CLASSES finite logits an image, and a step leaves
    what is frozen as it is. side: pixels; args: its arch_args. Returns it in blocks."""
    network = OwnNetwork(find_source("arch", what, folder or Path.cwd()), arguments(args) or (), side, channels)
    model, again = (_built(network) for _ in range(2))
    same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert same, f"{what}: two builds from one seed differ: draw its weights from torch's global generator alone"
    assert len(model.blocks) >= 2, f"{what}: it has one block, {model.names[0]}: there is nothing to freeze"
    x_NCHW = torch.randn(IMAGES, channels, side, side, generator=torch.Generator().manual_seed(0))
    logits = model(x_NCHW)
    assert tuple(logits.shape) == (IMAGES, CLASSES), (
        f"{what}: logits of shape {tuple(logits.shape)}; {IMAGES} x {CLASSES} is needed"
    )
    assert bool(torch.isfinite(logits).all()), f"{what}: its logits are not finite"
    freeze_blocks(model, 1)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    cross_entropy(model.train()(x_NCHW), torch.arange(IMAGES) % CLASSES).backward()  # type: ignore[no-untyped-call]
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"{what}: no gradient reaches {without[0]}"
    optimizer.step()
    frozen = set(model.blocks[0].state_dict())
    moved = [key for key, tensor in model.state_dict().items() if key in frozen and not torch.equal(tensor, before[key])]
    assert not moved, f"{what}: {moved[0]} of the frozen block changed in a step"
    return model


def check_dataset(what: str, *, folder: Path | None = None, **args: Any) -> OwnImages:
    """It returns the form that is needed, the same each time, and an image of every class to train on. args: its own."""
    source, given = find_source("dataset", what, folder or Path.cwd()), arguments(args) or ()
    first = read_own(source, given)
    read_own.cache_clear()
    again = read_own(source, given)
    for name in ("train", "val", "test"):
        one, other = getattr(first, name), getattr(again, name)
        same = one is None or (
            np.array_equal(one.images_NCHW, other.images_NCHW) and np.array_equal(one.labels_N, other.labels_N)
        )
        assert same, f"{what}: {name} differs from call to call: seed what it draws, sort what it lists"
    absent = [name for label, name in enumerate(first.classes) if label not in first.train.labels_N]
    assert not absent, f"{what}: train has no image of {', '.join(absent)}"
    return first


def check_plugin(what: str, *, folder: Path | None = None) -> None:
    """It can be read, and every optimiser, schedule and augmentation operation that it registers does what it has to."""
    try:
        parts = read_plugin(what, folder or Path.cwd())
    except OwnCodeError as error:
        raise AssertionError(str(error)) from error
    assert parts, f"{what}: it registers nothing"
    for part in parts:
        _CHECKS[part.key](part)


def check_optimizer(part: OwnPart) -> None:
    """A step lowers a quadratic loss, obeys the rate that it is given, and its state survives a checkpoint bit for bit."""
    name, info = part.name, part.info
    assert isinstance(info, OptimizerInfo)

    def stepped(steps: int, state: dict[str, Any] | None = None, weight: torch.Tensor | None = None) -> tuple[Any, Any]:
        layer = torch.nn.Linear(3, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.arange(6.0).view(2, 3) / 6 + 1 if weight is None else weight)
        optimizer = build_optimizer(_config(optimizer=name, sources=(part.origin,)), [layer])
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            set_rates(optimizer, lambda height: info.usual_lr)
            optimizer.zero_grad()
            layer.weight.square().sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return layer.weight.detach().clone(), optimizer.state_dict()

    start, _ = stepped(0)
    half, state = stepped(3)
    whole, _ = stepped(6)
    resumed, _ = stepped(3, state, half)
    assert float(whole.square().sum()) < float(start.square().sum()), (
        f"optimizer {name}: six steps do not lower a quadratic loss"
    )
    assert torch.equal(whole, resumed), f"optimizer {name}: after load_state_dict it goes on to other bits"


def check_schedule(part: OwnPart) -> None:
    """It gives a share of the peak, 0..1, at every step of trainings of any length."""
    name, info = part.name, part.info
    assert isinstance(info, ScheduleInfo)
    shape = load(info.shape)
    for steps in (1, 7, 100):
        for step in range(steps):
            share = shape(float(step), float(steps))
            assert math.isfinite(share) and 0 <= share <= 1, (
                f"schedule {name}: {share} at step {step} of {steps}; 0 to 1 is needed"
            )


def check_augmentation(part: OwnPart) -> None:
    """Its only source of chance is the generator, its draws are one row an image, images stay what they are: float32, 0..1."""
    name, info = part.name, part.info
    assert isinstance(info, AugmentInfo)
    args = {key: limit.default for key, limit in info.args.items()}
    x_NCHW = torch.rand(IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = []
    for seed in (1, 1, 2):
        draws = load(info.draw)(args, IMAGES, 8, torch.Generator().manual_seed(seed))
        assert all(len(draw) == IMAGES for draw in draws), f"augment {name}: each of its draws has one row an image"
        made.append(load(info.change)(args, x_NCHW.clone(), draws, torch.zeros(1, 3, 1, 1)))
    assert torch.equal(made[0], made[1]), f"augment {name}: the same generator gives other images"
    kept = made[0].shape == x_NCHW.shape and made[0].dtype == torch.float32
    assert kept, f"augment {name}: {tuple(made[0].shape)} {made[0].dtype}; shape and float32 are to stay"
    assert float(made[0].min()) >= 0 and float(made[0].max()) <= 1, f"augment {name}: pixels outside 0..1"


def check_objective(part: OwnPart) -> None:
    """It gives a finite number or None for the logits and labels of any images, the same each time."""
    name, info = part.name, part.info
    assert isinstance(info, ObjectiveInfo) and info.measure is not None
    logits_NK, labels_N = np.random.default_rng(0).normal(size=(20, CLASSES)), np.arange(20) % CLASSES
    first, again = (load(info.measure)(logits_NK.copy(), labels_N.copy()) for _ in range(2))
    assert first == again, f"objective {name}: the same logits give {first} and {again}"
    assert first is None or math.isfinite(first), f"objective {name}: {first}; a finite number or None is needed"
    assert first is None or not info.share or 0 <= first <= 1, f"objective {name}: {first} is no share of 0..1 (share=False)"


def _built(network: OwnNetwork) -> BlockModel:
    torch.manual_seed(0)
    return cut_own(network, make_own(network, CLASSES, network.channels))


def _config(**changes: Any) -> TrialConfig:
    return TrialConfig(dataset=DatasetConfig(name="digits"), arch="linear", image_size=8, lr=0.01, **changes)


_CHECKS = {
    "optimizer": check_optimizer,
    "schedule": check_schedule,
    "augment": check_augmentation,
    "objective.metric": check_objective,
}
