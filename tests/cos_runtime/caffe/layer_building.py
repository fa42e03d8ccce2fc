"""One layer without a net."""

from __future__ import annotations

from cos_runtime.caffe.layers import LAYERS, Layer, Shape
from cos_runtime.caffe.prototxt import parse
from cos_runtime.caffe.schema.caffe_pb2 import TRAIN, LayerParameter, Phase


def set_up(text: str, *bottoms: Shape, tops: int = 1, phase: Phase = TRAIN) -> tuple[Layer, list[Shape]]:
    """The layer ``text`` describes, set up for these bottoms, and the shapes of its tops."""
    param = parse(f'name: "l" {text}', LayerParameter(), "layer")
    if not param.bottom:
        param.bottom.extend(f"b{i}" for i in range(len(bottoms)))
    if not param.top:
        param.top.extend(f"t{i}" for i in range(tops))
    layer = LAYERS[param.type](param, phase)
    return layer, layer.setup(list(bottoms))


def build(text: str, *bottoms: Shape, tops: int = 1, phase: Phase = TRAIN) -> Layer:
    """As :func:`set_up`, the layer only."""
    return set_up(text, *bottoms, tops=tops, phase=phase)[0]
