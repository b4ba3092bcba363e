"""Work that is done again and again with other numbers in the same places, captured once as a CUDA graph and replayed.

A step of a small network is hundreds of kernels of a few microseconds, which take longer to launch than to compute; a graph
launches them as one. Owns: Graphs, the stream and the memory pool of one process's graphs, and Captured, one such piece of
work. Where nothing can be captured the same work is done eagerly, with the same numbers in the same places. Knows no networks.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from cifar_hpc.train.portions import is_out_of_memory

EAGER_FIRST = 2  # runs of a piece of work before it is captured: libraries make their handles and choose their kernels in them
STREAMS = 4  # pieces of a captured step side by side; each has memory of its own


class Graphs:
    """Where the work of a process is captured. why_not: why nothing is, empty where it is; failed: why pieces of work could not
    be."""

    def __init__(self, device: torch.device, why_not: str = "") -> None:
        self.device = device
        self.why_not = why_not or ("" if device.type == "cuda" else "no GPU")
        self.captured_n = 0
        self.failed: list[str] = []
        self._streams = _streams(device) if self.on else ()
        self._pool: Any = None  # torch's handle of the memory that the graphs share, one being replayed at a time
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    @property
    def on(self) -> bool:
        return not self.why_not

    @contextlib.contextmanager
    def one_stream(self) -> Iterator[None]:
        """All work inside goes through one stream, that in which it is captured: none of it waits for that of another."""
        if not self.on:
            yield
            return
        outer = torch.cuda.current_stream(self.device)
        self._streams[0].wait_stream(outer)
        try:
            with torch.cuda.stream(self._streams[0]):
                yield
        finally:
            outer.wait_stream(self._streams[0])

    def capture(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        """What does the work again. Raises what the capture raises; then nothing was done."""
        try:
            return self._record(work, generators)
        except Exception:
            self._end_failed(generators)
            raise

    def _record(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        if not self._graphs:  # torch refuses the pool of graphs that are all gone
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with _nothing_collected(), torch.cuda.graph(graph, pool=self._pool, stream=self._streams[0]):
            work()
        self._graphs.add(graph)
        return graph.replay

    def _end_failed(self, generators: Sequence[torch.Generator]) -> None:
        """torch leaves the memory pool of a capture that failed, and all generators, as if it went on: whatever is drawn,
        replayed or captured next would fail. Another pool, and a capture that succeeds, end that."""
        torch.cuda.synchronize(self.device)
        with contextlib.suppress(Exception):  # later versions of torch have done it themselves, and refuse
            torch._C._cuda_endAllocateToPool(self.device.index or 0, self._pool)
        self._graphs.clear()  # none has the next one's pool
        with contextlib.suppress(Exception):  # then the work goes on as well as it can
            self._record(self._little, generators)

    def _little(self) -> None:
        torch.zeros(1, device=self.device)

    def side_by_side(self, pieces: Sequence[Callable[[], None]]) -> None:
        """Does all pieces, each in one of a few streams that begin here and end here. Only while capturing."""
        here = torch.cuda.current_stream(self.device)
        if len(pieces) == 1:
            pieces[0]()
            return
        streams = self._streams[1 : 1 + len(pieces)]
        for stream in streams:
            stream.wait_stream(here)
        for i, piece in enumerate(pieces):
            with torch.cuda.stream(streams[i % len(streams)]):
                piece()
        for stream in streams:
            here.wait_stream(stream)

    @property
    def note(self) -> str:
        """What ran, for a record."""
        if not self.on:
            return f"eager: {self.why_not}"
        reasons = "; ".join(dict.fromkeys(self.failed))
        if not self.captured_n:
            return f"eager: {reasons or 'too few steps'}"
        return f"captured, in part eager: {reasons}" if reasons else "captured"


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """A graph of before that the garbage collector destroys while another is captured ends that capture."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, ...]:
    """Once a process: libraries keep memory of their own for each stream."""
    return tuple(torch.cuda.Stream(device) for _ in range(1 + STREAMS))  # type: ignore[no-untyped-call]


class Captured:
    """One piece of work: eager for its first runs, then replayed.

    eager: does it; work: does the same while it is captured, where a failure fails all of it. Both read and write the same
    tensors. generators: those that the captured work draws from, which the caller seeds before each replay.
    """

    def __init__(
        self,
        graphs: Graphs,
        eager: Callable[[], None],
        work: Callable[[], None],
        generators: Callable[[], Sequence[torch.Generator]] = tuple,
    ) -> None:
        self._graphs = graphs
        self._eager, self._work, self._generators = eager, work, generators
        self._runs = 0
        self._replay: Callable[[], None] | None = None

    def prepare(self) -> bool:
        """Captures where it is time to. Whether the next run is a replay."""
        if self._graphs.on and self._runs == EAGER_FIRST:
            self._runs += 1
            try:
                self._replay = self._graphs.capture(self._work, self._generators())
                self._graphs.captured_n += 1
            except Exception as error:  # whatever does not like to be captured runs as it did so far
                self._graphs.failed.append("out of memory" if is_out_of_memory(error) else f"{error}".partition("\n")[0])
                self._eager_again()
        return self._replay is not None

    def run(self) -> None:
        if self._replay is not None:
            self._replay()
        else:
            self._runs += 1
            self._eager()

    def _eager_again(self) -> None:
        if self._graphs.device.type == "cuda":
            torch.cuda.synchronize(self._graphs.device)
            torch.cuda.empty_cache()


@contextlib.contextmanager
def drawing_from(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Whatever draws from the device's own generator draws from this one inside; also while capturing."""
    if generator is None:
        yield
        return
    if device.type == "cuda":
        own = torch.cuda.default_generators[device.index or 0]
        before = own.graphsafe_get_state()
        own.graphsafe_set_state(generator)
        try:
            yield
        finally:
            own.graphsafe_set_state(before)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(generator.get_state())
            yield
            generator.set_state(torch.default_generator.get_state())
