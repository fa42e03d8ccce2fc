"""Region proposals of Faster R-CNN (Ren et al. 2015), which its nets take from a Python layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cos_runtime.caffe.layers import boxes


@dataclass(frozen=True)
class Limits:
    """How many boxes are looked at and kept, how much kept ones may overlap, and their least side in pixels.

    The defaults of py-faster-rcnn's ``lib/fast_rcnn/config.py``, by phase.
    """

    before: int
    kept: int
    overlap: float = 0.7
    least_side: float = 16.0


TRAIN_LIMITS, TEST_LIMITS = Limits(12000, 2000), Limits(6000, 300)
BASE_SIZE = 16
RATIOS = (0.5, 1.0, 2.0)


def anchors(scales: Sequence[float], base: int = BASE_SIZE, ratios: Sequence[float] = RATIOS) -> Tensor:
    """Boxes (ratios * scales, 4) around the first cell, in pixels: of each ratio (height : width), in each scale."""
    centre = (base - 1) / 2
    found = []
    for ratio in ratios:
        width = round((base * base / ratio) ** 0.5)
        height = round(width * ratio)
        for scale in scales:
            half = torch.tensor([(width * scale - 1) / 2, (height * scale - 1) / 2])
            found.append(torch.cat((centre - half, centre + half)))
    return torch.stack(found)


class Proposal(nn.Module):
    """Regions (regions, 5): item 0, x1, y1, x2, y2, the surest first.

    Args:
        feat_stride: pixels of the image a cell of the map.
        scales: sides of the anchors in units of 16 pixels.

    Called with probabilities (1, 2 * anchors, h, w), background first; box corrections (1, 4 * anchors, h, w); and
    (1, 3) height, width and scale of the image.
    """

    def __init__(self, feat_stride: int = 16, scales: Sequence[float] = (8, 16, 32)) -> None:
        super().__init__()
        self.feat_stride = feat_stride
        self.register_buffer("anchors", anchors(scales), persistent=False)

    @torch.no_grad()
    def forward(self, probabilities: Tensor, corrections: Tensor, image: Tensor) -> Tensor:
        """The regions of one image."""
        limits = TRAIN_LIMITS if self.training else TEST_LIMITS
        if len(probabilities) != 1:
            raise ValueError(f"region proposals take one image, not a batch of {len(probabilities)}")
        own = self.get_buffer("anchors")
        rows, columns = probabilities.shape[-2:]
        scores = probabilities[0, len(own) :].permute(1, 2, 0).reshape(-1)
        codes = corrections.reshape(len(own), 4, rows, columns).permute(2, 3, 0, 1).reshape(-1, 4)
        found = self._moved(self._everywhere(own, rows, columns), codes)
        high, wide, scale = image.reshape(-1)[:3]
        limit = torch.stack((wide, high, wide, high)) - 1
        found = torch.minimum(found.clamp(min=0), limit)
        is_large = ((found[:, 2:] - found[:, :2] + 1) >= limits.least_side * scale).all(1)
        found, scores = found[is_large], scores[is_large]
        order = scores.argsort(descending=True, stable=True)[: limits.before]
        kept = found[order][boxes.suppress(found[order], limits.overlap, pixel=1, limit=limits.kept)]
        return torch.cat((kept.new_zeros(len(kept), 1), kept), 1)

    def _everywhere(self, own: Tensor, rows: int, columns: int) -> Tensor:
        """The anchors of every cell, (rows * columns * anchors, 4)."""
        down, right = (torch.arange(count, device=own.device) * self.feat_stride for count in (rows, columns))
        shifts = torch.stack(torch.meshgrid(right, down, indexing="xy"), -1).repeat(1, 1, 2)
        return (shifts[:, :, None] + own).reshape(-1, 4)

    def _moved(self, priors: Tensor, codes: Tensor) -> Tensor:
        """Anchors corrected by (dx, dy, log of width, log of height) in their own sizes."""
        sizes = priors[:, 2:] - priors[:, :2] + 1
        centres = priors[:, :2] + sizes / 2 + codes[:, :2] * sizes
        half = codes[:, 2:].exp() * sizes / 2
        return torch.cat((centres - half, centres + half), 1)
