"""A net: which layers it has, how they connect, what it learns and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from cos_runtime.caffe.layers import LAYERS, Layer, Shape, register
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.prototxt import parse
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, NetParameter, Phase
from cos_runtime.errors import UserError


def net(text: str, phase: Phase = TRAIN, **state: object) -> Net:
    torch.manual_seed(1)
    return Net(parse(text, NetParameter(), "net"), phase, **state)  # type: ignore[arg-type]


def source(*blobs: str) -> str:
    """Input layers: ``source("x 2 3")`` gives the blob x of the shape (2, 3)."""
    layers = []
    for blob in blobs:
        name, *dims = blob.split()
        shape = " ".join(f"dim: {dim}" for dim in dims)
        layers.append(f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {shape} }} }} }}\n')
    return "".join(layers)


def ip(name: str, bottom: str, outputs: int = 2, extra: str = "", top: str = "") -> str:
    return f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top or name}" {extra}
        inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} }} }}
    """


LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }'
CLASSIFIER = source("x 4 3", "y 4") + ip("ip", "x") + LOSS
BATCH = {"x": torch.tensor([[1.0, 2, 3], [0, 1, 0], [-1, 0, 1], [2, 2, 2]]), "y": torch.tensor([0.0, 1, 1, 0])}


def names(built: Net) -> list[str]:
    return [name for name, _ in built.named_layers()]


# Which layers


def test_phase_picks_layers() -> None:
    text = """
        layer { name: "both" type: "Parameter" top: "a" parameter_param { shape { dim: 1 } } }
        layer { name: "train" type: "Parameter" top: "b" include { phase: TRAIN } parameter_param { shape { dim: 1 } } }
        layer { name: "test" type: "Parameter" top: "b" exclude { phase: TRAIN } parameter_param { shape { dim: 1 } } }
    """
    assert names(net(text, TRAIN)) == ["both", "train"]
    assert names(net(text, TEST)) == ["both", "test"]


@pytest.mark.parametrize(
    ("rule", "state", "is_in"),
    [
        ("include { min_level: 1 }", {"level": 0}, False),
        ("include { min_level: 1 }", {"level": 1}, True),
        ("include { max_level: 1 }", {"level": 2}, False),
        ("exclude { min_level: 1 max_level: 3 }", {"level": 2}, False),
        ("exclude { min_level: 1 max_level: 3 }", {"level": 4}, True),
        ('include { stage: "a" }', {}, False),
        ('include { stage: "a" }', {"stages": ["a", "b"]}, True),
        ('include { stage: "a" stage: "b" }', {"stages": ["a"]}, False),
        ('include { not_stage: "a" }', {"stages": ["a"]}, False),
        ('include { stage: "a" } include { stage: "b" }', {"stages": ["b"]}, True),
        ('include { phase: TEST stage: "a" }', {"stages": ["a"]}, False),
        ('exclude { stage: "a" }', {"stages": ["a"]}, False),
        ('exclude { stage: "a" } exclude { phase: TEST }', {}, True),
    ],
)
def test_level_and_stage_pick_layers(rule: str, state: dict[str, object], is_in: bool) -> None:
    text = f'layer {{ name: "p" type: "Parameter" top: "a" {rule} parameter_param {{ shape {{ dim: 1 }} }} }}'
    assert names(net(text, TRAIN, **state)) == (["p"] if is_in else [])


def test_the_prototxts_own_stages_count() -> None:
    text = """
        state { stage: "a" level: 3 }
        layer { name: "a" type: "Parameter" top: "a" include { stage: "a" stage: "b" }
            parameter_param { shape { dim: 1 } } }
        layer { name: "level" type: "Parameter" top: "level" include { min_level: 1 }
            parameter_param { shape { dim: 1 } } }
    """
    assert names(net(text, TRAIN, stages=["b"])) == ["a"], "the level is the one that the net is made for"


def test_a_layer_with_both_kinds_of_rules_is_refused() -> None:
    with pytest.raises(UserError, match='layer "p" has both include and exclude rules'):
        net('layer { name: "p" include { phase: TRAIN } exclude { phase: TEST } }')


def test_a_layers_own_phase_goes_before_the_nets() -> None:
    dropout = source("x 50") + 'layer { name: "d" type: "Dropout" bottom: "x" top: "d" phase: TEST }'
    assert torch.equal(net(dropout, TRAIN)({"x": torch.ones(50)})["d"], torch.ones(50))


