"""SSD's loss: boxes matched to prior boxes, the hardest background among the rest (Liu et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cos_runtime.caffe.layers import boxes
from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.loss import Normalization
from cos_runtime.caffe.schema.caffe_pb2 import LossParameter, MultiBoxLossParameter

LEAST_OVERLAP = 1e-6
_UNMATCHED, _LEFT_OUT = -1, -2


@dataclass(frozen=True)
class _Truth:
    """The boxes of one image: classes (n,) and corners (n, 4)."""

    labels: Tensor
    boxes: Tensor


@register("MultiBoxLoss")
class MultiBoxLoss(Layer):
    """Bottoms: locations, confidences, prior boxes as PriorBox gives them, and the true boxes (1, 1, n, 8).

    A row of these: item, class, instance, xmin, ymin, xmax, ymax, difficult; an item of -1 is no row. top = (loc_weight
    * loss of the matched locations + loss of the confidences) / matches, or what ``normalization`` says. A true box is
    matched to the prior box that overlaps it most and, with ``PER_PREDICTION``, to all above ``overlap_threshold``.
    Confidences count of the matched ones and of ``neg_pos_ratio`` times as many of background, the worst first.
    """

    n_bottoms = (4, 4)
    is_loss = True

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.multibox_loss_param
        if param.num_classes < 1:
            self.refuse("it has no num_classes: give 1 or more")
        if param.map_object_to_agnostic and param.num_classes != 2:
            self.refuse(f"map_object_to_agnostic leaves 2 classes, and num_classes is {param.num_classes}")
        self._refuse_unsupported()
        self.is_mining = param.mining_type == MultiBoxLossParameter.MAX_NEGATIVE
        if param.HasField("do_neg_mining"):
            self.is_mining = param.do_neg_mining
        self.priors = bottoms[2][2] // 4
        for name, shape, width in (
            ("locations", bottoms[0], 4),
            ("confidences", bottoms[1], param.num_classes),
        ):
            if math.prod(shape[1:]) != self.priors * width:
                self.refuse(f"its {name} {shape} are not {width} for each of {self.priors} prior boxes")
        if bottoms[3][-1:] != (8,):
            self.refuse(f"true boxes have rows of 8 values, not the shape {bottoms[3]}")
        self.normalization = Normalization(self, LossParameter.VALID)
        return [()]

    def _refuse_unsupported(self) -> None:
        param = self.param.multibox_loss_param
        if not param.share_location:
            self.refuse("share_location: false is not supported: share the locations among the classes")
        if not param.use_prior_for_matching:
            self.refuse("use_prior_for_matching: false is not supported: leave it out")
        if param.mining_type == MultiBoxLossParameter.HARD_EXAMPLE or param.bp_inside:
            self.refuse("mining_type: HARD_EXAMPLE and bp_inside are not supported: use MAX_NEGATIVE or NONE")

    def forward(self, locations: Tensor, confidences: Tensor, priors: Tensor, truths: Tensor) -> Tensor:
        param = self.param.multibox_loss_param
        items = len(locations)
        locations, confidences = locations.reshape(items, -1, 4), confidences.reshape(items, -1, param.num_classes)
        prior_boxes, variances = priors.detach().reshape(2, -1, 4)
        of_locations, of_confidences = locations.new_zeros(()), confidences.new_zeros(())
        matches = 0
        for item in range(items):
            truth = self._truth(truths.detach(), item)
            matched, overlap = self._match(truth, prior_boxes)
            places = (matched > _UNMATCHED).nonzero().flatten()
            labels = torch.full((len(prior_boxes),), param.background_label_id, device=locations.device)
            own = truth.labels[matched[places]]
            labels[places] = param.background_label_id + 1 if param.map_object_to_agnostic else own
            matches += len(places)
            target = boxes.encode(truth.boxes[matched[places]], prior_boxes[places], param.code_type)
            spread = variances[places]
            of_locations = of_locations + self._location_loss(locations[item, places], target, spread)
            terms = self._confidence_terms(confidences[item], labels)
            chosen = self._chosen(terms.detach(), matched, overlap, is_empty=not len(truth.labels))
            of_confidences = of_confidences + terms[chosen].sum()
        kept = torch.tensor(matches, device=locations.device)
        divisor = self.normalization.divisor(items, items * self.priors, kept)
        return (param.loc_weight * of_locations + of_confidences) / divisor

    def _truth(self, truths: Tensor, item: int) -> _Truth:
        param = self.param.multibox_loss_param
        rows = truths.reshape(-1, 8)
        rows = rows[rows[:, 0].long() == item]
        rows = rows if param.use_difficult_gt else rows[rows[:, 7] == 0]
        labels = rows[:, 1].long()
        is_no_class = (labels < 0) | (labels >= param.num_classes)
        if bool(is_no_class.any()) and not param.map_object_to_agnostic:
            self.refuse(f"a true box has a class that is not 0 to {param.num_classes - 1}")
        if bool((labels == param.background_label_id).any()):
            self.refuse(f"a true box has the class of the background, {param.background_label_id}")
        return _Truth(labels, rows[:, 3:7])

    def _match(self, truth: _Truth, priors: Tensor) -> tuple[Tensor, Tensor]:
        """For each prior box the true box it is matched to, or -1 or -2, and its largest overlap with any."""
        param = self.param.multibox_loss_param
        matched = torch.full((len(priors),), _UNMATCHED, device=priors.device)
        if param.ignore_cross_boundary_bbox:
            matched[((priors < 0) | (priors > 1)).any(1)] = _LEFT_OUT
        if not len(truth.labels):
            return matched, priors.new_zeros(len(priors))
        overlap = boxes.overlaps(priors, truth.boxes)
        overlap = torch.where((overlap > LEAST_OVERLAP) & (matched == _UNMATCHED)[:, None], overlap, 0.0)
        largest, nearest = overlap.max(1)
        left = overlap.clone()
        for _ in truth.labels:
            place = int(left.argmax())
            prior, box = divmod(place, len(truth.labels))
            if left[prior, box] <= 0:
                break
            matched[prior] = box
            left[prior], left[:, box] = 0, 0
        if param.match_type == MultiBoxLossParameter.PER_PREDICTION:
            near = (matched == _UNMATCHED) & (largest >= param.overlap_threshold) & (largest > 0)
            matched = torch.where(near, nearest, matched)
        return matched, largest

    def _location_loss(self, predicted: Tensor, target: Tensor, variances: Tensor) -> Tensor:
        param = self.param.multibox_loss_param
        target = target / variances
        predicted = predicted / variances if param.encode_variance_in_target else predicted
        if param.loc_loss_type == MultiBoxLossParameter.L2:
            return functional.mse_loss(predicted, target, reduction="sum") / 2
        return functional.smooth_l1_loss(predicted, target, reduction="sum")

    def _confidence_terms(self, confidences: Tensor, labels: Tensor) -> Tensor:
        """The loss of each prior box's confidences (priors, classes) for its label."""
        param = self.param.multibox_loss_param
        if param.conf_loss_type == MultiBoxLossParameter.SOFTMAX:
            return functional.cross_entropy(confidences, labels, reduction="none")
        target = functional.one_hot(labels, param.num_classes).to(confidences.dtype)
        return functional.binary_cross_entropy_with_logits(confidences, target, reduction="none").sum(1)

    def _chosen(self, terms: Tensor, matched: Tensor, overlap: Tensor, *, is_empty: bool) -> Tensor:
        """Of which prior boxes the confidences count."""
        param = self.param.multibox_loss_param
        if not self.is_mining:
            return torch.ones_like(matched, dtype=torch.bool)
        chosen = matched > _UNMATCHED
        if is_empty:
            return chosen
        negatives = ((matched == _UNMATCHED) & (overlap < param.neg_overlap)).nonzero().flatten()
        count = int(int(chosen.sum()) * param.neg_pos_ratio)
        hardest = terms[negatives].argsort(descending=True, stable=True)[:count]
        chosen[negatives[hardest]] = True
        return chosen
