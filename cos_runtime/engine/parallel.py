"""torch's DistributedDataParallel without torch's compiler, which it would load to ask for one setting.

Nothing here is compiled, and the compiler is 900 modules, SymPy among them: 4 to 7 s of a CPU in each rank's process,
before its first step.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cos_runtime.caffe.solver import Rows

if TYPE_CHECKING:
    from torch._C._distributed_c10d import GradBucket

_COMPILER = "torch._dynamo"
# 8 MB: a third of it is on each link of three hosts at a time, and its update takes some milliseconds.
_PIECE_ELEMENTS = 1 << 21


class _Settings:
    """The compiler as it is set where nobody has set anything, as far as DistributedDataParallel asks."""

    @staticmethod
    def get_optimize_ddp_mode() -> str:
        return "ddp_optimizer"


class _Unloaded:
    """In place of the compiler: whatever else is asked of it loads it."""

    utils = _Settings

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(_COMPILER), name)


class Parallel(DistributedDataParallel):
    """A module whose backward pass sends the gradients on their way, of which each becomes the mean of all ranks'.

    On the CPU they go in pieces, so that the weights of one piece can be updated while the next is under way: see
    :meth:`arriving`, which has to be gone through after each backward pass that exchanges. On a GPU, whose update takes
    next to nothing, torch itself exchanges them, and all are there after the pass.

    Its parameters have to be the same on all ranks before.
    """

    def __init__(self, module: nn.Module) -> None:
        with _compiler_unloaded():
            super().__init__(module, init_sync=False, forward_sync_buffers=False, gradient_as_bucket_view=True)
        self._under_way: list[tuple[dist.Work, list[Rows]]] = []
        if self.device_type == "cpu":
            self.register_comm_hook(self, lambda parallel, bucket: parallel._send(bucket))

    def arriving(self) -> Iterator[list[Rows]]:
        """Wait for the gradients' pieces in turn, and tell of which rows each has them."""
        while self._under_way:
            work, rows = self._under_way.pop(0)
            work.wait()  # by this function's name the driver's watch knows who only waits
            yield rows

    def _send(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Send a bucket's gradients; torch is told that they are there, and has no more to do with them."""
        gradients = bucket.buffer().div_(dist.get_world_size())
        start = 0
        for rows, size in _pieces(bucket):
            work = dist.all_reduce(gradients[start : start + size], async_op=True)
            self._under_way.append((work, rows))
            start += size
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(gradients)
        return done

    def _run_ddp_forward(self, *inputs: Any, **kwargs: Any) -> Any:
        # torch's own tells the compiler of it.
        return self.module(*inputs, **kwargs)


def _pieces(bucket: GradBucket) -> Iterator[tuple[list[Rows], int]]:
    """The rows of the bucket's parameters, which lie in it one after the other, in pieces; and each piece's elements.

    A blob's first axis is the outermost in memory too, contiguous or channels_last.
    """
    piece: list[Rows] = []
    size = 0
    for parameter in bucket.parameters():
        for rows in Rows.all_of(parameter).cut(_PIECE_ELEMENTS):
            piece.append(rows)
            size += rows.of(parameter).numel()
            if size >= _PIECE_ELEMENTS:
                yield piece, size
                piece, size = [], 0
    if piece:
        yield piece, size


@contextlib.contextmanager
def _compiler_unloaded() -> Iterator[None]:
    if _COMPILER in sys.modules:
        yield
        return
    known = vars(torch)
    unloaded = known["_dynamo"] = _Unloaded()
    try:
        yield
    finally:
        if known["_dynamo"] is unloaded:
            del known["_dynamo"]
