"""Pieces of a CPU's work side by side, each on one thread.

What is done for many members at once is cut into pieces that do not touch each other. On one thread a piece has the same bits
whatever number of threads the process has, since kernels share a sum out by it; and many small operations do not meet at the
end of each. Owns: who does which piece. Knows nothing of what the pieces do.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

LEAST_NUMBERS = 2**16  # of a piece: with fewer it is over before another thread has begun one
MOST_NUMBERS = 2**18  # with more they do not lie in a core's cache from one operation to the next
MOST_ON_GPU = 2**26  # which takes all at once


def in_lanes(pieces: Sequence[Callable[[], object]], device: torch.device) -> None:
    """Does all pieces: on a CPU as many at once as torch has threads, each on one; else one after another. Raises what the
    first of them that failed raised, when no piece runs any more."""
    if device.type != "cpu":
        for piece in pieces:
            piece()
        return
    lanes_n = min(torch.get_num_threads(), len(pieces))
    left = iter(pieces)

    def lane() -> None:
        torch.get_num_threads()  # a new thread takes the number that holds now
        for piece in left:
            piece()

    with one_thread():
        others = [_threads(os.getpid(), lanes_n).submit(lane) for _ in range(lanes_n - 1)]
        try:
            lane()
        finally:
            errors = [other.exception() for other in others]
    for error in filter(None, errors):
        raise error


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """What torch does inside, it does on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cut(n: int, numbers: int, device: torch.device) -> list[slice]:
    """n things of so many numbers each as slices that are worked on at once: on a CPU about as many as threads, in the bounds
    of what pays."""
    if device.type != "cpu":
        wanted = MOST_ON_GPU
    else:
        wanted = min(max(LEAST_NUMBERS, -(-n * numbers // torch.get_num_threads())), MOST_NUMBERS)
    size = max(1, wanted // max(1, numbers))
    pieces_n = -(-n // size)
    return [slice(i * n // pieces_n, (i + 1) * n // pieces_n) for i in range(pieces_n)]


@functools.lru_cache(maxsize=4)
def _threads(process: int, lanes_n: int) -> ThreadPoolExecutor:
    """process: a fork has none of its parent's threads."""
    return ThreadPoolExecutor(lanes_n, thread_name_prefix="lane")
