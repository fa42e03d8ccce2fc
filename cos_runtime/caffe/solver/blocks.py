"""Parameter blobs in blocks of rows.

A core's cache holds a block from the first call of its update to the last, where it would fetch a large blob anew for
each of the five or more calls.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

# Of weights, gradients and a history 1.5 MB together, where a core's own cache is 1 to 2 MB.
_CACHED_ELEMENTS = 1 << 17


class Rows(NamedTuple):
    """Rows of a parameter blob along its first axis, those from ``start`` up to ``stop``."""

    parameter: Tensor
    start: int
    stop: int

    @classmethod
    def all_of(cls, parameter: Tensor) -> Rows:
        """The whole blob."""
        return cls(parameter, 0, _row_count(parameter))

    def of(self, tensor: Tensor) -> Tensor:
        """These rows of a tensor with the blob's shape: a view."""
        is_all = self.start == 0 and self.stop == _row_count(tensor)
        return tensor if is_all else tensor[self.start : self.stop]

    def cut(self, elements: int) -> Iterator[Rows]:
        """The same rows in parts of about so many elements, each of at least one row."""
        step = max(1, elements * _row_count(self.parameter) // max(1, self.parameter.numel()))
        for start in range(self.start, self.stop, step):
            yield Rows(self.parameter, start, min(start + step, self.stop))


def _row_count(tensor: Tensor) -> int:
    """The length of a tensor's first axis; a scalar is one row."""
    return len(tensor) if tensor.dim() else 1


@dataclass(frozen=True)
class Blob:
    """What belongs to a parameter blob that is trained."""

    parameter: Tensor
    histories: list[Tensor]
    lr_mult: float
    decay_mult: float

    @property
    def is_differentiated(self) -> bool:
        """Whether it has a gradient, which one that is not updated may have too."""
        return bool(self.lr_mult) or self.parameter.requires_grad

    @property
    def gradient(self) -> Tensor:
        """Its gradient; of zeros, where no loss has given it one."""
        return torch.zeros_like(self.parameter) if self.parameter.grad is None else self.parameter.grad


@dataclass
class Block:
    """Rows of blobs with the same multipliers: few calls update all of them."""

    lr_mult: float
    decay_mult: float
    histories: list[list[Tensor]]
    parameters: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    size: int = 0

    def add(self, rows: Rows, blob: Blob, gradient: Tensor) -> None:
        """Add rows of a blob."""
        self.parameters.append(rows.of(blob.parameter))
        self.gradients.append(rows.of(gradient))
        for members, history in zip(self.histories, blob.histories, strict=True):
            members.append(rows.of(history))
        self.size += self.parameters[-1].numel()


def in_blocks(rows: Iterable[Rows], blobs: Mapping[int, Blob]) -> Iterator[Block]:
    """The rows in blocks; on a GPU, which holds none in a cache and is slow to begin, one for all of the same kind.

    Args:
        rows: Those whose gradients are there.
        blobs: The blobs that are trained, by the id of their parameter; rows of others are passed over.
    """
    begun: dict[tuple[float, float], Block] = {}
    for each in rows:
        blob = blobs.get(id(each.parameter))
        if blob is None:
            continue
        gradient, key = blob.gradient, (blob.lr_mult, blob.decay_mult)
        limit = _CACHED_ELEMENTS if gradient.is_cpu else sys.maxsize
        for part in each.cut(limit):
            block = begun.setdefault(key, Block(*key, [[] for _ in blob.histories]))
            block.add(part, blob, gradient)
            if block.size >= limit:
                yield begun.pop(key)
    yield from begun.values()
