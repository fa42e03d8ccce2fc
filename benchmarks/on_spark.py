"""A whole job, its start and its feed, against pyspark's TorchDistributor; features against a torch loop."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyspark.ml.torch.distributor import TorchDistributor
from pyspark.sql import SparkSession

from benchmarks import distributed_worker, feeds, frame, plain_torch, spark
from benchmarks.measure import Benchmark, Pair
from benchmarks.mnist import labels, scratch, tensors
from cos_runtime.api import CaffeOnSpark, Config, DataSource

_STEPS = 1000
_WARM_PASSES = 5


@contextlib.contextmanager
def _clock() -> Iterator[list[float]]:
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)


def _warm(session: SparkSession, slots: int) -> None:
    """Have the Python workers up, as in a session that has been used."""
    session.sparkContext.parallelize(range(slots), slots).foreach(lambda _: time.sleep(0.5))


def start() -> Pair:
    """Seconds of a job of one iteration, against a TorchDistributor that does nothing."""
    conf = spark.solver(spark.LENET, max_iter=1)
    with spark.session(2) as session:
        spark.train(session, conf, 2)
        with _clock() as own:
            spark.train(session, conf, 2)
        with _clock() as other:
            TorchDistributor(num_processes=2, local_mode=False, use_gpu=False).run(distributed_worker.nothing)
    return own[0], other[0]


def whole_job() -> Pair:
    """Seconds from a warm session to the trained model, on two ranks."""
    conf = spark.solver(spark.LENET, max_iter=_STEPS, display=_STEPS)
    net = conf.parent / "net.prototxt"
    net.write_text(net.read_text().replace("com.yahoo.ml.caffe.LMDB", "benchmarks.frame.Frame"))
    with spark.session(2) as session:
        rows = frame.put(session, partitions=2)
        _warm(session, 2)
        with _clock() as own:
            spark.train(session, conf, 2)
        with _clock() as other:
            distributor = TorchDistributor(num_processes=2, local_mode=False, use_gpu=False)
            distributor._train_on_dataframe(distributed_worker.train, rows.select("image", "label"), _STEPS)
    return own[0], other[0]


def feed() -> Pair:
    """Rows a second of a rank from its DataFrame partition to tensors, of 30,000 rows a rank."""
    with spark.session(2) as session:
        frame.put(session, partitions=2)
        # The first passes have the JVM compile what both need.
        for _ in range(_WARM_PASSES):
            feeds.ours(session)
            feeds.theirs(session)
        return feeds.ours(session), feeds.theirs(session)


def features() -> Pair:
    """Images a second from the LMDB to written Parquet, against one torch loop from arrays to Parquet."""
    conf = spark.solver(spark.LENET, max_iter=1)
    out = scratch() / uuid4().hex
    with spark.session(2) as session:
        model = spark.train(session, conf, 2)
        net = conf.parent / "net.prototxt"
        net.write_text(net.read_text().replace("mnist_t10k_lmdb", "mnist_train_lmdb"))
        args = ["-conf", str(conf), "-model", str(model), "-features", "ip1", "-label", "label"]
        cos = CaffeOnSpark(session)
        _warm(session, 2)
        with _clock() as own:
            rows = cos.features(DataSource.getSource(Config(session.sparkContext, args), False))
            rows.write.parquet(f"file://{out}")
    with _clock() as other:
        _torch_features(scratch() / f"{uuid4().hex}.parquet")
    count = len(labels("train"))
    return count / own[0], count / other[0]


def _torch_features(target: Path) -> None:
    images, given = tensors("train")
    body = plain_torch.lenet()[:6].eval()
    torch.set_num_threads(2)
    with torch.inference_mode():
        parts = [body(images[begin : begin + 100]).numpy() for begin in range(0, len(images), 100)]
    values = np.concatenate(parts)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    pq.write_table(pa.table({"ip1": column, "label": given.numpy()}), target)


BENCHMARKS = [
    Benchmark("start", "a job of one iteration", "TorchDistributor, nothing done", "s", 6, start, less_is_better=True),
    Benchmark(
        "whole_job", "DataFrame to model, two ranks", "TorchDistributor", "s", 1.5, whole_job, less_is_better=True
    ),
    Benchmark(
        "feed", "30,000 rows a rank to tensors", "TorchDistributor's loader", "rows/s", 1.5, feed,
        why="most of either side's time is the JVM's, which makes Arrow arrays of 784 numbers a row: a pass that only "
        "counts the rows takes 0.5 to 0.7 s of 0.7 to 0.8 s. Leaving out the sort of each rank's records gained "
        "nothing, batches of 2 MB instead of Spark's 64 a fifth.",
    ),
    Benchmark("features", "60,000 images to Parquet, two cores", "a torch loop", "images/s", 0.8, features),
]  # fmt: skip
