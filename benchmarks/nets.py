"""The well-known nets of examples/nets against torchvision's: a training step's time, and its memory."""

import json
import os
import subprocess
import sys
from functools import partial
from typing import Any

from benchmarks.measure import Benchmark, Pair
from benchmarks.mnist import EXAMPLES

_SECONDS = 1200.0
# Name, images a batch, and what the other side is where it is not the very same net.
_NETS = [
    ("alexnet", 32, "torchvision's, which has no LRN and no groups"),
    ("googlenet", 16, "torchvision's, with BatchNorm instead of LRN"),
    ("vgg16", 4, "torchvision's"),
    ("resnet50", 8, "torchvision's"),
    ("squeezenet", 16, "torchvision's"),
    ("mobilenet", 16, "version 1 made of torchvision's blocks"),
]
_WHY = {
    "alexnet": "LRN, which torchvision's net lacks, is 15 % of the step by `torch.profiler`; what is left takes as "
    "long as torchvision's whole step. `alexnet_in_torch` is the same arithmetic on both sides.",
    "resnet50_compiled": "most of the step is convolutions, which are the same; to compile joins the passes between, "
    "which is worth 7 % to torchvision's net, after a first step of two minutes.",
}


def _steps(name: str, batch: int, *sides: str, **environment: str) -> dict[str, Any]:
    """What ``nets_worker`` tells of these sides, in a process of its own with one thread."""
    command = [sys.executable, "-m", "benchmarks.nets_worker", name, str(batch), *sides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent), **environment}
    done = subprocess.run(
        command, env=environment, cwd=EXAMPLES.parent, check=True, stdout=subprocess.PIPE, timeout=_SECONDS
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def rate(name: str, batch: int, other: str = "theirs") -> Pair:
    """Images a second, forward and backward."""
    ours, theirs = _steps(name, batch, "ours", other)["rates"]
    return ours, theirs


def memory(name: str, batch: int) -> Pair:
    """MiB that the net and its training steps take at the peak."""
    # Each tensor's memory goes back at once: the holes that glibc leaves else differ by a fifth from run to run.
    ours, theirs = (_steps(name, batch, side, MALLOC_MMAP_THRESHOLD_="65536") for side in ("ours", "theirs"))
    return ours["memory"], theirs["memory"]


BENCHMARKS = [
    *(
        Benchmark(
            name,
            f"{name}, batch {batch}, forward and backward",
            other,
            "images/s",
            0.95,
            partial(rate, name, batch),
            why=_WHY.get(name, ""),
        )
        for name, batch, other in _NETS
    ),
    Benchmark(
        "alexnet_in_torch",
        "alexnet, batch 32, forward and backward",
        "the same layers of torch.nn, with its LocalResponseNorm and groups",
        "images/s",
        0.95,
        partial(rate, "alexnet", 32, "same"),
    ),
    *(
        Benchmark(
            f"{name}_compiled",
            f"{name}, batch 8, forward and backward",
            "torchvision's blocks through `torch.compile`",
            "images/s",
            0.95,
            partial(rate, name, 8, "compiled"),
            why=_WHY.get(f"{name}_compiled", ""),
        )
        for name in ("resnet50", "mobilenet")
    ),
    *(
        Benchmark(
            f"{name}_memory",
            f"{name}, batch {batch}, peak memory",
            other,
            "MiB",
            0.91,
            partial(memory, name, batch),
            less_is_better=True,
        )
        for name, batch, other in _NETS
    ),
]
