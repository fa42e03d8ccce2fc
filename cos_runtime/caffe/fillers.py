"""Fillers: how Caffe gives a parameter blob its first values (``include/caffe/filler.hpp`` of BVLC Caffe).

Random fillers draw from torch's default generator, which the caller seeds.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cos_runtime.caffe.schema.caffe_pb2 import FillerParameter
from cos_runtime.errors import UserError


def fill(blob: Tensor, filler: FillerParameter | None) -> Tensor:
    """Fill ``blob`` in place by the filler's type and return it; no filler leaves it as it is.

    Raises:
        UserError: the filler's type is unknown, a value of it is out of range, or it cannot fill a blob of this shape.
    """
    if filler is None:
        return blob
    if filler.type not in FILLERS:
        raise UserError(f'filler type "{filler.type}" is unknown: use one of {", ".join(sorted(FILLERS))}')
    if filler.sparse != -1 and filler.type != "gaussian":
        raise UserError(f'filler type "{filler.type}" has no sparse form: only "gaussian" has')
    with torch.no_grad():
        # A single number without an axis counts as one output.
        FILLERS[filler.type](blob if blob.dim() else blob.view(1), filler)
    return blob


def _constant(blob: Tensor, filler: FillerParameter) -> None:
    blob.fill_(filler.value)


def _uniform(blob: Tensor, filler: FillerParameter) -> None:
    # Written so that one which is no number is refused too.
    if not filler.min <= filler.max:
        raise UserError(f'filler type "uniform" has min {filler.min:g} and max {filler.max:g}: max must be min or more')
    blob.uniform_(filler.min, filler.max)


def _gaussian(blob: Tensor, filler: FillerParameter) -> None:
    if not filler.std > 0:
        raise UserError(f'filler type "gaussian" has std {filler.std:g}: it must be more than 0')
    outputs = blob.shape[0] if blob.dim() else 1
    if not -1 <= filler.sparse <= outputs:
        raise UserError(
            f'filler type "gaussian" has sparse {filler.sparse} for a blob of {outputs} outputs: '
            f"give 0 to {outputs} weights that are not 0, or -1 for all"
        )
    blob.normal_(filler.mean, filler.std)
    if filler.sparse >= 0:
        # `sparse` is the mean number of non-zero inputs of an output; blob.shape[0] is the number of outputs.
        blob.mul_(torch.empty_like(blob).bernoulli_(filler.sparse / outputs))


def _positive_unitball(blob: Tensor, _: FillerParameter) -> None:
    blob.uniform_(0, 1)
    rows = blob.view(blob.shape[0], -1)
    rows.div_(rows.sum(dim=1, keepdim=True))


def _fan(blob: Tensor, filler: FillerParameter) -> float:
    fan_in = blob.numel() / blob.shape[0]
    # Caffe takes the second axis as the inputs, whatever the layer.
    fan_out = blob.numel() / blob.shape[1] if blob.dim() > 1 else blob.numel()
    if filler.variance_norm == FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_out if filler.variance_norm == FillerParameter.FAN_OUT else fan_in


def _xavier(blob: Tensor, filler: FillerParameter) -> None:
    # Glorot and Bengio 2010, in Caffe's form: uniform of variance 1 / fan.
    scale = math.sqrt(3.0 / _fan(blob, filler))
    blob.uniform_(-scale, scale)


def _msra(blob: Tensor, filler: FillerParameter) -> None:
    # He et al. 2015: gaussian of variance 2 / fan.
    blob.normal_(0.0, math.sqrt(2.0 / _fan(blob, filler)))


def _bilinear(blob: Tensor, _: FillerParameter) -> None:
    if blob.dim() != 4 or blob.shape[2] != blob.shape[3]:
        raise UserError(f'filler type "bilinear" needs a blob of 4 axes with square filters, not {tuple(blob.shape)}')
    width = blob.shape[3]
    factor = math.ceil(width / 2.0)
    centre = (width - 1) / (2.0 * factor)
    line = 1 - (torch.arange(width, dtype=blob.dtype) / factor - centre).abs()
    blob.copy_((line[:, None] * line[None, :]).expand_as(blob))


FILLERS: dict[str, Callable[[Tensor, FillerParameter], None]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
