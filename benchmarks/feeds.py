"""Both sides of the feed: a rank's 30,000 rows, from Spark's hands to tensors."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from benchmarks import distributed_worker, spark
from benchmarks.frame import TABLE, Frame
from cos_runtime.config import Config
from cos_runtime.engine.feed import Feed
from cos_runtime.engine.spool import Spool, local_folder, rebatch
from cos_runtime.main import DEFAULTS
from cos_runtime.sources.base import DataSource

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_BATCH = 64
_BATCH_BYTES = "spark.sql.execution.arrow.maxBytesPerBatch"
_ROWS = 30_000


def ours(session: SparkSession) -> float:
    """Rows a second of the slower rank."""
    conf = spark.solver(spark.LENET, max_iter=1)
    net = conf.parent / "net.prototxt"
    net.write_text(net.read_text().replace("com.yahoo.ml.caffe.LMDB", "benchmarks.frame.Frame"))
    config = Config(session.sparkContext, ["-conf", str(conf), "-model", str(conf.parent / "model")])
    source = DataSource.getSource(config, True)
    assert isinstance(source, Frame)  # noqa: S101

    def timed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        start = time.perf_counter()
        rows = rebatch(Spool(batches, local_folder()).cycle(), itertools.repeat(_BATCH))
        with Feed(rows, source, [1]) as feed:
            for _ in itertools.islice(feed, _ROWS // _BATCH):
                pass
        yield pa.RecordBatch.from_pydict({"rate": [_ROWS / (time.perf_counter() - start)]})

    dealt = source.dealt(session, 2)
    # As the command's session has it.
    session.conf.set(_BATCH_BYTES, DEFAULTS[_BATCH_BYTES])
    try:
        return float(min(row.rate for row in dealt.mapInArrow(timed, "rate double", barrier=True).collect()))
    finally:
        session.conf.unset(_BATCH_BYTES)


def theirs(session: SparkSession) -> float:
    """Rows a second of the slower rank, as TorchDistributor goes: to an Arrow file, and from it to tensors."""
    rows = session.table(TABLE).select("image", "label")
    schema = rows.schema

    def timed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark.ml.torch.data import _SparkPartitionTorchDataset  # noqa: PLC0415
        from pyspark.sql.pandas.serializers import ArrowStreamSerializer  # noqa: PLC0415
        from torch.utils.data import DataLoader  # noqa: PLC0415

        start = time.perf_counter()
        with tempfile.NamedTemporaryFile(dir=local_folder()) as file:
            ArrowStreamSerializer().dump_stream(batches, file)
            file.flush()
            for images, _ in DataLoader(_SparkPartitionTorchDataset(file.name, schema, _ROWS), _BATCH):
                distributed_worker.pixels_of(images)
        yield pa.RecordBatch.from_pydict({"rate": [_ROWS / (time.perf_counter() - start)]})

    return float(min(row.rate for row in rows.mapInArrow(timed, "rate double", barrier=True).collect()))
