"""The well-known nets of examples/nets: sizes as published, and a pass of the small ones."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from cos_runtime.caffe.layers import base
from cos_runtime.caffe.net import Net
from cos_runtime.tools import _data_shapes, _net_file, forward
from examples.nets.generator.__main__ import files

NETS = Path(__file__).parents[3] / "examples" / "nets"
PROBABILITIES = {"prob": (1000,)}

# Parameters that are learned (BatchNorm's own sums are not among them), and the shapes of some blobs without the batch.
PUBLISHED = {
    # 60,965,224: the 243,862,414 bytes of bvlc_alexnet.caffemodel, at 4 bytes each.
    "alexnet_train_val": (60_965_224, {"conv1": (96, 55, 55), "pool1": (96, 27, 27), "pool5": (256, 6, 6)}),
    "alexnet_deploy": (60_965_224, {"fc7": (4096,), **PROBABILITIES}),
    # The layers' sizes in Hinton, Salakhutdinov 2006: 784-1000-500-250-30 and back.
    "autoencoder_train_test": (2_837_314, {"encode4": (30,), "decode1neuron": (784,)}),
    # Long et al. 2015, table 1: 134 million; the coarse scores of an image of 500 x 500 are 16 x 16.
    "fcn32s_train": (134_432_597, {"score_fr": (21, 16, 16), "score": (21, 500, 500)}),
    "fcn32s_deploy": (134_432_597, {"score": (21, 500, 500)}),
    "fcn8s_train": (134_369_567, {"fuse_pool4": (21, 34, 34), "fuse_pool3": (21, 70, 70), "score": (21, 500, 500)}),
    "fcn8s_deploy": (134_369_567, {"score": (21, 500, 500)}),
    # 13,378,280: the 53,533,754 bytes of bvlc_googlenet.caffemodel; Szegedy et al. 2014, table 1 for the shapes.
    "googlenet_train_val": (
        13_378_280,
        {
            "conv1/7x7_s2": (64, 112, 112),
            "inception_3b/output": (480, 28, 28),
            "inception_4e/output": (832, 14, 14),
            "inception_5b/output": (1024, 7, 7),
            "loss1/ave_pool": (512, 4, 4),
            "loss2/ave_pool": (528, 4, 4),
        },
    ),
    "googlenet_deploy": (6_998_552, {"pool5/7x7_s1": (1024, 1, 1), **PROBABILITIES}),
    # Four times 1,000 units, their inputs and biases each; Donahue et al. 2015 for the units, their code for the words.
    "lrcn_deploy": (37_618_801, {"lstm2": (1, 1000), "probs": (1, 8801)}),
    # Howard et al. 2017, table 8: 4.2 million; to the unit, the trainable ones of Keras' MobileNet.
    "mobilenet_train_val": (4_231_976, {"conv1": (32, 112, 112), "conv5_6/sep": (1024, 7, 7)}),
    "mobilenet_deploy": (4_231_976, {"prob": (1000, 1, 1)}),
    # 7,595,176: the 29 MiB of nin_imagenet.caffemodel.
    "nin_train_val": (7_595_176, {"conv1": (96, 54, 54), "cccp8-1024": (1000, 6, 6)}),
    "nin_deploy": (7_595_176, {"prob": (1000, 1, 1)}),
    # The counts that torchvision gives for its models of these names; He et al. 2015, table 1 for the shapes.
    "resnet18_train_val": (11_689_512, {"res2b": (64, 56, 56), "res5b": (512, 7, 7)}),
    "resnet18_deploy": (11_689_512, PROBABILITIES),
    "resnet50_train_val": (25_557_032, {"res2c": (256, 56, 56), "res4f": (1024, 14, 14), "res5c": (2048, 7, 7)}),
    "resnet50_deploy": (25_557_032, PROBABILITIES),
    "resnet152_train_val": (60_192_808, {"res3b7": (512, 28, 28), "res4b35": (1024, 14, 14)}),
    "resnet152_deploy": (60_192_808, PROBABILITIES),
    # LeNet's 431,080 and two more outputs of its last layer.
    "siamese_train_test": (431_102, {"conv2_p": (50, 8, 8), "feat_p": (2,)}),
    "siamese_deploy": (431_102, {"feat": (2,)}),
    # The counts that torchvision gives for squeezenet1_1 and vgg16.
    "squeezenet_train_val": (1_235_496, {"fire9/concat": (512, 14, 14), "conv10": (1000, 14, 14)}),
    "squeezenet_deploy": (1_235_496, {"prob": (1000, 1, 1)}),
    "vgg16_train_val": (138_357_544, {"pool1": (64, 112, 112), "pool5": (512, 7, 7)}),
    "vgg16_deploy": (138_357_544, PROBABILITIES),
}


def read(name: str, phase: str = "train") -> _net_file.NetFile:
    return _net_file.read(Namespace(net=str(NETS / f"{name}.prototxt"), phase=phase, level=0, stage=[]))


def learned(net: Net) -> int:
    kept = {id(blob) for blob in net.state_blobs}
    return sum(blob.parameter.numel() for blob in net.learnable if id(blob.parameter) not in kept)


def test_no_net_is_left_out() -> None:
    assert sorted(PUBLISHED) == sorted(path.stem for path in NETS.glob("*.prototxt"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_net_has_the_published_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, shapes = PUBLISHED[name]
    # A billion numbers in all: to fill them would take most of the time, and their shapes are enough.
    monkeypatch.setattr(base, "fill", lambda blob, _: blob)
    net = _data_shapes.build(read(name))
    assert learned(net) == parameters
    assert {blob: net.shapes[blob][1:] for blob in shapes} == shapes
    assert not set(net.losses) - set(net.outputs)
    assert bool(net.losses) == name.endswith(("train", "train_val", "train_test"))


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("squeezenet_deploy", {"data": (2, 3, 227, 227)}),
        ("mobilenet_deploy", {"data": (1, 3, 224, 224)}),
        ("siamese_deploy", {"data": (3, 1, 28, 28)}),
        ("siamese_train_test", {"pair_data": (3, 2, 28, 28), "sim": (3,)}),
        ("autoencoder_train_test", {"data": (3, 1, 28, 28)}),
        ("lrcn_deploy", {"image_features": (2, 1000), "cont_sentence": (3, 2), "input_sentence": (3, 2)}),
    ],
)
def test_a_small_net_runs(name: str, inputs: dict[str, tuple[int, ...]]) -> None:
    torch.manual_seed(1)
    random = np.random.default_rng(1)
    arrays = {blob: random.random(shape, np.float32) for blob, shape in inputs.items()}
    net = forward.build(read(name, "test"), arrays)
    blobs = forward.compute(net, arrays)
    assert set(blobs) == set(net.shapes)
    assert {blob: value.shape for blob, value in blobs.items()} == net.shapes
    assert all(np.isfinite(value).all() for value in blobs.values())
    for blob, axis in {"prob": 1, "probs": 2}.items():
        if blob in blobs:
            np.testing.assert_allclose(blobs[blob].sum(axis), 1, rtol=1e-4)


def test_the_generated_files_are_what_the_generator_makes() -> None:
    made = files()
    assert {name: (NETS / name).read_text() for name in made} == made, "run `python -m examples.nets.generator`"