@pytest.mark.parametrize(
    ("wrong", "near"), [("Convolutional", "Convolution"), ("relu", "ReLU"), ("SoftmaxLoss", "SoftmaxWithLoss")]
)
def test_an_unknown_type_is_told_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UserError, match=f'layer "l" has the unknown type "{wrong}": the nearest known is "{near}"'):
        net(f'layer {{ name: "l" type: "{wrong}" top: "a" }}')


def test_a_layer_of_ones_own() -> None:
    @register("Doubled")
    class Doubled(Layer):
        def setup(self, bottoms: list[Shape]) -> list[Shape]:
            return [bottoms[0]]

        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    try:
        text = source("x 2") + 'layer { name: "d" type: "Doubled" bottom: "x" top: "d" }'
        assert net(text)({"x": torch.tensor([1.0, 2.0])})["d"].tolist() == [2, 4]
    finally:
        del LAYERS["Doubled"]


# How they connect


def test_shapes_inputs_and_outputs() -> None:
    built = net(CLASSIFIER + ip("apart", "x", 5))
    assert built.shapes == {"x": (4, 3), "y": (4,), "ip": (4, 2), "loss": (), "apart": (4, 5)}
    assert built.inputs == ["x", "y"]
    # Caffe's outputs are in the order of the alphabet.
    assert built.outputs == ["apart", "loss"]


def test_layers_in_place() -> None:
    text = source("x 2 2") + ip("ip", "x") + 'layer { name: "r" type: "ReLU" bottom: "ip" top: "ip" }'
    built = net(text + 'layer { name: "p" type: "Power" bottom: "ip" top: "p" power_param { shift: 1 } }')
    assert built.outputs == ["p"]
    x = torch.tensor([[1.0, -2.0], [-3.0, 4.0]])
    linear = x @ dict(built.named_layers())["ip"].blobs[0].T
    blobs = built({"x": x})
    torch.testing.assert_close(blobs["ip"], linear.relu())
    torch.testing.assert_close(blobs["p"], linear.relu() + 1)


