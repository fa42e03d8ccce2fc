"""Layers of the well-known forks, by their published definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from cos_runtime.caffe.layers import Shape
from cos_runtime.caffe.layers.boxes import suppress
from cos_runtime.caffe.schema.caffe_pb2 import TRAIN
from cos_runtime.errors import UserError
from tests.cos_runtime.caffe.layer_building import build, set_up


def gradient(layer: object, x: torch.Tensor, *others: torch.Tensor) -> list[float]:
    leaf = x.clone().requires_grad_()
    top = layer(leaf, *others)  # type: ignore[operator]
    (top[0] if isinstance(top, tuple) else top).sum().backward()
    assert leaf.grad is not None
    found: list[float] = leaf.grad.flatten().tolist()
    return found


def test_relu6() -> None:
    x = torch.tensor([-2.0, 0.0, 3.0, 6.0, 7.0])
    assert build('type: "ReLU6"', (5,))(x).tolist() == [0, 0, 3, 6, 6]
    assert gradient(build('type: "ReLU6"', (5,)), x) == [0, 0, 1, 0, 0]
    assert build('type: "ReLU6" relu6_param { negative_slope: 0.5 }', (5,))(x).tolist() == [-1, 0, 3, 6, 6]


@pytest.mark.parametrize("kind", ["DepthwiseConvolution", "ConvolutionDepthwise"])
@pytest.mark.parametrize("group", ["", "group: 4"])
def test_depthwise_convolution_has_a_filter_a_channel(kind: str, group: str) -> None:
    text = f'type: "{kind}" convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 {group} }}'
    layer = build(text, (1, 4, 5, 5))
    assert tuple(layer.blobs[0].shape) == (4, 1, 3, 3)
    with torch.no_grad():
        layer.blobs[0].normal_()
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(layer(x)[0], functional.conv2d(x, layer.blobs[0], padding=1, groups=4))


def test_axpy() -> None:
    a, x, y = torch.tensor([[2.0, 3.0]]).view(1, 2, 1, 1), torch.ones(1, 2, 2, 2), torch.full((1, 2, 2, 2), 5.0)
    layer, tops = set_up('type: "Axpy"', (1, 2, 1, 1), (1, 2, 2, 2), (1, 2, 2, 2))
    assert tops == [(1, 2, 2, 2)]
    assert layer(a, x, y)[:, :, 0, 0].tolist() == [[7, 8]]
    assert gradient(layer, a, x, y) == [4, 4]


def test_permute_completes_its_order() -> None:
    layer, tops = set_up('type: "Permute" permute_param { order: 0 order: 2 order: 3 }', (2, 3, 4, 5))
    assert tops == [(2, 4, 5, 3)]
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(layer(x), x.permute(0, 2, 3, 1))


def test_shuffle_channel_takes_the_groups_in_turn() -> None:
    layer = build('type: "ShuffleChannel" shuffle_channel_param { group: 2 }', (1, 6, 1, 1))
    assert layer(torch.arange(6.0).view(1, 6, 1, 1)).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("fields", "shape", "axes"),
    [("", (), (1, 2, 3)), ("across_spatial: false channel_shared: false", (3,), (1,))],
)
def test_normalize(fields: str, shape: Shape, axes: tuple[int, ...]) -> None:
    layer = build(f'type: "Normalize" norm_param {{ {fields} scale_filler {{ value: 20 }} }}', (2, 3, 4, 5))
    assert tuple(layer.blobs[0].shape) == shape
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(layer(x), 20 * x / x.square().sum(axes, keepdim=True).sqrt())


def test_smooth_l1_loss_with_weights() -> None:
    text = 'type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 2 }'
    layer = build(text, *[(2, 2)] * 4)
    a, b = torch.tensor([[0.1, 3.0], [1.0, 1.0]]), torch.zeros(2, 2)
    inner, outer = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.5], [1.0, 2.0]])
    # |d| < 1 / 4: 2 d^2; else |d| - 1 / 8.
    assert layer(a, b, inner, outer).item() == pytest.approx((0.02 + 0.5 * 2.875 + 2 * 0.875) / 2)
    assert gradient(layer, a, b, inner, outer) == pytest.approx([0.2, 0.25, 0, 1])
    assert build('type: "SmoothL1Loss"', (2, 2), (2, 2))(a, b).item() == pytest.approx((0.005 + 2.5 + 1) / 2)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("height: 9 width: 7", (9, 7)),
        ("zoom_factor: 2", (9, 7)),
        ("shrink_factor: 2", (3, 2)),
        ("shrink_factor: 2 zoom_factor: 3", (7, 4)),
        ("zoom_factor: 2 pad_beg: -1 pad_end: -1", (5, 3)),
    ],
)
def test_interp_keeps_the_corners(fields: str, size: tuple[int, int]) -> None:
    layer, tops = set_up(f'type: "Interp" interp_param {{ {fields} }}', (1, 1, 5, 4))
    assert tops == [(1, 1, *size)]
    x = torch.arange(20.0).view(1, 1, 5, 4)
    top = layer(x)
    assert top.shape == tops[0]
    inner = x[:, :, 1:-1, 1:-1] if "pad" in fields else x
    assert top[0, 0, [0, -1], [0, -1]].tolist() == pytest.approx(inner[0, 0, [0, -1], [0, -1]].tolist())


def test_interp_takes_the_size_of_a_second_bottom() -> None:
    layer, tops = set_up('type: "Interp"', (1, 1, 2, 2), (1, 3, 3, 5))
    assert tops == [(1, 1, 3, 5)]
    top = layer(torch.tensor([[[[0.0, 4.0], [2.0, 6.0]]]]), torch.zeros(1, 3, 3, 5))
    assert top[0, 0, 1].tolist() == [1, 2, 3, 4, 5]


def test_upsample_repeats_or_puts_back() -> None:
    x = torch.tensor([[[[1.0, 2.0]]]])
    assert build('type: "Upsample" upsample_param { scale: 2 }', (1, 1, 1, 2))(x).tolist() == [[[[1, 1, 2, 2]] * 2]]
    pooling = build('type: "Pooling" pooling_param { kernel_size: 2 stride: 2 }', (1, 1, 2, 5), tops=2)
    image = torch.tensor([[[[1.0, 5, 2, 0, 3], [0, 0, 0, 6, 0]]]])
    top, places = pooling(image)
    layer, tops = set_up('type: "Upsample" upsample_param { upsample_h: 2 upsample_w: 5 }', (1, 1, 1, 3), (1, 1, 1, 3))
    assert tops == [(1, 1, 2, 5)]
    assert layer(top, places).tolist() == [[[[0, 5, 0, 0, 3], [0, 0, 0, 6, 0]]]]
    text = 'type: "Upsample" upsample_param { scale: 2 pad_out_w: true }'
    assert set_up(text, (1, 1, 1, 3), (1, 1, 1, 3))[1] == [(1, 1, 2, 5)]


def test_roi_pooling_is_the_maximum_of_each_window() -> None:
    layer, tops = set_up(
        'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.5 }', (2, 1, 4, 6), (3, 5)
    )
    assert tops == [(3, 1, 2, 2)]
    x = torch.arange(48.0).view(2, 1, 4, 6)
    regions = torch.tensor([[0.0, 0, 0, 11, 7], [1, 4, 2, 6, 2], [1, 8, 4, 30, 30]])
    top = layer(x, regions)
    # Its far corner, (5.5, 3.5), is rounded to (6, 4), outside of the map: the windows are 4 x 3 and overlap.
    assert top[0, 0].tolist() == [[15, 17], [21, 23]]
    assert top[1, 0].tolist() == [[24 + 8, 24 + 9], [24 + 8, 24 + 9]]
    # Where a window is outside of the map there is 0.
    assert top[2, 0].tolist() == [[24 + 23, 0], [0, 0]]
    assert sum(gradient(layer, x, regions)) == 4 + 4 + 1


def test_a_region_of_no_item_is_refused() -> None:
    layer = build('type: "ROIPooling" roi_pooling_param { pooled_h: 1 pooled_w: 1 }', (1, 1, 2, 2), (1, 5))
    with pytest.raises(UserError, match="a region is of item 3, there are 1"):
        layer(torch.zeros(1, 1, 2, 2), torch.tensor([[3.0, 0, 0, 1, 1]]))


PRIOR_BOX = """type: "PriorBox" prior_box_param { min_size: 4 max_size: 9 aspect_ratio: 4 aspect_ratio: 1 flip: true
    variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 %s }"""


def test_prior_boxes() -> None:
    layer, tops = set_up(PRIOR_BOX % "", (1, 8, 1, 2), (1, 3, 10, 20))
    # A place: the square of 4, that of 6, 8 x 2 and 2 x 8.
    assert tops == [(1, 2, 2 * 4 * 4)]
    top = layer(torch.zeros(1, 8, 1, 2), torch.zeros(1, 3, 10, 20))
    found = (top[0, 0].view(2, 4, 4) * torch.tensor([20.0, 10, 20, 10])).tolist()
    assert found[0] == [pytest.approx(box) for box in ([3, 3, 7, 7], [2, 2, 8, 8], [1, 4, 9, 6], [4, 1, 6, 9])]
    assert found[1][0] == pytest.approx([13, 3, 17, 7])
    assert top[0, 1].view(-1, 4).unique(dim=0).flatten().tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2])


def test_prior_boxes_are_stepped_and_clipped() -> None:
    layer = build(PRIOR_BOX % "step: 2 offset: 0 clip: true img_size: 10", (1, 8, 1, 2), (1, 3, 10, 20))
    found = layer.get_buffer("top")[0, 0].view(2, 4, 4)
    assert found[0, 0].tolist() == pytest.approx([0, 0, 0.2, 0.2])
    assert found[1, 0].tolist() == pytest.approx([0, 0, 0.4, 0.2])


PRIORS = torch.tensor([[0.1, 0.1, 0.3, 0.3], [0.12, 0.1, 0.32, 0.3], [0.6, 0.6, 0.8, 0.8]])
PRIOR_TOP = torch.stack((PRIORS.flatten(), torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(3)))[None]


def detections(fields: str, locations: torch.Tensor, confidences: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    text = f"""type: "DetectionOutput" detection_output_param {{ num_classes: 2 code_type: CENTER_SIZE
        confidence_threshold: 0.1 nms_param {{ nms_threshold: {threshold} }} {fields} }}"""
    shapes = [tuple(locations.shape), tuple(confidences.shape), (1, 2, 12)]
    top: torch.Tensor = build(text, *shapes)(locations, confidences, PRIOR_TOP)
    return top


def test_detections_are_decoded_and_thinned_out() -> None:
    locations = torch.zeros(2, 12)
    # The third box is moved by half its width and twice as high.
    locations[0, 8:] = torch.tensor([5.0, 0.0, 0.0, math.log(2) / 0.2])
    confidences = torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.5, 0.5], [1, 0, 1, 0, 0.7, 0.3]])
    rows = detections("", locations, confidences)
    assert rows.shape == (1, 1, 3, 7)
    assert rows[0, 0].tolist() == [
        pytest.approx([0, 1, 0.9, 0.1, 0.1, 0.3, 0.3]),
        pytest.approx([0, 1, 0.5, 0.7, 0.5, 0.9, 0.9]),
        pytest.approx([1, 1, 0.3, 0.6, 0.6, 0.8, 0.8]),
    ]
    assert detections("keep_top_k: 1", locations, confidences)[0, 0, :, 2].tolist() == pytest.approx([0.9, 0.3])
    assert len(detections("", locations, confidences, 0.95)[0, 0]) == 4


def test_no_detections_are_a_row_an_item() -> None:
    rows = detections("", torch.zeros(2, 12), torch.zeros(2, 6))
    assert rows[0, 0].tolist() == [[0, *[-1] * 6], [1, *[-1] * 6]]


def test_adaptive_suppression_lowers_its_threshold() -> None:
    found = torch.tensor([[0.0, 0, 10, 10], [0, 1.5, 10, 11.5], [0, 20, 10, 30]])
    assert suppress(found, 0.8).tolist() == [0, 1, 2]
    assert suppress(found, 0.8, eta=0.9).tolist() == [0, 2]
    assert suppress(found, 0.8, limit=1).tolist() == [0]


def multibox(fields: str, truths: torch.Tensor, locations: torch.Tensor, confidences: torch.Tensor) -> torch.Tensor:
    text = f'type: "MultiBoxLoss" multibox_loss_param {{ num_classes: 2 code_type: CENTER_SIZE {fields} }}'
    shapes = [tuple(locations.shape), tuple(confidences.shape), (1, 2, 12), tuple(truths.shape)]
    loss: torch.Tensor = build(text, *shapes, phase=TRAIN)(locations, confidences, PRIOR_TOP, truths)
    return loss


TRUTHS = torch.tensor([[[[0.0, 1, 0, 0.1, 0.1, 0.3, 0.3, 0], [-1.0, 0, 0, 0, 0, 0, 0, 0]]]])


def test_multibox_loss_matches_and_mines() -> None:
    locations = torch.zeros(1, 12)
    locations[0, 4] = 0.5
    confidences = torch.tensor([[0.0, 1, 0, 2, 0, 3]], requires_grad=True)
    # Both first boxes overlap the true one by 0.5 or more; the second is 0.02 to its right, 0.1 of its width, over 0.1.
    distance = 0.5 + 1
    of_locations = distance - 0.5
    of_confidences = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-2)), 3 + math.log(1 + math.exp(-3))]
    loss = multibox("", TRUTHS, locations, confidences)
    assert loss.item() == pytest.approx((of_locations + sum(of_confidences)) / 2, rel=1e-4)
    none = multibox("neg_pos_ratio: 0.1", TRUTHS, locations, confidences)
    assert none.item() == pytest.approx((of_locations + sum(of_confidences[:2])) / 2, rel=1e-4)
    bipartite = multibox("match_type: BIPARTITE mining_type: NONE loc_weight: 2", TRUTHS, locations, confidences)
    expected = of_confidences[0] + 2 + math.log(1 + math.exp(-2)) + of_confidences[2]
    assert bipartite.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert confidences.grad is not None
    assert confidences.grad.abs().min() > 0


def test_multibox_loss_without_true_boxes_is_zero() -> None:
    empty = TRUTHS[:, :, 1:]
    assert multibox("", empty, torch.ones(1, 12), torch.ones(1, 6)).item() == 0
    all_of_them = multibox("mining_type: NONE", empty, torch.ones(1, 12), torch.ones(1, 6))
    assert all_of_them.item() == pytest.approx(3 * math.log(2))


def test_proposals_of_a_faster_rcnn_net() -> None:
    text = """type: "Python" python_param { module: "rpn.proposal_layer" layer: "ProposalLayer"
        param_str: "'feat_stride': 16" }"""
    layer = build(text, (1, 18, 4, 5), (1, 36, 4, 5), (1, 3))
    # The published anchors of base 16, ratios 0.5, 1, 2 and scales 8, 16, 32.
    assert layer.module.get_buffer("anchors")[[0, 4, 8]].tolist() == [
        [-84, -40, 99, 55],
        [-120, -120, 135, 135],
        [-168, -344, 183, 359],
    ]
    scores, moves = torch.zeros(1, 18, 4, 5), torch.zeros(1, 36, 4, 5)
    scores[0, 9 + 3, 2, 3] = 1  # a square of 128 pixels, around (55.5, 39.5)
    (regions,) = layer(scores, moves, torch.tensor([[64.0, 80.0, 1.0]]))
    assert regions[0].tolist() == [0, 0, 0, 79, 63]
    assert regions.shape[1] == 5


@pytest.mark.parametrize(
    ("text", "bottoms", "message"),
    [
        ('type: "Permute" permute_param { order: 1 order: 1 }', [(2, 3)], "each once at most"),
        ('type: "ShuffleChannel" shuffle_channel_param { group: 4 }', [(2, 6)], "cannot be parted into 4 groups"),
        ('type: "Axpy"', [(2, 3), (2, 3), (2, 4)], "it takes (items, channels, 1, 1) and two of one shape"),
        ('type: "Interp"', [(1, 1, 2, 2)], "it has no size: give height and width"),
        ('type: "Interp" interp_param { pad_beg: 1 }', [(1, 1, 2, 2)], "only crop: 0 or less"),
        ('type: "Upsample" upsample_param { pad_out_h: true }', [(1, 1, 2, 2)], "for a layer with places"),
        ('type: "ROIPooling"', [(1, 1, 2, 2), (1, 5)], "both must be 1 or more"),
        ('type: "PriorBox"', [(1, 1, 2, 2), (1, 3, 9, 9)], "give min_size, above 0"),
        ('type: "DetectionOutput"', [(1, 12), (1, 6), (1, 2, 12)], "it has no num_classes"),
        (
            'type: "DetectionOutput" detection_output_param { num_classes: 3 }',
            [(1, 12), (1, 6), (1, 2, 12)],
            "its confidences (1, 6) are not 3 for each of 3 prior boxes",
        ),
        (
            'type: "MultiBoxLoss" multibox_loss_param { num_classes: 2 share_location: false }',
            [(1, 12), (1, 6), (1, 2, 12), (1, 1, 1, 8)],
            "share_location: false is not supported",
        ),
        (
            'type: "DepthwiseConvolution" convolution_param { num_output: 4 kernel_size: 1 group: 2 }',
            [(1, 4, 2, 2)],
            "group is 2: it is 4, the number of channels, or left out",
        ),
        ('type: "SmoothL1Loss"', [(2, 2)] * 3, "it has 3 bottoms"),
    ],
)
def test_refuses(text: str, bottoms: list[Shape], message: str) -> None:
    with pytest.raises(UserError) as error:
        build(text, *bottoms)
    assert message in str(error.value)
