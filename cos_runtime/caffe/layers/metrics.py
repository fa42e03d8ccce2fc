"""Layers that tell how good a prediction is, or which class it is: no gradient comes from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.labels import class_numbers, without_ignored


@register("Accuracy")
class Accuracy(Layer):
    """Bottoms: scores, with the classes on ``axis``, and labels; top: the part of the labels that is predicted.

    A label counts as predicted if fewer than ``top_k`` other classes score as high. ``ignore_label`` is not counted;
    without any label that is, the accuracy is 0. The second top (classes,) is the accuracy of each class.
    """

    n_bottoms = (2, 2)
    n_tops = (1, 2)
    without_gradient = (0, 1)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.accuracy_param
        scores, labels = bottoms
        self.axis = self.canonical_axis(param.axis, len(scores))
        if math.prod(scores) != math.prod(labels) * scores[self.axis]:
            self.refuse(f"scores of the shape {scores} with classes on axis {self.axis} do not fit labels of {labels}")
        self.top_k = param.top_k
        if self.top_k > scores[self.axis]:
            self.refuse(f"top_k is {self.top_k}, but there are {scores[self.axis]} classes")
        self.ignore = param.ignore_label if param.HasField("ignore_label") else None
        return [(), (scores[self.axis],)][: len(self.param.top)]

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        scores = scores.movedim(self.axis, -1)
        kept_labels, kept = without_ignored(labels.reshape(scores.shape[:-1]), self.ignore)
        classes = class_numbers(self, kept_labels, scores.shape[-1])
        own = scores.gather(-1, classes[..., None])
        hits = ((scores >= own).sum(-1) <= self.top_k).to(scores.dtype)
        counted = torch.ones_like(hits) if kept is None else kept.to(scores.dtype)
        hits = hits * counted
        accuracy = hits.sum() / counted.sum().clamp(min=1)
        if len(self.param.top) == 1:
            return accuracy
        hits_of, counted_of = (
            values.new_zeros(scores.shape[-1]).index_add_(0, classes.flatten(), values.flatten())
            for values in (hits, counted)
        )
        return accuracy, hits_of / counted_of.clamp(min=1)


@register("ArgMax")
class ArgMax(Layer):
    """The places of the ``top_k`` greatest values along ``axis``, or of the whole item.

    Of equal values the last comes first. With ``out_max_val`` the top has the values instead of the places, or,
    without an axis, places and values: (items, 2, top_k, 1...).
    """

    without_gradient = (0,)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.argmax_param
        bottom = bottoms[0]
        if not bottom:
            self.refuse("it takes a bottom of 1 axis or more, not a single value")
        self.axis = self.canonical_axis(param.axis, len(bottom)) if param.HasField("axis") else None
        size = math.prod(bottom[1:]) if self.axis is None else bottom[self.axis]
        self.top_k, self.with_values = param.top_k, param.out_max_val
        if not 1 <= self.top_k <= size:
            self.refuse(f"top_k is {self.top_k}, it must be 1 to {size}, the number of values")
        if self.axis is not None:
            return [(*bottom[: self.axis], self.top_k, *bottom[self.axis + 1 :])]
        return [(bottom[0], 2 if self.with_values else 1, self.top_k, *(1,) * (len(bottom) - 3))]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if self.axis is not None:
            values, places = _greatest(x, self.axis, self.top_k)
            return values if self.with_values else places.to(x.dtype)
        values, places = _greatest(x.reshape(x.shape[0], -1), 1, self.top_k)
        places = places.to(x.dtype)
        top = torch.stack((places, values), 1) if self.with_values else places[:, None]
        return top.view(*top.shape, *(1,) * (x.dim() - 3))


def _greatest(x: Tensor, axis: int, count: int) -> tuple[Tensor, Tensor]:
    """The greatest values and their places, from greatest to least, later places before earlier ones."""
    # Of equal values torch takes the first: in a mirrored blob that is the last.
    mirrored = x.flip(axis)
    if count == 1:
        values, places = mirrored.max(axis, keepdim=True)
    else:
        values, places = mirrored.sort(dim=axis, descending=True, stable=True)
    return values.narrow(axis, 0, count), x.shape[axis] - 1 - places.narrow(axis, 0, count)
