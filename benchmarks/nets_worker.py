"""Trains one net, or two in turns, of `benchmarks.nets` on random images: images a second, and the peak of memory."""

import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from benchmarks.mnist import EXAMPLES
from cos_runtime.caffe import prototxt
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TRAIN

_STEPS, _WARM_UP = 6, 2
_CLASSES = 1000
# Of GoogLeNet's two side losses, in Caffe's and torchvision's training alike.
_SIDE_WEIGHT = 0.3
Loss = Callable[[Tensor, Tensor], Tensor]


def ours(name: str, batch: int) -> Loss:
    """The prototxt's TRAIN net."""
    size = _size(name)
    param = prototxt.read_net(str(_file(name)))
    net = Net(param, TRAIN, {"data": (batch, 3, size, size), "label": (batch,)})

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return net.loss(net({"data": images, "label": labels}, net.losses))

    return loss


def theirs(name: str, batch: int) -> Loss:
    """torchvision's net, trained with the same loss."""
    del batch
    return _trained(_known(name))


def same(name: str, batch: int) -> Loss:
    """The prototxt's very layers, of torch.nn, where torchvision's net has others."""
    del batch
    return _trained({"alexnet": alexnet}[name]())


def compiled(name: str, batch: int) -> Loss:
    """torchvision's net through ``torch.compile``."""
    del batch
    module = _known(name)
    module.compile()
    return _trained(module)


def _trained(module: nn.Module) -> Loss:
    module.train()

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        outputs = module(images)
        if isinstance(outputs, Tensor):
            return nn.functional.cross_entropy(outputs, labels)
        first, *sides = (nn.functional.cross_entropy(each, labels) for each in outputs)
        return first + _SIDE_WEIGHT * sum(sides)

    return loss


def alexnet() -> nn.Module:
    """AlexNet with its normalization and its groups (Krizhevsky et al. 2012), for images of 227 x 227."""
    convolutions = [
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(True), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, 1, 2, groups=2), nn.ReLU(True), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(True)),
        *(nn.Conv2d(384, 384, 3, 1, 1, groups=2), nn.ReLU(True)),
        *(nn.Conv2d(384, 256, 3, 1, 1, groups=2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
    ]
    products = [
        *(nn.Linear(256 * 6 * 6, 4096), nn.ReLU(True), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout()),
        nn.Linear(4096, _CLASSES),
    ]
    return nn.Sequential(*convolutions, nn.Flatten(), *products)


def mobilenet() -> nn.Module:
    """MobileNet's version 1, which torchvision does not have, of its blocks (Howard et al. 2017, table 1)."""
    layers: list[nn.Module] = [Conv2dNormActivation(3, 32, 3, 2)]
    channels = 32
    for width, stride in [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ]:
        layers += [Conv2dNormActivation(channels, channels, 3, stride, groups=channels)]
        layers += [Conv2dNormActivation(channels, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, _CLASSES))


def _known(name: str) -> nn.Module:
    """torchvision's net of this name, and its MobileNet of version 1 as it would be."""
    models = torchvision.models
    makers: dict[str, Callable[[], nn.Module]] = {
        "alexnet": models.alexnet,
        "googlenet": lambda: models.googlenet(init_weights=False),
        "vgg16": models.vgg16,
        "resnet50": models.resnet50,
        "squeezenet": models.squeezenet1_1,
        "mobilenet": mobilenet,
    }
    return makers[name]()


def _file(name: str) -> Path:
    return EXAMPLES / "nets" / f"{name}_train_val.prototxt"


def _size(name: str) -> int:
    found = re.search(r"crop_size: (\d+)", _file(name).read_text())
    if found is None:
        raise SystemExit(f"{_file(name)} has no crop_size")
    return int(found[1])


def _memory(field: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at the peak."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def main(name: str, batch: int, *sides: str) -> None:
    """Measure, the sides taking turns at a step, and print what was found."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    size = _size(name)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(_CLASSES, (batch,))
    # A convolution each way, so that what torch's libraries load is no part of the net's memory.
    torch.autograd.backward(nn.Conv2d(3, 3, 3)(images[:1, :, :9, :9]).sum())
    before = _memory("VmRSS")
    makers = {"ours": ours, "theirs": theirs, "same": same, "compiled": compiled}
    losses = [makers[side](name, batch) for side in sides]
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(_STEPS):
        for loss, spent in zip(losses, seconds, strict=True):
            # The one thread's own time, whatever else the machine does.
            start = time.process_time()
            torch.autograd.backward(loss(images, labels))
            spent.append(time.process_time() - start)
    rates = [batch / statistics.median(spent[_WARM_UP:]) for spent in seconds]
    print(json.dumps({"rates": rates, "memory": _memory("VmHWM") - before}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
