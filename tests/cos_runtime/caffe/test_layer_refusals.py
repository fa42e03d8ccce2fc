"""What Caffe refuses is refused in one sentence that names the layer and has the numbers."""

from __future__ import annotations

import re

import pytest
import torch

from cos_runtime.caffe.layers import Shape
from cos_runtime.errors import UserError
from tests.cos_runtime.caffe.layer_building import build

IMAGE = (2, 4, 7, 9)


def conv(fields: str, *bottoms: Shape, kind: str = "Convolution") -> tuple[str, tuple[Shape, ...], str]:
    return kind, bottoms or (IMAGE,), f"convolution_param {{ {fields} }}"


def case(kind: str, fields: str, *bottoms: Shape) -> tuple[str, tuple[Shape, ...], str]:
    return kind, bottoms or (IMAGE,), fields


REFUSED = [
    (conv("kernel_size: 3"), "num_output is 0, it must be 1 or more"),
    (conv("num_output: 2"), "it has no kernel_size"),
    (
        conv('num_output: 2 kernel_size: 3 weight_filler { type: "ortho" }'),
        'filler type "ortho" is unknown: use one of',
    ),
    (conv("num_output: 2 kernel_h: 3"), "kernel_size is 3 x 0, it must be 1 or more"),
    (conv("num_output: 2 kernel_size: 3 kernel_h: 3 kernel_w: 3"), "both kernel_size and kernel_h, kernel_w"),
    (conv("num_output: 2 kernel_h: 3 kernel_w: 3", (2, 4, 7)), "for 2 spatial axes, the bottom has 1"),
    (conv("num_output: 2 kernel_size: 3 stride: 0"), "stride is 0, it must be 1 or more"),
    (conv("num_output: 2 kernel_size: 3 dilation: 0"), "dilation is 0, it must be 1 or more"),
    (conv("num_output: 2 kernel_size: 3 stride: 1 stride: 1 stride: 1"), "stride is given 3 times for 2 spatial axes"),
    (conv("num_output: 2 kernel_size: 8"), "a window of (8, 8) is larger than the padded bottom of (7, 9)"),
    (conv("num_output: 2 kernel_size: 10 stride: 3"), "a window of (10, 10) is larger than the padded bottom"),
    (conv("num_output: 2 kernel_size: 4 dilation: 3"), "a window of (10, 10) is larger than the padded bottom"),
    (conv("num_output: 6 kernel_size: 3 group: 3"), "4 channels and num_output 6 cannot be parted into 3 groups"),
    (conv("num_output: 5 kernel_size: 3 group: 2"), "4 channels and num_output 5 cannot be parted into 2 groups"),
    (conv("num_output: 5 kernel_size: 3 group: 0"), "cannot be parted into 0 groups"),
    (conv("num_output: 2 kernel_size: 3 axis: 4"), "axis 4 is out of range for a bottom of 4 axes"),
    (conv("num_output: 2 kernel_size: 1", IMAGE, IMAGE), "it has 1 tops for 2 bottoms: give one a bottom"),
    (
        conv("num_output: 2 kernel_size: 3 pad: 5", kind="Deconvolution"),
        "leaves a top of (-1, 1) from a bottom of (7, 9)",
    ),
    (conv("kernel_size: 8", kind="Im2col"), "a window of (8, 8) is larger than the padded bottom of (7, 9)"),
    (conv("kernel_size: 3", (2, 4), kind="Im2col"), "the bottom (2, 4) has no spatial axis after axis 1"),
    (case("Pooling", ""), "it has no kernel_size"),
    (
        case("Pooling", "pooling_param { kernel_size: 2 }", (2, 4)),
        "takes a bottom of 4 axes, not one of the shape (2, 4)",
    ),
    (case("Pooling", "pooling_param { kernel_h: 2 }"), "one of kernel_h and kernel_w is given alone"),
    (case("Pooling", "pooling_param { kernel_size: 2 stride_w: 2 }"), "one of stride_h and stride_w is given alone"),
    (
        case("Pooling", "pooling_param { kernel_size: 2 pad: 2 }"),
        "pad (2, 2) must be smaller than the window of (2, 2)",
    ),
    (
        case("Pooling", "pooling_param { kernel_size: 9 }"),
        "a window of (9, 9) with pad (0, 0) is larger than the bottom",
    ),
    (case("Pooling", "pooling_param { kernel_size: 2 round_mode: FLOOR ceil_mode: true }"), "contradict each other"),
    (case("Pooling", "pooling_param { global_pooling: true kernel_size: 2 }"), "leave the kernel's size out"),
    (
        case("Pooling", "pooling_param { global_pooling: true pad: 1 }"),
        "stride 1 and pad 0, not with (1, 1) and (1, 1)",
    ),
    (
        case("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 3 pad: 1 }"),
        "takes no padding, and here it is (1, 1)",
    ),
    (case("SPP", ""), "pyramid_height is 0, it must be 1 or more"),
    (
        case("SPP", "spp_param { pyramid_height: 4 }", (2, 4, 7, 7)),
        "pad (1, 1) must be smaller than the window of (1, 1)",
    ),
    (case("LRN", "lrn_param { local_size: 4 }"), "local_size is 4, it must be odd"),
    (case("LRN", "", (2, 4)), "takes a bottom of 4 axes"),
    (case("PReLU", "", (2,)), "takes a bottom of 2 axes or more, not one of the shape (2,)"),
    (case("Dropout", "dropout_param { dropout_ratio: 1 }"), "dropout_ratio is 1, it must be 0 or more and less than 1"),
    (case("Clip", "clip_param { min: 2 max: 1 }"), "clip_param has min 2 and max 1: give both, min the smaller one"),
    (case("Clip", ""), "clip_param has min 0 and max 0: give both"),
    (case("Softmax", "softmax_param { axis: -5 }"), "axis -5 is out of range for a bottom of 4 axes"),
    (case("Exp", "exp_param { base: 0 }"), "base is 0: it must be positive, or -1 for e"),
    (case("Log", "log_param { base: 1 }"), "base is 1, to which no other number has a logarithm"),
    (case("ArgMax", "", ()), "it takes a bottom of 1 axis or more"),
    (case("LRN", 'bottom: "x" top: "x"'), "cannot be computed in place"),
    (case("AbsVal", 'bottom: "x" top: "x"'), 'cannot be computed in place: give its top another name than "x"'),
    (
        case("Eltwise", "", IMAGE, (2, 4, 7, 8)),
        'bottom "b1" has the shape (2, 4, 7, 8) where the first has (2, 4, 7, 9)',
    ),
    (case("Eltwise", "eltwise_param { coeff: 2 }", IMAGE, IMAGE), "it has 1 coeff for 2 bottoms"),
    (case("Eltwise", "eltwise_param { operation: PROD coeff: 2 coeff: 2 }", IMAGE, IMAGE), "a product takes none"),
    (case("Reduction", "reduction_param { axis: 4 }"), "axis 4 is out of range for a bottom of 4 axes"),
    (
        case("Bias", "bias_param { axis: 2 num_axes: 3 }"),
        "num_axes is 3 from axis 2 on for a bottom of the shape (2, 4, 7, 9)",
    ),
    (case("Scale", "", IMAGE, (4, 8)), "the shape (4, 8) of its operand is not that of (2, 4, 7, 9) from axis 1 on"),
    (case("BatchNorm", "param { lr_mult: 1 }"), "its statistics cannot be learned"),
    (case("BatchNorm", "", (2,)), "takes a bottom of 2 axes or more"),
    (case("MVN", "", (1, 2, 3, 4, 5)), "takes a bottom of 1 to 4 axes"),
    (case("InnerProduct", ""), "num_output is 0, it must be 1 or more"),
    (case("Embed", "embed_param { num_output: 3 }"), "num_output is 3 and input_dim 0: both must be 1 or more"),
    (
        case("Concat", "", (2, 3, 4), (2, 3, 5)),
        'bottom "b1" of the shape (2, 3, 5) does not fit to (2, 3, 4) on axis 1',
    ),
    (case("Concat", "concat_param { axis: 1 concat_dim: 1 }", (2, 3)), "both axis and concat_dim are given: keep axis"),
    (case("Concat", "concat_param { concat_dim: 2 }", (2, 3)), "concat_dim 2 is out of range for a bottom of 2 axes"),
    (case("Slice", 'top: "a" top: "b" top: "c"'), "axis 1 of (2, 4, 7, 9) cannot be cut into 3 even parts"),
    (case("Slice", 'slice_param { slice_point: 1 } top: "a"'), "it has 1 slice_point for 1 tops"),
    (
        case("Slice", 'slice_param { slice_point: 4 } top: "a" top: "b"'),
        "slice_point [4] must rise from 1 to less than 4",
    ),
    (case("Flatten", "flatten_param { axis: 3 end_axis: 1 }"), "end_axis 1 is before axis 3"),
    (case("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }"), "shape (-1, -1) must be of positive numbers"),
    (case("Reshape", "reshape_param { shape { dim: 5 dim: -1 } }"), "cannot become (5, 100): it has 504 values"),
    (
        case("Reshape", "reshape_param { shape { dim: 2 dim: 2 } }"),
        "a bottom of the shape (2, 4, 7, 9) cannot become (2, 2)",
    ),
    (case("Reshape", "reshape_param { axis: 1 num_axes: 4 }"), "axis 1 with num_axes 4 is out of range"),
    (
        case("Reshape", "reshape_param { axis: 4 shape { dim: 0 } }"),
        "has a 0 for axis 4, which a bottom of (2, 4, 7, 9) has not",
    ),
    (case("Tile", "tile_param { axis: 0 }"), "tiles is 0, it must be 1 or more"),
    (
        case("Crop", "crop_param { offset: 3 }", IMAGE, (2, 4, 5, 5)),
        "(5, 5) from (3, 3) on is beyond a bottom of (2, 4, 7, 9)",
    ),
    (case("Crop", "crop_param { axis: 1 offset: 1 offset: 1 }", IMAGE, IMAGE), "it has 2 offset for 3 axes"),
    (case("Crop", "", IMAGE, (2, 4, 5)), "cannot be cut to the size of (2, 4, 5)"),
    (case("BatchReindex", "", IMAGE, (1, 2)), "an index of one axis, not the shapes (2, 4, 7, 9) and (1, 2)"),
    (case("Filter", "", IMAGE, (3,)), "a selector of the shape (3,) is not one value an item of (2, 4, 7, 9)"),
    (case("Filter", "", IMAGE, IMAGE, (2,)), "it has 1 tops for 2 bottoms and a selector"),
    (case("Accuracy", "", (4, 5), (3,)), "scores of the shape (4, 5) with classes on axis 1 do not fit labels of (3,)"),
    (case("Accuracy", "accuracy_param { top_k: 6 }", (4, 5), (4,)), "top_k is 6, but there are 5 classes"),
    (case("ArgMax", "argmax_param { top_k: 0 }"), "top_k is 0, it must be 1 to 252"),
    (case("ArgMax", "argmax_param { top_k: 5 axis: 1 }"), "top_k is 5, it must be 1 to 4"),
    (
        case("SoftmaxWithLoss", "", (4, 5), (4, 2)),
        "scores of the shape (4, 5) with classes on axis 1 do not fit labels of (4, 2)",
    ),
    (case("SoftmaxWithLoss", "", (4, 5), (3,)), "of the shapes (4, 5) and (3,), must have one number of items"),
    (case("SigmoidCrossEntropyLoss", "", (4, 5), (4, 6)), "its bottoms must have one size, not (4, 5) and (4, 6)"),
    (case("EuclideanLoss", "", (4, 5), (4, 6)), "its bottoms must have one size, not (4, 5) and (4, 6)"),
    (case("EuclideanLoss", "", (4, 6), (6, 4)), "must have one number of items"),
    (case("HingeLoss", "", (4, 5), (4, 2)), "labels of the shape (4, 2) are not one an item of (4, 5)"),
    (case("MultinomialLogisticLoss", "", (4, 5), (4, 2)), "labels of the shape (4, 2) are not one an item of (4, 5)"),
    (case("ContrastiveLoss", "", (4, 5), (4, 6), (4,)), "its bottoms must have one size, not (4, 5) and (4, 6)"),
    (case("ContrastiveLoss", "", (4, 5, 2), (4, 5, 2), (4,)), "features of the shape (items, channels)"),
    (case("InfogainLoss", "", (4, 5), (4,)), "it has no matrix: give a third bottom"),
    (case("InfogainLoss", "", (4, 5), (4,), (4, 4)), "a matrix of the shape (4, 4) does not fit 5 classes"),
    (case("LSTM", "", (4, 3, 5), (4, 3)), "num_output is 0, it must be 1 or more"),
    (case("RNN", "recurrent_param { num_output: 2 }", (4, 3, 5), (3, 4)), "not the shapes (4, 3, 5) and (3, 4)"),
    (
        case("RNN", "recurrent_param { num_output: 2 }", (4, 3, 5), (4, 3), (2, 7)),
        "static input of the shape (2, 7) has not the values of 3 streams",
    ),
    (
        case("LSTM", "recurrent_param { num_output: 2 }", (4, 3, 5), (4, 3), (3,)),
        "static input of the shape (3,) has not the values of 3 streams",
    ),
    (
        case("LSTM", "recurrent_param { num_output: 2 expose_hidden: true }", (4, 3, 5), (4, 3)),
        "it has 2 bottoms, 4 or, with a static one, 5",
    ),
    (
        case(
            "RNN",
            'recurrent_param { num_output: 2 expose_hidden: true } top: "a" top: "b"',
            (4, 3, 5),
            (4, 3),
            (1, 3, 4),
        ),
        "a hidden state has the shape (1, 3, 2), not (1, 3, 4)",
    ),
    (
        case("DummyData", 'dummy_data_param { shape { dim: 1 } shape { dim: 1 } } top: "a" top: "b" top: "c"'),
        "shape is given 2 times for 3 tops",
    ),
    (
        case("DummyData", "dummy_data_param { num: 1 shape { dim: 1 } }"),
        "both shape and num, channels, height, width are given",
    ),
    (case("DummyData", "dummy_data_param { num: 1 channels: 1 height: 1 }"), "width is given 0 times for 1 tops"),
    (
        case("DummyData", 'dummy_data_param { shape { dim: 2 } data_filler { type: "gaussian" std: -1 } }'),
        'filler type "gaussian" has std -1',
    ),
    (case("DummyData", ""), "shape is given 0 times for 1 tops"),
    (case("LSTMUnit", "", (1, 2, 3), (1, 2, 9), (1, 2)), "not (1, 2, 3), (1, 2, 9) and (1, 2)"),
    (case("CoSData", "cos_data_param { batch_size: 2 }"), "cos_data_param describes 0 tops, the layer has 1"),
    (case("CoSData", "cos_data_param { top { } }"), "it has no batch_size: give 1 or more"),
    (
        case("CoSData", 'cos_data_param { batch_size: 2 top { name: "x" transpose: true } }'),
        'top "x" has sample_num_axes 3: it is 3 at most, and 1 with transpose',
    ),
]


