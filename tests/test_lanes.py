"""What is done for many at once is done piece by piece, each on one thread, with the bits of each piece alone."""

from __future__ import annotations

import pytest
import torch

from cifar_hpc.train.lanes import cut, in_lanes, one_thread
from cifar_hpc.train.measure import losses_and_accuracies

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_piece_is_done_once_and_on_one_thread_whatever_torch_has(threads):
    seen: list[tuple[int, int]] = []
    in_lanes([lambda i=i: seen.append((i, torch.get_num_threads())) for i in range(20)], CPU)
    assert sorted(seen) == [(i, 1) for i in range(20)]
    assert torch.get_num_threads() == threads


def test_what_a_piece_raises_is_raised_and_the_threads_are_torchs_again(threads):
    with pytest.raises(ZeroDivisionError):
        in_lanes([lambda: None, lambda: 1 / 0, lambda: None], CPU)
    assert torch.get_num_threads() == threads


def test_pieces_are_all_there_is_each_once(threads):
    for n, numbers in ((1, 1), (7, 10), (1000, 5130), (3, 10**9)):
        assert [i for piece in cut(n, numbers, CPU) for i in range(n)[piece]] == list(range(n))
    with one_thread():
        assert len(cut(1000, 5130, CPU)) == 20


def test_the_loss_and_accuracy_of_each_of_many_networks_have_the_bits_of_each_alone(threads):
    draws = torch.Generator().manual_seed(0)
    for n, k in ((1, 2), (37, 3), (40_001, 10)):
        logits_MNK, labels_N = torch.randn(5, n, k, generator=draws) * 3, torch.randint(k, (n,), generator=draws)
        loss_M, acc_M = losses_and_accuracies(logits_MNK, labels_N)
        for i, logits_NK in enumerate(logits_MNK):
            assert [loss_M[i], acc_M[i]] == [value[0] for value in losses_and_accuracies(logits_NK[None], labels_N)]
            assert loss_M[i].item() == pytest.approx(torch.nn.functional.cross_entropy(logits_NK, labels_N).item(), rel=1e-5)
            assert acc_M[i] == (logits_NK.argmax(1) == labels_N).double().mean()
