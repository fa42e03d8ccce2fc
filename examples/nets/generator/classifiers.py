"""Nets that tell ImageNet's 1,000 classes, each as its paper has it, with the names of its published weights."""

from __future__ import annotations

from typing import Any

from examples.nets.generator.builder import GAUSSIAN, MSRA, XAVIER, Net

LRN = {"local_size": 5, "alpha": 1e-4, "beta": 0.75}
HALF_GAUSSIAN = {"type": "gaussian", "std": 0.005}


def alexnet() -> Net:
    net = Net("AlexNet", "Krizhevsky, Sutskever, Hinton 2012: 1,000 classes of ImageNet.", GAUSSIAN)
    net.images(227, 256, 50)
    lifted = {"bias_filler": {"value": 0.1}}
    net.conv_relu("conv1", 96, 11, stride=4)
    net.add("LRN", "norm1", lrn_param=LRN)
    net.pool("pool1", 3, 2)
    net.conv_relu("conv2", 256, 5, pad=2, group=2, **lifted)
    net.add("LRN", "norm2", lrn_param=LRN)
    net.pool("pool2", 3, 2)
    net.conv_relu("conv3", 384, 3, pad=1)
    net.conv_relu("conv4", 384, 3, pad=1, group=2, **lifted)
    net.conv_relu("conv5", 256, 3, pad=1, group=2, **lifted)
    net.pool("pool5", 3, 2)
    fully_connected(net)
    return net


def fully_connected(net: Net) -> None:
    """The end of AlexNet and VGG."""
    for number in (6, 7):
        net.ip(f"fc{number}", 4096, weight_filler=HALF_GAUSSIAN, bias_filler={"value": 0.1})
        net.relu(f"relu{number}")
        net.dropout(f"drop{number}")
    net.losses(net.ip("fc8", 1000, weight_filler=GAUSSIAN))


def vgg16() -> Net:
    # The paper starts from the weights of a smaller net; He et al.'s filler (2015) does without.
    net = Net("VGG_ILSVRC_16_layers", "Simonyan, Zisserman 2014, configuration D: 1,000 classes of ImageNet.", MSRA)
    net.images(224, 64, 32)
    vgg_convolutions(net)
    fully_connected(net)
    return net


def vgg_convolutions(net: Net, first_pad: int = 1) -> None:
    for block, (outputs, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1):
        for index in range(1, count + 1):
            net.conv_relu(f"conv{block}_{index}", outputs, 3, pad=first_pad if block == index == 1 else 1)
        net.pool(f"pool{block}", 2, 2)


def googlenet() -> Net:
    net = Net("GoogleNet", "Szegedy et al. 2014, with both side losses: 1,000 classes of ImageNet.", XAVIER, 0.2)
    net.images(224, 32, 50)
    net.conv_relu("conv1/7x7_s2", 64, 7, relu="conv1/relu_7x7", pad=3, stride=2)
    net.pool("pool1/3x3_s2", 3, 2)
    net.add("LRN", "pool1/norm1", lrn_param=LRN)
    net.conv_relu("conv2/3x3_reduce", 64, 1, relu="conv2/relu_3x3_reduce")
    net.conv_relu("conv2/3x3", 192, 3, relu="conv2/relu_3x3", pad=1)
    net.add("LRN", "conv2/norm2", lrn_param=LRN)
    net.pool("pool2/3x3_s2", 3, 2)
    inception(net, "3a", one=64, three=(96, 128), five=(16, 32), pooled=32)
    inception(net, "3b", one=128, three=(128, 192), five=(32, 96), pooled=64)
    net.pool("pool3/3x3_s2", 3, 2)
    inception(net, "4a", one=192, three=(96, 208), five=(16, 48), pooled=64)
    side_loss(net, "loss1")
    inception(net, "4b", one=160, three=(112, 224), five=(24, 64), pooled=64)
    inception(net, "4c", one=128, three=(128, 256), five=(24, 64), pooled=64)
    inception(net, "4d", one=112, three=(144, 288), five=(32, 64), pooled=64)
    side_loss(net, "loss2")
    inception(net, "4e", one=256, three=(160, 320), five=(32, 128), pooled=128)
    net.pool("pool4/3x3_s2", 3, 2)
    inception(net, "5a", one=256, three=(160, 320), five=(32, 128), pooled=128)
    inception(net, "5b", one=384, three=(192, 384), five=(48, 128), pooled=128)
    net.pool("pool5/7x7_s1", 7, 1, kind="AVE")
    net.dropout("pool5/drop_7x7_s1", 0.4)
    net.losses(net.ip("loss3/classifier", 1000, bias_filler={"value": 0}), "loss3/")
    return net


