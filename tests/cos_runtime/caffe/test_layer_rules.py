"""Caffe's rules where layers could do otherwise: values worked out by hand or by a loop, gradients by differences."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cos_runtime.caffe.layers import Layer, Shape
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, BlobProto, Phase
from cos_runtime.errors import UserError
from tests.cos_runtime.caffe.layer_building import build, set_up


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(layer: Layer, *inputs: Tensor) -> list[list[float]]:
    """The gradient of the sum of the first top, a list an input."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    tops = layer(*leaves)
    top = tops[0] if isinstance(tops, tuple) else tops
    top.sum().backward()
    return [torch.zeros(0).tolist() if x.grad is None else x.grad.flatten().tolist() for x in leaves]


FILL = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" std: 0.5 }'
DIFFERENTIABLE = [
    (
        f'type: "Convolution" convolution_param {{ num_output: 4 kernel_size: 2 group: 2 dilation: 2 pad: 1 {FILL} }}',
        [(2, 2, 4, 5)],
    ),
    (f'type: "Convolution" convolution_param {{ num_output: 2 kernel_size: 2 stride: 2 {FILL} }}', [(2, 2, 4, 3, 3)]),
    (f'type: "Convolution" convolution_param {{ num_output: 2 kernel_size: 3 pad: 1 {FILL} }}', [(2, 3, 6)]),
    (f'type: "Convolution" convolution_param {{ num_output: 2 kernel_size: 2 axis: 2 {FILL} }}', [(2, 2, 2, 3, 3)]),
    (
        f'type: "Deconvolution" convolution_param {{ num_output: 2 kernel_size: 3 stride: 2 dilation: 2 {FILL} }}',
        [(2, 2, 3, 2)],
    ),
    (f'type: "Convolution" convolution_param {{ num_output: 2 kernel_size: 2 group: 2 {FILL} }}', [(1, 2, 2, 3, 2, 2)]),
    (f'type: "Deconvolution" convolution_param {{ num_output: 2 kernel_size: 2 {FILL} }}', [(1, 1, 2, 1, 2, 1)]),
    (f'type: "Convolution" convolution_param {{ num_output: 2 kernel_size: 3 axis: 0 {FILL} }}', [(2, 4, 5)]),
    ('type: "LSTMUnit" top: "c" top: "h"', [(1, 2, 3), (1, 2, 12), (1, 2)]),
    (
        'type: "Im2col" convolution_param { kernel_h: 2 kernel_w: 3 dilation: 1 dilation: 2 stride: 2 pad: 2 }',
        [(2, 2, 4, 5)],
    ),
    ('type: "Im2col" convolution_param { kernel_size: 2 stride: 2 }', [(2, 2, 4)]),
    ('type: "Pooling" pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 2 }', [(1, 2, 5, 4)]),
    ('type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 2 }', [(1, 2, 5, 4)]),
    ('type: "SPP" spp_param { pyramid_height: 2 }', [(1, 2, 4, 5)]),
    ('type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.5 }', [(1, 2, 4, 3)]),
    ('type: "LRN" lrn_param { local_size: 5 alpha: 0.5 }', [(1, 3, 2, 2)]),
    ('type: "LRN" lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }', [(2, 4, 2, 2)]),
    ('type: "LRN" lrn_param { local_size: 1 alpha: 0.5 }', [(1, 3, 2, 2)]),
    ('type: "MVN" mvn_param { across_channels: true }', [(2, 2, 3)]),
    ('type: "BatchNorm" batch_norm_param { use_global_stats: false }', [(3, 2, 2)]),
    (f'type: "InnerProduct" inner_product_param {{ num_output: 3 axis: 2 {FILL} }}', [(2, 2, 3, 2)]),
    ('type: "Scale" scale_param { bias_term: true axis: 0 num_axes: 2 }', [(2, 3, 2)]),
    ('type: "Scale" scale_param { num_axes: 0 }', [(2, 3, 2)]),
    ('type: "Scale" scale_param { bias_term: true axis: 2 }', [(2, 3, 2), (2,)]),
    ('type: "Bias" bias_param { axis: -1 }', [(2, 3, 2)]),
    ('type: "Bias" ', [(2, 3, 2), (3, 2)]),
    ('type: "Scale" ', [(), ()]),
    ('type: "PReLU" prelu_param { channel_shared: true }', [(2, 3)]),
    ('type: "Power" power_param { power: 3 scale: 0.5 shift: 2 }', [(2, 3)]),
    ('type: "Exp" exp_param { base: 3 shift: -1 scale: 2 }', [(2, 3)]),
    ('type: "Swish" swish_param { beta: 0.7 }', [(2, 3)]),
    ('type: "Eltwise" eltwise_param { coeff: 2 coeff: -1 }', [(2, 3), (2, 3)]),
    ('type: "Eltwise" eltwise_param { operation: PROD }', [(2, 3), (2, 3), (2, 3)]),
    ('type: "Eltwise" eltwise_param { operation: MAX }', [(2, 3), (2, 3), (2, 3)]),
    ('type: "Reduction" reduction_param { operation: ASUM axis: -1 coeff: 3 }', [(2, 3)]),
    ('type: "Tile" tile_param { axis: -1 tiles: 3 }', [(2, 3)]),
    ('type: "Crop" crop_param { axis: 1 offset: 1 offset: 0 }', [(2, 3, 4), (2, 2, 3)]),
    ('type: "Concat" concat_param { concat_dim: 0 }', [(2, 3), (1, 3)]),
    (f'type: "LSTM" recurrent_param {{ num_output: 3 {FILL} }}', [(3, 2, 2), (3, 2), (2, 4)]),
    (f'type: "RNN" recurrent_param {{ num_output: 3 {FILL} }}', [(3, 2, 2), (3, 2), (2, 4)]),
    ('type: "EuclideanLoss"', [(3, 4), (3, 2, 2)]),
]


