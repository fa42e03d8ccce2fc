"""From files to nets: a deep prototxt against torchvision's constructor, a caffemodel against its mere bytes."""

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from torchvision.models import resnet152

from benchmarks.measure import Benchmark, Pair
from benchmarks.mnist import EXAMPLES, scratch
from cos_runtime.caffe import prototxt, weights
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, SolverParameter

_NETS = EXAMPLES / "nets"
_REPEATS = 5


def build() -> Pair:
    """Seconds from ResNet-152's file to a net with its first weights."""
    path, shapes = str(_NETS / "resnet152_train_val.prototxt"), {"data": (2, 3, 224, 224), "label": (2,)}
    return _best(lambda: Net(prototxt.read_net(path), TRAIN, shapes)), _best(lambda: resnet152(weights=None))


def load() -> Pair:
    """Seconds from a caffemodel of AlexNet, 244 MB, to the weights in the net, and to its bytes in memory."""
    net, model = _alexnet(), _model()

    def into_net() -> None:
        net.copy_weights(weights.parse(model.read_bytes(), str(model)), str(model))

    return _best(into_net), _best(model.read_bytes)


@cache
def _alexnet() -> Net:
    return Net(prototxt.read_net(str(_NETS / "alexnet_deploy.prototxt")), TEST)


@cache
def _model() -> Path:
    net, path = _alexnet(), scratch() / "alexnet.caffemodel"
    path.write_bytes(weights.serialize(net.param, net.weights(), SolverParameter.BINARYPROTO))
    return path


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


BENCHMARKS = [
    Benchmark("build", "ResNet-152 from prototxt", "torchvision's constructor", "s", 1.0, build, less_is_better=True),
    Benchmark("load", "weights from a caffemodel of 244 MB", "reading the file", "s", 0.67, load, less_is_better=True),
]
