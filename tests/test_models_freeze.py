"""What a freeze value means, without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cifar_hpc.config import catalog
from cifar_hpc.config.freeze import frozen_blocks
from cifar_hpc.errors import CifarHpcError

RESNET18 = ("conv1", *(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)), "fc")


@pytest.mark.parametrize(
    ("freeze", "n"),
    [
        ("none", 0),
        (0, 0),
        (3, 3),
        (9, 9),
        ("all", 9),
        (0.0, 0),
        (0.5, 5),  # 4.5 blocks, half rounded up
        (0.75, 7),
        (1.0, 9),
        ("conv1", 1),
        ("layer3", 7),
        ("layer3.0", 6),
    ],
)
def test_a_freeze_value_counts_blocks_from_the_input(freeze, n):
    assert frozen_blocks(RESNET18, freeze) == n


@pytest.mark.parametrize(
    ("arch", "freeze", "last"),
    [
        ("densenet121", "denseblock2", "features.denseblock2"),
        ("mobilenet_v2", "features.4", "features.4"),
        ("vit_b_16", "encoder_layer_3", "encoder.layers.encoder_layer_3"),
        ("vit_b_16", "encoder", "encoder.layers.encoder_layer_11"),
        ("regnet_y_400mf", "block3", "trunk_output.block3.block3-5"),
        ("swin_t", "features.5", "features.5.5"),
        ("vgg11_bn", "features", "features.25"),
    ],
)
def test_a_stage_means_all_blocks_up_to_and_including_it(arch, freeze, last):
    names = catalog.block_names(arch)
    assert names is not None
    assert names[frozen_blocks(names, freeze) - 1] == last


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        (10, ["0 to 9", "layer4.1"]),
        (-1, ["0 to 9"]),
        (1.5, ["0.0 to 1.0"]),
        (True, ["none, all"]),
        ("layer33", ["Did you mean 'layer3'?", "conv1, layer1.0"]),
        ("fc", ["always trained"]),
        ("1", ["may mean layer1.1, layer2.1"]),
    ],
)
def test_a_wrong_freeze_value_is_answered_with_the_blocks(freeze, words):
    with pytest.raises(CifarHpcError) as error:
        frozen_blocks(RESNET18, freeze)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_blocks_are_known_without_torch():
    code = (
        "import sys; from cifar_hpc.config import catalog; from cifar_hpc.config.freeze import frozen_blocks\n"
        "from cifar_hpc.models.weights import weights_missing\n"
        "assert frozen_blocks(catalog.block_names('resnet18'), 'layer3') == 7\n"
        "weights_missing('resnet18', 'imagenet')\n"
        "assert catalog.block_names('resnet19') is None\n"
        "assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
