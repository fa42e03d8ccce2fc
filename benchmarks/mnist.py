"""MNIST as the benchmarks' two sides want it: Caffe's LMDBs, and arrays."""

import gzip
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cos_runtime.tools import mnist_to_lmdb

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
_FILES = EXAMPLES / "mnist" / "data"
SCALE = 0.00390625  # LeNet's transform_param: 1/256


@cache
def scratch() -> Path:
    """A folder for what the benchmarks make; it ends with the process."""
    folder = tempfile.TemporaryDirectory(prefix="cos-bench-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


@cache
def lmdb(part: str) -> Path:
    """The LMDB of ``train`` (60,000 records) or ``t10k`` (10,000)."""
    target = scratch() / f"mnist_{part}_lmdb"
    images, labels_file = (str(_FILES / f"{part}-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    mnist_to_lmdb.convert(images, labels_file, str(target))
    return target


def pixels(part: str) -> np.ndarray:
    """The images as they are stored, uint8 [N, 1, 28, 28]."""
    content = gzip.decompress((_FILES / f"{part}-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 1, 28, 28)


def labels(part: str) -> np.ndarray:
    """The labels, int64 [N]."""
    content = gzip.decompress((_FILES / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(content, np.uint8, offset=8).astype(np.int64)


def tensors(part: str) -> tuple[Tensor, Tensor]:
    """Images ready for LeNet, float32 [N, 1, 28, 28], and labels, int64 [N]."""
    return torch.from_numpy(pixels(part).astype(np.float32) * SCALE), torch.from_numpy(labels(part))
