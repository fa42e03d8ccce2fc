"""Boxes as detectors count them: corners (xmin, ymin, xmax, ymax), overlaps, encodings by a prior box."""

from __future__ import annotations

import torch
from torch import Tensor

from cos_runtime.caffe.schema.caffe_pb2 import PriorBoxParameter

CORNER, CENTER_SIZE, CORNER_SIZE = (
    PriorBoxParameter.CORNER,
    PriorBoxParameter.CENTER_SIZE,
    PriorBoxParameter.CORNER_SIZE,
)


def areas(boxes: Tensor, pixel: float = 0) -> Tensor:
    """The areas of (..., 4) boxes; ``pixel`` is 1 where the far corner belongs to the box. Turned ones have 0."""
    sides = (boxes[..., 2:] - boxes[..., :2] + pixel).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def overlaps(first: Tensor, second: Tensor, pixel: float = 0) -> Tensor:
    """Area in common over area together, (n, m) for (n, 4) and (m, 4) boxes."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    common = areas(torch.cat((low, high), -1), pixel)
    together = areas(first, pixel)[:, None] + areas(second, pixel)[None, :] - common
    return torch.where(common > 0, common / together, 0.0)


def suppress(boxes: Tensor, threshold: float, *, pixel: float = 0, eta: float = 1, limit: int | None = None) -> Tensor:
    """Non-maximum suppression: which of the boxes, best first, overlap none kept before by more than ``threshold``.

    Args:
        boxes: (n, 4), sorted by their scores from the best on.
        threshold: of the overlap.
        pixel: see :func:`areas`.
        eta: what the threshold is multiplied by after each box kept, while it is above 0.5.
        limit: how many to keep at most.

    Returns:
        Indices of the boxes to keep, in order.
    """
    left = torch.arange(len(boxes), device=boxes.device)
    kept: list[Tensor] = []
    while len(left) and (limit is None or len(kept) < limit):
        kept.append(left[0])
        if eta < 1 and threshold > 0.5:
            threshold *= eta
        # With a falling threshold what was let pass by an earlier box is looked at again.
        against = boxes[torch.stack(kept)] if eta < 1 else boxes[left[:1]]
        rest = left[1:]
        left = rest[(overlaps(against, boxes[rest], pixel) <= threshold).all(0)]
    return torch.stack(kept) if kept else left


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sizes = boxes[..., 2:] - boxes[..., :2]
    return (boxes[..., :2] + boxes[..., 2:]) / 2, sizes


def encode(boxes: Tensor, priors: Tensor, code: int) -> Tensor:
    """What a net is to predict for a prior box so that it becomes the box; both (n, 4); not divided by variances."""
    if code == CORNER:
        return boxes - priors
    centre, sizes = _centred(priors)
    if code == CORNER_SIZE:
        return (boxes - priors) / sizes.repeat(1, 2)
    own_centre, own_sizes = _centred(boxes)
    return torch.cat(((own_centre - centre) / sizes, (own_sizes / sizes).log()), -1)


def decode(codes: Tensor, priors: Tensor, code: int) -> Tensor:
    """The boxes that predictions (..., n, 4), times their variances, make of the prior boxes (n, 4)."""
    if code == CORNER:
        return priors + codes
    centre, sizes = _centred(priors)
    if code == CORNER_SIZE:
        return priors + codes * sizes.repeat(1, 2)
    own_centre, half = centre + codes[..., :2] * sizes, codes[..., 2:].exp() * sizes / 2
    return torch.cat((own_centre - half, own_centre + half), -1)
