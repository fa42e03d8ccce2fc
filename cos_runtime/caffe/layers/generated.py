"""Layers that make their tops themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from cos_runtime.caffe.fillers import fill
from cos_runtime.caffe.layers.base import ANY, Layer, Shape, register
from cos_runtime.caffe.layers.gradients import of_last_pass
from cos_runtime.caffe.schema.caffe_pb2 import FillerParameter
from cos_runtime.errors import UserError

T = TypeVar("T")


@register("Parameter")
class Parameter(Layer):
    """top = a parameter blob of the shape in ``parameter_param``, zeros at first.

    Its gradient is that of the last pass: top and blob share it in Caffe, so that none adds to the one before.
    """

    n_bottoms = (0, 0)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape = tuple(self.param.parameter_param.shape.dim)
        self.add_blob(shape)
        return [shape]

    def forward(self) -> Tensor:
        return of_last_pass(self.blobs.owned[0], self.blobs[0])


@register("DummyData")
class DummyData(Layer):
    """Tops filled by ``data_filler`` (zeros without one): once by "constant", anew each pass by any other."""

    n_bottoms = (0, 0)
    n_tops = (1, ANY)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param, tops = self.param.dummy_data_param, len(self.param.top)
        self.fillers = self._one_a_top("data_filler", list(param.data_filler) or [FillerParameter()])
        old = {name: list(getattr(param, name)) for name in ("num", "channels", "height", "width")}
        if any(old.values()) and param.shape:
            self.refuse("both shape and num, channels, height, width are given: keep shape")
        if any(old.values()):
            shapes = list(zip(*(self._one_a_top(name, sizes) for name, sizes in old.items()), strict=True))
        else:
            shapes = self._one_a_top("shape", [tuple(shape.dim) for shape in param.shape])
        self.names = [f"top{index}" for index in range(tops)]
        for name, shape, filler in zip(self.names, shapes, self.fillers, strict=True):
            self.register_buffer(name, self._filled(shape, filler), persistent=False)
        return shapes

    def _filled(self, shape: Shape, filler: FillerParameter) -> Tensor:
        try:
            return fill(torch.empty(shape), filler)
        except UserError as error:
            self.refuse(str(error))

    def _one_a_top(self, field: str, given: list[T]) -> list[T]:
        tops = len(self.param.top)
        if len(given) not in (1, tops):
            self.refuse(f"{field} is given {len(given)} times for {tops} tops: give it once, or once a top")
        return given if len(given) == tops else given * tops

    def forward(self) -> tuple[Tensor, ...]:
        tops = (self.get_buffer(name) for name in self.names)
        return tuple(
            top if filler.type == "constant" else fill(torch.empty_like(top), filler)
            for top, filler in zip(tops, self.fillers, strict=True)
        )