@pytest.mark.parametrize(("text", "shapes"), DIFFERENTIABLE)
def test_gradient_is_that_of_differences(text: str, shapes: list[Shape]) -> None:
    torch.manual_seed(2)
    layer, tops = set_up(text, *shapes)
    layer = layer.double()
    inputs = [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    flags = {"LSTM": 1, "RNN": 1, "LSTMUnit": 2}.get(layer.param.type)
    if flags is not None:
        inputs[flags] = torch.ones_like(inputs[flags])
    for index, x in enumerate(inputs):
        # The flags of a sequence and the size to crop to have no gradient.
        is_flag = index == flags
        x.requires_grad_(not (is_flag or (index == 1 and layer.param.type == "Crop")))
    blobs = [blob for blob in layer.blobs if blob.requires_grad]

    def run(*values: Tensor) -> Tensor | tuple[Tensor, ...]:
        layer.state = None  # each pass from the beginning
        top: Tensor | tuple[Tensor, ...] = layer(*values[: len(inputs)])
        return top

    top = run(*inputs)
    assert [tuple(each.shape) for each in (top if isinstance(top, tuple) else (top,))] == tops
    assert torch.autograd.gradcheck(run, (*inputs, *blobs))


@pytest.mark.parametrize(
    ("text", "gradient"),
    [
        ('type: "ReLU"', [0, 0, 1]),
        ('type: "ReLU" relu_param { negative_slope: 0.25 }', [0.25, 0.25, 1]),
        ('type: "ELU" elu_param { alpha: 0.5 }', [0.5 / math.e, 0.5, 1]),
        ('type: "AbsVal"', [-1, 0, 1]),
        ('type: "Clip" clip_param { min: 0 max: 1 }', [0, 1, 1]),
        ('type: "Clip" clip_param { min: -1 max: 0.5 }', [1, 1, 0]),
        ('type: "Power" power_param { scale: 0 shift: 3 power: 2 }', []),
    ],
)
def test_gradient_at_the_kinks(text: str, gradient: list[float]) -> None:
    (ours,) = gradients_or_none(build(text, (3,)), torch.tensor([-1.0, 0.0, 1.0]))
    assert ours == pytest.approx(gradient)


@pytest.mark.parametrize(
    ("text", "gradient"),
    [
        ('type: "ReLU" relu_param { negative_slope: -0.5 }', [1, 1, 1]),
        ('type: "ELU" elu_param { alpha: -0.5 }', [1, 1, 1]),
        ('type: "Clip" clip_param { min: 0 max: 1 }', [1, 1, 1]),
        ('type: "BNLL"', [0.5777, 0.7259, 0.8935]),
    ],
)
def test_in_place_the_gradient_is_taken_of_what_is_left(text: str, gradient: list[float]) -> None:
    """Caffe's backward pass reads the bottom's values, over which the top was written."""
    x = torch.tensor([-1.0, 0.5, 2.0])
    layer = build(f'{text} bottom: "a" top: "a"', (3,))
    assert torch.equal(layer(x), build(text, (3,))(x))
    assert gradients(layer, x)[0] == pytest.approx(gradient, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ('type: "Power" power_param { scale: 2 }', [2, 2, 2]),
        ('type: "Power" power_param { power: 2 }', [2, 0.5, 8]),
        ('type: "Power" power_param { power: 3 scale: 2 }', [3, 3, 3]),
        ('type: "Power" power_param { power: 3 shift: 2 }', [3 / 3, 3 * 15.625 / 17.625, 3 * 64 / 66]),
        ('type: "Log" log_param { shift: 2 }', [0.5, 0.3430, 0.2953]),
    ],
)
def test_in_place_what_is_left_is_written_over_the_gradient_from_above(text: str, factor: list[float]) -> None:
    """Caffe multiplies both afterwards, where they are one."""
    x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    layer = build(f'{text} bottom: "a" top: "a"', (3,))
    top = layer(x)
    assert torch.equal(top, build(text, (3,))(x))
    top.backward(torch.tensor([10.0, 1, -2]))
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([each**2 for each in factor], abs=1e-4)


