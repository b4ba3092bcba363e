"""What is captured and replayed has the numbers of what is done step by step; the capture itself only a GPU can hold."""

from __future__ import annotations

import contextlib
import gc
import itertools

import pytest
import torch

from cifar_hpc.errors import Interrupted
from cifar_hpc.models.zoo import build_model
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.train.device import choose_device
from cifar_hpc.train.graphs import EAGER_FIRST, Captured, Graphs
from cifar_hpc.train.optimizers import build_optimizer, load_optimizer
from cifar_hpc.train.tables import Table
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers
from tests.helpers.twin import Twin

COHORTS = {
    "every kind of member": [
        digits_config(freeze="none", lr=0.05, ema=0.9),
        digits_config(freeze=1, lr=0.01, dropout=0.2, grad_clip=1.0),
        digits_config(freeze=1, lr=0.02, dropout=0.3, epochs=2),
        digits_config(freeze=1, optimizer="adamw", lr=0.003),
        digits_config(freeze=1, optimizer="muon", lr=0.01, layer_decay=0.5),
        digits_config(freeze=1, unfreeze_epoch=1, epochs=3),
    ],
    "augmented": [digits_config(augment="mixup", dropout=0.1, lr=rate) for rate in (0.01, 0.05)],
}


def trained(layout, configs, **kw):
    run_job(job_of(*configs, together=True), layout, executor="inline", **kw)
    return [numbers(read_record(layout.trial(config.trial_id).result, TrialResult)) for config in configs]


@pytest.mark.parametrize("kind", COHORTS)
def test_replayed_steps_have_the_bits_of_eager_ones(tmp_path, monkeypatch, kind):
    eager = trained(Layout(tmp_path / "eager"), COHORTS[kind])
    monkeypatch.setattr("cifar_hpc.worker.trainer.Graphs", Twin)
    monkeypatch.setattr(Twin, "replays_n", 0)
    assert trained(Layout(tmp_path / "replayed"), COHORTS[kind]) == eager
    assert Twin.replays_n > 3


def test_a_trial_of_replayed_steps_interrupted_at_any_of_them_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    config = digits_config(dropout=0.3, augment="flip_crop", epochs=3, optimizer="adam", lr=0.01)
    (undisturbed,) = trained(Layout(tmp_path / "undisturbed"), [config])
    monkeypatch.setattr("cifar_hpc.worker.trainer.Graphs", Twin)
    layout = Layout(tmp_path / "interrupted")
    for stop_at in (4, 8):
        left = itertools.count()
        with pytest.raises(Interrupted):
            trained(layout, [config], interrupted=lambda: next(left) >= stop_at)  # noqa: B023
    assert trained(layout, [config]) == [undisturbed]


def test_what_cannot_be_captured_runs_on_as_it_did_and_is_said():
    class Refusing(Twin):
        def capture(self, work, generators):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs, done = Refusing(torch.device("cpu")), []
    piece = Captured(graphs, lambda: done.append("eager"), lambda: done.append("captured"))
    for _ in range(EAGER_FIRST + 3):
        piece.prepare()
        piece.run()
    assert done == ["eager"] * (EAGER_FIRST + 3)
    assert graphs.note == "eager: operation not permitted when stream is capturing"
    assert Graphs(torch.device("cpu")).note == "eager: no GPU"


def test_graphs_share_a_pool_until_all_of_them_are_gone_and_no_garbage_is_collected_in_a_capture(monkeypatch):
    """torch refuses the pool of graphs that are gone; an old graph that is destroyed during a capture would end it."""
    handles, used, collected = itertools.count(), [], []

    @contextlib.contextmanager
    def capture(graph, *, pool, stream):
        used.append(pool)
        collected.append(gc.isenabled())
        yield

    class Graph:
        def replay(self):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    graphs = Graphs(torch.device("cpu"))
    graphs._streams = (None,)
    kept = [graphs.capture(lambda: None, []) for _ in range(2)]
    del kept[0]
    kept.append(graphs.capture(lambda: None, []))
    kept.clear()
    graphs.capture(lambda: None, [])
    assert used == [0, 0, 0, 1] and not any(collected) and gc.isenabled()


def test_a_table_gives_each_step_its_tensors_in_the_same_place():
    steps = [[torch.arange(3) + i, torch.tensor([True, False]), torch.tensor(0.5 + i), torch.rand(2, 3)] for i in range(4)]
    table = Table(steps[:3], 4, torch.device("cpu"))
    places = []
    for step in steps[:3]:
        found = table.take()
        places.append([tensor.data_ptr() for tensor in found])
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, step, strict=True))
    assert places[0] == places[1] == places[2]
    table.fill(steps)
    assert [table.take()[2].item() for _ in range(4)] == [0.5, 1.5, 2.5, 3.5]
    with pytest.raises(ValueError, match="the first"):
        table.fill([[torch.arange(4), *steps[0][1:]]])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_loaded_averages_lie_in_memory_as_their_parameters_do(optimizer):
    """Fused optimisers refuse others; a checkpoint of a GPU held channels_last ones in plain order."""
    config = digits_config(optimizer=optimizer, lr=0.01)
    model = build_model(config, 10, 1).to(memory_format=torch.channels_last)
    made = [build_optimizer(config, list(model.blocks)) for _ in range(2)]
    model(torch.randn(4, 1, 8, 8)).square().mean().backward()
    made[0].step()
    plain = _in_plain_order(made[0].state_dict())
    load_optimizer(made[1], plain)
    inner = getattr(made[1], "adamw", made[1])
    averages = [(p, v) for p, held in inner.state.items() for v in held.values() if v is not None and v.shape == p.shape]
    assert averages and all(value.stride() == p.stride() for p, value in averages)
    made[1].step()


def _in_plain_order(value):
    if isinstance(value, torch.Tensor):
        return value.contiguous()
    if isinstance(value, dict):
        return {key: _in_plain_order(item) for key, item in value.items()}
    return [_in_plain_order(item) for item in value] if isinstance(value, list) else value


def test_a_gpu_is_held_to_kernels_that_add_in_one_order(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert choose_device(None).type == "cuda" and torch.backends.cudnn.deterministic
