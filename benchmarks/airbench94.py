"""The recipe airbench94 in a plain loop: K. Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (2024, arXiv:2404.00498).

The peer of benchmarks.gpu's table `resnet9`, written from the paper and the published settings. Owns: Net, the network, which
has the form of a network of one's own, so that the same is trained by cifar-hpc; whitening, its first filters; train, the loop.
Imports nothing of cifar-hpc.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

EPOCHS, BATCH = 9.9, 1024
RATE, MOMENTUM, DECAY = 11.5, 0.85, 0.0153  # of a step of 1,024 images, as if momentum did not enlarge it
SMOOTHING = 0.2
RISE_FRAC, FIRST, LAST = 0.23, 0.2, 0.07  # the rate: linear from FIRST of it to its peak, then to LAST
BIAS_FACTOR = 64  # norms' biases learn so many times as fast
WHITEN_EPOCHS = 3  # in which the first layer's bias is trained
WIDTHS = (64, 256, 256)
SIDE, SHIFT = 2, 2  # pixels: of the first filters; of random translations
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def step_rate() -> float:
    """The peak rate for torch's SGD with Nesterov momentum and the mean loss of a batch."""
    return RATE / (1 + 1 / (1 - MOMENTUM))


def step_decay() -> float:
    """The weight decay for the same: each step at the peak takes that share of the weights, whatever the rate."""
    return DECAY / (1 + 1 / (1 - MOMENTUM)) / step_rate()


class Views(nn.Module):
    """In evaluation an image and its mirror image, as they are and moved by a pixel to both ends of a diagonal."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if self.training:
            return x_NCHW
        side = x_NCHW.shape[-1]
        wide = functional.pad(x_NCHW, (1,) * 4, "reflect")
        moved = [x_NCHW, wide[:, :, :side, :side], wide[:, :, 2:, 2:]]
        return torch.cat([view for one in moved for view in (one, one.flip(-1))])


class Whiten(nn.Module):
    """Filters that are not trained, and a bias."""

    def __init__(self, filters: Tensor) -> None:
        super().__init__()
        self.views = Views()
        self.register_buffer("weight", filters)
        self.bias = nn.Parameter(torch.zeros(len(filters)))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.views(x_NCHW)
        return functional.gelu(functional.conv2d(x_NCHW.to(self.weight.dtype), self.weight, self.bias))


class Norm(nn.BatchNorm2d):
    """Without a trained weight. The bias is held as an eighth of itself, by which it learns BIAS_FACTOR times as fast."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-12, momentum=0.4, affine=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("ones", torch.ones(width), persistent=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        bias_C = self.bias * math.sqrt(BIAS_FACTOR)
        return functional.batch_norm(
            x_NCHW, self.running_mean, self.running_var, self.ones, bias_C, self.training, self.momentum or 0.0, self.eps
        )


