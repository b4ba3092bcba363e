"""What a GPU computes is right, and what it cannot hold is taken in parts. Run by `make gpu`; needs a CUDA device.

Float32 is compared with the CPU; bfloat16 with itself, and with float32 within 15 % of the loss after three epochs: rounding to
8 bits moves single losses by percents, and no further.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib.util
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import cifar_hpc.train.features as features
import cifar_hpc.train.steps as steps
from cifar_hpc.config import catalog
from cifar_hpc.config.trial import AugmentOp, TrialConfig
from cifar_hpc.distributed.gradients import SharedGradients
from cifar_hpc.distributed.store import StoreAddress
from cifar_hpc.distributed.world import join_world
from cifar_hpc.errors import Interrupted
from cifar_hpc.planning.plan import Resources
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record
from cifar_hpc.train import graphs
from cifar_hpc.train.graphs import Graphs
from cifar_hpc.train.portions import give_back
from cifar_hpc.worker import job as runner
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.timeout(120),
]
BF16_GAP = 0.15  # relative, of the loss after three epochs
ORDER_GAP = 5e-2  # relative, where bfloat16 sums are taken in another order


def config(**changes) -> TrialConfig:
    base = {"arch": "resnet18", "image_size": 32, "lr": 0.01, "epochs": 3, "augment": "flip_crop"}
    train_n = changes.pop("train_n", 1000)
    made = digits_config(**{**base, **changes})
    return dataclasses.replace(made, dataset=dataclasses.replace(made.dataset, train_size=train_n))


def tiny(**changes) -> TrialConfig:
    return config(**{"arch": "simple_cnn", "image_size": 8, **changes})


class Pool:
    def __init__(self, folder: Path) -> None:
        self._folders = (folder / str(i) for i in itertools.count())

    def train(self, *configs, gpus=None, apart=False, folder=None, **kw) -> list[TrialResult]:
        layout = Layout(folder or next(self._folders))
        job = job_of(*configs, together=not apart)
        job = dataclasses.replace(job, resources=dataclasses.replace(Resources(), **({} if gpus is None else {"gpus": gpus})))
        run_job(job, layout, executor="inline", **kw)
        files = [layout.trial(one.trial_id) for one in configs]
        missing = [one.error.read_text() for one in files if not one.result.exists() and one.error.exists()]
        assert not missing, missing[0]
        return [read_record(one.result, TrialResult) for one in files]

    def folder(self) -> Path:
        return next(self._folders)


@pytest.fixture
def pool(tmp_path) -> Pool:
    return Pool(tmp_path)


@contextlib.contextmanager
def eager() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(graphs, "EAGER_FIRST", 10**9)
        yield


@contextlib.contextmanager
def memory_of(mb: int) -> Iterator[None]:
    give_back()
    torch.cuda.set_per_process_memory_fraction(mb * 2**20 / torch.cuda.mem_get_info()[1])
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextlib.contextmanager
def collector_that_waits() -> Iterator[None]:
    """What becomes garbage inside is collected by hand alone."""
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def gap(one: TrialResult, other: TrialResult) -> float:
    """The largest relative difference of their losses."""
    pairs = [(a.train_loss, b.train_loss) for a, b in zip(one.curves, other.curves, strict=True)]
    pairs += [(a.val_loss, b.val_loss) for a, b in zip(one.curves, other.curves, strict=True)]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-6) for a, b in pairs)


def test_the_first_loss_is_the_cpus_in_float32(pool):
    first = tiny(precision="fp32", epochs=1, batch_size=1000)  # one step: what follows it amplifies any rounding
    (here,), (cpu,) = pool.train(first), pool.train(first, gpus=0)
    assert here.hardware.device == "cuda" and here.hardware.precision == "fp32"
    assert here.curves[0].train_loss == pytest.approx(cpu.curves[0].train_loss, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_curves_are_the_cpus_within_rounding(pool, precision):
    (here,), (cpu,) = pool.train(tiny(precision=precision)), pool.train(tiny(precision="fp32"), gpus=0)
    assert here.hardware.precision == precision and gap(here, cpu) < 2e-2


def test_bfloat16_learns_what_float32_does(pool):
    (exact,), (rounded,) = pool.train(config(precision="fp32")), pool.train(config(precision="bf16"))
    assert rounded.curves[-1].train_loss == pytest.approx(exact.curves[-1].train_loss, rel=BF16_GAP)


@pytest.mark.parametrize(
    "members",
    [
        [config()],
        [tiny(dropout=0.3, ema=0.9, optimizer="adamw", lr=1e-3)],
        [config(optimizer="muon", lr=1e-3, grad_clip=1.0)],
        [config(ghost_batches=4)],
        [
            config(freeze="layer3", lr=lr, dropout=p, epochs=n, unfreeze_epoch=u)
            for lr, p, n, u in ((1e-3, 0.3, 2, None), (1e-2, 0.1, 3, 1))
        ],
        [config(freeze="layer3", lr=lr, augment="none") for lr in (1e-3, 1e-2)],
        [config(freeze="all", lr=lr, optimizer=o, augment="none") for lr in (1e-3, 1e-2) for o in ("sgd", "adam")],
    ],
    ids=["whole", "dropout and average", "muon", "ghosts", "suffixes", "kept features", "probes"],
)
def test_replayed_steps_are_the_eager_ones(pool, members):
    with eager():
        stepwise = pool.train(*members)
    replayed = pool.train(*members)
    assert all("captured" in result.hardware.graphs for result in replayed), replayed[0].hardware.graphs
    assert max(map(gap, stepwise, replayed)) < 1e-3


@pytest.fixture
def captured():
    with Graphs(torch.device("cuda")).one_stream():
        graphs = Graphs(torch.device("cuda"))
        yield lambda work, *generators: graphs.capture(work, generators)


def test_an_old_graph_that_is_garbage_does_not_end_a_capture(captured):
    x = torch.zeros(1, device="cuda")
    old = [captured(lambda: x.add_(1))]
    old.append(old)
    with collector_that_waits():
        del old
        replay = captured(lambda: (gc.collect() if gc.isenabled() else None, x.add_(10)))
    replay()
    assert x.item() == 10


def test_captures_go_on_where_all_graphs_of_before_are_gone_and_their_memory_is_not(captured):
    kept: list[torch.Tensor] = []
    for _ in range(3):
        captured(lambda: kept.append(torch.zeros(1000, device="cuda")))


def test_after_a_capture_that_failed_draws_replays_and_captures_go_on(captured):
    x, y = torch.zeros(1, device="cuda"), torch.ones(1000, device="cuda")
    own = torch.Generator("cuda")
    before = captured(lambda: x.add_(1))

    def refused():
        with graphs.drawing_from(own, y.device):
            functional.dropout(y).sum().item()

    def drawn():
        with graphs.drawing_from(own, y.device):
            x.copy_(functional.dropout(y).sum())

    for _ in range(2):
        with pytest.raises(RuntimeError):
            captured(refused, own)
        functional.dropout(y)
        before()
    assert x.item() == 2
    replay, sums = captured(drawn, own), []
    for seed in (0, 1, 0):
        own.manual_seed(seed)
        replay()
        sums.append(x.item())
    assert sums[0] == sums[2] != sums[1]


@pytest.mark.parametrize(
    "members",
    [
        [config(freeze="layer3", lr=lr, dropout=0.2) for lr in (1e-3, 1e-2, 3e-2)],
        [config(freeze="all", lr=lr, augment="none") for lr in (1e-3, 1e-2, 1e-1)],
        [config(freeze="all", lr=lr, optimizer="adamw", augment="none") for lr in (1e-3, 1e-2)],
    ],
    ids=["suffixes", "probes", "probes adamw"],
)
def test_members_of_a_cohort_are_trials_alone(pool, members):
    assert max(map(gap, pool.train(*members), pool.train(*members, apart=True))) < 1e-2


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-3), ("bf16", ORDER_GAP)])
def test_stacked_probes_are_members_with_autograd(pool, monkeypatch, precision, bound):
    """In bfloat16 the stack rounds its gradients once more than autocast does: that this is all, float32 shows."""
    members = [
        config(freeze="all", lr=lr, optimizer=o, augment="none", precision=precision)
        for lr, o in ((1e-3, "adamw"), (1e-1, "sgd"))
    ]
    stacked = pool.train(*members)
    monkeypatch.setattr(steps, "can_step", lambda member: False)
    assert max(map(gap, stacked, pool.train(*members))) < bound


def test_kept_features_are_computed_ones_wherever_they_lie(pool, monkeypatch):
    members = [config(freeze="layer3", lr=lr, augment="none") for lr in (1e-3, 1e-2)]
    on_device = pool.train(*members)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "mem_get_info", lambda device=None: (1000, 2**33))
        on_host = pool.train(*members)
        patched.setattr(features, "_free_host_bytes", lambda granted: 1000)
        in_file = pool.train(*members)
    make = features.Feed.__init__
    monkeypatch.setattr(features.Feed, "__init__", lambda feed, *args, **kw: make(feed, *args, **{**kw, "keep": False}))
    for others in (on_host, in_file, pool.train(*members)):
        assert max(map(gap, on_device, others)) < ORDER_GAP


@pytest.mark.parametrize(
    "members",
    [
        [tiny(ema=0.9, dropout=0.2)],
        [config(freeze="all", optimizer="adamw", lr=lr, augment="none") for lr in (1e-3, 1e-2)],
        [tiny(freeze=1, optimizer=o, lr=1e-3) for o in ("sgd", "adam", "muon")],
    ],
    ids=["whole", "probes", "optimisers"],
)
def test_an_interrupted_trial_goes_on_to_the_same_bits(pool, members):
    folder, looks = pool.folder(), itertools.count()
    with pytest.raises(Interrupted):
        pool.train(*members, folder=folder, interrupted=lambda: next(looks) >= 20)
    resumed, straight = pool.train(*members, folder=folder), pool.train(*members)
    assert [numbers(one) for one in resumed] == [numbers(one) for one in straight]


def test_every_kind_of_trial_runs_here(pool):
    kinds = [tiny(freeze=1, label_smoothing=0.1, layer_decay=0.8), tiny(lr="auto", freeze=1), tiny(keep="weights", freeze=1)]
    kinds += [tiny(freeze="all", classifier=kind, epochs=1, augment="none") for kind in ("svm", "knn")]
    for result in pool.train(*kinds, apart=True):
        assert result.hardware.device == "cuda"


AUGMENTATIONS = [*catalog.AUGMENTATIONS, *[(AugmentOp(name=name),) for name in catalog.AUGMENT_OPS]]


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda one: one if isinstance(one, str) else f"op {one[0].name}")
def test_an_augmented_batch_is_the_cpus(pool, augment):
    if importlib.util.find_spec("kornia") is None and not _is_plain(augment):
        pytest.skip("no kornia here")
    first = tiny(precision="fp32", epochs=1, batch_size=1000, augment=augment)
    (here,), (cpu,) = pool.train(first), pool.train(first, gpus=0)
    assert here.curves[0].train_loss == pytest.approx(cpu.curves[0].train_loss, rel=2e-3)


def _is_plain(augment) -> bool:
    plain = {"flip", "vflip", "crop", "rotate", "translate", "scale", "shear", "resized_crop", "brightness", "cutout", "erase"}
    names = catalog.AUGMENTATIONS[augment] if isinstance(augment, str) else [op.name for op in augment]
    return set(names) <= plain | set(catalog.BATCH_OPS)


def test_what_a_cohort_took_is_given_back(pool, monkeypatch):
    seen, train = [], runner.train_order

    def begin(*order):
        seen.append(torch.cuda.memory_allocated())
        train(*order)

    monkeypatch.setattr(runner, "train_order", begin)
    pool.train(*[config(freeze="layer3", lr=lr, epochs=2) for lr in (1e-3, 2e-3, 3e-3, 4e-3)], apart=True)
    assert max(seen) - seen[0] < 20 * 2**20, [taken >> 20 for taken in seen]
    assert torch.cuda.memory_allocated() - seen[0] < 20 * 2**20


def test_a_cohort_too_large_for_the_memory_is_split_and_its_numbers_stay(pool):
    members = [config(freeze="layer3", lr=lr, epochs=1, batch_size=256, image_size=64) for lr in (1e-3, 2e-3, 4e-3, 1e-2, 2e-2)]
    whole = pool.train(*members)
    for mb in (2000, 1000):
        with memory_of(mb):
            parts = pool.train(*members)
        assert max(map(gap, whole, parts)) < ORDER_GAP


def test_a_batch_too_large_for_the_memory_is_taken_in_micro_batches(pool):
    one = config(arch="vgg11", batch_size=512, image_size=64, epochs=2, precision="fp32", lr=1e-3)
    with eager():  # a graph holds memory of its own, and is done without where that is missing
        (whole,) = pool.train(one)
        for share in (0.8, 0.65, 0.5):  # cuDNN makes do with less before a batch does not fit
            with memory_of(int(whole.hardware.peak_memory_gb * 1024 * share)):
                (parts,) = pool.train(one)
            if parts.micro_batch is not None:
                break
    assert parts.micro_batch is not None and gap(whole, parts) < ORDER_GAP


def test_times_in_the_record_are_the_devices(pool):
    one = config(arch="densenet121", image_size=64, epochs=3)
    pool.train(one)
    began = time.perf_counter()
    (result,) = pool.train(one)
    torch.cuda.synchronize()
    wall_s = time.perf_counter() - began
    assert 0.3 * wall_s < sum(epoch.train_s + epoch.val_s for epoch in result.curves) < wall_s


def test_a_trial_on_a_part_of_a_gpu_records_the_part(pool):
    (whole,), (part,) = pool.train(tiny(epochs=1)), pool.train(tiny(epochs=1), gpus=0.25)
    assert (whole.hardware.gpu_share, part.hardware.gpu_share) == (None, 0.25)
    assert gap(whole, part) < ORDER_GAP


def test_two_processes_without_a_gpu_run_beside_one(pool):
    one = tiny(epochs=1)
    job = dataclasses.replace(job_of(one), resources=Resources(gpus=0, processes=2))
    layout = Layout(pool.folder())
    run_job(job, layout, executor="inline")
    hardware = read_record(layout.trial(one.trial_id).result, TrialResult).hardware
    assert (hardware.device, hardware.world_size) == ("cpu", 2)


def test_a_world_of_one_speaks_by_nccl_and_gloo_and_shares_gradients(tmp_path):
    with join_world(0, 1, StoreAddress(file=tmp_path / "store"), 30.0, gpu=0) as world:
        there, here = torch.ones(5, device="cuda"), torch.ones(3)
        torch.distributed.all_reduce(there)
        torch.distributed.all_reduce(here)
        assert there.sum().item() == 5 and here.sum().item() == 3
        layer, x = torch.nn.Linear(4, 3).cuda(), torch.rand(6, 4, device="cuda")
        shared = SharedGradients(layer, world, may_skip=False)
        world.share(x)
        with shared.step(last=True):
            (shared(x).square().mean() * shared.scale(len(x))).backward()
        averaged = layer.weight.grad.clone()
        layer.zero_grad()
        layer(x).square().mean().backward()
        torch.testing.assert_close(averaged, layer.weight.grad)


ONE_GPU_FOR_ALL = """
import torch, torch.distributed as dist
set_device, init = torch.cuda.set_device, dist.init_process_group
torch.cuda.set_device = lambda index: set_device(0)
dist.init_process_group = lambda backend=None, device_id=None, **rest: init("gloo", **rest)
"""


def test_two_processes_on_one_gpu_have_the_curves_of_one(pool, tmp_path, monkeypatch):
    """gloo carries the GPU's tensors, since NCCL takes no GPU twice: DistributedDataParallel and SyncBatchNorm are torch's."""
    (tmp_path / "sitecustomize.py").write_text(ONE_GPU_FOR_ALL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    one = tiny(precision="fp32", epochs=2, dropout=0.2)
    layout = Layout(pool.folder())
    run_job(dataclasses.replace(job_of(one), resources=Resources(processes=2)), layout, executor="inline")
    files = layout.trial(one.trial_id)
    assert files.result.exists(), files.error.read_text()
    result = read_record(files.result, TrialResult)
    assert (result.hardware.device, result.hardware.world_size) == ("cuda", 2)
    assert gap(result, pool.train(one)[0]) < 1e-2


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_same_trial_twice_has_the_same_bits(pool, precision):
    (one,), (other,) = pool.train(config(precision=precision)), pool.train(config(precision=precision))
    assert numbers(one) == numbers(other)
