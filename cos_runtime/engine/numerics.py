"""How a net is computed: the layout of its blobs in memory, and the precision of its products."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Numerics:
    """What ``-memory_format`` and ``-precision`` say.

    Attributes:
        memory_format: of blobs and weights with four axes, one of :data:`MEMORY_FORMATS`. The values are the same,
            up to the order in which sums are made.
        precision: of convolutions and inner products, one of :data:`PRECISIONS`. Weights, their updates and losses
            are float32 always.
    """

    memory_format: str = "channels_last"
    precision: str = "float32"

    def prepare(self, net: nn.Module, device: torch.device) -> None:
        """Bring a net to its device, its weights in their layout."""
        net.to(device).to(memory_format=MEMORY_FORMATS[self.memory_format])

    def blobs(self, blobs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """The blobs on the device, in their layout."""
        layout = MEMORY_FORMATS[self.memory_format]
        return {
            name: blob.to(device, memory_format=layout) if blob.ndim == 4 else blob.to(device)
            for name, blob in blobs.items()
        }

    def context(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """What a forward pass runs in."""
        kind = PRECISIONS[self.precision]
        return contextlib.nullcontext() if kind == torch.float32 else torch.autocast(device.type, kind)
