"""The Spark data source ``caffe_lmdb``: an LMDB of Caffe Datums as a DataFrame.

The module is what Spark's Python workers import: it keeps clear of torch.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from cos_runtime import storage
from cos_runtime.sources import lmdb_file
from cos_runtime.sources.deal import SUBSET
from cos_runtime.sources.host_copy import host_copy
from cos_runtime.sources.image_schema import IMAGE_SCHEMA

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SUBSET_FIELD = pa.field(SUBSET, pa.int32())

# Spark warns of a format that is registered again.
_sessions: weakref.WeakSet[SparkSession] = weakref.WeakSet()


class CaffeLMDB(DataSource):
    """The Spark data source ``caffe_lmdb``.

    Options: ``source``, the path or URL of the LMDB; ``parts``, the number of partitions; ``dealt``, whether each
    takes every ``parts``-th record, or else a range of them; ``before``, if given, another LMDB, whose records come
    first in each partition, told apart by the column ``deal.SUBSET``.
    """

    @classmethod
    def name(cls) -> str:
        """The format's name in ``spark.read.format``."""
        return "caffe_lmdb"

    def schema(self) -> StructType:
        """The columns of :data:`IMAGE_SCHEMA`, and the subset's where there are two."""
        return from_arrow_schema(IMAGE_SCHEMA.append(SUBSET_FIELD) if "before" in self.options else IMAGE_SCHEMA)

    def reader(self, schema: StructType) -> DataSourceReader:
        """The reader of this source's options."""
        return CaffeLMDBReader(self.options)


class CaffeLMDBReader(DataSourceReader):
    """Reads a ``caffe_lmdb`` source by parts."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.sources: dict[int | None, str] = {None: options["source"]}
        if "before" in options:
            self.sources = dict(enumerate([options["before"], options["source"]]))
        self.parts = int(options["parts"])
        self.is_dealt = options["dealt"].lower() == "true"

    def partitions(self) -> Sequence[InputPartition]:
        """For each partition a part of every source, found on the driver by a walk over the keys."""
        split = lmdb_file.strides if self.is_dealt else lmdb_file.ranges
        parts = [split(local(source), self.parts) for source in self.sources.values()]
        return [InputPartition([astuple(part) for part in together]) for together in zip(*parts, strict=True)]

    def read(self, partition: InputPartition) -> Iterator[Any]:
        """The rows of one partition, as Arrow record batches."""
        for (subset, source), part in zip(self.sources.items(), partition.value, strict=True):
            batches: Iterator[pa.RecordBatch] = lmdb_file.read(local(source), lmdb_file.Part(*part))
            for batch in batches:
                yield batch if subset is None else _marked(batch, subset)


def _marked(batch: pa.RecordBatch, subset: int) -> pa.RecordBatch:
    return batch.append_column(SUBSET_FIELD, pa.repeat(pa.scalar(subset, SUBSET_FIELD.type), batch.num_rows))


def register(spark: SparkSession) -> None:
    """Make the format known to a session; once is enough."""
    if spark not in _sessions:
        spark.dataSource.register(CaffeLMDB)
        _sessions.add(spark)


def local(source: str) -> str:
    """The path of an LMDB on this host; a remote one is fetched if it is not here yet."""
    if not storage.is_remote(source):
        return source
    is_file = source.rstrip("/").endswith(".mdb")
    return host_copy(source if is_file else f"{source.rstrip('/')}/data.mdb", "LMDB")
