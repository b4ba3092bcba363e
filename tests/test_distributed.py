"""A cohort in several processes: the numbers of one, one writer, and no hang whatever dies. gloo on the CPU."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import StochasticDepth

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.distributed import norms
from cifar_hpc.distributed.launch import death_of
from cifar_hpc.distributed.norms import GhostBatchNorm, GlobalBatchNorm, GlobalDropout, see_global_batch
from cifar_hpc.distributed.rendezvous import DIED, Team
from cifar_hpc.distributed.world import PeerLostError, World
from cifar_hpc.errors import CifarHpcError, Interrupted
from cifar_hpc.planning.plan import Job, Resources
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.node import Node
from cifar_hpc.records.owners import pid_started
from cifar_hpc.records.schema import Outcome, Status, TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.worker import job as runner
from cifar_hpc.worker.job import run_job
from tests.helpers import ranks
from tests.helpers.training import digits_config, job_of

ROUNDING = 2e-4  # relative: what another order of the same sums may change over some epochs


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def odd_config(**changes) -> TrialConfig:
    """317 training images in batches of 53 or 52, 79 validation images, 359 test images: nothing divides evenly."""
    config = digits_config(**{"batch_size": 53, "augment": "flip_crop", **changes})
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, train_size=396))


def job_in(processes: int, *configs: TrialConfig, **resources) -> Job:
    return dataclasses.replace(job_of(*configs, together=True), resources=Resources(processes=processes, **resources))


def run_in(folder: Path, processes: int, *configs: TrialConfig, **arguments) -> list[TrialResult]:
    layout = Layout(folder)
    run_job(job_in(processes, *configs), layout, executor="inline", **arguments)
    return [result_of(layout, config) for config in configs]


def result_of(layout: Layout, config: TrialConfig) -> TrialResult:
    return read_record(layout.trial(config.trial_id).result, TrialResult)


def assert_same_numbers(result: TrialResult, other: TrialResult) -> None:
    assert len(result.curves) == len(other.curves)
    for one, two in zip(result.curves, other.curves, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=ROUNDING)
        assert one.val_loss == pytest.approx(two.val_loss, rel=ROUNDING)
        assert (one.train_acc, one.val_acc) == pytest.approx((two.train_acc, two.val_acc), abs=0.02)
        assert one.lr == two.lr
    assert result.test.n == other.test.n
    assert result.test.loss == pytest.approx(other.test.loss, rel=ROUNDING)


@pytest.fixture(scope="module")
def cohort() -> list[TrialConfig]:
    """Every way in which a member takes its steps."""
    return [
        odd_config(),  # BatchNorm in training
        odd_config(freeze=1, optimizer="adamw", lr=0.003, ema=0.9, grad_clip=1.0, weight_decay=0.01),
        odd_config(unfreeze_epoch=1, layer_decay=0.5, epochs=3, dropout=0.3),
        odd_config(train=("features.0", "features.8"), lr=0.02),  # a frozen block between trained ones, a frozen classifier
        odd_config(freeze="all", lr=0.1),
        odd_config(freeze="all", optimizer="adam", lr=0.01, label_smoothing=0.1),
    ]


@pytest.fixture(scope="module")
def alone(cohort, tmp_path_factory) -> tuple[Layout, list[TrialResult]]:
    folder = tmp_path_factory.mktemp("alone")
    return Layout(folder), run_in(folder, 1, *cohort)


def test_any_number_of_processes_gives_the_curves_of_one_and_counts_every_image_once(tmp_path, cohort, alone):
    """Three, which divide neither batches nor splits; two and four go through the tests below and Slurm's."""
    processes = 3
    results = run_in(tmp_path, processes, *cohort)
    for config, result, one in zip(cohort, results, alone[1], strict=True):
        assert_same_numbers(result, one)
        assert result.hardware.world_size == processes
        folder = Layout(tmp_path).trial(config.trial_id).folder
        assert sorted(path.name for path in folder.iterdir()) == ["predictions.npz", "result.json", "trial.json"]
        several, single = (np.load(layout.trial(config.trial_id).predictions) for layout in (Layout(tmp_path), alone[0]))
        assert len(several["test_logits"]) == 359 and len(several["val_logits"]) == 79
        for key in (f"{split}_{what}" for split in ("val", "test") for what in ("logits", "labels", "index")):
            np.testing.assert_allclose(several[key].astype(float), single[key].astype(float), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("shape", [(12, 6, 5, 5), (11, 6, 5, 5), (6, 6, 5, 5), (10, 1, 5, 5), (14, 6, 1, 1), (9, 6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_parts_of_a_ghost_norm_together_are_those_one_by_one_where_some_have_an_image_more(layout, shape):
    torch.manual_seed(0)
    kept = layout if len(shape) == 4 else torch.contiguous_format
    apart, together = (GhostBatchNorm(torch.nn.BatchNorm2d(shape[1]), 4) for _ in range(2))
    inputs = [torch.randn(shape).contiguous(memory_format=kept).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    weight = torch.randn(shape)
    for x, normalised in ((inputs[0], apart.one_by_one), (inputs[1], together.together)):
        y = torch.nn.functional.relu(normalised(x), inplace=True)  # as most networks go on
        (y * weight).sum().backward()
    assert y.is_contiguous(memory_format=kept)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-5)
    for name, value in apart.state_dict().items():
        torch.testing.assert_close(value, together.state_dict()[name])
    torch.testing.assert_close(apart.weight.grad, together.weight.grad, rtol=1e-4, atol=1e-5)


def test_norms_stay_plain_where_a_processs_images_are_one_part():
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    see_global_batch(network, World(0, 2), 2)
    assert type(network[0]) is torch.nn.BatchNorm2d
    see_global_batch(network, World(0, 2), 4)
    assert type(network[0]) is GhostBatchNorm


def test_ghost_batches_are_other_statistics_and_the_same_in_any_number_of_processes(tmp_path, alone):
    parts, head = odd_config(ghost_batches=4, ema=0.9, epochs=4), odd_config(ghost_batches=4, freeze="all")
    one = run_in(tmp_path / "one", 1, parts)[0]
    assert abs(one.curves[0].train_loss - alone[1][0].curves[0].train_loss) > 10 * ROUNDING
    assert one.test.acc > alone[1][0].test.acc - 0.15  # it learns, too
    layout = Layout(tmp_path / "two")
    with pytest.raises(Interrupted):
        run_job(job_in(2, parts, head), layout, executor="inline", interrupted=lambda: _epochs(layout, parts) > 0)
    assert_same_numbers(run_in(tmp_path / "two", 2, parts, head)[0], one)


def test_parts_of_a_batch_that_processes_cannot_hold_whole_are_refused(tmp_path):
    config = odd_config(ghost_batches=3)
    run_job(job_in(2, config), Layout(tmp_path), executor="inline")
    state = read_state(Layout(tmp_path).trial(config.trial_id), config.trial_id)
    assert "ghost_batches 3 cannot be dealt to 2 processes" in state.reason


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("plain", [torch.nn.Dropout(0.4), torch.nn.Dropout2d(0.4), StochasticDepth(0.4, "row")])
def test_the_draws_of_all_processes_are_those_of_one(plain, channels_last):
    x = torch.rand(7, 3, 4, 5)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    torch.manual_seed(0)
    whole = plain(x)
    for rank in range(3):
        world = World(rank, 3)
        own = world.share(x)
        torch.manual_seed(0)
        assert torch.equal(GlobalDropout(plain, world)(own), whole[rank::3])


def test_a_trial_interrupted_within_an_epoch_goes_on_in_any_other_number_of_processes(tmp_path, cohort, alone):
    members = [cohort[0], cohort[3]]
    layout = Layout(tmp_path)
    for processes in (1, 2):
        with pytest.raises(Interrupted):
            stop = _after(3) if processes == 1 else lambda: _epochs(layout, members[0]) > 0
            run_job(job_in(processes, *members), layout, executor="inline", interrupted=stop)
        for member in members:
            state = read_state(layout.trial(member.trial_id), member.trial_id)
            assert state.status is Status.PLANNED and layout.trial(member.trial_id).checkpoint.exists()
    for result, one in zip(run_in(tmp_path, 1, *members), (alone[1][0], alone[1][3]), strict=True):
        assert_same_numbers(result, one)
        assert result.attempts == 3


def _after(steps: int) -> Callable[[], bool]:
    left = itertools.count()
    return lambda: next(left) >= steps


def _epochs(layout: Layout, config: TrialConfig) -> int:
    return read_state(layout.trial(config.trial_id), config.trial_id).epochs_done


def test_what_raises_in_one_process_is_the_trials_error_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "train_as_rank", ranks.fail_in_epoch_two)
    good, bad = odd_config(lr=0.02), odd_config(lr=0.03)
    layout = Layout(tmp_path)
    run_job(job_in(2, good, bad), layout, executor="inline")
    assert result_of(layout, good).outcome is Outcome.FINISHED
    state = read_state(layout.trial(bad.trial_id), bad.trial_id)
    assert state.status is Status.FAILED and state.reason == "ZeroDivisionError: on purpose"
    assert "in failing" in state.error.traceback


def test_a_cohort_for_which_one_process_has_no_memory_goes_on_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "train_as_rank", ranks.run_out_of_memory_beside_others)
    configs = [odd_config(lr=0.02), odd_config(lr=0.03)]
    results = run_in(tmp_path, 2, *configs)
    assert [result.outcome for result in results] == [Outcome.FINISHED] * 2
    assert [result.trunk_shared_by for result in results] == [1, 1]


def test_a_process_that_hangs_is_waited_for_no_longer_than_the_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "train_as_rank", ranks.sleep_on_rank_one)
    config = odd_config()
    layout = Layout(tmp_path)
    run_job(job_in(2, config, timeout_s=2.0), layout, executor="inline")
    state = read_state(layout.trial(config.trial_id), config.trial_id)
    assert state.status is Status.FAILED
    assert state.error.kind == "PeerLostError" and "did not answer" in state.reason
    assert "broadcast" in state.error.traceback


def test_the_processes_of_a_launcher_that_is_killed_end_too(tmp_path):
    script = (
        "import pathlib, sys\n"
        "from cifar_hpc.distributed.launch import run_ranks\n"
        "from cifar_hpc.distributed.rendezvous import Rendezvous, Team\n"
        "from tests.helpers import ranks\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "run_ranks(ranks.never_answer, folder, Rendezvous(folder, Team(2)), timeout_s=600, interrupted=lambda: False)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    wait_until(lambda: len([path for path in tmp_path.glob("pid-*") if path.read_text()]) == 2)
    children = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    launcher.kill()
    launcher.wait()
    wait_until(lambda: all(pid_started(pid) is None for pid in children))


def test_more_processes_than_images_of_a_batch_are_refused_in_words():
    World(0, 4).require(4)
    with pytest.raises(CifarHpcError, match="4 processes share a batch or split of 3 images"):
        World(0, 4).require(3)


def test_two_nodes_meet_in_the_sweeps_folder_and_give_the_same_numbers(tmp_path, cohort, alone):
    """As Slurm starts them: the same call on each node, told apart by the environment alone."""
    Layout(tmp_path).sweep("test").rendezvous("7-killed-job-0001-0").mkdir(parents=True)
    nodes = [_start_node(tmp_path, place, cohort[0], processes=1) for place in (0, 1)]
    assert [node.wait(timeout=120) for node in nodes] == [0, 0]
    result = result_of(Layout(tmp_path), cohort[0])
    assert_same_numbers(result, alone[1][0])
    assert result.hardware.world_size == 2
    assert not list(Layout(tmp_path).sweep("test").folder.glob(".rendezvous-*"))


def test_the_first_node_records_what_ended_the_trial_on_the_second(tmp_path):
    config = odd_config(epochs=200)
    layout = Layout(tmp_path)
    nodes = [_start_node(tmp_path, place, config, processes=1) for place in (0, 1)]
    wait_until(lambda: _epochs(layout, config) > 0)
    for pid in _children(nodes[1].pid):
        os.kill(pid, signal.SIGKILL)
    assert [node.wait(timeout=60) for node in nodes] == [0, 0]
    state = read_state(layout.trial(config.trial_id), config.trial_id)
    assert state.reason == "ProcessDied: the process of rank 1 was killed by SIGKILL without a word"


def test_a_trial_whose_other_node_is_gone_has_not_failed_and_can_go_on(tmp_path):
    config = odd_config(epochs=200)
    files = Layout(tmp_path).trial(config.trial_id)
    nodes = [_start_node(tmp_path, place, config, processes=1) for place in (0, 1)]
    wait_until(lambda: _epochs(Layout(tmp_path), config) > 0)
    nodes[1].kill()
    assert nodes[0].wait(timeout=60) != 0
    nodes[1].wait()
    assert read_state(files, config.trial_id).status is Status.PLANNED
    assert files.checkpoint.exists() and not files.error.exists()


def _start_node(folder: Path, place: int, config: TrialConfig, processes: int) -> subprocess.Popen[bytes]:
    script = (
        "import json, pathlib, sys\n"
        "from cifar_hpc.records.layout import Layout\n"
        "from cifar_hpc.records.node import Node\n"
        "from cifar_hpc.worker.job import run_job\n"
        "from cifar_hpc.distributed import rendezvous\n"
        "from cifar_hpc.config.trial import TrialConfig\n"
        "rendezvous.LEAVE_S = 5.0\n"
        "from tests.test_distributed import job_in\n"
        "config = TrialConfig.from_json(json.loads(sys.argv[3]))\n"
        "job = job_in(int(sys.argv[2]), config, nodes=2, checkpoint_minutes=0.0)\n"
        "node = Node(job_id='7', task=int(sys.argv[4]), tasks=2)\n"
        "run_job(job, Layout(pathlib.Path(sys.argv[1])), executor='slurm', node=node)\n"
    )
    command = [sys.executable, "-c", script, str(folder), str(processes), json.dumps(config.to_json()), str(place)]
    return subprocess.Popen(command)


def _children(pid: int) -> set[int]:
    return {int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()}


def wait_until(true, seconds: float = 300.0) -> None:  # four starts of torch on busy cores take minutes
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [7, 8, 101])
def test_shares_and_spans_hold_every_image_once(size, n):
    worlds = [World(rank, size) for rank in range(size)]
    assert sorted(i for world in worlds for i in world.share(torch.arange(n)).tolist()) == list(range(n))
    assert [i for world in worlds for i in world.span(n)] == list(range(n))
    assert max(len(world.span(n)) for world in worlds) - min(len(world.span(n)) for world in worlds) <= 1


def test_statistics_of_the_global_batch_are_exact_where_the_mean_is_large_beside_the_spread(monkeypatch):
    """Two processes' halves of a batch with mean / standard deviation 1000, beside one process in float64."""
    torch.manual_seed(0)
    whole = torch.randn(64, 3, 5, 5) + 1000
    halves = [World(rank, 2).share(whole) for rank in range(2)]

    def gathered(own, world):
        var_C, mean_C = torch.var_mean(halves[1 - world.rank], [0, 2, 3], correction=0)
        other = torch.cat([mean_C, var_C, torch.tensor([32.0 * 25])])
        return torch.stack([own, other] if world.rank == 0 else [other, own])

    monkeypatch.setattr(norms._Gather, "apply", gathered)
    exact = torch.nn.BatchNorm2d(3).double().train()
    expected = exact(whole.double())
    for rank in range(2):
        layer = GlobalBatchNorm(torch.nn.BatchNorm2d(3).train(), World(rank, 2))
        assert (layer(halves[rank]).double() - expected[rank::2]).abs().max() < 1e-3
        torch.testing.assert_close(layer.running_mean.double(), exact.running_mean, rtol=1e-6, atol=0)
        torch.testing.assert_close(layer.running_var.double(), exact.running_var, rtol=1e-4, atol=0)


def test_processes_of_a_trial_on_cpus_need_no_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Team.here(2, 0, 1, Node()) == Team(2)
    assert Team.here(1, None, 1, Node()) == Team(1, on_gpus=True)
    with pytest.raises(CifarHpcError, match="2 processes, each with a GPU of its own; this node has 1"):
        Team.here(2, None, 1, Node())


def test_what_the_watchdog_of_nccl_aborts_is_a_lost_peer_and_no_fault_of_the_trial():
    assert death_of(1, -signal.SIGABRT, on_gpu=True).kind == PeerLostError.__name__
    assert death_of(1, -signal.SIGABRT, on_gpu=False).kind == DIED
    assert death_of(1, -signal.SIGKILL, on_gpu=True).kind == DIED


def test_a_batch_that_one_process_cannot_hold_whole_is_tried_out_before_gradients_are_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "train_as_rank", ranks.hold_half_a_share)
    config = odd_config(arch="linear", freeze="none", dropout=0.2)
    result = run_in(tmp_path / "two", 2, config)[0]
    monkeypatch.undo()
    assert_same_numbers(result, run_in(tmp_path / "one", 1, config)[0])