IN_PLACE = 'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }'
PRODUCT = """layer {{ name: "e" type: "Eltwise" bottom: "{}" bottom: "a" top: "a"
    eltwise_param {{ operation: PROD }} }}"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ip("a", "x", 3) + ip("b", "a") + IN_PLACE, "in place over blob"),
        (ip("a", "x", 3, "loss_weight: 1") + IN_PLACE, "in place over blob"),
        (ip("a", "x", 3) + PRODUCT.format("a"), "in place over"),
        (ip("a", "x", 3) + PRODUCT.format("x"), "is given by an ea"),
        (
            ip("a", "x", 3) + PRODUCT.format("a").replace('bottom: "a" top', 'bottom: "x" top').replace("PROD", "SUM"),
            "a sum cannot be in place",
        ),
    ],
    ids=["another reader", "a loss", "twice", "of another number", "a sum"],
)
def test_in_place_where_caffe_would_copy_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        net(source("x 2 3") + text)


def test_a_blob_taken_twice_has_the_sum_of_gradients() -> None:
    text = (
        source("x 3")
        + """
        layer { name: "a" type: "Power" bottom: "x" top: "a" power_param { scale: 2 } loss_weight: 1 }
        layer { name: "b" type: "Power" bottom: "x" top: "b" power_param { scale: 3 } loss_weight: 10 }
    """
    )
    built, x = net(text), torch.ones(3, requires_grad=True)
    built.loss(built({"x": x})).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [32, 32, 32]


def test_wanted_blobs_alone_are_returned() -> None:
    built = net(CLASSIFIER)
    everything = built(BATCH)
    assert set(everything) == {"x", "y", "ip", "loss"}
    assert built(BATCH, ["loss"]) == {"loss": everything["loss"]}
    assert set(built(BATCH, ["ip", "x"])) == {"ip", "x"}


def test_a_smaller_batch_than_declared() -> None:
    blobs = net(CLASSIFIER)({name: value[:3] for name, value in BATCH.items()})
    assert blobs["ip"].shape == (3, 2)


@pytest.mark.parametrize(
    "fields",
    [
        'input: "x" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5',
        'input: "x" input_shape { dim: 2 dim: 3 dim: 4 dim: 5 }',
        'input: "x" input_dim: 7 input_shape { dim: 2 dim: 3 dim: 4 dim: 5 }',
        'input: "x" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5 input_dim: 6',
    ],
)
def test_legacy_input_fields(fields: str) -> None:
    built = net(f"{fields} {ip('ip', 'x')}")
    assert built.inputs == ["x"]
    assert built.shapes == {"x": (2, 3, 4, 5), "ip": (2, 2)}


def test_legacy_input_fields_of_two_inputs() -> None:
    built = net('input: "x" input: "y" input_shape { dim: 2 dim: 3 } input_shape { dim: 2 }')
    assert built.shapes == {"x": (2, 3), "y": (2,)}


def test_data_layers_take_their_shapes_from_the_records() -> None:
    text = 'layer { name: "d" type: "Data" top: "x" top: "y" }' + ip("ip", "x")
    assert net(text, input_shapes={"x": (4, 3), "y": (4,)}).shapes["ip"] == (4, 2)
    with pytest.raises(UserError, match='the shape of "x" is in its records, not in the prototxt'):
        net(text)


# The loss


def test_loss_is_weighted() -> None:
    text = CLASSIFIER.replace('top: "loss"', 'top: "loss" loss_weight: 3')
    built = net(text)
    blobs = built(BATCH)
    assert built.losses == {"loss": 3}
    assert built.loss(blobs).item() == pytest.approx(3 * blobs["loss"].item())


def test_any_top_may_be_a_loss() -> None:
    text = source("x 2 2") + 'layer { name: "r" type: "Reduction" bottom: "x" top: "r" loss_weight: 2 }'
    built = net(text)
    assert built.loss(built({"x": torch.ones(2, 2)})).item() == 8
    assert net(source("x 2")).loss({}).item() == 0


def test_a_loss_of_weight_zero_is_none() -> None:
    built = net(CLASSIFIER.replace('top: "loss"', 'top: "loss" loss_weight: 0'))
    assert built.losses == {}


def test_the_second_top_of_a_loss_is_none() -> None:
    built = net(CLASSIFIER.replace('top: "loss"', 'top: "loss" top: "p" loss_weight: 1 loss_weight: 0'))
    assert built.losses == {"loss": 1}
    torch.testing.assert_close(built(BATCH)["p"].sum(1), torch.ones(4))


def test_a_loss_without_a_top_counts_and_is_no_output() -> None:
    text = CLASSIFIER.replace('top: "loss"', "")
    # Two of one name, which is a blob's name too.
    built = net(text.replace('name: "loss"', 'name: "ip"') + LOSS.replace('"loss"', '"ip"').replace('top: "ip"', ""))
    assert (list(built.losses.values()), built.outputs) == ([1, 1], [])
    expected = net(CLASSIFIER)
    blobs = built(BATCH)
    assert blobs["ip"].shape == (4, 2)
    torch.testing.assert_close(built.loss(blobs), 2 * expected.loss(expected(BATCH)))
    assert [list(layer.top) for layer in built.param.layer[-2:]] == [[], []], "as weights files repeat it"


def test_a_loss_of_two_tops_has_two_weights() -> None:
    with pytest.raises(UserError, match='layer "loss".* has 2 tops and no loss_weight: give one for each top'):
        net(CLASSIFIER.replace('top: "loss"', 'top: "loss" top: "scores"'))


def test_propagate_down_cuts_the_gradient() -> None:
    text = source("x 4 3", "y 4") + ip("below", "x", 3) + ip("ip", "below", 2, "propagate_down: false") + LOSS
    built = net(text)
    built.loss(built(BATCH)).backward()
    gradients = {blob.layer: blob.parameter.grad for blob in built.learnable}
    assert gradients["below"] is None
    assert gradients["ip"] is not None
    assert {blob.layer for blob in built.learnable if blob.parameter.requires_grad} == {"ip"}, "ranks would wait for it"


def test_force_backward_counts_for_more_than_propagate_down() -> None:
    text = "force_backward: true " + source("x 4 3", "y 4") + ip("below", "x", 3)
    built = net(text + ip("ip", "below", 2, "propagate_down: false") + LOSS)
    built.loss(built(BATCH)).backward()
    assert all(blob.parameter.grad is not None for blob in built.learnable)
    cut = 'propagate_down: {} propagate_down: false top: "loss"'
    one = {"x": torch.ones(1, 1), "y": torch.full((1, 1), 3.0)}
    for kind, labels in (("EuclideanLoss", {"a", "b"}), ("SigmoidCrossEntropyLoss", {"a"})):
        loss = f'layer {{ name: "loss" type: "{kind}" bottom: "a" bottom: "b" {cut.format("false")} }}'
        forced = net("force_backward: true " + source("x 1 1", "y 1 1") + ip("a", "x", 1) + ip("b", "y", 1) + loss)
        forced.loss(forced(one)).backward()
        assert {blob.layer for blob in forced.learnable if blob.parameter.grad is not None} == labels, kind


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            ip("ip", "x") + 'layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "y" bottom: "ip" top: "l" }',
            r'layer "loss" .*bottom "ip" is learned, and gets no gradient here: are its bottoms in the right order\?',
        ),
        (
            ip("ip", "x")
            + 'layer { name: "best" type: "ArgMax" bottom: "ip" top: "best" }'
            + 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "ip" bottom: "best" top: "l" }',
            r'layer "l" .*bottom "best" is learned',
        ),
        (
            ip("ip", "x")
            + 'layer { name: "t" type: "Threshold" bottom: "ip" top: "t" }'
            + 'layer { name: "l" type: "EuclideanLoss" bottom: "t" bottom: "y" top: "l" }',
            r'layer "t" .*bottom "ip" is learned',
        ),
    ],
    ids=["swapped", "a label", "a step"],
)
def test_what_is_learned_where_caffe_knows_no_gradient_is_refused(text: str, reason: str) -> None:
    whole = source("x 4 3", "y 4 2") + text
    with pytest.raises(UserError, match=reason):
        net(whole)
    assert net(whole, TEST).losses, "without a backward pass it is computed"
    frozen = whole.replace('top: "ip"', 'top: "ip" param { lr_mult: 0 } param { lr_mult: 0 }')
    assert net(frozen).losses, "nothing is learned"
    if "best" in text:
        assert net(whole.replace('top: "l"', 'top: "l" propagate_down: true propagate_down: false')).losses


POWER = 'layer {{ name: "p" type: "Power" bottom: "loss" top: "{}" power_param {{ scale: 3 }} {} }}'


def test_a_loss_whose_top_is_read_on_the_way_to_another_needs_its_weight() -> None:
    """In Caffe the reader would write over the weight that stands in the top's gradient."""
    for reader in (POWER.format("p", "loss_weight: 1"), POWER.format("loss", "")):
        with pytest.raises(UserError, match='layer "loss".*its top "loss" is read by another layer on the way to a lo'):
            net(CLASSIFIER + reader)
    assert net(CLASSIFIER + POWER.format("p", "")).losses == {"loss": 1}, "no way to a loss"
    weighted = net(
        CLASSIFIER.replace('top: "loss"', 'top: "loss" loss_weight: 2') + POWER.format("p", "loss_weight: 1")
    )
    blobs = weighted(BATCH)
    torch.testing.assert_close(weighted.loss(blobs), 5 * blobs["loss"])


