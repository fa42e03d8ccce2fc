"""A net's blobs, taken apart by the records of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cos_runtime.caffe.layers import Shape
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter
from cos_runtime.errors import UserError


class ByRecord:
    """Tells what in a blob is whose record's.

    Which axis is the batch's is found by setting the net up for twice as many records: its sizes alone do not tell a
    batch of ten records from ten classes.

    Args:
        net: a net with data layers.
        batch: records of a full batch, for which its shapes are.
    """

    def __init__(self, net: Net, batch: int) -> None:
        self._shapes, self._batch = net.shapes, batch
        self._axes = _batch_axes(net, batch)

    def sums(self, name: str, blob: Tensor, records: int) -> Tensor:
        """The sums over a batch's records of each one's values, float64."""
        return self.rows(name, blob.detach().double().cpu(), records).sum(0)

    def rows(self, name: str, blob: Tensor, records: int) -> Tensor:
        """Each record's values, [records, n]: of a blob of the batch as a whole, like a loss, all of them."""
        if name not in self._axes:
            return blob.reshape(1, -1).expand(records, -1)
        axis = self._axes[name]
        if blob.shape[axis] % records == 0:
            return blob.movedim(axis, 0).reshape(records, -1)
        # The axes before have a part in the batch too: the records lie one after the other.
        return blob.reshape(records, -1)

    def width(self, name: str) -> int:
        """How many values of a blob are a record's."""
        count = math.prod(self._shapes[name])
        return count // self._batch if name in self._axes else count


def _batch_axes(net: Net, batch: int) -> dict[str, int]:
    """The axis that grows with the batch, of each blob that has one."""
    twice = _shapes_of_twice(net)
    if twice is None:
        # The net takes no other batch.
        return {name: 0 for name, shape in net.shapes.items() if shape[:1] == (batch,)}
    found = {
        name: [axis for axis in range(len(shape)) if _doubled(shape, axis) == twice[name]]
        for name, shape in net.shapes.items()
    }
    return {name: axes[0] for name, axes in found.items() if axes}


def _shapes_of_twice(net: Net) -> Mapping[str, Shape] | None:
    """The shapes of the net's blobs for twice its batch; None where it cannot have that."""
    late = _tops_with_late_batch(net.param)
    shapes = {name: net.shapes[name] for name in net.inputs}
    inputs = {name: _doubled(shape, len(shape) - 1 if name in late else 0) for name, shape in shapes.items()}
    state = net.param.state
    # Without values it takes neither time nor memory; with them, for a layer that looks at some as it is set up.
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                return Net(net.param, net.phase, inputs, level=state.level, stages=state.stage).shapes
        except (UserError, RuntimeError, TypeError, ValueError):
            continue
    return None


def _tops_with_late_batch(param: NetParameter) -> set[str]:
    """Tops of data layers whose batch is their last axis and not their first."""
    described = [pair for layer in param.layer for pair in zip(layer.top, layer.cos_data_param.top, strict=False)]
    return {name for name, top in described if top.transpose}


def _doubled(shape: Shape, axis: int) -> Shape:
    return tuple(size * (1 + (place == axis)) for place, size in enumerate(shape))