@pytest.mark.parametrize(("refused", "message"), REFUSED, ids=[f"{case[0]}-{text[:30]}" for case, text in REFUSED])
def test_refuses(refused: tuple[str, tuple[Shape, ...], str], message: str) -> None:
    kind, bottoms, fields = refused
    with pytest.raises(UserError, match=re.escape(message)) as error:
        build(f'type: "{kind}" {fields}', *bottoms)
    assert str(error.value).startswith(f'layer "l" ({kind}): ')
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "bottoms"),
    [
        ('type: "SoftmaxWithLoss"', [(3, 5), (3,)]),
        ('type: "HingeLoss"', [(3, 5), (3,)]),
        ('type: "MultinomialLogisticLoss"', [(3, 5), (3,)]),
        ('type: "InfogainLoss"', [(3, 5), (3,), (5, 5)]),
        ('type: "Accuracy"', [(3, 5), (3,)]),
        ('type: "BatchReindex"', [(5, 2), (3,)]),
    ],
)
@pytest.mark.parametrize("wrong", [5, -1])
def test_refuses_a_label_that_is_no_class(text: str, bottoms: list[Shape], wrong: int) -> None:
    layer = build(text, *bottoms)
    inputs = [torch.rand(shape) for shape in bottoms]
    inputs[1] = torch.tensor([0.0, 4.0, wrong])
    with pytest.raises(UserError, match=f"its labels or indices are 0 to 4, and one is {wrong}"):
        layer(*inputs)


def test_refuses_an_index_that_embed_has_not() -> None:
    layer = build('type: "Embed" embed_param { input_dim: 3 num_output: 2 }', (2,))
    with pytest.raises(UserError, match="are 0 to 2, and one is 3"):
        layer(torch.tensor([0.0, 3.0]))


def test_refuses_other_inputs_than_the_weights_are_for() -> None:
    layer = build('type: "InnerProduct" inner_product_param { num_output: 2 }', (2, 3, 4))
    with pytest.raises(UserError, match="the bottom has 10 values an item where the weights take 12"):
        layer(torch.zeros(2, 2, 5))
