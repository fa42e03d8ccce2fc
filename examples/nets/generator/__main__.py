"""Write the prototxt files of `examples/nets`: `python -m examples.nets.generator [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path

from examples.nets.generator.builder import Net, deployed, text
from examples.nets.generator.classifiers import alexnet, googlenet, nin, squeezenet, vgg16
from examples.nets.generator.residual import mobilenet, resnet
from examples.nets.generator.segmentation import fcn, without_loss

CLASSIFIERS = {
    "alexnet": (alexnet, "fc8"),
    "googlenet": (googlenet, "loss3/classifier"),
    "mobilenet": (mobilenet, "fc7"),
    "nin": (nin, "pool4"),
    "resnet18": (lambda: resnet(18), "fc1000"),
    "resnet50": (lambda: resnet(50), "fc1000"),
    "resnet152": (lambda: resnet(152), "fc1000"),
    "squeezenet": (squeezenet, "pool10"),
    "vgg16": (vgg16, "fc8"),
}


def files() -> dict[str, str]:
    """The content of every file, by its name."""
    found = {}
    for name, (make, scores) in CLASSIFIERS.items():
        net: Net = make()
        found[f"{name}_train_val.prototxt"] = text(net.param, net.about)
        found[f"{name}_deploy.prototxt"] = text(deployed(net, scores, items=10), net.about)
    for stride in (8, 32):
        net = fcn(stride)
        found[f"fcn{stride}s_train.prototxt"] = text(net.param, net.about)
        found[f"fcn{stride}s_deploy.prototxt"] = text(without_loss(net), net.about)
    return found


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    for name, content in files().items():
        (folder / name).write_text(content)


if __name__ == "__main__":
    main()