def test_of_a_flag_between_0_and_1_an_lstm_takes_the_gradient_by_what_it_keeps() -> None:
    """Caffe's CPU code has f (1 - f) with f = cont * sigmoid."""
    layer = build('type: "LSTMUnit" top: "c" top: "h"', (1, 1, 1), (1, 1, 4), (1, 1))
    cell, sums, cont = torch.full((1, 1, 1), 3.0), torch.tensor([[[0.3, 0.7, -0.2, 0.5]]]), torch.tensor([[0.25]])
    kept = 0.25 / (1 + math.exp(-0.7))
    assert layer(cell, sums, cont)[0].item() == pytest.approx(3 * kept + math.tanh(0.5) / (1 + math.exp(-0.3)))
    assert gradients(layer, cell, sums, cont)[1][1] == pytest.approx(3 * kept * (1 - kept))


@pytest.mark.parametrize(
    ("text", "shape", "is_last_alone"),
    [
        ('type: "Scale"', (1, 2, 3), True),
        ('type: "Scale" scale_param { axis: 0 num_axes: -1 }', (2, 3), True),
        ('type: "Scale" scale_param { bias_term: true }', (1, 2, 3), True),
        ('type: "Scale"', (2, 2, 3), False),
        ('type: "Scale" scale_param { num_axes: 0 }', (1, 2, 3), False),
    ],
)
def test_a_scale_of_one_item_has_the_gradient_of_the_last_pass(text: str, shape: Shape, is_last_alone: bool) -> None:
    layer = build(text, shape)
    found = []
    for seed in range(2):
        layer(random(*shape, seed=seed).float()).sum().backward()
        found.append([blob.grad.clone() for blob in layer.blobs])  # type: ignore[union-attr]
    layer.zero_grad(set_to_none=True)
    layer(random(*shape, seed=1).float()).sum().backward()
    last = [blob.grad for blob in layer.blobs]
    assert torch.equal(found[1][0], last[0]) is is_last_alone  # type: ignore[arg-type]
    if len(layer.blobs) > 1:
        torch.testing.assert_close(found[1][1], found[0][1] * 2)


def gradients_or_none(layer: Layer, *inputs: Tensor) -> list[list[float]]:
    """As :func:`gradients`, with empty lists where the top has none."""
    if not layer(*(x.clone().requires_grad_() for x in inputs)).requires_grad:
        return [[] for _ in inputs]
    return gradients(layer, *inputs)


def test_of_equal_values_eltwise_takes_the_second_then_the_first() -> None:
    one = torch.ones(1)
    maximum = 'type: "Eltwise" eltwise_param { operation: MAX }'
    assert gradients(build(maximum, (1,), (1,), (1,)), one, one, one) == [[0], [1], [0]]
    assert gradients(build(maximum, (1,), (1,), (1,)), one, one * 0, one) == [[1], [0], [0]]


def test_of_equal_values_a_window_takes_the_first() -> None:
    layer = build('type: "Pooling" pooling_param { kernel_size: 2 stride: 2 }', (1, 1, 2, 4))
    assert gradients(layer, torch.zeros(1, 1, 2, 4)) == [[1, 0, 1, 0, 0, 0, 0, 0]]


def test_argmax_takes_the_last_of_equal_values() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]])
    assert build('type: "ArgMax"', (1, 5))(x).flatten().tolist() == [4]
    assert build('type: "ArgMax" argmax_param { top_k: 4 }', (1, 5))(x).flatten().tolist() == [4, 2, 1, 3]


