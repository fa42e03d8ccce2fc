"""Nets for ImageNet's 1,000 classes that normalize their batches: ResNet and MobileNet."""

from __future__ import annotations

from typing import Any

from examples.nets.generator.builder import MSRA, Net

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}


def resnet(depth: int) -> Net:
    net = Net(f"ResNet-{depth}", "He, Zhang, Ren, Sun 2015: 1,000 classes of ImageNet.", MSRA)
    net.images(224, 32, 25)
    net.conv("conv1", 64, 7, pad=3, stride=2, bias_term=False)
    net.normalize("bn_conv1", "scale_conv1")
    net.relu("conv1_relu")
    net.pool("pool1", 3, 2)
    for stage, count in enumerate(BLOCKS[depth], start=2):
        for index in range(count):
            block(net, f"{stage}{suffix(index, count)}", 2 ** (stage + 4), is_first=index == 0, is_deep=depth >= 50)
    net.global_pool("pool5")
    net.losses(net.ip("fc1000", 1000))
    return net


def suffix(index: int, count: int) -> str:
    """The published names letter the blocks of short stages, and number those of long ones after the first."""
    if count <= 6:
        return "abcdef"[index]
    return f"b{index}" if index else "a"


def block(net: Net, name: str, width: int, *, is_first: bool, is_deep: bool) -> None:
    """Two convolutions, or three around a bottleneck, and the bottom added to them."""
    stride = 2 if is_first and width > 64 else 1
    bottom, outputs = net.top, 4 * width if is_deep else width
    shortcut = bottom
    if is_first and (is_deep or stride > 1):
        net.conv(f"res{name}_branch1", outputs, 1, stride=stride, bias_term=False)
        shortcut = net.normalize(f"bn{name}_branch1", f"scale{name}_branch1")
    shapes = [(width, 1), (width, 3), (outputs, 1)] if is_deep else [(width, 3), (width, 3)]
    net.top = bottom
    for place, (channels, kernel) in enumerate(shapes):
        branch = f"{name}_branch2{'abc'[place]}"
        net.conv(f"res{branch}", channels, kernel, stride=stride if place == 0 else 1, pad=kernel // 2, bias_term=False)
        net.normalize(f"bn{branch}", f"scale{branch}")
        if place < len(shapes) - 1:
            net.relu(f"res{branch}_relu")
    net.add("Eltwise", f"res{name}", shortcut, net.top)
    net.relu(f"res{name}_relu")


def mobilenet() -> Net:
    net = Net("MobileNet", "Howard et al. 2017, version 1 in full width: 1,000 classes of ImageNet.", MSRA)
    net.images(224, 64, 32)
    normalized_conv(net, "conv1", 32, 3, pad=1, stride=2)
    blocks = [("2_1", 64, 1), ("2_2", 128, 2), ("3_1", 128, 1), ("3_2", 256, 2), ("4_1", 256, 1), ("4_2", 512, 2)]
    blocks += [*((f"5_{index}", 512, 1) for index in range(1, 6)), ("5_6", 1024, 2), ("6", 1024, 1)]
    channels = 32
    for name, outputs, stride in blocks:
        normalized_conv(net, f"conv{name}/dw", channels, 3, pad=1, stride=stride, group=channels)
        normalized_conv(net, f"conv{name}/sep", outputs, 1)
        channels = outputs
    net.global_pool("pool6")
    net.losses(net.conv("fc7", 1000, 1))
    return net


def normalized_conv(net: Net, name: str, outputs: int, kernel: int, **fields: Any) -> None:
    net.conv(name, outputs, kernel, bias_term=False, **fields)
    net.normalize(f"{name}/bn", f"{name}/scale")
    net.relu(f"relu{name.removeprefix('conv')}")
