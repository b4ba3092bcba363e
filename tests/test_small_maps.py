"""Leaving out the taps of a kernel that meet only padding changes no output, no gradient and no tensor's name."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cifar_hpc.models.small_maps import SmallMapConv2d, trim_convolutions
from cifar_hpc.models.zoo import build_model
from tests.helpers.training import digits_config


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_convolution_gives_what_torchs_own_gives_and_learns_the_same(data):
    height, width, kernel = (data.draw(st.integers(1, n)) for n in (5, 5, 5))
    stride, padding, dilation = (data.draw(st.integers(low, 3)) for low in (1, 0, 1))
    assume(min(height, width) + 2 * padding > dilation * (kernel - 1))
    groups, bias = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.booleans())
    torch.manual_seed(0)
    whole = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias).to(memory_format=torch.channels_last)
    trimmed = copy.deepcopy(whole)
    trim_convolutions(nn.Sequential(trimmed))
    assert type(trimmed) is SmallMapConv2d
    x_NCHW = torch.randn(3, 4, height, width).to(memory_format=torch.channels_last)
    inputs = [x_NCHW.clone().requires_grad_() for _ in range(2)]
    outputs = [conv(x) for conv, x in zip((whole, trimmed), inputs, strict=True)]
    for output in outputs:
        (output * torch.arange(output.numel()).view_as(output)).sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(outputs[1], outputs[0], **close)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, **close)
    for one, other in zip(trimmed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, **close)
        assert one.grad.stride() == one.stride()


@pytest.mark.parametrize(("arch", "most"), [("resnet18", 0.85), ("efficientnet_b0", 0.98), ("vgg11_bn", 1.0)])
def test_a_network_made_for_large_images_does_less_on_small_ones_and_says_the_same(arch, most):
    model = build_model(digits_config(arch=arch, image_size=32, batch_size=64), 10, 3).eval()
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, SmallMapConv2d):
            module.__class__ = nn.Conv2d
    x_NCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    counts = []
    with torch.no_grad():
        for network in (model, plain):
            with FlopCounterMode(display=False) as counter:
                logits_NK = network(x_NCHW)
            counts.append((counter.get_total_flops(), logits_NK))
    assert counts[0][0] <= most * counts[1][0]
    torch.testing.assert_close(counts[0][1], counts[1][1], rtol=1e-3, atol=1e-4)
    assert model.state_dict().keys() == plain.state_dict().keys()