def pooled_by_loop(image: np.ndarray, method: str, windows: tuple[int, int, int], is_floor: bool) -> np.ndarray:
    """Caffe's definition, window by window; these are (kernel, stride, pad)."""
    size, (kernel, stride, pad) = image.shape[0], windows
    rooms = (size + 2 * pad - kernel) / stride
    count = (math.floor(rooms) if is_floor else math.ceil(rooms)) + 1
    if pad and (count - 1) * stride >= size + pad:
        count -= 1
    top = np.zeros((count, count))
    for row in range(count):
        for column in range(count):
            starts = row * stride - pad, column * stride - pad
            ends = [min(start + kernel, size + pad) for start in starts]
            area = (ends[0] - starts[0]) * (ends[1] - starts[1])
            window = image[max(0, starts[0]) : max(0, ends[0]), max(0, starts[1]) : max(0, ends[1])]
            # A window outside of the image is what Caffe starts with: -FLT_MAX, or 0 over the window's size.
            if method == "MAX":
                top[row, column] = window.max() if window.size else -np.finfo(np.float32).max
            else:
                top[row, column] = window.sum() / area if area else np.nan
    return top


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("rounding", ["CEIL", "FLOOR"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("size", [4, 5, 7])
def test_pooling_windows_are_caffes(method: str, rounding: str, kernel: int, size: int) -> None:
    image = random(size, size).numpy()
    for stride in range(1, 5):
        for pad in range(kernel):
            text = f"pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {rounding}"
            try:
                layer, tops = set_up(f'type: "Pooling" pooling_param {{ {text} }}', (1, 1, size, size))
            except UserError:
                assert kernel > size
                continue
            expected = pooled_by_loop(image, method, (kernel, stride, pad), rounding == "FLOOR")
            top = layer(torch.from_numpy(image)[None, None])
            assert tops == [tuple(top.shape)]
            np.testing.assert_allclose(top[0, 0], expected, rtol=1e-12)


def test_a_window_outside_of_the_image_has_no_place_and_no_gradient() -> None:
    text = 'type: "Pooling" pooling_param { kernel_size: 1 stride: 2 }'
    x = torch.tensor([[[[1.0, 5.0]]]])
    top, places = build(text, (1, 1, 1, 2), tops=2)(x)
    assert top.flatten().tolist() == [1, -np.finfo(np.float32).max]
    assert places.flatten().tolist() == [0, -1]
    assert gradients(build(text, (1, 1, 1, 2)), x) == [[1, 0]]


@pytest.mark.parametrize(("field", "size"), [("ceil_mode: false", 2), ("ceil_mode: true", 3), ("", 3)])
def test_pooling_takes_the_forks_ceil_mode(field: str, size: int) -> None:
    text = f'type: "Pooling" pooling_param {{ kernel_size: 2 stride: 2 {field} }}'
    assert set_up(text, (1, 1, 5, 5))[1] == [(1, 1, size, size)]


def test_convolution_over_more_axes_than_torch_has() -> None:
    torch.manual_seed(0)
    fields = "num_output: 4 kernel_size: 2 stride: 2 pad: 1 dilation: 2 group: 2"
    by_axis = {"kernel_size": (1, 2, 1, 2), "pad": (0, 1, 0, 1), "stride": (1, 2, 1, 2), "dilation": (1, 2, 1, 2)}
    four = " ".join(f"{name}: {size}" for name, sizes in by_axis.items() for size in sizes)
    for kind in ("Convolution", "Deconvolution"):
        flat = build(f'type: "{kind}" convolution_param {{ {fields} {FILL} }}', (2, 4, 5, 6))
        layer = build(f'type: "{kind}" convolution_param {{ num_output: 4 group: 2 {four} }}', (2, 4, 1, 5, 1, 6))
        with torch.no_grad():
            layer.blobs[0].copy_(flat.blobs[0][:, :, None, :, None])
            layer.blobs[1].copy_(flat.blobs[1])
        x = torch.randn(2, 4, 5, 6)
        torch.testing.assert_close(layer(x[:, :, None, :, None])[0][:, :, 0, :, 0], flat(x)[0])


@pytest.mark.parametrize("kind", ["Convolution", "Im2col"])
@pytest.mark.parametrize("axes", [1, 2, 4])
def test_a_window_a_little_too_large_is_filled_with_zeros(kind: str, axes: int) -> None:
    """Caffe's (size - window) / stride + 1 is one where it rounds a negative quotient up, to zero."""
    filler = 'weight_filler { type: "constant" value: 1 }' if kind == "Convolution" else ""
    fields = f"num_output: 1 bias_term: false kernel_size: 3 stride: 2 {filler}"
    layer, (top,) = set_up(f'type: "{kind}" convolution_param {{ {fields} }}', (1, 1, *(2,) * axes))
    x = torch.ones(1, 1, *(2,) * axes)
    tops = layer(x)
    values = tops[0] if kind == "Convolution" else tops
    assert tuple(values.shape) == top == (1, 1 if kind == "Convolution" else 3**axes, *(1,) * axes)
    assert values.sum().item() == 2**axes
    assert gradients(layer, x) == [[1.0] * 2**axes]


def test_convolution_without_spatial_axes_is_an_inner_product() -> None:
    text = f'type: "Convolution" convolution_param {{ num_output: 2 axis: -1 {FILL} }}'
    layer, tops = set_up(text, (3, 4, 5))
    assert (tops, tuple(layer.blobs[0].shape)) == ([(3, 4, 2)], (2, 5))
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(layer(x)[0], x @ layer.blobs[0].T + layer.blobs[1])


def test_places_of_maxima_count_in_the_image_and_not_its_padding() -> None:
    text = 'type: "Pooling" pooling_param { kernel_size: 3 stride: 1 pad: 2 }'
    layer = build(text, (1, 1, 2, 3), tops=2)
    top, places = layer(torch.tensor([[[[5.0, 1.0, 2.0], [3.0, 4.0, 6.0]]]]))
    assert places.dtype == torch.float32
    image = [5, 1, 2, 3, 4, 6]
    assert [image[int(place)] for place in places.flatten()] == top.flatten().tolist()


def test_stochastic_pooling_draws_in_train_and_weighs_in_test() -> None:
    text = 'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }'
    x = torch.tensor([[[[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]]])
    assert build(text, (1, 1, 2, 3), phase=TEST)(x).flatten().tolist() == [2.5, 0]
    torch.manual_seed(0)
    layer = build(text, (2000, 1, 2, 3), phase=TRAIN)
    drawn = layer(x.expand(2000, 1, 2, 3))[..., 0].flatten()
    assert set(drawn.tolist()) == {1, 3}
    assert (drawn == 3).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert gradients(build(text, (1, 1, 2, 2)), torch.tensor([[[[0.0, 0.0], [0.0, 2.0]]]])) == [[0, 0, 0, 1]]


def test_a_pyramid_of_height_one_keeps_its_axes() -> None:
    assert set_up('type: "SPP" spp_param { pyramid_height: 1 }', (2, 3, 5, 4))[1] == [(2, 3, 1, 1)]


def test_dropout_keeps_the_mean_in_train_and_everything_in_test() -> None:
    torch.manual_seed(1)
    text = 'type: "Dropout" dropout_param { dropout_ratio: 0.2 }'
    x = torch.ones(20_000)
    top = build(text, (20_000,))(x)
    assert set(top.tolist()) == {0, 1.25}
    assert (top == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert torch.equal(build(text, (20_000,), phase=TEST)(x), x)


@pytest.mark.parametrize("phase", [TRAIN, TEST])
@pytest.mark.parametrize("given", [None, True, False])
def test_batch_norm_uses_stored_statistics_in_test_unless_told(phase: Phase, given: bool | None) -> None:
    field = "" if given is None else f"batch_norm_param {{ use_global_stats: {str(given).lower()} }}"
    layer = build(f'type: "BatchNorm" {field}', (4, 2), phase=phase)
    with torch.no_grad():
        for blob, value in zip(layer.blobs, ([2.0, 4.0], [8.0, 2.0], [2.0]), strict=True):
            blob.copy_(torch.tensor(value))
    x = random(4, 2).float()
    top = layer(x)
    is_global = given if given is not None else phase == TEST
    means, variances = (
        (torch.tensor([1.0, 2.0]), torch.tensor([4.0, 1.0])) if is_global else (x.mean(0), x.var(0, False))
    )
    torch.testing.assert_close(top, (x - means) / (variances + 1e-5).sqrt(), rtol=1e-4, atol=1e-5)
    assert layer.blobs[2].item() == pytest.approx(2 if is_global else 2 * 0.999 + 1)
    assert not any(blob.requires_grad for blob in layer.blobs)


def test_batch_norm_of_nothing_stored_is_by_zero() -> None:
    layer = build('type: "BatchNorm" batch_norm_param { eps: 0.25 }', (2, 1), phase=TEST)
    assert layer(torch.tensor([[1.0], [2.0]])).flatten().tolist() == [2, 4]


def test_batch_norm_of_one_value_a_channel_is_zero() -> None:
    layer = build('type: "BatchNorm"', (1, 2))
    assert layer(torch.tensor([[3.0, 5.0]])).tolist() == [[0, 0]]
    assert [blob.tolist() for blob in layer.blobs] == [[3, 5], [0, 0], [1]]


def test_mvn_of_a_constant_image_has_a_finite_gradient() -> None:
    layer = build('type: "MVN" mvn_param { eps: 0.1 }', (1, 1, 2, 2))
    assert layer(torch.full((1, 1, 2, 2), 3.0)).any().item() is False
    (ours,) = gradients(layer, torch.full((1, 1, 2, 2), 3.0))
    assert ours == [0, 0, 0, 0]


SCORES = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(7.0), 0.0]])  # softmax: .25 .75, .5 .5, .875 .125


@pytest.mark.parametrize(
    ("field", "divisor"),
    [
        ("", 2),
        ("normalization: VALID", 2),
        ("normalization: FULL", 3),
        ("normalization: BATCH_SIZE", 3),
        ("normalization: NONE", 1),
        ("normalize: true", 2),
        ("normalize: false", 3),
        ("normalize: false normalization: NONE", 1),
    ],
)
def test_softmax_loss_divides_by_its_normalization(field: str, divisor: int) -> None:
    text = f'type: "SoftmaxWithLoss" loss_param {{ ignore_label: 7 {field} }}'
    labels = torch.tensor([1.0, 7.0, 0.0])
    loss = build(text, (3, 2), (3,))(SCORES, labels)
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.875)) / divisor)
    ours = gradients(build(text, (3, 2), (3,)), SCORES, labels)[0]
    assert ours == pytest.approx([each / divisor for each in (0.25, -0.25, 0, 0, -0.125, 0.125)], abs=1e-7)


