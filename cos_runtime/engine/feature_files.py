"""Features as files in a folder: by Spark's own writers where they reach it, else by way of the driver."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel, TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from cos_runtime import storage
from cos_runtime.engine.spool import local_folder
from cos_runtime.errors import UserError
from cos_runtime.sources.deal import one_by_one

_CHUNK = 8 * 2**20
_ROW_GROUP = 32 * 2**20
_FLAT = ("csv", "text")
_LOOPBACK = ("127.0.0.1", "localhost")


def check_format(file_format: str) -> None:
    """Refuse a format that has no place for lists of numbers, for which Spark is not needed.

    Raises:
        UserError: it is such a one.
    """
    if file_format.lower() in _FLAT:
        raise UserError(f"-outputFormat {file_format} cannot hold features, which are lists: give json or parquet")


def check(spark: SparkSession, path: str, file_format: str) -> None:
    """Refuse a format that cannot be written there, before the features are computed.

    Raises:
        UserError: it can neither be written by Spark nor by the driver, or nobody knows it.
    """
    if file_format in _ENCODERS:
        return
    if not _is_known(spark, file_format):
        raise UserError(f"-outputFormat {file_format}: Spark knows no such format: give json or parquet, for example")
    if not _is_within_sparks_reach(spark, path):
        raise UserError(
            f"-outputFormat {file_format} cannot be written to {path}, which Spark's executors do not reach: give "
            f"{' or '.join(_ENCODERS)}, or an hdfs:// URL"
        )


def write(frame: DataFrame, path: str, file_format: str) -> None:
    """Write a DataFrame to a folder, which is new.

    A local folder is the driver's. Executors on other hosts would leave their files on disks of their own, and Spark's
    Hadoop knows few object stores: there each task makes its file, and the driver writes them.

    Args:
        path: A folder or its URL.
        file_format: A format of Spark, or one of ``json`` and ``parquet`` where the driver writes.
    """
    if _is_within_sparks_reach(frame.sparkSession, path):
        frame.write.format(file_format).save(path if storage.is_remote(path) else f"file://{path}")
    else:
        _by_the_driver(frame, path, file_format)


def _is_known(spark: SparkSession, file_format: str) -> bool:
    sources = spark._jvm.org.apache.spark.sql.execution.datasources.DataSource  # type: ignore[union-attr]
    try:
        sources.lookupDataSource(file_format, spark._jsparkSession.sessionState().conf())
    except (Py4JJavaError, PySparkException):
        return False
    return True


def _is_within_sparks_reach(spark: SparkSession, path: str) -> bool:
    context = spark.sparkContext
    if not storage.is_remote(path):
        return str(context.master).startswith("local") or context.getConf().get("spark.driver.host") in _LOOPBACK
    hadoop = context._jvm.org.apache.hadoop.fs  # type: ignore[union-attr]
    try:
        hadoop.FileSystem.getFileSystemClass(path.partition(":")[0], context._jsc.hadoopConfiguration())
    except Py4JJavaError:  # UnsupportedFileSystemException
        return False
    return True


def _by_the_driver(frame: DataFrame, path: str, file_format: str) -> None:
    rows = frame.select(sf.to_json(sf.struct("*")).alias("line")) if file_format == "json" else frame
    chunks = rows.mapInArrow(partial(_chunks, file_format), "part int, chunk binary").persist(StorageLevel.DISK_ONLY)
    try:
        # This makes all parts, side by side: toLocalIterator() asks for one partition after the other, and has all of
        # it in memory.
        pieces = one_by_one(chunks)
        with storage.new_folder(path) as folder:
            parts = groupby(pieces.toLocalIterator(prefetchPartitions=True), key=attrgetter("part"))
            for part, rows_of_part in parts:
                with folder.open(f"part-{part:05d}.{file_format}") as file:
                    file.writelines(row.chunk for row in rows_of_part)
            folder.open("_SUCCESS").close()
    finally:
        chunks.unpersist()


def _chunks(file_format: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A partition's file, in pieces that a row can hold."""
    part = TaskContext.get().partitionId()  # type: ignore[union-attr] # a task has one
    with tempfile.TemporaryFile(dir=local_folder()) as file:
        _ENCODERS[file_format](batches, file)
        file.seek(0)
        while chunk := file.read(_CHUNK):
            arrays = [pa.array([part], pa.int32()), pa.array([chunk], pa.binary())]
            yield pa.RecordBatch.from_arrays(arrays, ["part", "chunk"])


def _json(batches: Iterator[pa.RecordBatch], file: IO[bytes]) -> None:
    for batch in batches:
        file.writelines(f"{line}\n".encode() for line in batch["line"].to_pylist())


def _parquet(batches: Iterator[pa.RecordBatch], file: IO[bytes]) -> None:
    first = next(batches, None)
    if first is None:
        return
    with pq.ParquetWriter(file, first.schema) as writer:
        group, size = [first], first.nbytes
        for batch in batches:
            if size >= _ROW_GROUP:
                writer.write_table(pa.Table.from_batches(group))
                group, size = [], 0
            group.append(batch)
            size += batch.nbytes
        writer.write_table(pa.Table.from_batches(group))


_ENCODERS = {"json": _json, "parquet": _parquet}
