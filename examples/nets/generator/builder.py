"""A net under construction, and its prototxt."""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message

from cos_runtime.caffe.phase import filter_net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, LayerParameter, NetParameter, NetState

MEAN = [104, 117, 123]  # of blue, green and red over ImageNet, to whole numbers
WIDTH = 120

GAUSSIAN = {"type": "gaussian", "std": 0.01}
XAVIER = {"type": "xavier"}
MSRA = {"type": "msra"}
FROZEN = {"lr_mult": 0, "decay_mult": 0}


class Net:
    """Layers one after another: each takes the top of the one before it unless bottoms are given.

    Args:
        name: of the net.
        about: comment at the head of the file.
        filler: of weights that have no other.
        bias: first value of biases that have no other.
    """

    def __init__(self, name: str, about: str, filler: dict[str, Any], bias: float = 0.0) -> None:
        self.param, self.about, self.top = NetParameter(name=name), about, ""
        self.filler, self.bias = filler, bias

    def add(self, kind: str, name: str, *bottoms: str, top: str = "", **fields: Any) -> str:
        """Add a layer with one top, which is returned; its name is the layer's unless another is given."""
        bottoms = bottoms or (self.top,)
        self.top = top or name
        self.param.layer.add(name=name, type=kind, bottom=bottoms, top=[self.top], **fields)
        return self.top

    def in_place(self, kind: str, name: str, **fields: Any) -> str:
        return self.add(kind, name, self.top, top=self.top, **fields)

    def relu(self, name: str) -> str:
        return self.in_place("ReLU", name)

    def dropout(self, name: str, ratio: float = 0.5) -> str:
        return self.in_place("Dropout", name, dropout_param={"dropout_ratio": ratio})

    def conv(
        self, name: str, outputs: int, kernel: int, *bottoms: str, stride: int = 1, pad: int = 0, **fields: Any
    ) -> str:
        """A convolution; ``fields`` are further ones of its convolution_param."""
        windows = {"kernel_size": [kernel], "stride": [stride] if stride > 1 else [], "pad": [pad] if pad else []}
        param = {"num_output": outputs, **windows, "weight_filler": self.filler, **fields}
        if fields.get("bias_term", True):
            param.setdefault("bias_filler", {"value": self.bias})
        return self.add("Convolution", name, *bottoms, param=multipliers(param), convolution_param=param)

    def conv_relu(self, name: str, outputs: int, kernel: int, *bottoms: str, relu: str = "", **fields: Any) -> str:
        self.conv(name, outputs, kernel, *bottoms, **fields)
        return self.relu(relu or "relu" + name.removeprefix("conv"))

    def ip(self, name: str, outputs: int, *bottoms: str, **fields: Any) -> str:
        param = {"num_output": outputs, "weight_filler": self.filler, "bias_filler": {"value": self.bias}, **fields}
        return self.add("InnerProduct", name, *bottoms, param=multipliers(param), inner_product_param=param)

    def pool(self, name: str, kernel: int, stride: int, *bottoms: str, kind: str = "MAX", **fields: Any) -> str:
        param = {"pool": kind, "kernel_size": kernel, "stride": stride, **fields}
        return self.add("Pooling", name, *bottoms, pooling_param=param)

    def global_pool(self, name: str) -> str:
        return self.add("Pooling", name, pooling_param={"pool": "AVE", "global_pooling": True})

    def normalize(self, batch_norm: str, scale: str) -> str:
        """Batch normalization, and the scale and bias that Caffe has in a layer of its own, in place."""
        self.in_place("BatchNorm", batch_norm, param=[FROZEN] * 3)
        return self.in_place("Scale", scale, scale_param={"bias_term": True})

    def images(self, crop: int, train_batch: int, test_batch: int) -> None:
        """ImageNet's records, cropped and less their mean."""
        for phase, source, batch in ((TRAIN, "train", train_batch), (TEST, "val", test_batch)):
            layer = self.param.layer.add(name="data", type="Data", top=["data", "label"], include=[{"phase": phase}])
            layer.data_param.source = f"data/ilsvrc12_{source}_lmdb"
            layer.data_param.backend = layer.data_param.LMDB
            layer.data_param.batch_size = batch
            layer.transform_param.crop_size = crop
            layer.transform_param.mean_value.extend(MEAN)
            if phase == TRAIN:
                layer.transform_param.mirror = True
        self.top = "data"

    def losses(self, scores: str, prefix: str = "", weight: float = 1.0) -> None:
        """The loss of a classifier and, in TEST, its accuracies."""
        weights = {"loss_weight": [weight]} if weight != 1 else {}
        self.add("SoftmaxWithLoss", f"{prefix}loss", scores, "label", **weights)
        for name, top_k in (("accuracy", {}), ("accuracy_5", {"accuracy_param": {"top_k": 5}})):
            self.add("Accuracy", f"{prefix}{name}", scores, "label", include=[{"phase": TEST}], **top_k)


def multipliers(param: dict[str, Any]) -> list[dict[str, float]]:
    """Biases learn at twice the rate and do not decay."""
    return [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}][: 1 + param.get("bias_term", True)]


def deployed(net: Net, scores: str, items: int) -> NetParameter:
    """What takes an image to its scores, and these to probabilities, as a net with an input."""
    kept: list[LayerParameter] = []
    needed = {scores}
    for layer in reversed(filter_net(net.param, NetState(phase=TEST)).layer):
        if needed.intersection(layer.top):
            needed.update(layer.bottom)
            kept.insert(0, layer)
    crop = kept[0].transform_param.crop_size
    param = NetParameter(name=net.param.name)
    param.layer.add(name="data", type="Input", top=["data"]).input_param.shape.add(dim=[items, 3, crop, crop])
    for layer in kept[1:]:
        added = param.layer.add()
        added.CopyFrom(layer)
        added.ClearField("param")
        for _, message in added.ListFields():
            if isinstance(message, Message):
                for field in (field for field in message.DESCRIPTOR.fields_by_name if field.endswith("filler")):
                    message.ClearField(field)
    param.layer.add(name="prob", type="Softmax", bottom=[scores], top=["prob"])
    return param


def text(param: NetParameter, about: str) -> str:
    """The net as a prototxt, a layer on one line where it fits."""
    return "\n".join([f"# {about}", f'name: "{param.name}"', *map(layer_text, param.layer)]) + "\n"


def layer_text(layer: LayerParameter) -> str:
    whole = f"layer {{ {one_line(layer)} }}"
    if len(whole) <= WIDTH:
        return whole
    names = ("name", "type", "bottom", "top")
    lines = [LayerParameter(**{name: getattr(layer, name) for name in names})]
    for field, value in layer.ListFields():
        if field.name in names:
            continue
        values = [[each] for each in value] if field.is_repeated else [value]
        lines += [LayerParameter(**{field.name: each}) for each in values]
    return "\n".join(["layer {", *(f"  {one_line(line)}" for line in lines), "}"])


def one_line(message: LayerParameter) -> str:
    content = text_format.MessageToString(message, as_one_line=True).strip()
    return re.sub(r"(?<=\d)\.0(?= |$)", "", content)
