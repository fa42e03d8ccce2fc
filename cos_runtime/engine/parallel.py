"""torch's DistributedDataParallel without torch's compiler, which it would load to ask for one setting.

Nothing here is compiled, and the compiler is 900 modules, SymPy among them: 4 to 7 s of a CPU in each rank's process,
before its first step.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_COMPILER = "torch._dynamo"


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
    """A module whose backward pass leaves the mean of all ranks' gradients.

    Its parameters have to be the same on all ranks before.
    """

    def __init__(self, module: nn.Module) -> None:
        with _compiler_unloaded():
            super().__init__(module, init_sync=False, forward_sync_buffers=False, gradient_as_bucket_view=True)

    def _run_ddp_forward(self, *inputs: Any, **kwargs: Any) -> Any:
        # torch's own tells the compiler of it.
        return self.module(*inputs, **kwargs)


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
