"""Old files as new ones: what ``src/caffe/util/upgrade_proto.cpp`` of BVLC Caffe does on reading.

Caffe had three forms of a layer. V0 (2013) is a ``layers`` entry with a ``layer`` inside, whose fields are flat; V1
(2014) is a ``layers`` entry with an enum as its type and ``blobs_lr``; the form of today is ``layer``.
"""

from __future__ import annotations

import logging
from typing import TypeVar

from google.protobuf.message import Message

from cos_runtime.caffe.schema.caffe_pb2 import (
    LayerParameter,
    NetParameter,
    SolverParameter,
    V0LayerParameter,
    V1LayerParameter,
)
from cos_runtime.errors import UserError

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

V1 = V1LayerParameter

V0_TYPES = {
    "accuracy": V1.ACCURACY,
    "bnll": V1.BNLL,
    "concat": V1.CONCAT,
    "conv": V1.CONVOLUTION,
    "data": V1.DATA,
    "dropout": V1.DROPOUT,
    "euclidean_loss": V1.EUCLIDEAN_LOSS,
    "flatten": V1.FLATTEN,
    "hdf5_data": V1.HDF5_DATA,
    "hdf5_output": V1.HDF5_OUTPUT,
    "im2col": V1.IM2COL,
    "images": V1.IMAGE_DATA,
    "infogain_loss": V1.INFOGAIN_LOSS,
    "innerproduct": V1.INNER_PRODUCT,
    "lrn": V1.LRN,
    "multinomial_logistic_loss": V1.MULTINOMIAL_LOGISTIC_LOSS,
    "pool": V1.POOLING,
    "relu": V1.RELU,
    "sigmoid": V1.SIGMOID,
    "softmax": V1.SOFTMAX,
    "softmax_loss": V1.SOFTMAX_LOSS,
    "split": V1.SPLIT,
    "tanh": V1.TANH,
    "window_data": V1.WINDOW_DATA,
}
"""V1's type of each type of V0; "padding" is folded into the layer after it."""

_PARAM_OF = {
    "conv": "convolution_param",
    "innerproduct": "inner_product_param",
    "pool": "pooling_param",
    "dropout": "dropout_param",
    "lrn": "lrn_param",
    "data": "data_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "window_data": "window_data_param",
    "infogain_loss": "infogain_loss_param",
    "concat": "concat_param",
    "hdf5_output": "hdf5_output_param",
}

_WITH_WEIGHTS = ("conv", "innerproduct")
_WINDOWED = ("conv", "pool")
_DETECTION = ("fg_threshold", "bg_threshold", "fg_fraction", "context_pad", "crop_mode")

V0_FIELDS: dict[str, tuple[tuple[str, ...], str]] = {
    "num_output": (_WITH_WEIGHTS, "num_output"),
    "biasterm": (_WITH_WEIGHTS, "bias_term"),
    "weight_filler": (_WITH_WEIGHTS, "weight_filler"),
    "bias_filler": (_WITH_WEIGHTS, "bias_filler"),
    "pad": (_WINDOWED, "pad"),
    "kernelsize": (_WINDOWED, "kernel_size"),
    "stride": (_WINDOWED, "stride"),
    "group": (("conv",), "group"),
    "pool": (("pool",), "pool"),
    "dropout_ratio": (("dropout",), "dropout_ratio"),
    **{name: (("lrn",), name) for name in ("local_size", "alpha", "beta", "k")},
    "source": (("data", "hdf5_data", "images", "window_data", "infogain_loss"), "source"),
    "batchsize": (("data", "hdf5_data", "images", "window_data"), "batch_size"),
    "rand_skip": (("data", "images"), "rand_skip"),
    "shuffle_images": (("images",), "shuffle"),
    "new_height": (("images",), "new_height"),
    "new_width": (("images",), "new_width"),
    "concat_dim": (("concat",), "concat_dim"),
    **{f"det_{name}": (("window_data",), name) for name in _DETECTION},
}
"""For each field of V0 the types it is for, and its name in their parameters."""

_V0_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}

