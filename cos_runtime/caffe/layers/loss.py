"""What loss layers have in common, and the losses by distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.gradients import root_plus
from cos_runtime.caffe.layers.labels import class_numbers
from cos_runtime.caffe.schema.caffe_pb2 import HingeLossParameter, LossParameter


class Loss(Layer):
    """A layer with a scalar top (), whose bottoms have the batch in common."""

    n_bottoms = (2, 2)
    is_loss = True
    label_bottom: ClassVar[int | None] = 1
    without_gradient: ClassVar[tuple[int, ...]] = (1,)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not bottoms[0] or bottoms[0][:1] != bottoms[1][:1]:
            self.refuse(f"its bottoms, of the shapes {bottoms[0]} and {bottoms[1]}, must have one number of items")
        return [()]

    def need_one_size(self, first: Shape, second: Shape) -> None:
        """Refuse bottoms that differ in their number of values."""
        if math.prod(first) != math.prod(second):
            self.refuse(f"its bottoms must have one size, not {first} and {second}")

    def need_label_an_item(self, bottoms: Sequence[Shape], labels: Shape) -> None:
        """Refuse labels that are not one an item of the first bottom."""
        if math.prod(labels) != bottoms[0][0]:
            self.refuse(f"labels of the shape {labels} are not one an item of {bottoms[0]}")


class Normalization:
    """By which number a loss is divided, from ``loss_param``.

    Args:
        layer: the loss layer.
        default: the mode where none is given.
    """

    def __init__(self, layer: Layer, default: LossParameter.NormalizationMode) -> None:
        param = layer.param.loss_param
        self.ignore = param.ignore_label if param.HasField("ignore_label") else None
        self.mode = param.normalization if param.HasField("normalization") else default
        if param.HasField("normalize") and not param.HasField("normalization"):
            # The older form of the field.
            self.mode = LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE

    def divisor(self, items: int, values: int, kept: Tensor | None) -> Tensor | int:
        """The number of ``items``, of ``values``, of those that are ``kept`` (None: all), or 1; never less than 1."""
        if self.mode == LossParameter.NONE:
            return 1
        if self.mode == LossParameter.BATCH_SIZE:
            return max(1, items)
        if self.mode == LossParameter.FULL or kept is None:
            return max(1, values)
        return kept.sum().clamp(min=1)


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """top = sum of (first - second)^2 / (2 * items); both bottoms have a gradient."""

    label_bottom = None
    without_gradient = ()

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.need_one_size(*bottoms)
        return super().setup(bottoms)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return functional.mse_loss(first, second.view_as(first), reduction="sum") / (2 * first.shape[0])


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Bottoms: two features (items, channels), and whether they are alike (1) or not (0).

    top = sum over the items / (2 * items) of d^2 for alike ones and max(0, margin - d)^2 for others, d being the
    distance; of max(0, margin - d^2) with ``legacy_version``.
    """

    n_bottoms = (3, 3)
    label_bottom = 2
    without_gradient = ()

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().setup(bottoms)
        if any(not shape or math.prod(shape[2:]) != 1 for shape in bottoms[:2]):
            self.refuse(f"it takes features of the shape (items, channels), not {bottoms[0]} and {bottoms[1]}")
        self.need_one_size(bottoms[0], bottoms[1])
        self.need_label_an_item(bottoms, bottoms[2])
        return tops

    def forward(self, first: Tensor, second: Tensor, alike: Tensor) -> Tensor:
        param = self.param.contrastive_loss_param
        squares = (first - second.view_as(first)).reshape(first.shape[0], -1).square().sum(1)
        if param.legacy_version:
            apart = (param.margin - squares).relu()
        else:
            # Caffe divides the gradient by d + 1e-4: equal features have one.
            apart = (param.margin + 1e-4 - root_plus(squares, 1e-4)).relu().square()
        return torch.where(alike.flatten().long() != 0, squares, apart).sum() / (2 * first.shape[0])


@register("HingeLoss")
class HingeLoss(Loss):
    """Bottoms: scores (items, classes...) and labels; top = sum of max(0, 1 - s * score)^p / items.

    s is 1 for the label's class and -1 for the others, p is 1 or 2 by ``norm``.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().setup(bottoms)
        self.need_label_an_item(bottoms, bottoms[1])
        return tops

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        scores = scores.reshape(scores.shape[0], -1)
        classes = class_numbers(self, labels.flatten(), scores.shape[1])
        signs = torch.ones_like(scores).scatter_(1, classes[:, None], -1.0)
        margins = (1 + signs * scores).relu()
        if self.param.hinge_loss_param.norm == HingeLossParameter.L2:
            margins = margins.square()
        return margins.sum() / scores.shape[0]


@register("SmoothL1Loss")
class SmoothL1Loss(Loss):
    """Bottoms: predictions, targets and, if there are four, weights within and without the function (Fast R-CNN).

    top = sum of outer * f(inner * (prediction - target)) / items, with f(d) = (sigma * d)^2 / 2 for
    \\|d\\| < 1 / sigma^2, else \\|d\\| - 1 / (2 * sigma^2).
    """

    n_bottoms = (2, 4)
    label_bottom = None
    without_gradient = ()

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms) == 3:
            self.refuse("it has 3 bottoms: give two, or the weights within and without too")
        for shape in bottoms[1:]:
            self.need_one_size(bottoms[0], shape)
        self.beta = 1 / self.param.smooth_l1_loss_param.sigma**2
        return super().setup(bottoms)

    def forward(self, predictions: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
        distance = predictions - targets.view_as(predictions)
        inner, outer = (each.detach().view_as(distance) for each in weights) if weights else (1.0, 1.0)
        distance = distance * inner
        terms = functional.smooth_l1_loss(distance, torch.zeros_like(distance), reduction="none", beta=self.beta)
        return (outer * terms).sum() / predictions.shape[0]
