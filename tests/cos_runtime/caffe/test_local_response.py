"""Local response normalization across channels, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from cos_runtime.caffe.layers import local_response
from cos_runtime.caffe.layers.local_response import ChannelResponse, across_channels


@pytest.mark.parametrize("block", [1, 2 * 6 * 5 * 4, 2**18], ids=["an item at a time", "two at a time", "all"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("response", [ChannelResponse(5, 0.1, 0.75, 1.0), ChannelResponse(3, 0.1, 0.6, 2.0)])
def test_values_and_gradients_are_torchs(
    monkeypatch: pytest.MonkeyPatch, block: int, layout: torch.memory_format, response: ChannelResponse
) -> None:
    monkeypatch.setattr(local_response, "_BLOCK", block)
    torch.manual_seed(1)
    x = torch.randn(3, 6, 5, 4).to(memory_format=layout).requires_grad_()
    of_top = torch.randn(3, 6, 5, 4)
    found = across_channels(x, response)
    expected = functional.local_response_norm(x, response.size, 0.1 * response.size, response.beta, response.k)
    torch.testing.assert_close(found, expected)
    assert found.stride() == x.stride()
    torch.testing.assert_close(*(torch.autograd.grad(top, x, of_top)[0] for top in (found, expected)))


def test_halves_are_computed_as_floats() -> None:
    x = torch.full((1, 5, 2, 2), 300.0, dtype=torch.float16, requires_grad=True)
    top = across_channels(x, ChannelResponse(5, 1e-4, 0.75, 1.0))
    gradient = torch.autograd.grad(top.sum(), x)[0]
    # 300 squared is beyond float16.
    assert (top.dtype, gradient.dtype) == (torch.float16, torch.float16)
    wide = x.detach().float().requires_grad_()
    expected = functional.local_response_norm(wide, 5, 5e-4, 0.75, 1.0)
    torch.testing.assert_close(top, expected.half())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), wide)[0].half())
