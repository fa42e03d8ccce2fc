"""Caffe's data transformations: from stored pixels to the values that a net sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from google.protobuf.message import DecodeError

from cos_runtime import storage
from cos_runtime.caffe.schema.caffe_pb2 import BlobProto, TransformationParameter
from cos_runtime.errors import UserError


class Transformer:
    """Crop, mirror, mean and scale, in Caffe's order.

    An image is cropped (at random in TRAIN, from its centre in TEST), mirrored on the toss of a coin (in TEST too,
    as in Caffe), and becomes ``(pixel - mean) * scale``. A mean image is taken under the crop, before the mirroring.

    Args:
        param: the layer's ``transform_param``.
        is_train: whether crops are random.
        mean: the mean image [C, H, W] of uncropped size; if None, ``param.mean_file`` is read where it is given.

    Raises:
        UserError: ``param`` contradicts itself, or its mean file cannot be read.
    """

    def __init__(self, param: TransformationParameter, is_train: bool, mean: np.ndarray | None = None) -> None:
        if param.mean_value and (param.mean_file or mean is not None):
            raise UserError("transform_param has both mean_file and mean_value: keep one of them")
        if param.force_color and param.force_gray:
            raise UserError("transform_param has both force_color and force_gray: keep one of them")
        self.crop = param.crop_size
        self.mirror = param.mirror
        self.scale = np.float32(param.scale)
        self.is_train = is_train
        self.mean_values = np.array(param.mean_value, dtype=np.float32)
        if mean is None and param.mean_file:
            mean = read_mean(param.mean_file)
        self.mean_image = mean

    def out_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """The shape [C, h, w] that images of the given size leave with.

        Raises:
            UserError: the images do not fit the crop or the mean.
        """
        if self.crop > min(height, width):
            raise UserError(f"crop_size {self.crop} is larger than the image of {height} x {width} pixels")
        if len(self.mean_values) not in {0, 1, channels}:
            raise UserError(
                f"transform_param has {len(self.mean_values)} values of mean_value for {channels} channels: "
                f"give one, or one a channel"
            )
        if self.mean_image is not None and self.mean_image.shape != (channels, height, width):
            raise UserError(
                f"the mean file is of an image of {_sizes(self.mean_image.shape)} (channels x height x width), "
                f"the images are of {_sizes((channels, height, width))}"
            )
        return (channels, self.crop, self.crop) if self.crop else (channels, height, width)

    def __call__(self, images: np.ndarray, generator: np.random.Generator) -> torch.Tensor:
        """Transform a batch.

        Args:
            images: uint8 or float32 [B, C, H, W]; left as it is.
            generator: for the crops and mirrors; the same state gives the same result.

        Returns:
            float32 [B, C, h, w].
        """
        shape = self.out_shape(*images.shape[1:])
        n, rows, columns = len(images), images.shape[2] - shape[1], images.shape[3] - shape[2]
        values = np.empty((n, *shape), dtype=np.float32)
        is_random = self.is_train and rows + columns > 0
        if not is_random and not self.mirror:
            self._fill(values, images, rows // 2, columns // 2)
            return torch.from_numpy(values)
        tops = generator.integers(rows + 1, size=n) if is_random else np.full(n, rows // 2)
        lefts = generator.integers(columns + 1, size=n) if is_random else np.full(n, columns // 2)
        mirrored = generator.integers(2, size=n) if self.mirror else np.zeros(n)
        for image, value, top, left, is_mirrored in zip(images, values, tops, lefts, mirrored, strict=True):
            # Pixels are written from right to left: no pass of its own.
            self._fill(value[..., ::-1] if is_mirrored else value, image, top, left)
        return torch.from_numpy(values)

    def _fill(self, values: np.ndarray, images: np.ndarray, top: int, left: int) -> None:
        """Put what the window of ``images`` [..., H, W] from ``top``, ``left`` on becomes in ``values`` [..., h, w]."""
        height, width = values.shape[-2:]
        window = np.s_[..., top : top + height, left : left + width]
        if self.mean_values.size:
            np.subtract(images[window], self.mean_values.reshape(-1, 1, 1), out=values, dtype=np.float32)
        elif self.mean_image is not None:
            np.subtract(images[window], self.mean_image[window], out=values, dtype=np.float32)
        else:
            np.multiply(images[window], self.scale, out=values, dtype=np.float32)
            return
        if self.scale != 1:
            values *= self.scale


def read_mean(path: str) -> np.ndarray:
    """The mean image in a ``BlobProto`` file (``.binaryproto``), float32 [C, H, W].

    Raises:
        UserError: the file is missing, damaged or holds no image.
    """
    blob = BlobProto()
    try:
        blob.ParseFromString(storage.read_bytes(path, "mean file"))
    except DecodeError:
        raise UserError(f"mean file {path} is no BlobProto: it is damaged, or of another format") from None
    values = np.array(blob.data or blob.double_data, dtype=np.float32)
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    image = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(image) != 3 or min(image) < 1:
        raise UserError(f"mean file {path} holds a blob of shape {_sizes(shape)}: one image is expected")
    if values.size != np.prod(image):
        raise UserError(f"mean file {path} holds {values.size} values, its shape {_sizes(shape)} {np.prod(image)}")
    return values.reshape(image)


def write_mean(path: str, mean: np.ndarray) -> None:
    """Write a mean image [C, H, W] as the ``BlobProto`` file that :func:`read_mean` and Caffe read."""
    channels, height, width = mean.shape
    blob = BlobProto(num=1, channels=channels, height=height, width=width, data=mean.astype(np.float32).ravel())
    storage.write_bytes(path, blob.SerializeToString())


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
