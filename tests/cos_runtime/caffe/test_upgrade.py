"""Nets, weights and solvers of Caffe's older forms become those of today."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format

from cos_runtime.caffe import prototxt, weights
from cos_runtime.caffe.layers import LAYERS
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.prototxt import parse
from cos_runtime.caffe.schema.caffe_pb2 import (
    TEST,
    TRAIN,
    BlobProto,
    LayerParameter,
    NetParameter,
    SolverParameter,
    V0LayerParameter,
    V1LayerParameter,
)
from cos_runtime.caffe.solver import RULES
from cos_runtime.caffe.upgrade import SOLVER_TYPES, V0_FIELDS, V0_TYPES, V1_TYPES, upgrade_net, upgrade_solver
from cos_runtime.errors import UserError


def upgraded(text: str) -> NetParameter:
    return upgrade_net(parse(text, NetParameter(), "net"))


def net(text: str) -> NetParameter:
    return parse(text, NetParameter(), "net")


V0 = """
    name: "old"
    layers { layer { name: "data" type: "data" source: "db" batchsize: 4 meanfile: "m" cropsize: 8 mirror: true
        scale: 0.5 rand_skip: 3 } top: "data" top: "label" }
    layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "data" top: "padded" }
    layers { layer { name: "conv1" type: "conv" num_output: 3 kernelsize: 5 stride: 2 group: 1 biasterm: true
        weight_filler { type: "xavier" } blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 }
        bottom: "padded" top: "conv1" }
    layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
    layers { layer { name: "pool1" type: "pool" pool: AVE kernelsize: 2 } bottom: "conv1" top: "pool1" }
    layers { layer { name: "norm1" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 } bottom: "pool1" top: "norm1" }
    layers { layer { name: "fc" type: "innerproduct" num_output: 5 bias_filler { value: 1 } }
        bottom: "norm1" top: "fc" }
    layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.3 } bottom: "fc" top: "fc" }
    layers { layer { name: "loss" type: "softmax_loss" } bottom: "fc" bottom: "label" }
"""

V0_TODAY = """
    name: "old"
    layer { name: "data" type: "Data" top: "data" top: "label"
        transform_param { scale: 0.5 mirror: true crop_size: 8 mean_file: "m" }
        data_param { source: "db" batch_size: 4 rand_skip: 3 } }
    layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 3 bias_term: true pad: 2 kernel_size: 5 stride: 2 group: 1
            weight_filler { type: "xavier" } } }
    layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
    layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: AVE kernel_size: 2 } }
    layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1"
        lrn_param { local_size: 3 alpha: 0.1 beta: 0.5 } }
    layer { name: "fc" type: "InnerProduct" bottom: "norm1" top: "fc"
        inner_product_param { num_output: 5 bias_filler { value: 1 } } }
    layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" dropout_param { dropout_ratio: 0.3 } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" }
