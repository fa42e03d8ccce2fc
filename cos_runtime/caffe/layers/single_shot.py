"""The layers of SSD around its loss: prior boxes, and detections (Liu et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cos_runtime.caffe.layers import boxes
from cos_runtime.caffe.layers.base import Layer, Shape, register

DEFAULT_VARIANCE = 0.1


@register("PriorBox")
class PriorBox(Layer):
    """Bottoms: a feature map and the image. top (1, 2, places * boxes * 4): the prior boxes, and their variances.

    At each place, row by row: for each ``min_size`` a square of it, one of sqrt(min_size * max_size) and one box for
    each ``aspect_ratio`` other than 1 (with ``flip`` for 1 over it too), in parts of the image.
    """

    n_bottoms = (2, 2)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.prior_box_param
        for bottom in bottoms:
            self.need_axes(bottom, 4)
        pairs_fit = all(high > low for low, high in zip(param.min_size, param.max_size, strict=False))
        if not param.min_size or min(param.min_size) <= 0 or len(param.max_size) not in (0, len(param.min_size)):
            self.refuse("give min_size, above 0, and for each one max_size, or none at all")
        if not pairs_fit:
            self.refuse("each max_size must be larger than its min_size")
        if len(param.variance) not in (0, 1, 4) or min(param.variance, default=1) <= 0:
            self.refuse(f"it has {len(param.variance)} variance: give none, one or four, each above 0")
        image = self._by_axis("img", "img_size", bottoms[1][2:])
        shape = bottoms[0][2:]
        step = self._by_axis("step", "step", tuple(i / s for i, s in zip(image, shape, strict=True)))
        self.register_buffer("top", self._boxes(shape, image, step), persistent=False)
        return [tuple(self.get_buffer("top").shape)]

    def _by_axis(self, prefix: str, both: str, default: Sequence[float]) -> tuple[float, float]:
        """A field of (height, width) in its forms: one for both, or one each."""
        param = self.param.prior_box_param
        if param.HasField(both):
            value = getattr(param, both)
            return (value, value) if value else (default[0], default[1])
        high, wide = getattr(param, f"{prefix}_h"), getattr(param, f"{prefix}_w")
        if bool(high) != bool(wide):
            self.refuse(f"one of {prefix}_h and {prefix}_w is given alone: give both")
        return (high, wide) if high else (default[0], default[1])

    def _sizes(self) -> list[tuple[float, float]]:
        """(width, height) of the boxes of a place, in pixels."""
        param = self.param.prior_box_param
        ratios = [1.0]
        for ratio in param.aspect_ratio:
            for each in (ratio, 1 / ratio) if param.flip else (ratio,):
                if all(abs(each - known) >= 1e-6 for known in ratios):
                    ratios.append(each)
        sizes: list[tuple[float, float]] = []
        for index, size in enumerate(param.min_size):
            sizes.append((size, size))
            if param.max_size:
                sizes.append((math.sqrt(size * param.max_size[index]),) * 2)
            sizes += [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in ratios[1:]]
        return sizes

    def _boxes(self, shape: Shape, image: tuple[float, float], step: tuple[float, float]) -> Tensor:
        param = self.param.prior_box_param
        rows, columns = ((torch.arange(s) + param.offset) * each for s, each in zip(shape, step, strict=True))
        centres = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[:, :, None]
        halves = torch.tensor(self._sizes()) / 2
        found = torch.cat((centres - halves, centres + halves), -1) / torch.tensor([image[1], image[0]] * 2)
        found = (found.clamp(0, 1) if param.clip else found).reshape(-1)
        variances = torch.tensor(list(param.variance) or [DEFAULT_VARIANCE])
        variances = variances.expand(4) if len(variances) == 1 else variances
        return torch.stack((found, variances.repeat(len(found) // 4)))[None]

    def forward(self, feature: Tensor, image: Tensor) -> Tensor:
        return self.get_buffer("top")


@register("DetectionOutput")
class DetectionOutput(Layer):
    """Bottoms: predicted locations, confidences of each prior box's classes, prior boxes as PriorBox gives them.

    top (1, 1, detections, 7): item, class, confidence, xmin, ymin, xmax, ymax, in parts of the image, the classes of
    an item in their order, each from the surest on. Where nothing is found: one row an item, -1 but for the item.
    """

    n_bottoms = (3, 3)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.detection_output_param
        if param.num_classes < 1:
            self.refuse("it has no num_classes: give 1 or more")
        for field in ("save_output_param", "visualize", "save_file"):
            if self._has(field):
                self.refuse(f"{field} is not supported: take what its top holds")
        self.n_locations = 1 if param.share_location else param.num_classes
        self.priors = bottoms[2][2] // 4
        for name, shape, width in (
            ("locations", bottoms[0], 4 * self.n_locations),
            ("confidences", bottoms[1], param.num_classes),
        ):
            if math.prod(shape[1:]) != self.priors * width:
                self.refuse(f"its {name} {shape} are not {width} for each of {self.priors} prior boxes")
        return [(1, 1, 1, 7)]

    def _has(self, field: Literal["save_output_param", "visualize", "save_file"]) -> bool:
        param = self.param.detection_output_param
        if field == "save_output_param":
            return bool(param.save_output_param.output_directory)
        return bool(getattr(param, field))

    @torch.no_grad()
    def forward(self, locations: Tensor, confidences: Tensor, priors: Tensor) -> Tensor:
        param = self.param.detection_output_param
        boxes_of, variances = priors.reshape(2, -1, 4)
        codes = locations.reshape(len(locations), self.priors, self.n_locations, 4).transpose(1, 2)
        codes = codes if param.variance_encoded_in_target else codes * variances
        decoded = boxes.decode(codes, boxes_of, param.code_type)
        scores = confidences.reshape(len(confidences), self.priors, param.num_classes).transpose(1, 2)
        rows = [self._detected(item, decoded[item], scores[item]) for item in range(len(locations))]
        found = torch.cat(rows)
        if not len(found):
            found = locations.new_full((len(locations), 7), -1.0)
            found[:, 0] = torch.arange(len(locations))
        return found[None, None]

    def _detected(self, item: int, decoded: Tensor, scores: Tensor) -> Tensor:
        """The rows of an item, from its boxes (1 or classes, priors, 4) and scores (classes, priors)."""
        param = self.param.detection_output_param
        rows = [decoded.new_zeros(0, 7)]
        for label in range(param.num_classes):
            if label == param.background_label_id:
                continue
            own = decoded[0 if param.share_location else label]
            best = self._best(scores[label])
            best = best[boxes.suppress(own[best], param.nms_param.nms_threshold, eta=param.nms_param.eta)]
            head = own.new_tensor([item, label]).expand(len(best), 2)
            rows.append(torch.cat((head, scores[label][best][:, None], own[best]), 1))
        found = torch.cat(rows)
        if -1 < param.keep_top_k < len(found):
            surest = found[:, 2].argsort(descending=True, stable=True)[: param.keep_top_k]
            found = found[surest.sort().values]
        return found

    def _best(self, scores: Tensor) -> Tensor:
        """Which scores count, from the best on."""
        param = self.param.detection_output_param
        order = scores.argsort(descending=True, stable=True)
        if param.HasField("confidence_threshold"):
            order = order[scores[order] > param.confidence_threshold]
        has_limit = param.nms_param.HasField("top_k") and param.nms_param.top_k > -1
        return order[: param.nms_param.top_k] if has_limit else order
