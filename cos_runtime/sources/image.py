"""Sources of labelled images: what their DataFrames look like, and the way from rows to a net's blobs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from cos_runtime import storage
from cos_runtime.caffe.pixels import decode_image, resize
from cos_runtime.caffe.schema.caffe_pb2 import TransformationParameter
from cos_runtime.caffe.transform import Transformer
from cos_runtime.errors import CorruptRecordError, UserError
from cos_runtime.sources.base import DataSource

Shape = tuple[int, int, int]


class ImageSource(DataSource):
    """Base of the sources whose DataFrame has the columns of :data:`cos_runtime.sources.image_schema.IMAGE_SCHEMA`.

    It serves two layer types. ``MemoryData`` declares the size of the net's input, after the crop; ``Data`` takes the
    size of the first record. Their first top is the data, float32 [B, C, h, w], the second, if there is one, the
    label, float32 [B].

    A subclass gives :meth:`dataframe`, and for ``Data`` layers :meth:`first_shape`; one with more to check extends
    :meth:`check`.
    """

    @property
    def source(self) -> str:
        """The ``source`` of the layer, as it is written there."""
        param = self.layer.data_param if self.layer.type == "Data" else self.layer.memory_data_param
        if not param.source:
            raise self._refusal("has no source: name where its records are")
        return param.source

    @property
    def source_path(self) -> str:
        """The ``source`` of the layer as a path, relative ones counted from the solver's folder."""
        return storage.resolve(self.source, self.folder)

    @property
    def batch_size(self) -> int:
        """Records a rank takes in one forward pass."""
        param = self.layer.data_param if self.layer.type == "Data" else self.layer.memory_data_param
        if param.batch_size < 1:
            raise self._refusal("has no batch_size: give 1 or more")
        return param.batch_size

    def check(self) -> None:
        """Refuse a layer that contradicts itself or does not fit its images, with a UserError."""
        if self.layer.type not in {"Data", "MemoryData"}:
            raise self._refusal(f"is of type {self.layer.type}: images go into a Data or a MemoryData layer")
        if len(self.layer.top) not in {1, 2}:
            raise self._refusal(f"has {len(self.layer.top)} tops: the data, and the label if it is wanted")
        if not self.source:
            raise self._refusal("has no source: name where its records are")
        self.top_shapes()

    def top_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each top: data [B, C, h, w] as the net sees it, label [B]."""
        shapes = ((self.batch_size, *self.net_shape), (self.batch_size,))
        return dict(zip(self.layer.top, shapes, strict=False))

    def first_shape(self, channels: int | None) -> Shape:
        """The shape [C, H, W] of the first record, before resizing and cropping; asked for ``Data`` layers only.

        Args:
            channels: of an encoded image once decoded (see :func:`cos_runtime.caffe.pixels.decode_image`).
        """
        raise self._refusal(
            f"is a Data layer, whose size {type(self).__name__} cannot tell: use a MemoryData layer, "
            f"with channels, height and width"
        )

    @cached_property
    def transformer(self) -> Transformer:
        """The layer's transformations; it is pickled with the source, so that only the driver reads the mean file."""
        param = TransformationParameter()
        param.CopyFrom(self.layer.transform_param)
        if param.mean_file:
            param.mean_file = storage.resolve(param.mean_file, self.folder)
        try:
            return Transformer(param, self.is_train)
        except UserError as error:
            raise self._refusal(f"cannot transform its images: {error}") from None

    @cached_property
    def net_shape(self) -> Shape:
        """The shape [C, h, w] of an image as the net sees it."""
        crop, declared = self.transformer.crop, self._record_shape
        if self.layer.type == "Data" or not crop:
            return self._cropped(declared)
        if declared[1:] != (crop, crop):
            raise self._refusal(
                f"declares images of {_text(declared)} and crop_size {crop}: "
                f"height and width are those of the net's input, so they must be {crop}"
            )
        return declared

    @cached_property
    def _record_shape(self) -> Shape:
        """The shape [C, H, W] of the images that the layer expects: declared, or that of the first record."""
        if self.layer.type == "Data":
            return self.first_shape(self._decoded_channels)
        param = self.layer.memory_data_param
        declared = (param.channels, param.height, param.width)
        if min(declared) < 1:
            raise self._refusal(f"declares images of {_text(declared)}: each must be 1 or more")
        return declared

    @property
    def _decoded_channels(self) -> int | None:
        """The channels that encoded images are decoded to; None for those of the file."""
        param = self.layer.transform_param
        if param.force_color or param.force_gray:
            return 3 if param.force_color else 1
        channels = self.layer.memory_data_param.channels
        return channels if channels in {1, 3} else None

    def decode(self, rows: pa.RecordBatch, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """The top blobs of these rows: data, float32 [B, C, h, w], and label, float32 [B].

        Raises:
            CorruptRecordError: an image is damaged, a label is missing.
            UserError: an image is of another size than the net takes.
        """
        tops = {self.layer.top[0]: self._data(rows, generator)}
        if len(self.layer.top) > 1:
            labels = rows.column("label")
            if labels.null_count:
                at = pc.index(labels.is_null(), True).as_py()
                raise CorruptRecordError(f"record {rows.column('id')[at]} of {self.source} has no label")
            tops[self.layer.top[1]] = torch.from_numpy(labels.to_numpy(zero_copy_only=False).astype(np.float32))
        return tops

    def _data(self, rows: pa.RecordBatch, generator: np.random.Generator) -> torch.Tensor:
        if not rows.num_rows:
            return torch.empty((0, *self.net_shape))
        raw = raw_images(rows)
        if raw is not None:
            return self._transformed(raw, rows.column("id")[0].as_py(), generator)
        images = [self._image(row) for row in rows.to_pylist()]
        ids = rows.column("id").to_pylist()
        if len({image.shape for image in images}) == 1:
            return self._transformed(np.stack(images), ids[0], generator)
        each = [self._transformed(image[None], name, generator) for name, image in zip(ids, images, strict=True)]
        return torch.cat(each)

    def _image(self, row: dict[str, Any]) -> np.ndarray:
        """The image [C, H, W] of one row, of the size that is asked for if `-resize` is on."""
        content, origin = row["data"], f"record {row['id']} of {self.source}"
        if not content:
            raise CorruptRecordError(f"{origin} has no data that can be read")
        if row["encoded"]:
            image = decode_image(content, self._decoded_channels, origin)
        else:
            shape = tuple(row[size] or 0 for size in ("channels", "height", "width"))
            kind = _pixel_type(len(content), int(np.prod(shape)))
            if kind is None:
                raise CorruptRecordError(f"{origin} holds {len(content)} bytes, which is no image of {_text(shape)}")
            image = np.frombuffer(content, dtype=kind).reshape(shape)
        return resize(image[None], *self._record_shape[1:])[0] if self.resize else image

    def _transformed(self, images: np.ndarray, first_id: str, generator: np.random.Generator) -> torch.Tensor:
        if self.resize:
            images = resize(images, *self._record_shape[1:])
        shape = images.shape[1:]
        if self._fits(shape):
            return self.transformer(images, generator)
        hint = "" if shape[0] != self.net_shape[0] or self.resize else ": give -resize to have it resized"
        raise self._refusal(
            f"takes images of {_text(self.net_shape)}, record {first_id} of {self.source} is of {_text(shape)}{hint}"
        )

    def _fits(self, shape: tuple[int, ...]) -> bool:
        channels, height, width = shape
        crop = self.transformer.crop
        if crop and channels == self.net_shape[0]:
            return min(height, width) >= crop
        return shape == self.net_shape

    def _cropped(self, shape: Shape) -> Shape:
        try:
            return self.transformer.out_shape(*shape)
        except UserError as error:
            raise self._refusal(f"cannot transform its images: {error}") from None

    def _refusal(self, reason: str) -> UserError:
        return UserError(f'layer "{self.layer.name}" {reason}')


def raw_images(rows: pa.RecordBatch) -> np.ndarray | None:
    """The images of rows that are all raw and of one shape and type: a view [B, C, H, W] of Arrow's own buffer.

    None where the rows differ or some are encoded.
    """
    if pc.any(rows.column("encoded")).as_py():
        return None
    shape = tuple(_common_value(rows.column(name)) for name in ("channels", "height", "width"))
    data = rows.column("data")
    if min(shape) < 1 or data.null_count:
        return None
    data = data if pa.types.is_large_binary(data.type) else data.cast(pa.binary())
    _, offset_buffer, content = data.buffers()
    width = np.int64 if pa.types.is_large_binary(data.type) else np.int32
    # A slice shares its parent's buffers and tells its place in them by its offset.
    offsets = np.frombuffer(offset_buffer, dtype=width)[data.offset : data.offset + len(data) + 1]
    lengths = np.diff(offsets)
    kind = _pixel_type(int(lengths[0]), int(np.prod(shape)))
    if kind is None or (lengths != lengths[0]).any():
        return None
    values = np.frombuffer(content, dtype=kind, count=len(data) * int(np.prod(shape)), offset=int(offsets[0]))
    return values.reshape(len(data), *shape)


def _common_value(column: pa.Array) -> int:
    """The value that all rows have, 0 if they differ or some have none."""
    bounds = pc.min_max(column, skip_nulls=False)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    return low if low is not None and low == high else 0


def _pixel_type(n_bytes: int, n_values: int) -> np.dtype | None:
    """The type of ``n_values`` > 0 pixels that take ``n_bytes``, None if they cannot."""
    types: dict[int, np.dtype] = {n_values: np.dtype("u1"), 4 * n_values: np.dtype("<f4")}
    return types.get(n_bytes)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + " (channels x height x width)"