def test_a_loss_of_ignored_labels_alone_is_zero() -> None:
    text = 'type: "SoftmaxWithLoss" loss_param { ignore_label: -1 }'
    layer = build(text, (2, 2), (2,))
    assert layer(torch.rand(2, 2), torch.tensor([-1.0, -1.0])).item() == 0
    assert not any(gradients(layer, torch.rand(2, 2), torch.tensor([-1.0, -1.0]))[0])


def test_softmax_loss_ends_at_the_smallest_float_but_its_gradient_does_not() -> None:
    layer = build('type: "SoftmaxWithLoss"', (1, 2), (1,))
    scores, label = torch.tensor([[0.0, 1000.0]]), torch.tensor([0.0])
    assert layer(scores, label).item() == pytest.approx(87.33654)
    assert gradients(layer, scores, label)[0] == [-1, 1]


def test_softmax_loss_gives_the_probabilities_of_any_axis() -> None:
    layer, tops = set_up('type: "SoftmaxWithLoss" softmax_param { axis: -1 }', (2, 3, 4), (2, 3), tops=2)
    scores = random(2, 3, 4).float().requires_grad_()
    loss, probabilities = layer(scores, torch.zeros(2, 3))
    assert tops == [(), (2, 3, 4)]
    torch.testing.assert_close(probabilities, scores.detach().softmax(-1))
    assert not probabilities.requires_grad
    assert loss.item() == pytest.approx(-probabilities[..., 0].log().mean().item())


