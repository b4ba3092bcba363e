"""The gradients of a member's trained blocks, averaged over the processes of a world by torch's DistributedDataParallel: in
buckets, each on its way while the backward pass goes on.

Owns: SharedGradients. Knows neither losses nor optimisers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cifar_hpc.distributed.world import World, peers


class SharedGradients:
    """The forward pass of some blocks whose gradients are, after the backward pass, the mean of all processes'.

    To be made by all processes at once, and made again where other parameters train. Each process scales its mean loss by
    `scale`, so that the mean of the gradients is the gradient of the mean loss over the global batch, whatever share it has.
    """

    def __init__(self, trained: nn.Module, world: World, *, may_skip: bool) -> None:
        """trained: whose parameters that require gradients take part; may_skip: whether a forward pass may leave some out."""
        self._world = world
        gpu = next(trained.parameters()).device
        computed = [name for name, _ in trained.named_buffers()]  # by every process, from the batches
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(trained, computed)  # type: ignore[no-untyped-call]
        with peers(alone=True):
            self._ddp = DistributedDataParallel(
                trained,
                device_ids=[gpu] if gpu.type == "cuda" else None,
                gradient_as_bucket_view=True,
                find_unused_parameters=may_skip,
            )

    def scale(self, images_n: int) -> float:
        """The factor of a mean loss over so many images of the global batch that was shared last."""
        return images_n * self._world.size / self._world.batch_n

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self._ddp(x)
        return y

    @contextlib.contextmanager
    def step(self, last: bool) -> Iterator[None]:
        """Around a forward and a backward pass. last: whether gradients are averaged now, else only added up here.

        Raises PeerLostError.
        """
        with peers(alone=True), contextlib.nullcontext() if last else self._ddp.no_sync():
            yield
