"""The order in which a net computes its layers, and what it may save on the way: memory, and passes over it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from torch import Tensor

from cos_runtime.caffe.layers import Layer
from cos_runtime.caffe.layers.activation import Pointwise
from cos_runtime.caffe.layers.memory import Memory
from cos_runtime.caffe.layers.normalization import BatchNorm
from cos_runtime.caffe.layers.scale import Scale
from cos_runtime.caffe.schema.caffe_pb2 import EltwiseParameter

Tops = Tensor | tuple[Tensor, ...]

# What these return is memory of its own, and torch does not look at it again for their gradient.
_REPLACEABLE = {"BatchNorm", "Bias", "Concat", "Convolution", "ConvolutionDepthwise", "Deconvolution"} | {
    "DepthwiseConvolution",
    "InnerProduct",
    "Scale",
}


@dataclass(frozen=True)
class Step:
    """One layer in its place.

    Attributes:
        layer: the layer.
        bottoms: names of the blobs it takes.
        tops: names of the blobs it gives.
        detached: for each bottom whether its gradient is cut off; or empty.
        spent: the blobs that nothing needs after it.
        compute: the tops of the bottoms; the layer itself, or what does the work of several in one pass.
        leaves: told the top, which is what the backward pass finds in the memory of an earlier layer's top.
    """

    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    detached: tuple[bool, ...]
    compute: Callable[..., Tops]
    spent: tuple[str, ...] = ()
    leaves: tuple[Memory, ...] = ()

    @classmethod
    def of(cls, layer: Layer, *, force_backward: bool = False) -> Step:
        """The step of a layer as the prototxt connects it; ``force_backward`` is the net's."""
        param = layer.param
        detached = tuple(
            not keep and not (force_backward and index != layer.label_bottom)
            for index, keep in enumerate(param.propagate_down)
        )
        return cls(layer, tuple(param.bottom), tuple(param.top), detached, layer)


def plan(steps: Sequence[Step], outputs: Collection[str]) -> list[Step]:
    """The steps with what may be saved: passes that one call does together, blobs freed or overwritten early.

    Args:
        steps: one a layer, in order.
        outputs: names of the blobs to keep to the end.
    """
    for index, step in enumerate(steps):
        step.layer.may_overwrite = _may_overwrite(steps[:index], step)
    return _with_spent_blobs(_spoiled(list(_fused(steps))), outputs)


def _may_overwrite(before: Sequence[Step], step: Step) -> bool:
    """Whether an in-place layer may write over its bottom's memory, for nothing reads what was there."""
    if not step.layer.overwrites or step.bottoms != step.tops or any(step.detached):
        return False
    for earlier in reversed(before):
        if step.bottoms[0] in earlier.tops:
            kind, param = earlier.layer.param.type, earlier.layer.param
            is_sum = kind == "Eltwise" and param.eltwise_param.operation == EltwiseParameter.SUM
            return kind in _REPLACEABLE or is_sum
    return False


def _fused(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps, those of a BatchNorm and an in-place Scale right after it as one."""
    pairs = iter(range(len(steps)))
    for index in pairs:
        step, after = steps[index], steps[index + 1] if index + 1 < len(steps) else None
        is_pair = (
            after is not None
            and isinstance(step.layer, BatchNorm)
            and isinstance(after.layer, Scale)
            and after.bottoms == after.tops == step.tops
            and not any(after.detached)
            and after.layer.is_by_channel
        )
        if not is_pair or after is None:
            yield step
            continue
        yield replace(step, compute=partial(_normalized_and_scaled, step.layer, cast(Scale, after.layer)))
        next(pairs)


def _spoiled(steps: Sequence[Step]) -> list[Step]:
    """The steps, those whose derivative later ones in place change with the derivative of what they leave."""
    planned = list(steps)
    for index, step in enumerate(steps):
        if not isinstance(step.layer, Pointwise):
            continue
        later = range(index + 1, len(steps))
        chain = [number for number in later if steps[number].bottoms[:1] == steps[number].tops[:1] == step.tops]
        if step.layer.is_spoiled_by([steps[number].layer.param.type for number in chain]):
            memory = Memory(step.layer)
            planned[index] = replace(planned[index], compute=memory.compute)
            last = planned[chain[-1]]
            planned[chain[-1]] = replace(last, leaves=(*last.leaves, memory))
    return planned


def _normalized_and_scaled(normalization: Layer, scale: Scale, x: Tensor) -> Tensor:
    _, *bias = scale.blobs
    top: Tensor = normalization(x, scale.factor(x), *bias)
    return top


def _with_spent_blobs(steps: list[Step], outputs: Collection[str]) -> list[Step]:
    last_use = {name: i for i, step in enumerate(steps) for name in (*step.bottoms, *step.tops)}
    spent: list[list[str]] = [[] for _ in steps]
    for name, last in last_use.items():
        if name not in outputs:
            spent[last].append(name)
    return [replace(step, spent=tuple(names)) for step, names in zip(steps, spent, strict=True)]