V1_TYPES = {
    V1.ABSVAL: "AbsVal",
    V1.ACCURACY: "Accuracy",
    V1.ARGMAX: "ArgMax",
    V1.BNLL: "BNLL",
    V1.CONCAT: "Concat",
    V1.CONTRASTIVE_LOSS: "ContrastiveLoss",
    V1.CONVOLUTION: "Convolution",
    V1.DATA: "Data",
    V1.DECONVOLUTION: "Deconvolution",
    V1.DROPOUT: "Dropout",
    V1.DUMMY_DATA: "DummyData",
    V1.ELTWISE: "Eltwise",
    V1.EUCLIDEAN_LOSS: "EuclideanLoss",
    V1.EXP: "Exp",
    V1.FLATTEN: "Flatten",
    V1.HDF5_DATA: "HDF5Data",
    V1.HDF5_OUTPUT: "HDF5Output",
    V1.HINGE_LOSS: "HingeLoss",
    V1.IM2COL: "Im2col",
    V1.IMAGE_DATA: "ImageData",
    V1.INFOGAIN_LOSS: "InfogainLoss",
    V1.INNER_PRODUCT: "InnerProduct",
    V1.LRN: "LRN",
    V1.MEMORY_DATA: "MemoryData",
    V1.MULTINOMIAL_LOGISTIC_LOSS: "MultinomialLogisticLoss",
    V1.MVN: "MVN",
    V1.POOLING: "Pooling",
    V1.POWER: "Power",
    V1.RELU: "ReLU",
    V1.SIGMOID: "Sigmoid",
    V1.SIGMOID_CROSS_ENTROPY_LOSS: "SigmoidCrossEntropyLoss",
    V1.SILENCE: "Silence",
    V1.SLICE: "Slice",
    V1.SOFTMAX: "Softmax",
    V1.SOFTMAX_LOSS: "SoftmaxWithLoss",
    V1.SPLIT: "Split",
    V1.TANH: "TanH",
    V1.THRESHOLD: "Threshold",
    V1.WINDOW_DATA: "WindowData",
}

SOLVER_TYPES = {
    SolverParameter.SGD: "SGD",
    SolverParameter.NESTEROV: "Nesterov",
    SolverParameter.ADAGRAD: "AdaGrad",
    SolverParameter.RMSPROP: "RMSProp",
    SolverParameter.ADADELTA: "AdaDelta",
    SolverParameter.ADAM: "Adam",
}


def is_current(net: NetParameter) -> bool:
    """Whether the net is in today's form already."""
    return not net.layers and not net.input and not any(map(_is_old_batch_norm, net.layer))


def upgrade_net(net: NetParameter) -> NetParameter:
    """The net in today's form, with ``layer`` entries only; the very same one where it is in it already.

    Raises:
        UserError: the net mixes forms, or has something that no form had.
    """
    if is_current(net):
        return net
    net = _copy(net)
    if net.layers:
        if net.layer:
            raise UserError("the net has both layer and the legacy layers: give all layers in one form")
        if any(layer.HasField("layer") for layer in net.layers):
            _upgrade_v0(net)
        net.layer.extend(map(_from_v1, net.layers))
        net.ClearField("layers")
    for layer in filter(_is_old_batch_norm, net.layer):
        for spec in layer.param:
            spec.lr_mult = spec.decay_mult = 0
    return with_input_layers(net)


def upgrade_solver(solver: SolverParameter) -> SolverParameter:
    """The solver with a ``type`` in the place of the enum ``solver_type``.

    Raises:
        UserError: it has both.
    """
    if not solver.HasField("solver_type"):
        return solver
    if solver.HasField("type"):
        raise UserError("the solver has both type and the legacy solver_type: keep type")
    upgraded = _copy(solver)
    upgraded.type = SOLVER_TYPES[solver.solver_type]
    upgraded.ClearField("solver_type")
    return upgraded


def with_input_layers(net: NetParameter) -> NetParameter:
    """The net with its legacy ``input``, ``input_shape`` and ``input_dim`` fields as an Input layer.

    As in Caffe, ``input_shape`` goes before ``input_dim``, and what there is of either for no input counts for nothing.
    """
    if not net.input:
        return net
    changed = _copy(net)
    changed.ClearField("layer")
    count = len(net.input)
    layer = changed.layer.add(name="input", type="Input", top=net.input)
    if net.input_shape:
        layer.input_param.shape.extend(net.input_shape[:count])
    elif 0 < len(net.input_dim) < 4 * count:
        raise UserError(f"the net has {len(net.input_dim)} input_dim: give four for each input")
    else:
        for start in range(0, min(len(net.input_dim), 4 * count), 4):
            layer.input_param.shape.add(dim=net.input_dim[start : start + 4])
    changed.layer.extend(net.layer)
    for field in ("input", "input_shape", "input_dim"):
        changed.ClearField(field)
    return changed


def _copy(message: M) -> M:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _is_old_batch_norm(layer: LayerParameter) -> bool:
    """Whether it has three ``param``, as the first BatchNorm asked for, of which none may learn."""
    return (
        layer.type == "BatchNorm"
        and len(layer.param) == 3
        and any(spec.lr_mult or spec.decay_mult for spec in layer.param)
    )


