"""Training: one rank against a loop over tensors, two against torchrun, two against one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import plain_torch, spark
from benchmarks.measure import Benchmark, Pair
from benchmarks.mnist import EXAMPLES, scratch, tensors

_BATCH = 64
_STEPS = 400
_WARM_UP = 100


def batches(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the tensors in order, again and again."""
    while True:
        for start in range(0, len(images) - _BATCH + 1, _BATCH):
            yield images[start : start + _BATCH], labels[start : start + _BATCH]


def ours(ranks: int, net: str = spark.LENET, steps: int = _STEPS) -> float:
    """Images a second of all ranks together."""
    conf = spark.solver(net, max_iter=steps)
    with spark.session(ranks) as session:
        return spark.rate(spark.train(session, conf, ranks))


def one_rank() -> Pair:
    """Against a loop over tensors that are decoded already."""
    torch.set_num_threads(1)
    own = ours(1)
    steps = islice(batches(*tensors("train")), _STEPS)
    return own, plain_torch.train(plain_torch.lenet(), steps, _WARM_UP)[0]


def two_ranks() -> Pair:
    """Against torchrun, DistributedDataParallel and a DataLoader."""
    own = ours(2)
    answer = scratch() / "torchrun.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    worker = [str(Path(__file__).with_name("torchrun_worker.py")), str(_STEPS), str(_WARM_UP), str(answer)]
    subprocess.run([*command, *worker], env=environment, check=True, capture_output=True, timeout=600)
    return own, float(json.loads(answer.read_text()))


def scaling() -> Pair:
    """LeNet on two ranks against one."""
    return ours(2), ours(1)


def scaling_of_cifar() -> Pair:
    """CIFAR-10 full on two ranks against one, on random images."""
    return ours(2, spark.CIFAR, 300), ours(1, spark.CIFAR, 300)


def ceiling() -> Pair:
    """Two trainings that exchange nothing, against one alone: what the machine's second core adds."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        both = list(pool.map(ours, (1, 1)))
    return sum(both), ours(1)


def sparknet() -> Pair:
    """Seconds to 98 % on MNIST's test images, against means of the weights by the driver every ten steps."""
    conf = spark.solver(spark.LENET, max_iter=1500, test_interval=100, test_iter=100)
    with spark.session(2) as session:
        own = spark.seconds_to(0.98, session, conf, 2)
        return own, spark.seconds_to(0.98, session, conf, 2, "-local_steps", "10")


_OF_SCALING = (
    "`ceiling` is what two such trainings reach here that exchange nothing: the machine's two cores are not two alone. "
    "A step is 20 ms long, and its exchange of 1.7 MB takes turns with it on the same cores."
)
_OF_SPARKNET = (
    "driver and ranks are one machine, where the way to the driver costs nothing, and nine exchanges of ten are saved. "
    "What that way pays elsewhere is the driver's link, which all ranks' weights have to pass, and a Spark job a round."
)
BENCHMARKS = [
    Benchmark(
        "one_rank",
        "one rank, LeNet, batch 64",
        "a PyTorch loop over tensors",
        "images/s",
        1.3,
        one_rank,
        why="forward, backward and update take 17.6 ms with nothing beside them and 25 ms with a busy neighbour, which "
        "in a job decodes; the loop of plain PyTorch has no neighbour, and takes 25.6 ms.",
    ),
    Benchmark("two_ranks", "two ranks, LeNet", "torchrun DDP, DataLoader", "images/s", 1.0, two_ranks),
    Benchmark("scaling", "two ranks, LeNet", "one rank", "images/s", 1.7, scaling, why=_OF_SCALING),
    Benchmark("scaling_of_cifar", "two ranks, CIFAR-10 full", "one rank", "images/s", 1.7, scaling_of_cifar),
    Benchmark("ceiling", "two LeNets that exchange nothing", "one alone", "images/s", 1.7, ceiling),
    Benchmark(
        "sparknet",
        "LeNet to 98 %, two ranks",
        "`-local_steps 10`",
        "s",
        2,
        sparknet,
        less_is_better=True,
        why=_OF_SPARKNET,
    ),
]
