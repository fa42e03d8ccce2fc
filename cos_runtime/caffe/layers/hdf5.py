"""Layers over HDF5 files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import h5py
import numpy as np
import torch
from torch import Tensor

from cos_runtime import storage
from cos_runtime.caffe import blobs
from cos_runtime.caffe.layers.base import ANY, Layer, Shape, register
from cos_runtime.caffe.layers.reading import own_turns, permutation, read_lines

Rows = dict[str, np.ndarray]


@register("HDF5Data")
class HDF5Data(Layer):
    """Tops = rows of the data sets of their names, ``batch_size`` a pass, from the files that ``source`` lists.

    It goes through the files one after the other, again and again; with ``shuffle`` the files, and the rows of each,
    are in random order. Ranks take turns: each row is one rank's, but for a file whose rows make a whole batch, as a
    constant that each pass has.
    """

    n_bottoms = (0, 0)
    n_tops = (1, ANY)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.hdf5_data_param
        if self.param.HasField("transform_param"):
            self.refuse("it takes no transform_param: transform the values in the file")
        if param.batch_size < 1:
            self.refuse("it has no batch_size: give 1 or more")
        # Caffe reads word by word: a line may have several.
        self.files = " ".join(read_lines(self, param.source, "list of HDF5 files")).split()
        first = self._load(self.files[0])
        rows = len(next(iter(first.values())))
        self.reads_in_order = len(self.files) > 1 or param.batch_size % rows != 0
        self.item_shapes: dict[str, Shape] = {name: rows.shape[1:] for name, rows in first.items()}
        self.rows: Iterator[Rows] | None = None
        return [(param.batch_size, *first[top].shape[1:]) for top in self.param.top]

    def _load(self, path: str) -> Rows:
        content = storage.read_bytes(path, "HDF5 file")
        with blobs.damage_named(path, "HDF5 file"), blobs.reading_hdf5(content) as file:
            lacking = [top for top in self.param.top if not isinstance(file.get(top), h5py.Dataset)]
            if lacking:
                self.refuse(f'{path} has no data set "{lacking[0]}": its tops are named after the data sets')
            rows = {top: blobs.read_dataset(file[top]) for top in self.param.top}
        counts = {top: len(values) if values.ndim else 0 for top, values in rows.items()}
        if len(set(counts.values())) > 1 or not all(counts.values()):
            self.refuse(f"the data sets in {path} have {counts} rows: each must have the same number, 1 or more")
        return rows

    def _round(self) -> Iterator[Rows]:
        """Every row of every file."""
        shuffle = self.param.hdf5_data_param.shuffle
        for index in permutation(len(self.files)) if shuffle else range(len(self.files)):
            file = self._load(self.files[index])
            for name, values in file.items():
                if values.shape[1:] != self.item_shapes[name]:
                    self.refuse(
                        f'"{name}" in {self.files[index]} has rows of {values.shape[1:]}, '
                        f"the first file has {self.item_shapes[name]}"
                    )
            count = len(next(iter(file.values())))
            for row in permutation(count) if shuffle else range(count):
                yield {name: values[row] for name, values in file.items()}

    def forward(self) -> tuple[Tensor, ...]:
        if self.rows is None:
            self.rows = own_turns(self, iter(self._round, None))
        rows = [next(self.rows) for _ in range(self.param.hdf5_data_param.batch_size)]
        return tuple(torch.from_numpy(np.stack([row[top] for row in rows])) for top in self.param.top)


@register("HDF5Output")
class HDF5Output(Layer):
    """Writes its two bottoms as the data sets ``data`` and ``label`` of ``file_name``, the last batch's values."""

    n_bottoms = (2, 2)
    n_tops = (0, 0)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not self.param.hdf5_output_param.file_name:
            self.refuse("it has no file_name: name the file to write")
        if not bottoms[0] or bottoms[0][:1] != bottoms[1][:1]:
            self.refuse(f"its bottoms, of the shapes {bottoms[0]} and {bottoms[1]}, must have one number of items")
        return []

    def forward(self, data: Tensor, label: Tensor) -> tuple[()]:
        named = {"data": _four_axes(data), "label": _four_axes(label)}
        storage.write_bytes(self.param.hdf5_output_param.file_name, blobs.to_hdf5(named))
        return ()


def _four_axes(blob: Tensor) -> np.ndarray:
    """The values as Caffe's file has them: (items, channels, height, width)."""
    shape = (*blob.shape, *(1,) * (4 - blob.dim()))
    return blob.detach().cpu().numpy().reshape(*shape[:3], math.prod(shape[3:]))
