"""What the layers that read files themselves have in common: lists, random orders, turns of the ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import distributed

from cos_runtime import storage
from cos_runtime.caffe.layers.base import Layer
from cos_runtime.caffe.schema.caffe_pb2 import TEST, Phase

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


def own_turns(records: Iterable[T], phase: Phase) -> Iterator[T]:
    """Those records of an endless sequence that are this rank's: every one in TEST, in TRAIN each rank in its turn."""
    if phase == TEST or not distributed.is_available() or not distributed.is_initialized():
        return iter(records)
    return itertools.islice(records, distributed.get_rank(), None, distributed.get_world_size())
