"""What the layers that read files themselves have in common: lists, random orders, turns of the ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import distributed

from cos_runtime import storage
from cos_runtime.caffe.layers.base import Layer

T = TypeVar("T")


def read_lines(layer: Layer, path: str, what: str) -> list[str]:
    """The lines of a text file that are not blank, without the spaces around them; at least one."""
    if not path:
        layer.refuse(f"it has no source: name its {what}")
    try:
        lines = storage.read_bytes(path, what).decode().splitlines()
    except UnicodeDecodeError:
        layer.refuse(f"{what} {path} is no text file")
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        layer.refuse(f"{what} {path} is empty")
    return lines


def permutation(count: int) -> list[int]:
    """0 to count - 1 in a random order, by torch's generator."""
    order: list[int] = torch.randperm(count).tolist()
    return order


def own_turns(layer: Layer, rounds: Iterable[Iterable[T]]) -> Iterator[T]:
    """Those records of each round that are this rank's: every one in TEST, in TRAIN each rank in its turn.

    Of a round that has not one for each rank, every one is everybody's.

    So the records of a source are dealt too, of which those of a layer may be a part.
    """
    rank, size = 0, 1
    takes_turns = layer.is_training and layer.reads_in_order
    if takes_turns and distributed.is_available() and distributed.is_initialized():
        rank, size = distributed.get_rank(), distributed.get_world_size()
    for records in map(iter, rounds):
        first = list(itertools.islice(records, size))
        if len(first) < size:  # none may go without
            yield from first
            continue
        yield first[rank]
        yield from itertools.islice(records, rank, None, size)