"""


def test_v0_net() -> None:
    assert upgraded(V0) == net(V0_TODAY)


def test_v1_net() -> None:
    old = """
        layers { name: "data" type: DATA top: "x" top: "y" include { phase: TRAIN } transform_param { mirror: true }
            data_param { source: "db" batch_size: 2 scale: 2 mean_file: "m" crop_size: 3 backend: LMDB } }
        layers { name: "ip" type: INNER_PRODUCT bottom: "x" top: "ip" param: "w" param: "b"
            blob_share_mode: PERMISSIVE blobs_lr: 1 blobs_lr: 2 weight_decay: 1 inner_product_param { num_output: 2 } }
        layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "y" loss_weight: 3 exclude { phase: TEST }
            loss_param { ignore_label: 1 } softmax_param { axis: 1 } }
    """
    assert upgraded(old) == net("""
        layer { name: "data" type: "Data" top: "x" top: "y" include { phase: TRAIN }
            transform_param { mirror: true scale: 2 mean_file: "m" crop_size: 3 }
            data_param { source: "db" batch_size: 2 backend: LMDB } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
            param { name: "w" share_mode: PERMISSIVE lr_mult: 1 decay_mult: 1 } param { name: "b" lr_mult: 2 }
            inner_product_param { num_output: 2 } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" loss_weight: 3 exclude { phase: TEST }
            loss_param { ignore_label: 1 } softmax_param { axis: 1 } }
    """)


def test_every_type_and_field_of_the_old_forms_has_its_place() -> None:
    v1_types = set(V1LayerParameter.LayerType.values()) - {V1LayerParameter.NONE}
    assert set(V1_TYPES) == v1_types
    assert set(V1_TYPES.values()) <= set(LAYERS)
    assert set(V0_TYPES.values()) <= v1_types
    names = {field.name for field in V1LayerParameter.DESCRIPTOR.fields if field.name.endswith("_param")}
    assert names <= set(LayerParameter.DESCRIPTOR.fields_by_name)
    elsewhere = {"name", "type", "blobs", "blobs_lr", "weight_decay", "hdf5_output_param"}
    transforms = {"scale", "meanfile", "cropsize", "mirror"}
    # Of new_num and new_channels Caffe makes nothing either.
    assert set(V0LayerParameter.DESCRIPTOR.fields_by_name) == {
        *V0_FIELDS,
        *elsewhere,
        *transforms,
        "new_num",
        "new_channels",
    }


@pytest.mark.parametrize(("field", "place"), V0_FIELDS.items())
def test_every_field_of_v0_arrives(field: str, place: tuple[tuple[str, ...], str]) -> None:
    types, name = place
    for kind in types:
        old = NetParameter()
        layer = old.layers.add().layer
        layer.name, layer.type = "l", kind
        descriptor = V0LayerParameter.DESCRIPTOR.fields_by_name[field]
        if descriptor.message_type:
            layer.weight_filler.value = layer.bias_filler.value = 2
        else:
            setattr(layer, field, "a" if isinstance(descriptor.default_value, str) else 1)
        assert name in text_format.MessageToString(upgrade_net(old).layer[0])


def test_v0_fields_of_another_type_are_left_out_as_in_caffe(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        new = upgraded('layers { layer { name: "r" type: "relu" num_output: 3 } bottom: "x" top: "x" }')
    assert new == net('layer { name: "r" type: "ReLU" bottom: "x" top: "x" }')
    assert "a layer of type relu has no num_output" in caplog.text


def test_three_params_of_batch_norm_do_not_learn() -> None:
    new = upgraded(
        'layer { name: "bn" type: "BatchNorm" param { name: "s" lr_mult: 1 } param { } param { lr_mult: 0 } }'
    )
    assert [(spec.name, spec.lr_mult, spec.decay_mult) for spec in new.layer[0].param] == [
        ("s", 0, 0),
        ("", 0, 0),
        ("", 0, 0),
    ]


def test_a_net_of_today_is_left_as_it_is() -> None:
    today = net(V0_TODAY)
    assert upgrade_net(today) is today


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('layers { name: "a" type: RELU } layer { name: "b" type: "ReLU" }', "has both layer and the legacy layers"),
        ('layers { layer { name: "a" type: "warp" } }', 'layer "a" has the unknown type "warp" of the V0 form'),
        ('layers { name: "a" }', 'layer "a" has no type'),
        ('layers { layer { name: "a" type: "relu" } } layers { name: "b" type: RELU }', "has the unknown type"),
        (
            """layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "y" }
            layers { layer { name: "r" type: "relu" } bottom: "y" top: "y" }""",
            'layer "r" (relu): a padding layer can only come before one of type conv or pool',
        ),
        ('layers { layer { name: "p" type: "padding" pad: 1 } top: "y" }', 'layer "p" (padding): it must have one'),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        upgraded(text)
    assert message in str(error.value)


def test_files_are_upgraded_on_reading(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(V0)
    assert prototxt.read_net(str(tmp_path / "net.prototxt")) == net(V0_TODAY)
    solver = tmp_path / "solver.prototxt"
    solver.write_text('solver_type: ADAM net_param { input: "x" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1 }')
    read = prototxt.read_solver(str(solver))
    assert (read.type, read.net_param.layer[0].type) == ("Adam", "Input")
    solver.write_text('solver_type: ADAM type: "SGD"')
    with pytest.raises(UserError, match=r"solver\.prototxt: the solver has both type and the legacy solver_type"):
        prototxt.read_solver(str(solver))


def test_every_solver_type() -> None:
    assert {SolverParameter.SolverType.Name(old): new for old, new in SOLVER_TYPES.items()} == {
        name.upper(): name for name in RULES
    }
    assert upgrade_solver(SolverParameter(solver_type=SolverParameter.RMSPROP)) == SolverParameter(type="RMSProp")


def old_blob(values: np.ndarray) -> BlobProto:
    """A blob with four fixed axes."""
    num, channels, height, width = (1,) * (4 - values.ndim) + values.shape
    return BlobProto(num=num, channels=channels, height=height, width=width, data=values.ravel().tolist())


@pytest.mark.parametrize("form", ["V0", "V1"])
def test_old_weights_go_into_an_old_net(form: str) -> None:
    torch.manual_seed(0)
    built = Net(net(V0), TRAIN, {"data": (4, 1, 8, 8), "label": (4,)})
    values = {
        name: [np.random.default_rng(1).random(blob.shape, np.float32) for blob in blobs]
        for name, blobs in built.weights().items()
        if blobs
    }
    model = NetParameter()
    for name, blobs in values.items():
        layer = model.layers.add()
        holder = layer.layer if form == "V0" else layer
        holder.name = name
        holder.blobs.extend(old_blob(blob) for blob in blobs)
    read = weights.parse(model.SerializeToString(), "old.caffemodel")
    assert built.copy_weights(read, "old.caffemodel") == []
    for name, blobs in values.items():
        for ours, theirs in zip(built.weights()[name], blobs, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert Net(net(V0), TEST, {"data": (4, 1, 8, 8), "label": (4,)}).shapes["fc"] == (4, 5)
