"""SparkNet's way to train together, to compare with: steps of one's own, then the mean of all weights by the driver.

Moritz et al. 2016, "SparkNet: Training Deep Networks in Spark", algorithm 1: broadcast, local steps, collect, mean; a
rank keeps the history of its own solver. SparkNet starts a Spark job a round; here the ranks stay, and the weights go
to the driver and back over lines, so that a comparison is one of the exchanges alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cos_runtime.engine.line import Line, LineAddress


@dataclass
class Collector:
    """The driver's side: the mean of a round's weights, once those of all ranks are there.

    Attributes:
        ranks: how many there are.
    """

    ranks: int
    _lines: list[Line] = field(default_factory=list)
    _sum: np.ndarray | None = None

    def take(self, line: Line, weights: bytes) -> None:
        """Take the weights of one rank; the last of a round has all of them answered."""
        values = np.frombuffer(weights, np.float32)
        self._sum = values if self._sum is None else self._sum + values
        self._lines.append(line)
        if len(self._lines) < self.ranks:
            return
        mean = (self._sum / np.float32(self.ranks)).tobytes()
        lines, self._lines, self._sum = self._lines, [], None
        for each in lines:
            each.post("mean", mean)  # whoever does not read it holds up nobody


class Exchange:
    """A rank's side.

    Args:
        address: the driver's end.
        timeout: longest wait for the other ranks' weights, in seconds.
    """

    def __init__(self, address: LineAddress, timeout: float) -> None:
        self._line = Line.call(address, timeout)
        self._timeout = timeout

    def average(self, weights: Sequence[Tensor]) -> None:
        """Overwrite the weights, in place, by the mean of all ranks'.

        Raises:
            TimeoutError: another rank's did not come in time.
        """
        flat = torch.cat([weight.detach().reshape(-1) for weight in weights]).cpu()
        self._line.send("weights", flat.numpy().tobytes())
        mean = torch.frombuffer(bytearray(self._line.receive(self._timeout).blobs[0]), dtype=torch.float32)
        for weight, part in zip(weights, torch.split(mean, [weight.numel() for weight in weights]), strict=True):
            weight.data.copy_(part.view(weight.shape))
