"""Spark for the benchmarks, and our own training in it."""

import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyspark.sql import SparkSession

from benchmarks import cifar
from benchmarks.mnist import EXAMPLES, lmdb, scratch
from cos_runtime.api import CaffeOnSpark, Config, DataSource

_ROOT = EXAMPLES.parent
LENET = "mnist/lenet_train_test.prototxt"
CIFAR = "cifar10/cifar10_full_train_test.prototxt"
_DATA: dict[str, Callable[[], Path]] = {
    "data/mnist_train_lmdb": partial(lmdb, "train"),
    "data/mnist_test_lmdb": partial(lmdb, "t10k"),
    "data/cifar10_train_lmdb": cifar.lmdb,
    "data/cifar10_test_lmdb": cifar.lmdb,
    "data/mean.binaryproto": cifar.mean,
}
_WARM_UP_LAPS = 2


@contextmanager
def session(slots: int) -> Iterator[SparkSession]:
    """A local session with this number of task slots, each a Python process with one thread for its sums."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = str(_ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "2g",
        "spark.local.dir": str(scratch()),
        "spark.log.level": "ERROR",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder.master(f"local[{slots}]").appName("benchmarks")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()


def solver(net: str, **settings: object) -> Path:
    """A solver's file over one of the example nets, with its data put in; settings win over LeNet's own."""
    folder = scratch() / uuid4().hex
    folder.mkdir()
    text = (EXAMPLES / net).read_text()
    for path, made in _DATA.items():
        if path in text:
            text = text.replace(path, str(made()))
    (folder / "net.prototxt").write_text(text)
    own = {"base_lr": 0.01, "lr_policy": '"fixed"', "momentum": 0.9, "weight_decay": 0.0005, "solver_mode": "CPU"}
    own |= {"net": '"net.prototxt"', "random_seed": 1, "display": 50, **settings}
    (folder / "solver.prototxt").write_text("".join(f"{key}: {value}\n" for key, value in own.items()))
    return folder / "solver.prototxt"


def train(spark: SparkSession, conf: Path, ranks: int, *flags: str) -> Path:
    """Train; returns the model's path."""
    model = conf.parent / f"{uuid4().hex}" / "net.caffemodel"
    args = ["-conf", str(conf), "-clusterSize", str(ranks), "-model", str(model), *flags]
    CaffeOnSpark(spark).train(DataSource.getSource(Config(spark.sparkContext, args), True))
    return model


def seconds_to(accuracy: float, spark: SparkSession, conf: Path, ranks: int, *flags: str) -> float:
    """Train with validation; returns the seconds from the start of the ranks to the first pass of this accuracy."""
    model = conf.parent / f"{uuid4().hex}" / "net.caffemodel"
    args = ["-conf", str(conf), "-clusterSize", str(ranks), "-model", str(model), *flags]
    given = Config(spark.sparkContext, args)
    CaffeOnSpark(spark).trainWithValidation(DataSource.getSource(given, True), DataSource.getSource(given, False))
    events = _events(model)
    start = next(event["time"] for event in events if event["event"] == "started")
    reached = [
        event["time"] for event in events if event["event"] == "test" and event["outputs"]["accuracy"] >= accuracy
    ]
    if not reached:
        raise SystemExit(f"no validation pass reached {accuracy:.0%}")
    return (datetime.fromisoformat(reached[0]) - datetime.fromisoformat(start)).total_seconds()


def _events(model: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (model.parent / "metrics.jsonl").read_text().splitlines()]


def lap_rates(model: Path) -> list[float]:
    """Images a second of each lap of a training that ended, a lap from display to display, without the first ones."""
    return [event["images_per_second"] for event in _events(model) if event["event"] == "train"][_WARM_UP_LAPS:]


def rate(model: Path) -> float:
    """Images a second of a training that ended, the median of its laps."""
    return float(statistics.median(lap_rates(model)))
