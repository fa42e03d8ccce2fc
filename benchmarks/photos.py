"""Photos from JPEG files to a net's input, on one core: an ImageData layer against torchvision's v2 in a DataLoader."""

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from google.protobuf import text_format
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from benchmarks.measure import Benchmark, Pair
from benchmarks.mnist import scratch
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TRAIN, NetParameter

_PHOTOS, _BATCH, _BATCHES = 128, 32, 8
_HEIGHT, _WIDTH = 375, 500  # the most frequent size of ImageNet's photos
_MEAN = (104.0, 117.0, 123.0)
_NET = """
layer {{ name: "data" type: "ImageData" top: "data" top: "label"
  image_data_param {{ source: "{folder}/list.txt" root_folder: "{folder}/" batch_size: {batch}
    new_height: 256 new_width: 256 }}
  transform_param {{ crop_size: 224 mirror: true mean_value: 104 mean_value: 117 mean_value: 123 }} }}
"""


@cache
def _folder() -> Path:
    """Photos of soft shapes and some noise, about as large in files as ImageNet's."""
    folder = scratch() / "photos"
    folder.mkdir()
    generator = np.random.default_rng(1)
    for index in range(_PHOTOS):
        coarse = Image.fromarray(generator.integers(256, size=(12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), np.float32)
        noisy = smooth + generator.normal(0, 12, smooth.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=90)
    (folder / "list.txt").write_text("".join(f"{index}.jpg {index % 10}\n" for index in range(_PHOTOS)))
    return folder


class _Photos(Dataset[tuple[Tensor, int]]):
    """The photos, transformed one by one as DataLoader wants it."""

    def __init__(self, folder: Path) -> None:
        self._paths = [str(folder / f"{index}.jpg") for index in range(_PHOTOS)]
        self._transform = v2.Compose(
            [
                v2.Resize((256, 256), antialias=False),
                v2.RandomCrop(224),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32),
                v2.Normalize(_MEAN, (1.0, 1.0, 1.0)),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(decode_image(self._paths[index], mode=ImageReadMode.RGB)), index % 10


def photos() -> Pair:
    """Images a second: decoded, resized to 256 x 256, cropped to 224 x 224, mirrored, the mean taken off."""
    torch.set_num_threads(1)
    folder = _folder()
    param = text_format.Parse(_NET.format(folder=folder, batch=_BATCH), NetParameter())
    net = Net(param, TRAIN)
    own = _rate(lambda: net({}, ["data"]))
    loader = iter(DataLoader(_Photos(folder), batch_size=_BATCH, sampler=[*range(_PHOTOS)] * (_BATCHES + 1)))
    return own, _rate(lambda: next(loader))


def _rate(batch: Callable[[], object]) -> float:
    batch()
    start = time.perf_counter()
    for _ in range(_BATCHES):
        batch()
    return _BATCH * _BATCHES / (time.perf_counter() - start)


BENCHMARKS = [
    Benchmark("photos", "ImageData, JPEG files to 224 x 224", "torchvision v2, DataLoader", "images/s", 1.0, photos)
]
