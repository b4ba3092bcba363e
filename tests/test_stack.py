"""Linear classifiers side by side have the bits that each has alone: any shape, any optimiser, one thread or two."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cifar_hpc.train import stack as stacks
from cifar_hpc.train.lanes import one_thread
from cifar_hpc.train.stack import RULES, Batch, Rates, Stack, Way, logits, together_as_alone, way_for
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_train_loop import result_of, run_alone

MOST_NUMBERS = 400_000


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    batch = Batch.of(x_ND, share_NK if soft else share_NK.argmax(1), k)
    together = stacks.drawn_stack(kind, m, k, d, draws)
    alone = [stacks.part_of(together, i) for i in range(m)]
    lr_M1 = torch.rand(m, 1, generator=draws) * 0.1
    rates = Rates(lr_M1, lr_M1 * 2, lr_M1 + 0.3, 1 - lr_M1)
    way = way_for(kind, m, n, k, d)
    for _ in range(2):
        sums = _step(together, batch, rates, way)
        for i, one in enumerate(alone):
            own = _step(one, batch, _row(rates, i), Way.PRODUCTS_APART)
            if way is Way.APART:
                continue
            assert [s[i].item() for s in sums] == [s[0].item() for s in own]
            for name, rows in one.rows.items():
                assert torch.equal(rows[0], together.rows[name][i]), (name, i, way)


def test_every_part_of_a_classifier_begins_on_a_boundary_of_64_bytes():
    stack = Stack("adamw", 5, 7, 33, torch.device("cpu"))
    for name in stack.rows:
        for i in range(stack.m):
            assert stack.rows[name][i].data_ptr() % 64 == 0 and stack.rows[name][i].is_contiguous()
            assert stack.weights(name)[i].data_ptr() == stack.rows[name][i].data_ptr()


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_in_few_kernels_are_the_same_within_rounding(kind, soft):
    draws = torch.Generator().manual_seed(0)
    x_ND, share_NK = torch.randn(37, 20, generator=draws), torch.randn(37, 5, generator=draws).softmax(1)
    batch = Batch.of(x_ND, share_NK if soft else share_NK.argmax(1), 5)
    one, other = (stacks.drawn_stack(kind, 4, 5, 20, torch.Generator().manual_seed(1)) for _ in range(2))
    lr_M1 = torch.rand(4, 1, generator=draws) * 0.1
    rates = Rates(lr_M1, lr_M1 * 2, lr_M1 + 0.3, 1 - lr_M1)
    for _ in range(3):
        sums = _step(one, batch, rates, Way.TOGETHER)
        grad_MP, *few = other.gradients_in_few_kernels(batch)
        other.update(grad_MP, rates)
        torch.testing.assert_close(few[0].double(), sums[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(few[1], sums[1])
    for name, rows in one.rows.items():
        torch.testing.assert_close(other.rows[name], rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_a_step_of_one_classifier_is_torchs_own(kind):
    draws = torch.Generator().manual_seed(0)
    x_ND, labels_N = torch.randn(37, 20, generator=draws), torch.randint(0, 5, (37,), generator=draws)
    stack = stacks.drawn_stack(kind, 1, 5, 20, draws)
    stack.set_constants(torch.tensor([0.1]), torch.tensor([0.01]), torch.tensor([0.9]))
    for name in RULES[kind]:
        stack.rows[name].zero_()
    layer = torch.nn.Linear(20, 5)
    with torch.no_grad():
        layer.weight.copy_(stack.weights("parameter")[0])
        layer.bias.copy_(stack.biases("parameter")[0])
    solvers = {
        "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    solver = solvers[kind](layer.parameters(), lr=0.05, weight_decay=0.01)
    for step in range(1, 4):
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(x_ND), labels_N, label_smoothing=0.1)
        hits = (layer(x_ND).argmax(1) == labels_N).sum()
        loss.backward()
        solver.step()
        beta_1, beta_2 = stacks.ADAM_BETAS
        rates = Rates(*torch.tensor([0.05, 0.05 / (1 - beta_1**step), 1 - beta_2**step, 1 - 0.05 * 0.01]).view(4, 1, 1))
        loss_M, hits_M = _step(stack, Batch.of(x_ND, labels_N, 5), rates, Way.PRODUCTS_APART)
        assert loss_M.item() == pytest.approx(loss.item() * 37, rel=1e-5) and hits_M.item() == hits
    torch.testing.assert_close(stack.weights("parameter")[0], layer.weight.detach())
    torch.testing.assert_close(stack.biases("parameter")[0], layer.bias.detach())


@pytest.mark.parametrize("hits", [stacks.hits_by_index, stacks.hits_by_value])  # a GPU's way, a CPU's
def test_of_equal_logits_the_first_is_the_guess_and_among_nan_there_is_none(hits):
    nan = torch.nan
    logits_MKN = torch.tensor([[[1.0, 1.0, nan, 2.0, nan], [1.0, 1.0, 0.0, nan, nan], [0.0, 0.0, 0.0, 0.0, nan]]])
    assert hits(logits_MKN, torch.tensor([0, 1, 0, 0, 0]))[0].tolist() == [True, False, False, False, False]


def test_of_infinite_logits_the_guess_is_argmaxs_too():
    draws, values = torch.Generator().manual_seed(0), torch.tensor([-torch.inf, 0.0, 1.0, torch.inf])
    logits_MKN, label_N = (
        values[torch.randint(0, 4, (3, 4, 200), generator=draws)],
        torch.randint(0, 4, (200,), generator=draws),
    )
    assert torch.equal(stacks.hits_of(logits_MKN, label_N), logits_MKN.argmax(1) == label_N)


def test_logits_of_many_classifiers_have_the_bits_of_each_alone_where_that_is_said():
    draws = torch.Generator().manual_seed(0)
    weight_MKD, bias_MK, x_ND = (torch.randn(size, generator=draws) for size in ((9, 10, 33), (9, 10), (50, 33)))
    together = logits(weight_MKD, bias_MK, x_ND)
    torch.testing.assert_close(together, torch.einsum("mkd,nd->mkn", weight_MKD, x_ND) + bias_MK[..., None])
    if together_as_alone(9, 50, 10, 33):
        alone = [logits(weight_MKD[i : i + 1], bias_MK[i : i + 1], x_ND)[0] for i in range(9)]
        assert all(torch.equal(one, all_KN) for one, all_KN in zip(alone, together, strict=True))


def test_where_this_machine_fails_the_trial_probes_are_stepped_one_by_one_to_the_same_bits(tmp_path, monkeypatch, capsys):
    from cifar_hpc.records.layout import Layout
    from cifar_hpc.worker import job as runner

    monkeypatch.setattr(stacks, "_equals_each_alone", lambda *_: False)
    way_for.cache_clear()
    rates = (("sgd", 0.01), ("sgd", 0.03), ("adamw", 0.01))
    configs = [digits_config(freeze="all", optimizer=kind, lr=lr) for kind, lr in rates]
    layout = Layout(tmp_path / "results")
    try:
        runner.run_job(job_of(*configs, together=True), layout, executor="inline")
    finally:
        way_for.cache_clear()
    assert "one by one" in capsys.readouterr().err
    for config in configs:
        assert numbers(result_of(layout, config)) == numbers(run_alone(tmp_path, config)), config


def test_a_library_whose_batched_product_depends_on_the_company_is_found_out(monkeypatch):
    product = torch.mm

    def companionable(a, b, out):
        return out.copy_(product(a, b) * (1 + 2**-20 * (len(a) > 4)))

    monkeypatch.setattr(torch, "mm", companionable)
    way_for.cache_clear()
    assert way_for("sgd", 3, 8, 4, 16) is Way.PRODUCTS_APART
    way_for.cache_clear()


@one_thread()
def _step(stack, batch, rates, way):
    grad_MP, *sums = stack.gradients(batch, way)
    stack.update(grad_MP, rates)
    return sums


def _row(rates, i):
    return Rates(*(getattr(rates, name)[i : i + 1] for name in Rates.__slots__))
