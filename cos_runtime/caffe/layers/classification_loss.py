"""Losses of predicted probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cos_runtime import storage
from cos_runtime.caffe import blobs
from cos_runtime.caffe.layers.base import Shape, register
from cos_runtime.caffe.layers.gradients import with_gradient_of
from cos_runtime.caffe.layers.labels import class_numbers, without_ignored
from cos_runtime.caffe.layers.loss import Loss, Normalization
from cos_runtime.caffe.schema.caffe_pb2 import LossParameter
from cos_runtime.caffe.schema.weights_pb2 import Blob

# Caffe takes the logarithm of no smaller probability than these.
LEAST_FLOAT = 1.17549435e-38
LOG_THRESHOLD = 1e-20


class _SoftmaxLoss(Loss):
    """A loss of the softmax along an axis, with the probabilities as a second top, which has no gradient."""

    n_tops = (1, 2)

    def setup_softmax(self, bottoms: Sequence[Shape], axis: int) -> list[Shape]:
        """Check scores against labels, and return the tops' shapes."""
        tops = super().setup(bottoms)
        scores, labels = bottoms[:2]
        self.axis = self.canonical_axis(axis, len(scores))
        if math.prod(scores) != math.prod(labels) * scores[self.axis]:
            self.refuse(f"scores of the shape {scores} with classes on axis {self.axis} do not fit labels of {labels}")
        self.normalization = Normalization(self, LossParameter.VALID)
        return [*tops, scores][: len(self.param.top)]

    def labelled(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The scores (outer, classes, inner), their labels (outer, inner), and which are kept (None for all)."""
        outer, classes = math.prod(scores.shape[: self.axis]), scores.shape[self.axis]
        scores = scores.reshape(outer, classes, -1)
        kept_labels, kept = without_ignored(labels.reshape(outer, -1), self.normalization.ignore)
        return scores, class_numbers(self, kept_labels, classes), kept

    def tops(self, terms: Tensor, kept: Tensor | None, scores: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The loss from the terms of its sum, one a label, and the probabilities where they are wanted."""
        if kept is not None:
            terms = terms * kept
        loss = terms.sum() / self.normalization.divisor(terms.shape[0], terms.numel(), kept)
        return loss if len(self.param.top) == 1 else (loss, scores.detach().softmax(self.axis))


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(_SoftmaxLoss):
    """Bottoms: scores, with the classes on ``axis``, and labels; top = sum of -log(softmax at the label) / divisor.

    The divisor is the number of labels not ignored, or what ``normalization`` says.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return self.setup_softmax(bottoms, self.param.softmax_param.axis)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        by_class, classes, kept = self.labelled(scores, labels)
        terms = functional.cross_entropy(by_class, classes, reduction="none")
        # The value ends where Caffe's does, at 87.3; the gradient goes on.
        terms = with_gradient_of(terms, terms.detach().clamp(max=-math.log(LEAST_FLOAT)))
        return self.tops(terms, kept, scores)


@register("InfogainLoss")
class InfogainLoss(_SoftmaxLoss):
    """As SoftmaxWithLoss, with every class's logarithm weighed by the label's row of a matrix H.

    top = sum over labels and classes of -H[label, class] * log(softmax at the class) / divisor. H is the third bottom,
    or the binaryproto file ``source``.
    """

    n_bottoms = (2, 3)
    without_gradient = (1, 2)
    matrix: Tensor

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.infogain_loss_param
        if self.param.loss_param.HasField("normalize"):
            self.refuse("normalize is no field of this loss: give normalization")
        tops = self.setup_softmax(bottoms, param.axis)
        classes = bottoms[0][self.axis]
        if len(bottoms) < 3:
            if not param.source:
                self.refuse("it has no matrix: give a third bottom, or its file as infogain_loss_param.source")
            self.register_buffer("matrix", self._read(param.source), persistent=False)
        shape = bottoms[2] if len(bottoms) > 2 else tuple(self.matrix.shape)
        if math.prod(shape) != classes**2:
            self.refuse(f"a matrix of the shape {shape} does not fit {classes} classes")
        return tops

    def _read(self, path: str) -> Tensor:
        content = storage.read_bytes(path, "infogain matrix")
        with blobs.damage_named(path, "binaryproto file"):
            return torch.from_numpy(blobs.from_message(Blob.FromString(content)))

    def forward(self, scores: Tensor, labels: Tensor, matrix: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        by_class, classes, kept = self.labelled(scores, labels)
        weights = (self.matrix if matrix is None else matrix.detach()).view(by_class.shape[1], -1)
        logs = by_class.log_softmax(1)
        logs = with_gradient_of(logs, logs.detach().clamp(min=math.log(LOG_THRESHOLD)))
        terms = -(weights[classes].movedim(-1, 1) * logs).sum(1)
        return self.tops(terms, kept, scores)


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """Bottoms: scores x and targets t; top = sum of -t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x)) / divisor.

    The divisor is the number of items, or what ``normalization`` says.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.need_one_size(*bottoms)
        self.normalization = Normalization(self, LossParameter.BATCH_SIZE)
        return super().setup(bottoms)

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        targets = targets.detach().view_as(scores)
        terms = functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        _, kept = without_ignored(targets, self.normalization.ignore)
        if kept is not None:
            terms = terms * kept
        return terms.sum() / self.normalization.divisor(scores.shape[0], scores.numel(), kept)


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """Bottoms: probabilities (items, classes...) and labels; top = sum of -log(probability at the label) / items."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().setup(bottoms)
        self.need_label_an_item(bottoms, bottoms[1])
        return tops

    def forward(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        by_class = probabilities.reshape(probabilities.shape[0], -1)
        classes = class_numbers(self, labels.flatten(), by_class.shape[1])
        own = by_class.gather(1, classes[:, None])
        # A probability below the threshold has the gradient of the threshold, not none.
        own = with_gradient_of(own, own.detach().clamp(min=LOG_THRESHOLD))
        return -own.log().sum() / by_class.shape[0]