def test_a_parameter_layer_has_the_gradient_of_the_last_pass_alone() -> None:
    built = net(
        source("y 1")
        + 'layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 1 } } }'
        + 'layer { name: "loss" type: "EuclideanLoss" bottom: "w" bottom: "y" top: "loss" }'
    )
    for target in (1.0, 3.0):
        built.loss(built({"y": torch.tensor([target])})).backward()
    assert [blob.parameter.grad.tolist() for blob in built.learnable] == [[-3]]


def test_layers_that_no_loss_needs_have_no_gradient() -> None:
    built = net(CLASSIFIER + ip("apart", "x", 5))
    assert {blob.layer: blob.parameter.requires_grad for blob in built.learnable} == {"ip": True, "apart": False}
    assert all(blob.parameter.requires_grad for blob in net(source("x 4 3") + ip("ip", "x")).learnable)


# What it learns


def test_of_a_rate_of_0_caffe_has_the_gradient_all_the_same() -> None:
    frozen = "param { lr_mult: 0 }"
    recurrent = (
        f'layer {{ name: "l" type: "RNN" bottom: "x" bottom: "cont" top: "l" loss_weight: 1 {frozen}'
        'recurrent_param { num_output: 2 weight_filler { type: "xavier" } } }'
    )
    built = net(source("x 2 1 3", "cont 2 1") + recurrent)
    assert [blob.parameter.requires_grad for blob in built.learnable] == [True] * 5
    assert [blob.lr_mult for blob in built.learnable] == [0, 1, 1, 1, 1]
    forced = "force_backward: true " + CLASSIFIER.replace('top: "ip"', f'top: "ip" {frozen}')
    assert [blob.parameter.requires_grad for blob in net(forced).learnable] == [True, True]


