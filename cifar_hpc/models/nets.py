"""The project's own small networks. Each takes 1 or 3 channels and any image side from 8 pixels on.

Owns: their layers. Must not know: configs, weights, freezing. Pooling rounds up, so that a side of 1 pixel stays 1 where a
small image has been halved often.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def linear(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Softmax regression on the pixels: the floor that every network has to beat."""
    return _stack(features=nn.Flatten(), classifier=nn.Linear(in_channels * image_size**2, num_classes))


def simple_cnn(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Three convolutions (32, 64, 128), each with batch norm, ReLU and pooling; 95k parameters at 10 classes."""
    features = nn.Sequential(
        *_conv(in_channels, 32),
        _halve(),
        *_conv(32, 64),
        _halve(),
        *_conv(64, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return _stack(features=features, classifier=nn.Linear(128, num_classes))


def convnet5(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Five convolutions (128, 512, 512, 512, 512): convolution, batch norm, pooling, ReLU, dropout 0.2."""
    layers: list[nn.Module] = []
    for width in (128, 512, 512, 512, 512):
        conv = nn.Conv2d(in_channels, width, 3, padding=1)
        layers += [conv, nn.BatchNorm2d(width), _halve(), nn.ReLU(inplace=True), nn.Dropout(0.2)]
        in_channels = width
    features = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return _stack(features=features, dropout=nn.Dropout(0.2), classifier=nn.Linear(512, num_classes))


def convnet12(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Twelve weight layers after VGG (Simonyan & Zisserman 2015): ten convolutions with batch norm, two linear layers."""
    layers: list[nn.Module] = []
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3)):
        for _ in range(depth):
            layers += _conv(in_channels, width)
            in_channels = width
        layers.append(_halve())
    features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = nn.Sequential(nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(512, num_classes))
    return _stack(features=features, classifier=classifier)


def alexnet_cifar(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """AlexNet (Krizhevsky 2014, one column) with 3x3 kernels and a first stride of 2, so that 32 pixels suffice."""
    features = nn.Sequential(
        nn.Conv2d(in_channels, 64, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        _halve(),
        nn.Conv2d(64, 192, 3, padding=1),
        nn.ReLU(inplace=True),
        _halve(),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        _halve(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    classifier = nn.Sequential(
        nn.Dropout(0.5),
        nn.Linear(256 * 2 * 2, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, num_classes),
    )
    return _stack(features=features, classifier=classifier)


def resnet9(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """The nine-layer residual network of the DAWNBench records (Page 2018, How to train your ResNet); logits times 1/8."""
    return _stack(
        prep=nn.Sequential(*_conv(in_channels, 64)),
        layer1=nn.Sequential(*_conv(64, 128), _halve(), _Residual(128)),
        layer2=nn.Sequential(*_conv(128, 256), _halve()),
        layer3=nn.Sequential(*_conv(256, 512), _halve(), _Residual(512)),
        pool=nn.AdaptiveMaxPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(512, num_classes, bias=False),
        scale=_Scale(0.125),
    )


NETS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "linear": linear,
    "simple_cnn": simple_cnn,
    "convnet5": convnet5,
    "convnet12": convnet12,
    "alexnet_cifar": alexnet_cifar,
    "resnet9": resnet9,
}


class _Residual(nn.Module):
    """x + f(x) with two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(width, width), *_conv(width, width))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y: Tensor = x_NCHW + self.body(x_NCHW)
        return y


class _Scale(nn.Module):
    """x times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def _stack(**parts: nn.Module) -> nn.Sequential:
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def _conv(in_channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def _halve() -> nn.Module:
    return nn.MaxPool2d(2, ceil_mode=True)
