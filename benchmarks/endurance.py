"""What a long training costs beside its steps: checkpoints, and memory."""

import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import spark
from benchmarks.measure import Benchmark, Pair
from benchmarks.mnist import lmdb

_ROUNDS = 10
_BATCH = 64
_PROC = Path("/proc")
# LeNet's 431,080 parameters with their gradients and their history, float32.
_OWN_MIB = 3 * 431_080 * 4 / 2**20
_LIMIT_MIB = 300.0


def checkpoints() -> Pair:
    """The mean rate as a share of the median lap's, with a checkpoint every 10 s and with none.

    A lap is about a second, so most have no checkpoint: a run is measured against itself, as runs differ by more.
    """
    return _evenness("-checkpoint_seconds", "10"), _evenness("-checkpoint_seconds", "0")


def _evenness(*flags: str) -> float:
    conf = spark.solver(spark.LENET, max_iter=3000)
    with spark.session(2) as session:
        rates = spark.lap_rates(spark.train(session, conf, 2, *flags))
    return statistics.harmonic_mean(rates) / statistics.median(rates)


def memory() -> Pair:
    """MiB of a rank's own memory at the peak of ten epochs, beyond net, gradients, history and torch, and the limit."""
    return max(_of_rounds()) - _OWN_MIB - _of_torch(), _LIMIT_MIB


def growth() -> Pair:
    """MiB at the peak of the last third of ten epochs, and of the second one."""
    taken = _of_rounds()
    third = len(taken) // 3
    return max(taken[-third:]), max(taken[third : 2 * third])


def _of_rounds() -> list[float]:
    """MiB of a rank's own memory, twice a second, over ten times MNIST's 10,000 test images."""
    conf = spark.solver(spark.LENET, max_iter=_ROUNDS * 10_000 // _BATCH)
    net = conf.parent / "net.prototxt"
    net.write_text(net.read_text().replace(str(lmdb("train")), str(lmdb("t10k"))))
    with spark.session(1) as session, _sampled() as samples:
        spark.train(session, conf, 1)
    return samples


@contextmanager
def _sampled() -> Iterator[list[float]]:
    samples: list[float] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.5):
            samples.append(max(_workers_mib(), default=0.0))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _of_torch() -> float:
    """MiB that a process has of its own once it has imported torch."""
    code = "import torch; print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return _mib(done.stdout)


def _workers_mib() -> Iterator[float]:
    """MiB of each of PySpark's workers."""
    for process in _PROC.glob("[0-9]*"):
        try:
            if b"pyspark.daemon" in (process / "cmdline").read_bytes():
                yield _mib((process / "status").read_text())
        except (OSError, KeyError):
            continue  # it has ended


def _mib(status: str) -> float:
    """MiB of memory that is no file's, of what a process's ``/proc/…/status`` says."""
    facts = dict(line.split(":", 1) for line in status.splitlines() if line)
    return int(facts["RssAnon"].split()[0]) / 1024


BENCHMARKS = [
    Benchmark(
        "checkpoints", "LeNet, two ranks, a checkpoint every 10 s", "none", "of the median rate", 0.98, checkpoints
    ),
    Benchmark(
        "memory",
        "a rank's memory but torch, net, gradients, history",
        "the limit",
        "MiB",
        1.0,
        memory,
        less_is_better=True,
    ),
    Benchmark("growth", "a rank's memory, epochs 7 to 10", "epochs 4 to 6", "MiB", 0.97, growth, less_is_better=True),
]