def _upgrade_v0(net: NetParameter) -> None:
    """Replace the V0 layers of a net by V1 layers."""
    old = _without_padding(list(net.layers))
    net.ClearField("layers")
    net.layers.extend(map(_from_v0, old))


def _without_padding(layers: list[V1LayerParameter]) -> list[V1LayerParameter]:
    """The layers without those of type "padding": the ``pad`` goes to the layer that takes their top."""
    padding: dict[str, V1LayerParameter] = {}
    kept = []
    for layer in layers:
        if layer.layer.type == "padding":
            if len(layer.bottom) != 1 or len(layer.top) != 1:
                raise UserError(f'layer "{layer.layer.name}" (padding): it must have one bottom and one top')
            padding[layer.top[0]] = layer
            continue
        for index, bottom in enumerate(layer.bottom):
            if bottom in padding:
                if layer.layer.type not in _WINDOWED:
                    raise UserError(
                        f'layer "{layer.layer.name}" ({layer.layer.type}): a padding layer can only come before '
                        "one of type conv or pool"
                    )
                layer.layer.pad = padding[bottom].layer.pad
                layer.bottom[index] = padding[bottom].bottom[0]
        for top in layer.top:
            padding.pop(top, None)
        kept.append(layer)
    return kept


def _from_v0(connection: V1LayerParameter) -> V1LayerParameter:
    old = connection.layer
    if old.type not in V0_TYPES:
        raise UserError(f'layer "{old.name}" has the unknown type "{old.type}" of the V0 form')
    new = V1(bottom=connection.bottom, top=connection.top, name=old.name, type=V0_TYPES[old.type])
    new.blobs.extend(old.blobs)
    new.blobs_lr.extend(old.blobs_lr)
    new.weight_decay.extend(old.weight_decay)
    for old_name, name in _V0_TRANSFORM.items():
        if old.HasField(old_name):
            setattr(new.transform_param, name, getattr(old, old_name))
    for old_name, (types, name) in V0_FIELDS.items():
        if old.HasField(old_name):
            _move_field(old, old_name, types, name, new)
    if old.HasField("hdf5_output_param"):
        new.hdf5_output_param.CopyFrom(old.hdf5_output_param)
    return new


def _move_field(old: V0LayerParameter, old_name: str, types: tuple[str, ...], name: str, new: V1LayerParameter) -> None:
    if old.type not in types:
        # Caffe goes on too: such a field never had an effect.
        log.warning('layer "%s": a layer of type %s has no %s, which is left out', old.name, old.type, old_name)
        return
    param = getattr(new, _PARAM_OF[old.type])
    value = getattr(old, old_name)
    if isinstance(value, Message):
        getattr(param, name).CopyFrom(value)
    elif param.DESCRIPTOR.fields_by_name[name].is_repeated:
        getattr(param, name).append(value)
    else:
        setattr(param, name, value)


def _from_v1(old: V1LayerParameter) -> LayerParameter:
    if old.HasField("layer"):
        raise UserError(f'layer "{old.layer.name}": the net mixes layers of the V0 and the V1 form')
    if old.type not in V1_TYPES:
        raise UserError(f'layer "{old.name}" has no type')
    _move_transform(old)
    new = LayerParameter(
        bottom=old.bottom,
        top=old.top,
        name=old.name,
        type=V1_TYPES[old.type],
        blobs=old.blobs,
        include=old.include,
        exclude=old.exclude,
        loss_weight=old.loss_weight,
    )
    for field, values in (
        ("name", old.param),
        ("share_mode", old.blob_share_mode),
        ("lr_mult", old.blobs_lr),
        ("decay_mult", old.weight_decay),
    ):
        for index, value in enumerate(values):
            while len(new.param) <= index:
                new.param.add()
            setattr(new.param[index], field, value)
    for descriptor, value in old.ListFields():
        if descriptor.name.endswith("_param"):
            getattr(new, descriptor.name).CopyFrom(value)
    return new


def _move_transform(layer: V1LayerParameter) -> None:
    """Move what data layers had of a transformation into ``transform_param``."""
    places = {V1.DATA: "data_param", V1.IMAGE_DATA: "image_data_param", V1.WINDOW_DATA: "window_data_param"}
    if layer.type not in places:
        return
    param = getattr(layer, places[layer.type])
    for field in ("scale", "mean_file", "crop_size", "mirror"):
        if param.HasField(field):
            setattr(layer.transform_param, field, getattr(param, field))
            param.ClearField(field)
