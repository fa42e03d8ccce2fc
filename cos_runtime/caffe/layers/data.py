"""Layers whose tops come from outside the net."""

from __future__ import annotations

from collections.abc import Sequence

from cos_runtime.caffe.layers.base import ANY, Layer, Shape, register
from cos_runtime.caffe.schema.caffe_pb2 import CoSDataParameter


class SourceLayer(Layer):
    """A layer that computes nothing: its tops are handed to the net.

    :meth:`setup` returns the shapes that the prototxt itself tells; an empty list where it takes the
    records to know.
    """

    is_source = True
    n_bottoms = (0, 0)
    n_tops = (1, ANY)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return []


@register("Input")
class Input(SourceLayer):
    """Tops of the shapes in ``input_param``: one shape a top, or one for all."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shapes = [tuple(shape.dim) for shape in self.param.input_param.shape]
        tops = len(self.param.top)
        if len(shapes) not in (0, 1, tops):
            self.refuse(f"input_param has {len(shapes)} shapes for {tops} tops: give one, or one a top")
        return shapes * tops if len(shapes) == 1 else shapes


@register("Data")
class Data(SourceLayer):
    """Records of an LMDB: images and, as a second top, labels."""

    n_tops = (1, 2)


@register("MemoryData")
class MemoryData(SourceLayer):
    """Images of the declared size, and labels."""

    n_tops = (1, 2)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.memory_data_param
        image = (param.batch_size, param.channels, param.height, param.width)
        if min(image) < 1:
            self.refuse(f"batch_size, channels, height and width are {image}: each must be 1 or more")
        return [image, (param.batch_size,)][: len(self.param.top)]


@register("CoSData")
class CoSData(SourceLayer):
    """Columns of a DataFrame: tops as ``cos_data_param`` describes them, one ``top`` entry a top.

    A top has the batch and the first ``sample_num_axes`` of its channels, height and width (``out_`` ones, after a
    transformation, where given); with ``transpose`` its one axis comes before the batch, as recurrent nets take it.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.cos_data_param
        if len(param.top) != len(self.param.top):
            self.refuse(f"cos_data_param describes {len(param.top)} tops, the layer has {len(self.param.top)}")
        if param.batch_size < 1:
            self.refuse("it has no batch_size: give 1 or more")
        return [self._shape(top) for top in param.top]

    def _shape(self, top: CoSDataParameter.TopBlob) -> Shape:
        axes = top.sample_num_axes
        if axes > 3 or (top.transpose and axes != 1):
            self.refuse(f'top "{top.name}" has sample_num_axes {axes}: it is 3 at most, and 1 with transpose')
        sizes = (
            top.out_channels or top.channels,
            top.out_height or top.transform_param.crop_size or top.height,
            top.out_width or top.transform_param.crop_size or top.width,
        )[:axes]
        batch = self.param.cos_data_param.batch_size
        return (*sizes, batch) if top.transpose else (batch, *sizes)