def test_learnable_blobs_and_their_multipliers() -> None:
    param = "param { lr_mult: 3 decay_mult: 0.5 } param { lr_mult: 0 }"
    built = net(source("x 4 3") + ip("a", "x", 2, param) + ip("b", "a"))
    blobs = [(blob.layer, blob.index, blob.lr_mult, blob.decay_mult) for blob in built.learnable]
    assert blobs == [("a", 0, 3, 0.5), ("a", 1, 0, 1), ("b", 0, 1, 1), ("b", 1, 1, 1)]
    assert [blob.parameter.requires_grad for blob in built.learnable] == [True, False, True, True]


def test_batch_norms_sums_are_state_and_have_no_rate() -> None:
    text = source("x 4 3") + 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }' + ip("ip", "bn")
    built = net(text)
    # Caffe's order, in which snapshots have a history for each.
    assert [(blob.layer, blob.lr_mult) for blob in built.learnable] == [("bn", 0)] * 3 + [("ip", 1)] * 2
    assert [tuple(blob.shape) for blob in built.state_blobs] == [(3,), (3,), (1,)]


def test_blobs_are_shared_by_name() -> None:
    first = 'param { name: "w" lr_mult: 2 }'
    text = source("x 4 3", "z 4 3") + ip("a", "x", 2, first) + ip("b", "z", 2, 'param { name: "w" }')
    built = net(text)
    assert [(blob.layer, blob.index, blob.lr_mult) for blob in built.learnable] == [
        ("a", 0, 2),
        ("a", 1, 1),
        ("b", 1, 1),
    ]
    weights = built.weights()
    np.testing.assert_array_equal(weights["a"][0], weights["b"][0])
    x = torch.rand(4, 3)
    blobs = built({"x": x, "z": x})
    torch.testing.assert_close(blobs["a"], blobs["b"])


def test_only_a_later_layer_may_give_a_shared_blobs_multipliers() -> None:
    text = source("x 4 3") + ip("a", "x", 3, 'param { name: "w" }') + ip("b", "a", 3, 'param { name: "w" lr_mult: 5 }')
    assert net(text).learnable[0].lr_mult == 5


def test_state_is_shared_by_name() -> None:
    shared = " ".join(f'param {{ name: "s{index}" lr_mult: 0 }}' for index in range(3))
    text = source("x 4 3", "z 4 3") + "".join(
        f'layer {{ name: "{top}" type: "BatchNorm" bottom: "{bottom}" top: "{top}" {shared} }}'
        for bottom, top in (("x", "a"), ("z", "b"))
    )
    built = net(text)
    built({"x": torch.rand(4, 3), "z": torch.rand(4, 3)})
    assert len(built.state_blobs) == 3
    assert built.weights()["b"][2].item() == pytest.approx(1.999)


def test_blobs_of_another_shape_may_be_shared_permissively() -> None:
    text = source("x 4 3", "z 4 2") + ip("a", "x", 2, 'param { name: "w" }')
    strict = ip("b", "z", 3, 'param { name: "w" }')
    with pytest.raises(
        UserError, match=re.escape('param "w" is shared with layer "a", whose shape (2, 3) is not (3, 2)')
    ):
        net(text + strict)
    built = net(text + ip("b", "z", 3, 'param { name: "w" share_mode: PERMISSIVE }'))
    weights = built.weights()
    assert (weights["a"][0].shape, weights["b"][0].shape) == ((2, 3), (3, 2))
    np.testing.assert_array_equal(weights["a"][0].ravel(), weights["b"][0].ravel())
    x, z = torch.rand(4, 3), torch.rand(4, 2)
    blobs = built({"x": x, "z": z})
    shared = built.learnable[0].parameter
    torch.testing.assert_close(blobs["b"], z @ shared.view(3, 2).T)
    (blobs["a"].sum() + blobs["b"].sum()).backward()
    torch.testing.assert_close(shared.grad, x.sum(0).repeat(2, 1) + z.sum(0).repeat(3, 1).view(2, 3))
    assert built.copy_weights({"a": [np.ones((2, 3), np.float32), np.zeros(2, np.float32)]}, "FILE") == ["b"]
    assert built.weights()["b"][0].tolist() == [[1, 1], [1, 1], [1, 1]]


