"""Kept features lie in memory as computed ones do, so that the same kernels meet both and no bit depends on the company."""

from __future__ import annotations

import pytest
import torch

from cifar_hpc.data.batches import Batches
from cifar_hpc.data.dataset import Split
from cifar_hpc.distributed.world import World
from cifar_hpc.models.zoo import build_model
from cifar_hpc.train.features import Feed, Trunk
from tests.helpers.training import digits_config

IMAGES_N = 37


class Third(World):
    """The last of three processes, as far as its spans tell."""

    def __init__(self) -> None:
        super().__init__(rank=2, size=3)


@pytest.fixture(scope="module")
def trunk():
    return Trunk(build_model(digits_config(), 10, 1).to(memory_format=torch.channels_last), torch.float32)


def feed(trunk, *, keep, world=None):
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (IMAGES_N, 1, 8, 8), dtype=torch.uint8, generator=draws)
    split = Split(images, torch.zeros(IMAGES_N, dtype=torch.int64), torch.arange(IMAGES_N))
    device = torch.device("cpu")
    batches = Batches(split, image_size=8, in_channels=1, mean=(0.5,), std=(0.5,), num_classes=10, device=device)
    return Feed(trunk, batches, range(1, len(trunk.model.blocks)), 5, keep=keep, world=world)


@pytest.mark.parametrize("world", [None, Third()])
def test_evaluated_features_have_the_bits_the_order_and_the_alignment_of_computed_ones(trunk, world):
    kept, computed = feed(trunk, keep=True, world=world), feed(trunk, keep=False, world=world)
    span = kept.world.span(IMAGES_N)
    size = kept.batch_size
    for start in range(span.start, span.stop, size):
        stop = min(start + size, span.stop)
        one, other = (f.eval_batch(start, stop, kept.depths) for f in (kept, computed))
        for depth in kept.depths:
            assert torch.equal(one[depth], other[depth])
            assert one[depth].stride() == other[depth].stride()
            assert one[depth].data_ptr() % 64 == 0 and other[depth].data_ptr() % 64 == 0
    assert kept.kept_bytes and not computed.kept_bytes
