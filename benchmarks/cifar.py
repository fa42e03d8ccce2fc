"""Images of CIFAR-10's size, at random: enough to measure a net's speed."""

from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.mnist import scratch
from cos_runtime.caffe.datum import from_array
from cos_runtime.caffe.transform import write_mean
from cos_runtime.tools._lmdb_writer import LMDBWriter

_IMAGES = 10_000


@cache
def lmdb() -> Path:
    """An LMDB of 10,000 images with their labels."""
    target = scratch() / "cifar10_lmdb"
    generator = np.random.default_rng(1)
    with LMDBWriter(str(target)) as writer:
        for index in range(_IMAGES):
            image = generator.integers(256, size=(3, 32, 32), dtype=np.uint8)
            writer.put(f"{index:08}", from_array(image, int(generator.integers(10))))
    return target


@cache
def mean() -> Path:
    """A mean file for them."""
    target = scratch() / "cifar10_mean.binaryproto"
    write_mean(str(target), np.full((3, 32, 32), 127.5, np.float32))
    return target
