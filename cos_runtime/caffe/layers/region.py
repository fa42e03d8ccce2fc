"""ROIPooling: a small map of each region of interest (Girshick 2015, Fast R-CNN)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cos_runtime.caffe.layers.base import Layer, Shape, register


@register("ROIPooling")
class ROIPooling(Layer):
    """Bottoms: a feature map, and regions of it (regions, 5): item, x1, y1, x2, y2.

    The top has the shape (regions, channels, pooled_h, pooled_w).
    A region, times ``spatial_scale`` and rounded, is parted into pooled_h x pooled_w windows, of which the top has the
    greatest values; 0 for one outside of the map.
    """

    n_bottoms = (2, 2)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.roi_pooling_param
        self.need_axes(bottoms[0], 4)
        if min(param.pooled_h, param.pooled_w) < 1:
            self.refuse(f"pooled_h is {param.pooled_h} and pooled_w {param.pooled_w}: both must be 1 or more")
        if math.prod(bottoms[1][1:]) != 5:
            self.refuse(f"regions have 5 values each, item and corners, not the shape {bottoms[1]}")
        return [(bottoms[1][0], bottoms[0][1], param.pooled_h, param.pooled_w)]

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        param = self.param.roi_pooling_param
        regions = regions.detach().reshape(-1, 5)
        scaled = regions[:, 1:] * param.spatial_scale
        # C's round: halves go away from zero.
        corners = (scaled + torch.copysign(torch.full_like(scaled, 0.5), scaled)).trunc().long().tolist()
        items = regions[:, 0].long().tolist()
        if items and (min(items) < 0 or max(items) >= len(x)):
            self.refuse(f"a region is of item {max(items)}, there are {len(x)}")
        tops = [self._pooled(x[item], *corner) for item, corner in zip(items, corners, strict=True)]
        return torch.stack(tops) if tops else x.new_zeros(0, x.shape[1], param.pooled_h, param.pooled_w)

    def _pooled(self, x: Tensor, left: int, top: int, right: int, bottom: int) -> Tensor:
        param, (high, wide) = self.param.roi_pooling_param, x.shape[1:]
        right, bottom = max(left, right), max(top, bottom)
        rows, columns = (max(top, 0), min(bottom, high - 1)), (max(left, 0), min(right, wide - 1))
        if rows[1] < rows[0] or columns[1] < columns[0]:
            return x.new_zeros(x.shape[0], param.pooled_h, param.pooled_w)
        window = x[:, rows[0] : rows[1] + 1, columns[0] : columns[1] + 1]
        outside = (columns[0] - left, right - columns[1], rows[0] - top, bottom - rows[1])
        window = functional.pad(window, outside, value=-math.inf) if any(outside) else window
        # torch parts an image as Fast R-CNN does: from floor(i * size / n) to ceil((i + 1) * size / n).
        pooled = functional.adaptive_max_pool2d(window, (param.pooled_h, param.pooled_w))
        return pooled.masked_fill(pooled == -math.inf, 0.0) if any(outside) else pooled