class Group(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(inputs, width), _conv(width, width)
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = functional.gelu(self.norm1(self.pool(self.conv1(x_NCHW))))
        return functional.gelu(self.norm2(self.conv2(x_NCHW)))


class Head(nn.Module):
    """The classifier, and the weighted mean over an image's views in evaluation."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = self.linear(functional.max_pool2d(x_NCHW, 3).flatten(1)) / 9
        if self.training:
            return logits_NK
        as_is, left, right = logits_NK.view(3, 2, -1, logits_NK.shape[1]).mean(1)
        return as_is / 2 + (left + right) / 4


class Net(nn.Module):
    """For images of 32 pixels a side."""

    def __init__(self, num_classes: int, in_channels: int, filters: Sequence[Sequence[float]]) -> None:
        """filters: of `whitening`, as lists, each flat."""
        super().__init__()
        self.whiten = Whiten(torch.tensor(filters).view(-1, in_channels, SIDE, SIDE))
        widths = (len(self.whiten.bias), *WIDTHS)
        self.groups = nn.ModuleList(Group(inputs, width) for inputs, width in zip(widths, WIDTHS, strict=False))
        self.head = Head(WIDTHS[-1], num_classes)

    def blocks(self) -> dict[str, nn.Module]:
        return {"whiten": self.whiten, **{f"group{i + 1}": group for i, group in enumerate(self.groups)}, "head": self.head}

    def forward(self, x_NCHW: Tensor) -> Tensor:
        for block in self.blocks().values():
            x_NCHW = block(x_NCHW)
        return x_NCHW


def _conv(inputs: int, width: int) -> nn.Conv2d:
    """Its first filters pass on what comes in."""
    conv = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:inputs])
    return conv


def normalised(images_NCHW: Tensor) -> Tensor:
    """uint8 -> float32."""
    mean, std = (torch.tensor(values, device=images_NCHW.device).view(1, -1, 1, 1) for values in (MEAN, STD))
    return (images_NCHW / 255 - mean) / std


def whitening(x_NCHW: Tensor) -> list[list[float]]:
    """Filters whose outputs on patches of these images are uncorrelated and of variance 1, and the same negated."""
    patches_MD = x_NCHW.float().unfold(2, SIDE, 1).unfold(3, SIDE, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
    values_D, vectors_DD = torch.linalg.eigh(patches_MD.T @ patches_MD / len(patches_MD))
    filters_DD = (vectors_DD / (values_D + 5e-4).sqrt()).T.flip(0)
    rows: list[list[float]] = torch.cat([filters_DD, -filters_DD]).tolist()
    return rows


def epochs_of(x_NCHW: Tensor, y_N: Tensor, batch: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """For ever: the batches of an epoch, all full. Half of the images are mirrored once, and all of them in every other epoch;
    each is moved by up to SHIFT pixels."""
    n, side, device = len(x_NCHW), x_NCHW.shape[-1], x_NCHW.device
    mirrored_N = torch.rand(n, device=device) < 0.5
    x_NCHW = torch.where(mirrored_N.view(-1, 1, 1, 1), x_NCHW.flip(-1), x_NCHW)
    wide = functional.pad(x_NCHW, (SHIFT,) * 4, "reflect")
    windows = (wide.unfold(2, side, 1).unfold(3, side, 1), wide.flip(-1).unfold(2, side, 1).unfold(3, side, 1))
    epoch = 0
    while True:
        corner_N2 = torch.randint(0, 2 * SHIFT + 1, (n, 2), device=device)
        order_N = torch.randperm(n, device=device)
        chosen = [order_N[start : start + batch] for start in range(0, n - batch + 1, batch)]
        yield [(windows[epoch % 2][i, :, corner_N2[i, 0], corner_N2[i, 1]], y_N[i]) for i in chosen]
        epoch += 1


def share(step: int, steps: int) -> float:
    """Of the peak rate."""
    rise = int(steps * RISE_FRAC)
    if step < rise:
        return FIRST + (1 - FIRST) * step / rise
    return 1 + (LAST - 1) * (step - rise) / (steps - rise)


def lookahead(net: nn.Module, steps: int) -> Callable[[int], None]:
    """Every five steps the slow weights follow, and the fast ones go back to them; the last time the slow ones are kept."""
    fast = [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
    slow = [tensor.clone() for tensor in fast]

    @torch.no_grad()
    def after(step: int) -> None:
        if step % 5 and step < steps:
            return
        if step % 5 == 0:
            for mine, other in zip(slow, fast, strict=True):
                mine.lerp_(other, 1 - 0.95**5 * (step / steps) ** 3)
        torch._foreach_copy_(fast, slow)

    return after


def fit(x_NCHW: Tensor, y_N: Tensor, batch: int, steps: int) -> Net:
    device, dtype = x_NCHW.device, x_NCHW.dtype
    net = Net(10, 3, whitening(x_NCHW[:5000])).to(device, dtype, memory_format=torch.channels_last)
    for norm in (module for module in net.modules() if isinstance(module, Norm)):
        norm.float()
    scale = step_rate() / batch  # of the summed loss, which float16 holds better than the mean
    optimizer = torch.optim.SGD(net.parameters(), scale, MOMENTUM, weight_decay=step_decay() * batch, nesterov=True)
    after, step = lookahead(net, steps), 0
    net.train()
    for epoch, batches in enumerate(epochs_of(x_NCHW, y_N, batch)):
        net.whiten.bias.requires_grad = epoch < WHITEN_EPOCHS
        for x, y in batches[: steps - step]:
            optimizer.param_groups[0]["lr"] = scale * share(step, steps)
            logits_NK = net(x.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits_NK, y, label_smoothing=SMOOTHING, reduction="none").sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            after(step)
        if step == steps:
            break
    return net


def train(
    images: Mapping[str, tuple[Tensor, Tensor]], device: torch.device, *, epochs: float = EPOCHS, batch: int = BATCH
) -> tuple[float, float]:
    """The test accuracy and the seconds of training, kernels being chosen by trying them in a part of an epoch before. images:
    of 'train' and 'test', uint8 NCHW and labels, on the host."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    data = {name: (normalised(x.to(device)).to(dtype), y.to(device)) for name, (x, y) in images.items()}
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        fit(*data["train"], batch, min(4, math.ceil(epochs)))
        _wait(device)
        began = time.perf_counter()
        net = fit(*data["train"], batch, math.ceil(len(data["train"][1]) // batch * epochs))
        _wait(device)
        seconds = time.perf_counter() - began
    finally:
        torch.backends.cudnn.benchmark = before
    parts = zip(*(tensor.split(2000) for tensor in data["test"]), strict=True)
    with torch.no_grad():
        hits = [net.eval()(x.contiguous(memory_format=torch.channels_last)).argmax(1) == y for x, y in parts]
    return torch.cat(hits).double().mean().item(), seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
