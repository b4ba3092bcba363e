"""What the ranks of tests do. Children import it by name, so it holds what no test can patch into them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from cifar_hpc.distributed.launch import Link
from cifar_hpc.distributed.world import World


def fail_in_epoch_two(world: World, link: Link, order) -> None:
    """The runner's ranks; the trial of the largest learning rate raises in the second epoch, on rank 1 alone."""
    from cifar_hpc.train.member import Member
    from cifar_hpc.worker import job as runner

    step = Member.train_step

    def failing(member, tap, target):
        if world.rank == 1 and member.config.lr == 0.03 and member.progress.epoch == 2:
            raise ZeroDivisionError("on purpose")
        step(member, tap, target)

    Member.train_step = failing
    runner.train_as_rank(world, link, order)


def sleep_on_rank_one(world: World, link: Link, order) -> None:
    """The runner's ranks, of which one does not come."""
    from cifar_hpc.worker import job as runner

    if world.rank == 1:
        time.sleep(600)
    runner.train_as_rank(world, link, order)


def never_answer(world: World, link: Link, folder: Path) -> None:
    """Rank 0 waits for rank 1, which sleeps."""
    (folder / f"pid-{world.rank}").write_text(str(os.getpid()))
    if world.rank == 1:
        time.sleep(600)
    world.broadcast("anything")


def run_out_of_memory_beside_others(world: World, link: Link, order) -> None:
    """The runner's ranks; the memory of rank 1 holds one trial and no more."""
    from cifar_hpc.train.member import Member
    from cifar_hpc.worker import job as runner

    step = Member.train_step

    def limited(member, tap, target):
        if world.rank == 1 and not member.micro_batches.allowed:
            raise torch.OutOfMemoryError("out of memory, on purpose")
        step(member, tap, target)

    Member.train_step = limited
    runner.train_as_rank(world, link, order)


def hold_half_a_share(world: World, link: Link, order) -> None:
    """The runner's ranks; rank 1 runs out of memory with more than 14 images in a pass."""
    from cifar_hpc.train.micro_batches import MicroBatches
    from cifar_hpc.worker import job as runner

    passes = MicroBatches.passes

    def limited(batches, tap, target, depth, size, *rest, **more):
        if world.rank == 1 and size > 14:
            raise torch.OutOfMemoryError("out of memory, on purpose")
        return passes(batches, tap, target, depth, size, *rest, **more)

    MicroBatches.passes = limited
    runner.train_as_rank(world, link, order)
