"""Linear classifiers side by side have the bits that each has alone: any shape, any optimiser, one thread or two."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cifar_hpc.train import stack as stacks
from cifar_hpc.train.stack import Rates, Stack, Way, way_for
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_train_loop import result_of, run_alone

MOST_NUMBERS = 400_000


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    m=st.integers(1, 64),
    n=st.integers(1, 130),
    k=st.one_of(st.integers(2, 12), st.integers(2, 1000)),
    d=st.one_of(st.integers(1, 70), st.sampled_from([192, 512, 513])),
    kind=st.sampled_from(["sgd", "adam", "adamw"]),
    soft=st.booleans(),
    threads_n=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**31),
)
def test_each_classifier_of_a_stack_has_the_bits_that_it_has_alone(m, n, k, d, kind, soft, threads_n, seed, threads):
    assume(m * k * (d + n) <= MOST_NUMBERS)
    threads(threads_n)
    draws = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(n, d, generator=draws)
    share_NK = torch.randn(n, k, generator=draws).softmax(1)
    if not soft:
        share_NK = torch.nn.functional.one_hot(share_NK.argmax(1), k).float()
    together = stacks._drawn(kind, m, k, d, draws)
    alone = [stacks._part(together, i) for i in range(m)]
    lr_M1 = torch.rand(m, 1, generator=draws) * 0.1
    rates = Rates(lr_M1, lr_M1 * 2, lr_M1 + 0.3, 1 - lr_M1)
    way = way_for(kind, m, n, k, d, threads_n)
    for _ in range(2):
        sums = _step(together, x_ND, share_NK, rates, way)
        for i, one in enumerate(alone):
            own = _step(one, x_ND, share_NK, _row(rates, i), Way.PRODUCTS_APART)
            if way is Way.APART:
                continue
            assert [s[i].item() for s in sums] == [s[0].item() for s in own]
            for name, rows in one.rows.items():
                assert torch.equal(rows[0], together.rows[name][i]), (name, i, way)


def test_every_part_of_a_classifier_begins_on_a_boundary_of_64_bytes():
    stack = Stack("adamw", 5, 7, 33, torch.device("cpu"))
    for name in stack.rows:
        for i in range(stack.m):
            assert stack.weights(name)[i].data_ptr() % 64 == 0 and stack.weights(name)[i].is_contiguous()
            assert stack.biases(name)[i].data_ptr() % 64 == 0


def test_where_this_machine_fails_the_trial_probes_are_stepped_one_by_one_to_the_same_bits(tmp_path, monkeypatch, capsys):
    from cifar_hpc.records.layout import Layout
    from cifar_hpc.worker import job as runner

    monkeypatch.setattr(stacks, "_equals_each_alone", lambda *_: False)
    way_for.cache_clear()
    configs = [digits_config(freeze="all", lr=lr, optimizer=kind) for lr in (0.01, 0.03) for kind in ("sgd", "adamw")]
    layout = Layout(tmp_path / "results")
    try:
        runner.run_job(job_of(*configs, together=True), layout, executor="inline")
    finally:
        way_for.cache_clear()
    assert "one by one" in capsys.readouterr().err
    for config in configs:
        assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config)), config


def test_a_library_whose_batched_product_depends_on_the_company_is_found_out(monkeypatch):
    product = torch.bmm

    def companionable(a, b, out=None):
        made = product(a, b) * (1 + 2**-20 * (len(a) > 1))
        return made if out is None else out.copy_(made)

    monkeypatch.setattr(torch, "bmm", companionable)
    way_for.cache_clear()
    assert way_for("sgd", 3, 8, 4, 16, torch.get_num_threads()) is Way.PRODUCTS_APART
    way_for.cache_clear()


def _step(stack, x_ND, share_NK, rates, way):
    grad_MP, *sums = stack.gradients(x_ND, share_NK, way)
    stack.update(grad_MP, rates)
    return sums


def _row(rates, i):
    return Rates(*(getattr(rates, name)[i : i + 1] for name in Rates.__slots__))