def test_labels_are_cut_to_whole_numbers() -> None:
    layer = build('type: "SoftmaxWithLoss"', (1, 2), (1,))
    assert layer(SCORES[:1], torch.tensor([1.9])).item() == pytest.approx(-math.log(0.75))


@pytest.mark.parametrize(("field", "divisor"), [("", 2), ("normalization: VALID", 3), ("normalization: FULL", 4)])
def test_sigmoid_loss_leaves_ignored_targets_out(field: str, divisor: int) -> None:
    text = f'type: "SigmoidCrossEntropyLoss" loss_param {{ ignore_label: -1 {field} }}'
    scores, targets = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.25]])
    layer = build(text, (2, 2), (2, 2))
    assert layer(scores, targets).item() == pytest.approx(3 * math.log(2) / divisor)
    assert gradients(layer, scores, targets) == [
        pytest.approx([each / divisor for each in (-0.5, 0.5, 0, 0.25)]),
        [],
    ]


def test_hinge_loss_of_squares() -> None:
    layer = build('type: "HingeLoss" hinge_loss_param { norm: L2 }', (2, 2), (2,))
    scores, labels = torch.tensor([[0.5, -2.0], [1.0, 1.0]]), torch.tensor([0.0, 1.0])
    assert layer(scores, labels).item() == pytest.approx((0.25 + 0 + 4 + 0) / 2)
    assert gradients(layer, scores, labels)[0] == [-0.5, 0, 2, 0]


def test_multinomial_loss_has_the_gradient_of_its_threshold() -> None:
    layer = build('type: "MultinomialLogisticLoss"', (1, 2), (1,))
    p, label = torch.tensor([[0.0, 1.0]]), torch.tensor([0.0])
    assert layer(p, label).item() == pytest.approx(20 * math.log(10))
    assert gradients(layer, p, label)[0] == pytest.approx([-1e20, 0])


def test_contrastive_loss_of_features_apart() -> None:
    first, second = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 4.0]])
    alike = torch.tensor([0.0, 1.0])
    layer = build('type: "ContrastiveLoss" contrastive_loss_param { margin: 7 }', (2, 2), (2, 2), (2,))
    assert layer(first, second, alike).item() == pytest.approx((2**2 + 25) / 4)
    # (margin - d) / (d + 1e-4) * difference / items, towards each other for the alike ones.
    factor = 2 / 5.0001 / 2
    assert gradients(layer, first, second, alike)[0] == pytest.approx([3 * factor, 4 * factor, 1.5, -2])
    text = 'type: "ContrastiveLoss" contrastive_loss_param { margin: 30 legacy_version: true }'
    layer = build(text, (2, 2), (2, 2), (2,))
    assert layer(first, second, alike).item() == pytest.approx((5 + 25) / 4)
    assert gradients(layer, first, second, alike)[0] == pytest.approx([1.5, 2, 1.5, -2])


