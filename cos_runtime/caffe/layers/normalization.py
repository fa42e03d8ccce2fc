"""Layers that divide by a measure of size: of neighbours, of the batch, of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cos_runtime.caffe.layers.activation import Elementwise
from cos_runtime.caffe.layers.base import Shape, register
from cos_runtime.caffe.layers.gradients import root_plus
from cos_runtime.caffe.layers.local_response import ChannelResponse, across_channels
from cos_runtime.caffe.schema.caffe_pb2 import FillerParameter, LRNParameter


@register("LRN")
class LRN(Elementwise):
    """Local response normalization.

    Across channels: top = x / (k + alpha / n * sum of x^2 over the n = local_size channels around) ^ beta.
    Within a channel: top = x / (1 + alpha * average of x^2 over the n x n pixels around) ^ beta, where the padding
    counts as pixels of 0.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.lrn_param
        self.need_axes(bottoms[0], 4)
        self.size = param.local_size
        if self.size % 2 == 0:
            self.refuse(f"local_size is {self.size}, it must be odd")
        self.alpha, self.beta, self.k = param.alpha, param.beta, param.k
        self.is_within_channel = param.norm_region == LRNParameter.WITHIN_CHANNEL
        if self.is_training and not self.is_within_channel:
            self.refuse_in_place()
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_within_channel:
            average = functional.avg_pool2d(x.square(), self.size, 1, self.size // 2)
            return x * (average * self.alpha + 1).pow(-self.beta)
        return across_channels(x, ChannelResponse(self.size, self.alpha / self.size, self.beta, self.k))


@register("BatchNorm")
class BatchNorm(Elementwise):
    """top = (x - mean) / sqrt(variance + eps), a channel (axis 1) at a time.

    Mean and variance are the batch's own in TRAIN and the stored ones in TEST, unless ``use_global_stats`` says.

    Blobs, which the layer itself keeps: sums of means (channels,), of variances (channels,), each pass fading by
    ``moving_average_fraction``, and the sum of their weights (1,), by which both are divided.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.batch_norm_param
        if any(spec.lr_mult for spec in self.param.param):
            self.refuse("its statistics cannot be learned: give each of its param entries lr_mult: 0")
        if len(bottoms[0]) < 2:
            self.refuse(f"it takes a bottom of 2 axes or more, not one of the shape {bottoms[0]}")
        channels = bottoms[0][1]
        for length in (channels, channels, 1):
            self.add_blob((length,), learnable=False)
        self.eps, self.fraction = param.eps, param.moving_average_fraction
        self.is_global = param.use_global_stats if param.HasField("use_global_stats") else not self.is_training
        return super().setup(bottoms)

    def forward(self, x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """The top, times a ``scale`` and plus a ``bias`` (channels,), those of a Scale layer after it."""
        return self._by_stored(x, scale, bias) if self.is_global else self._by_batch(x, scale, bias)

    def _by_stored(self, x: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        means, variances, weight = self.blobs
        factor = torch.where(weight == 0, 0.0, 1 / weight)
        return functional.batch_norm(x, means * factor, variances * factor, scale, bias, eps=self.eps)

    def _by_batch(self, x: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        if x.numel() == x.shape[1]:
            # torch refuses one value a channel, of which Caffe makes zeros.
            mean, variance = x.detach().flatten(), torch.zeros_like(self.blobs[1])
            top = x - x if scale is None else (x - x) * scale.view(x.shape)
            top = top if bias is None else top + bias.view(x.shape)
        else:
            mean, variance = torch.zeros_like(self.blobs[0]), torch.zeros_like(self.blobs[1])
            # With a momentum of 1 torch leaves the batch's mean and its variance by m - 1, as Caffe sums it.
            top = functional.batch_norm(x, mean, variance, scale, bias, True, 1.0, self.eps)
        with torch.no_grad():
            for blob, term in zip(self.blobs, (mean, variance, 1.0), strict=True):
                blob.mul_(self.fraction).add_(term)
        return top


@register("MVN")
class MVN(Elementwise):
    """top = (x - mean) / (standard deviation + eps) of each channel, or of all ``across_channels``, of an item.

    The division is left out without ``normalize_variance``. The top has 4 axes, as in Caffe: (items, channels, 1, 1)
    for a bottom of two.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not 1 <= len(bottoms[0]) <= 4:
            self.refuse(f"it takes a bottom of 1 to 4 axes, not one of the shape {bottoms[0]}")
        self.across = self.param.mvn_param.across_channels
        return [(*bottoms[0], *(1,) * (4 - len(bottoms[0])))]

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.mvn_param
        groups = x.shape[0] if self.across or x.dim() == 1 else x.shape[0] * x.shape[1]
        values = x.reshape(groups, -1)
        centred = values - values.mean(1, keepdim=True)
        if param.normalize_variance:
            centred = centred / root_plus(centred.square().mean(1, keepdim=True), param.eps)
        return centred.view(*x.shape, *(1,) * (4 - x.dim()))


@register("Normalize")
class Normalize(Elementwise):
    """top = scale * x / sqrt(sum of x^2 + eps), the sum over the channels of a place, or over the item (SSD).

    Blobs: scale (channels,), or one number () with ``channel_shared``; 1 without a filler.
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.norm_param
        if len(bottoms[0]) < 2:
            self.refuse(f"it takes a bottom of 2 axes or more, not one of the shape {bottoms[0]}")
        filler = param.scale_filler if param.HasField("scale_filler") else FillerParameter(value=1)
        self.add_blob(() if param.channel_shared else (bottoms[0][1],), filler)
        self.axes = tuple(range(1, len(bottoms[0]))) if param.across_spatial else (1,)
        return super().setup(bottoms)

    def forward(self, x: Tensor) -> Tensor:
        root = (x.square().sum(self.axes, keepdim=True) + self.param.norm_param.eps).sqrt()
        scale: Tensor = self.blobs[0].view(-1, *(1,) * (x.dim() - 2))
        return x / root * scale
