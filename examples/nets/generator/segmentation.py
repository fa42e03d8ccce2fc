"""Fully convolutional nets: a class for each pixel."""

from __future__ import annotations

from cos_runtime.caffe.schema.caffe_pb2 import NetParameter
from examples.nets.generator.builder import FROZEN, MSRA, Net
from examples.nets.generator.classifiers import vgg_convolutions

CLASSES = 21  # PASCAL VOC's twenty, and the background


def fcn(stride: int) -> Net:
    """FCN-32s, or FCN-8s with its finer layers scaled, so that all train at once.

    The first layer's pad of 100 makes room for images of any size; the offsets of the crops undo it.
    """
    net = Net(f"FCN-{stride}s", "Long, Shelhamer, Darrell 2015: 21 classes of PASCAL VOC for each pixel.", MSRA)
    net.param.layer.add(name="data", type="Input", top=["data"]).input_param.shape.add(dim=[1, 3, 500, 500])
    net.param.layer.add(name="label", type="Input", top=["label"]).input_param.shape.add(dim=[1, 1, 500, 500])
    net.top = "data"
    vgg_convolutions(net, first_pad=100)
    for number, kernel in ((6, 7), (7, 1)):
        net.conv_relu(f"fc{number}", 4096, kernel, relu=f"relu{number}")
        net.dropout(f"drop{number}")
    score(net, "score_fr", net.top)
    if stride == 32:
        upsample(net, "upscore", 32)
        crop(net, "score", "data", 19)
    else:
        upsample(net, "upscore2", 2)
        fuse(net, "pool4", 0.01, 5)
        upsample(net, "upscore_pool4", 2)
        fuse(net, "pool3", 0.0001, 9)
        upsample(net, "upscore8", 8)
        crop(net, "score", "data", 31)
    loss = {"ignore_label": 255, "normalize": False}
    net.add("SoftmaxWithLoss", "loss", "score", "label", loss_param=loss)
    return net


def score(net: Net, name: str, bottom: str) -> str:
    """A score of each class at each place, at first none."""
    return net.conv(name, CLASSES, 1, bottom, weight_filler={"value": 0})


def upsample(net: Net, name: str, factor: int) -> str:
    """Bilinear interpolation as filters, which are not learned."""
    filters = {"num_output": CLASSES, "kernel_size": [2 * factor], "stride": [factor], "bias_term": False}
    param = filters | {"group": CLASSES, "weight_filler": {"type": "bilinear"}}
    return net.add("Deconvolution", name, param=[FROZEN], convolution_param=param)


def crop(net: Net, name: str, like: str, offset: int) -> str:
    return net.add("Crop", name, net.top, like, crop_param={"axis": 2, "offset": [offset]})


def fuse(net: Net, pool: str, scale: float, offset: int) -> str:
    """The scores so far, and those of a finer layer at the same places."""
    coarse = net.top
    scaled = net.add("Scale", f"scale_{pool}", pool, param=[FROZEN], scale_param={"filler": {"value": scale}})
    score(net, f"score_{pool}", scaled)
    return net.add("Eltwise", f"fuse_{pool}", coarse, crop(net, f"score_{pool}c", coarse, offset))


def without_loss(net: Net) -> NetParameter:
    """The net as it is used."""
    param = NetParameter()
    param.CopyFrom(net.param)
    del param.layer[-1], param.layer[1]
    return param