def test_contrastive_loss_of_one_feature_an_item() -> None:
    layer = build('type: "ContrastiveLoss" contrastive_loss_param { margin: 3 }', (2,), (2,), (2,))
    loss = layer(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx((1 + 1) / 4)


def infogain_by_loop(
    scores: np.ndarray, labels: np.ndarray, matrix: np.ndarray, ignore: int
) -> tuple[float, np.ndarray]:
    """The loss and its gradient, by their definition; scores are (items, classes, places)."""
    exponentials = np.exp(scores)
    p = exponentials / exponentials.sum(1, keepdims=True)
    loss, gradient, count = 0.0, np.zeros_like(scores), 0
    for item, place in np.ndindex(labels.shape):
        if labels[item, place] == ignore:
            continue
        row = matrix[int(labels[item, place])]
        loss -= (row * np.log(p[item, :, place])).sum()
        gradient[item, :, place] = p[item, :, place] * row.sum() - row
        count += 1
    return loss / count, gradient / count


def test_infogain_loss(tmp_path: Path) -> None:
    scores, labels = random(2, 3, 4), torch.tensor([[0, 1, 2, 5], [2, 2, 5, 0]])
    matrix = random(3, 3).abs()
    loss, gradient = infogain_by_loop(scores.numpy(), labels.numpy(), matrix.numpy(), ignore=5)
    text = 'type: "InfogainLoss" loss_param { ignore_label: 5 }'
    layer = build(text, (2, 3, 4), (2, 4), (1, 1, 3, 3))
    assert layer(scores, labels, matrix).item() == pytest.approx(loss)
    assert gradients(layer, scores, labels.double(), matrix)[0] == pytest.approx(gradient.flatten().tolist())
    file = tmp_path / "h.binaryproto"
    file.write_bytes(
        BlobProto(num=1, channels=1, height=3, width=3, data=matrix.flatten().tolist()).SerializeToString()
    )
    layer = build(f'{text} infogain_loss_param {{ source: "{file}" }}', (2, 3, 4), (2, 4))
    assert layer(scores.float(), labels).item() == pytest.approx(loss, rel=1e-5)
    file.write_bytes(b"no blob")
    with pytest.raises(UserError, match=r"h\.binaryproto is no binaryproto file, or a damaged one"):
        build(f'{text} infogain_loss_param {{ source: "{file}" }}', (2, 3, 4), (2, 4))


def test_accuracy_counts_classes_that_score_as_high() -> None:
    scores, labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]]), torch.tensor([0.0, 2.0])
    assert build('type: "Accuracy"', (2, 3), (2,))(scores, labels).item() == 0
    assert build('type: "Accuracy" accuracy_param { top_k: 2 }', (2, 3), (2,))(scores, labels).item() == 1


def test_accuracy_of_each_class_and_without_ignored_labels() -> None:
    scores = torch.eye(3)[[0, 1, 1, 2]]
    labels = torch.tensor([0.0, 0.0, 1.0, 9.0])
    layer = build('type: "Accuracy" accuracy_param { ignore_label: 9 }', (4, 3), (4,), tops=2)
    accuracy, by_class = layer(scores, labels)
    assert accuracy.item() == pytest.approx(2 / 3)
    assert by_class.tolist() == [0.5, 1, 0]
    assert layer(scores, torch.full((4,), 9.0))[0].item() == 0


def test_accuracy_of_images_by_axis() -> None:
    scores = random(2, 3, 4, 5)
    labels = scores.argmax(1).double()
    labels[0] = (labels[0] + 1) % 3
    for axis, order in ((1, (0, 1, 2, 3)), (-1, (0, 2, 3, 1))):
        moved = scores.permute(order)
        text = f'type: "Accuracy" accuracy_param {{ axis: {axis} }}'
        assert build(text, tuple(moved.shape), (2, 4, 5))(moved, labels).item() == 0.5


def test_recurrent_layers_go_on_where_they_stopped() -> None:
    torch.manual_seed(0)
    x, ones = random(6, 2, 3).float(), torch.ones(6, 2)
    for kind in ("LSTM", "RNN"):
        text = f'type: "{kind}" recurrent_param {{ num_output: 4 {FILL} }}'
        layer = build(text, (6, 2, 3), (6, 2))
        whole = layer(x, ones)
        layer.state = None
        torch.testing.assert_close(torch.cat([layer(x[:2], ones[:2]), layer(x[2:], ones[2:])]), whole)
        # A sequence that begins anew, and another number of streams, start from zeros.
        torch.testing.assert_close(layer(x[:3], torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])), whole[:3])
        torch.testing.assert_close(layer(x[:3, :1], ones[:3, :1]), whole[:3, :1])


def test_recurrent_layers_take_and_give_an_exposed_state() -> None:
    torch.manual_seed(0)
    x, ones = random(6, 2, 3).float(), torch.ones(6, 2)
    for kind, states in (("LSTM", 2), ("RNN", 1)):
        text = f'type: "{kind}" recurrent_param {{ num_output: 4 expose_hidden: true {FILL} }}'
        layer, tops = set_up(text, (3, 2, 3), (3, 2), *[(1, 2, 4)] * states, tops=1 + states)
        assert tops == [(3, 2, 4), *[(1, 2, 4)] * states]
        first, *state = layer(x[:3], ones[:3], *[torch.zeros(1, 2, 4)] * states)
        second, *_ = layer(x[3:], ones[3:], *state)
        whole = build(f'type: "{kind}" recurrent_param {{ num_output: 4 }}', (6, 2, 3), (6, 2))
        whole.load_state_dict(layer.state_dict())
        torch.testing.assert_close(torch.cat([first, second]), whole(x, ones))