def test_values_in_the_prototxt_take_the_fillers_place() -> None:
    text = source("x 1 2") + ip("ip", "x", 1, "blobs { BLOB } blobs { shape { dim: 1 } data: 5 }")
    built = net(text.replace("BLOB", "shape { dim: 1 dim: 2 } data: 3 data: 4"))
    assert built({"x": torch.ones(1, 2)})["ip"].tolist() == [[12]]
    old = net(text.replace("BLOB", "num: 1 channels: 1 height: 1 width: 2 data: 3 data: 4"))
    assert old({"x": torch.ones(1, 2)})["ip"].tolist() == [[12]]
    for blob, reason in (
        ("shape { dim: 1 dim: 2 } data: 3", r"blob 0 in the prototxt: a blob of the shape \(1, 2\) has 1 values"),
        ("shape { dim: 2 dim: 2 } data: [1, 2, 3, 4]", r"blob 0 in the prototxt has the shape \(2, 2\) where the net"),
    ):
        with pytest.raises(UserError, match=reason):
            net(text.replace("BLOB", blob))
    with pytest.raises(UserError, match="the prototxt has 1 blobs of it where it has 2 parameter blobs"):
        net(source("x 1 2") + ip("ip", "x", 1, "blobs { shape { dim: 1 dim: 2 } data: 3 data: 4 }"))


def test_layers_of_one_name_are_kept_apart() -> None:
    built = net(source("x 4 3") + ip("same", "x", 3, top="a") + ip("same", "a", 3, top="b"))
    assert len(built.learnable) == 4
    assert built.shapes["b"] == (4, 3)


@pytest.mark.parametrize("name", ["conv1.weights", "training", "forward", "a/b c"])
def test_layers_may_have_any_name(name: str) -> None:
    built = net(source("x 4 3") + ip(name, "x"))
    assert name in dict(built.named_layers())
    assert name in built.weights()


# What it refuses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ip("ip", "x"), 'layer "ip" (InnerProduct): bottom blob "x" is given by no layer before it'),
        (source("x 4 3") + ip("a", "x") + ip("b", "x", top="a"), 'top blob "a" is given by an earlier layer already'),
        (
            source("x 4 3") + 'layer { name: "s" type: "Split" bottom: "x" top: "a" top: "a" }',
            'top blob "a" is given by an earlier layer already',
        ),
        (
            source("x 4 3", "y 5") + ip("ip", "x") + LOSS,
            "its bottoms, of the shapes (4, 2) and (5,), must have one number of items",
        ),
        (
            source("a 4 3", "b 4 2") + 'layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "e" }',
            'bottom "b" has the shape (4, 2) where the first has (4, 3)',
        ),
        (source("x 4 3") + 'layer { name: "r" type: "ReLU" bottom: "x" }', "it has 0 top blobs, 1 are expected"),
        (source("x 4 3") + 'layer { name: "e" type: "Eltwise" bottom: "x" top: "e" }', "1 bottom blobs, 2 or more are"),
        (
            source("x 4 3", "y 4")
            + 'layer { name: "a" type: "Accuracy" bottom: "x" bottom: "y" top: "a" top: "b" top: "c" }',
            "it has 3 top blobs, 2 at most are expected",
        ),
        (source("x 4 0"), 'top blob "x" would have the shape (4, 0)'),
        (
            source("x 4 3") + 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" param { lr_mult: 1 } }',
            "1 param entries for 0 parameter blobs",
        ),
        (
            source("x 4 3") + 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" loss_weight: 1 loss_weight: 1 }',
            "it has 2 loss_weight for 1 top blobs: give none, or one for each",
        ),
        (
            source("x 4 3") + ip("ip", "x", 2, "propagate_down: true propagate_down: true"),
            "it has 2 propagate_down for 1 bottom blobs",
        ),
        (
            source("x 4 3")
            + ip("a", "x", 3, 'param { name: "w" lr_mult: 1 }')
            + ip("b", "a", 3, 'param { name: "w" lr_mult: 2 }'),
            'layer "b" (InnerProduct): param "w" has lr_mult 2, but 1 in the layer it is shared with',
        ),
        ('input: "x" input_dim: 2 input_dim: 3', "the net has 2 input_dim: give four for each input"),
        (
            'input: "x" input: "y" input_dim: 2 input_dim: 3 input_dim: 1 input_dim: 1',
            "the net has 4 input_dim: give four for each input",
        ),
        ('input: "x" input: "y" input: "z" input_shape { dim: 2 } input_shape { dim: 2 }', "has 2 shapes for 3 tops"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        net(text)
    assert "\n" not in str(error.value)
