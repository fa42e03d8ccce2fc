"""Max pooling of planes, against torch's own: values, places and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from cos_runtime.caffe.layers import maximum
from cos_runtime.caffe.layers.maximum import maxima


@pytest.mark.parametrize("planes", [2, 16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "pad", "ceil"), [((3, 3), (1, 1), True), ((3, 2), (0, 1), False)])
def test_values_places_and_gradients_are_torchs(  # noqa: PLR0917
    monkeypatch: pytest.MonkeyPatch,
    planes: int,
    layout: torch.memory_format,
    dtype: torch.dtype,
    kernel: tuple[int, int],
    pad: tuple[int, int],
    ceil: bool,
) -> None:
    monkeypatch.setattr(maximum, "_VALUES", 0)
    monkeypatch.setattr(maximum, "_LEAST_PLANES", planes)
    torch.manual_seed(1)
    # Of few values, so that windows have equal ones.
    x = torch.randint(3, (3, 5, 8, 7)).to(dtype).to(memory_format=layout).requires_grad_()
    found = maxima(x, kernel, (2, 2), pad, ceil)
    expected = functional.max_pool2d_with_indices(x, kernel, (2, 2), pad, (1, 1), ceil)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
    of_top = torch.randn_like(found[0])
    assert torch.equal(*(torch.autograd.grad(top, x, of_top)[0] for top in (found[0], expected[0])))


def test_no_items_give_none() -> None:
    assert maxima(torch.zeros(0, 3, 4, 4), (2, 2), (2, 2), (0, 0), True)[0].shape == (0, 3, 2, 2)