def test_dummy_data_fills_constants_once_and_others_each_pass() -> None:
    text = """type: "DummyData" dummy_data_param { shape { dim: 2 dim: 3 }
        data_filler { value: 2 } data_filler { type: "gaussian" } }"""
    layer, tops = set_up(text, tops=2)
    assert tops == [(2, 3), (2, 3)]
    first, second = layer(), layer()
    assert first[0] is second[0]
    assert first[0].tolist() == [[2, 2, 2], [2, 2, 2]]
    assert not torch.equal(first[1], second[1])
    layer, tops = set_up('type: "DummyData" dummy_data_param { num: 2 channels: 3 height: 4 width: 5 }')
    assert tops == [(2, 3, 4, 5)]
    assert not layer()[0].any()


def test_tile_repeats_blocks_and_crop_offsets_each_axis() -> None:
    x = torch.arange(4.0).view(1, 2, 2)
    assert build('type: "Tile" tile_param { tiles: 2 }', (1, 2, 2))(x).tolist() == [[[0, 1], [2, 3], [0, 1], [2, 3]]]
    crop = build('type: "Crop" crop_param { axis: 1 offset: 1 offset: 0 }', (1, 2, 2), (5, 1, 1))
    assert crop(x, torch.zeros(5, 1, 1)).tolist() == [[[2]]]


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ("shape { dim: 0 dim: -1 }", (6, 20)),
        ("shape { dim: 2 dim: -1 dim: 5 }", (2, 12, 5)),
        ("axis: 1 num_axes: 1 shape { dim: 2 dim: 2 }", (6, 2, 2, 5)),
        ("axis: -1 shape { dim: 1 }", (6, 4, 5, 1)),
        ("axis: 1 num_axes: 0 shape { dim: 1 dim: 1 }", (6, 1, 1, 4, 5)),
        ("axis: 1 shape { dim: 0 dim: 5 dim: 1 }", (6, 4, 5, 1)),
    ],
)
def test_reshape_by_its_rules(fields: str, shape: Shape) -> None:
    layer, tops = set_up(f'type: "Reshape" reshape_param {{ {fields} }}', (6, 4, 5))
    x = random(6, 4, 5)
    assert tops == [shape]
    assert torch.equal(layer(x), x.reshape(shape))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ('type: "Flatten"', [(6, 4, 5)]),
        ('type: "Slice" top: "a" top: "b" slice_param { axis: 1 slice_point: 1 }', [(6, 4, 5)]),
        ('type: "Slice" top: "a" top: "b" slice_param { axis: 0 }', [(6, 4)]),
        ('type: "SoftmaxWithLoss"', [(6, 3), (6,)]),
        ('type: "EuclideanLoss"', [(6, 3), (6, 3)]),
        ('type: "Accuracy"', [(6, 3), (6,)]),
        ('type: "ArgMax"', [(6, 3)]),
        ('type: "Pooling" pooling_param { global_pooling: true }', [(6, 3, 4, 4)]),
        ('type: "SPP" spp_param { pyramid_height: 2 }', [(6, 3, 4, 4)]),
        ('type: "MVN"', [(6, 3, 4, 4)]),
        ('type: "Crop"', [(6, 3, 4, 4), (6, 3, 2, 2)]),
    ],
)
def test_a_smaller_batch_is_the_same_for_its_items(text: str, shapes: list[Shape]) -> None:
    small = build(text, *((4, *shape[1:]) for shape in shapes))
    inputs = [torch.randint(0, 3, (4, *shape[1:])).float() for shape in shapes]
    expected, ours = small(*inputs), build(text, *shapes)(*inputs)
    for one, other in zip(*(top if isinstance(top, tuple) else (top,) for top in (ours, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_reshape_takes_a_smaller_batch_than_it_names() -> None:
    x = random(4, 4, 5)
    for dims, shape in (("dim: 6 dim: 20", (4, 20)), ("dim: 24 dim: 5", (16, 5))):
        assert build(f'type: "Reshape" reshape_param {{ shape {{ {dims} }} }}', (6, 4, 5))(x).shape == shape


def test_filter_may_leave_nothing() -> None:
    layer = build('type: "Filter" top: "a" top: "b"', (3, 2), (3, 4, 1), (3, 1, 1))
    kept = layer(torch.rand(3, 2), torch.rand(3, 4, 1), torch.tensor([0.0, 2.0, -1.0]).view(3, 1, 1))
    assert [tuple(top.shape) for top in kept] == [(2, 2), (2, 4, 1)]
    none = layer(torch.rand(3, 2), torch.rand(3, 4, 1), torch.zeros(3, 1, 1))
    assert [tuple(top.shape) for top in none] == [(0, 2), (0, 4, 1)]


def test_parameter_is_its_blob_and_learns() -> None:
    layer, tops = set_up('type: "Parameter" parameter_param { shape { dim: 2 dim: 3 } }')
    assert tops == [(2, 3)]
    layer().sum().backward()
    assert layer.blobs[0].grad is not None
    assert layer.blobs[0].grad.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_silence_has_no_top() -> None:
    layer, tops = set_up('type: "Silence"', (2,), (3,), tops=0)
    assert (tops, layer(torch.rand(2), torch.rand(3))) == ([], ())