def inception(net: Net, name: str, *, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int) -> None:
    """Four branches over one bottom; the pairs are the channels before and after the large filters."""
    bottom = net.top

    def branch(suffix: str, outputs: int, kernel: int, of: str) -> str:
        relu = f"inception_{name}/relu_{suffix}"
        return net.conv_relu(f"inception_{name}/{suffix}", outputs, kernel, of, relu=relu, pad=kernel // 2)

    tops = [branch("1x1", one, 1, bottom)]
    for kernel, (reduced, outputs) in ((3, three), (5, five)):
        size = f"{kernel}x{kernel}"
        tops.append(branch(size, outputs, kernel, branch(f"{size}_reduce", reduced, 1, bottom)))
    tops.append(branch("pool_proj", pooled, 1, net.pool(f"inception_{name}/pool", 3, 1, bottom, pad=1)))
    net.add("Concat", f"inception_{name}/output", *tops)


def side_loss(net: Net, name: str) -> None:
    """A classifier in the middle of GoogLeNet, whose loss counts 0.3."""
    bottom = net.top
    net.pool(f"{name}/ave_pool", 5, 3, kind="AVE")
    net.conv_relu(f"{name}/conv", 128, 1, relu=f"{name}/relu_conv")
    net.ip(f"{name}/fc", 1024)
    net.relu(f"{name}/relu_fc")
    net.dropout(f"{name}/drop_fc", 0.7)
    net.losses(net.ip(f"{name}/classifier", 1000, bias_filler={"value": 0}), f"{name}/", weight=0.3)
    net.top = bottom


def nin() -> Net:
    net = Net("NIN-ImageNet", "Lin, Chen, Yan 2013, Network In Network: 1,000 classes of ImageNet.", GAUSSIAN)
    net.images(224, 64, 32)
    mixed_conv(net, "conv1", 96, 11, {"cccp1": 96, "cccp2": 96}, stride=4)
    net.pool("pool1", 3, 2)
    mixed_conv(net, "conv2", 256, 5, {"cccp3": 256, "cccp4": 256}, pad=2)
    net.pool("pool2", 3, 2)
    mixed_conv(net, "conv3", 384, 3, {"cccp5": 384, "cccp6": 384}, pad=1)
    net.pool("pool3", 3, 2)
    net.dropout("drop")
    mixed_conv(net, "conv4-1024", 1024, 3, {"cccp7-1024": 1024, "cccp8-1024": 1000}, pad=1)
    net.losses(net.global_pool("pool4"))
    return net


def mixed_conv(net: Net, name: str, outputs: int, kernel: int, mixers: dict[str, int], **fields: Any) -> None:
    """A convolution and those of 1 x 1 that make a small net of it."""
    net.conv_relu(name, outputs, kernel, relu=f"relu_{name}", **fields)
    for mixer, channels in mixers.items():
        net.conv_relu(mixer, channels, 1, relu=f"relu_{mixer}")


def squeezenet() -> Net:
    net = Net("SqueezeNet_v1.1", "Iandola et al. 2016, in its release 1.1: 1,000 classes of ImageNet.", XAVIER)
    net.images(227, 32, 25)
    net.conv_relu("conv1", 64, 3, relu="relu_conv1", stride=2)
    net.pool("pool1", 3, 2)
    for number, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64), start=2):
        fire(net, f"fire{number}/", squeezed)
        if number in (3, 5):
            net.pool(f"pool{number}", 3, 2)
    net.dropout("drop9")
    net.conv_relu("conv10", 1000, 1, relu="relu_conv10", weight_filler=GAUSSIAN)
    net.losses(net.global_pool("pool10"))
    return net


def fire(net: Net, prefix: str, squeezed: int) -> None:
    bottom = net.conv_relu(f"{prefix}squeeze1x1", squeezed, 1, relu=f"{prefix}relu_squeeze1x1")
    one = net.conv_relu(f"{prefix}expand1x1", 4 * squeezed, 1, bottom, relu=f"{prefix}relu_expand1x1")
    three = net.conv_relu(f"{prefix}expand3x3", 4 * squeezed, 3, bottom, relu=f"{prefix}relu_expand3x3", pad=1)
    net.add("Concat", f"{prefix}concat", one, three)
