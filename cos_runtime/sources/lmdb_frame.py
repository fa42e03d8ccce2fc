"""An LMDB of Caffe Datums as a DataFrame, read where the data is.

The module is what Spark's Python workers import: it keeps clear of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql.pandas.types import from_arrow_schema

from cos_runtime import storage
from cos_runtime.sources import lmdb_file
from cos_runtime.sources.deal import SUBSET
from cos_runtime.sources.host_copy import host_copy
from cos_runtime.sources.image_schema import IMAGE_SCHEMA
from cos_runtime.sources.lmdb_file import Part

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SUBSET_FIELD = pa.field(SUBSET, pa.int32())


def in_ranges(spark: SparkSession, source: str, parts: int) -> DataFrame:
    """All records in the order of their keys, a range of them a partition, at most ``parts``."""
    return _load(spark, [source], lmdb_file.ranges, parts)


def dealt(spark: SparkSession, sources: list[str], ranks: int) -> DataFrame:
    """The records of each source as cards are dealt: its ``p``-th is in partition ``p % ranks``.

    Several sources follow one another in each partition, told apart by the column ``deal.SUBSET``.
    """
    return _load(spark, sources, lmdb_file.strides, ranks)


def local(source: str) -> str:
    """The path of an LMDB on this host; a remote one is fetched if it is not here yet."""
    if not storage.is_remote(source):
        return source
    is_file = source.rstrip("/").endswith(".mdb")
    return host_copy(source if is_file else f"{source.rstrip('/')}/data.mdb", "LMDB")


def _load(spark: SparkSession, sources: list[str], split: Callable[[str, int], list[Part]], parts: int) -> DataFrame:
    # Not as a Python data source: Spark starts three Python processes, seconds each, to plan one.
    shares = list(zip(*(split(local(source), parts) for source in sources), strict=True))
    schema = IMAGE_SCHEMA if len(sources) == 1 else IMAGE_SCHEMA.append(SUBSET_FIELD)
    indices = spark.range(0, len(shares), 1, len(shares))
    return indices.mapInArrow(partial(_read, sources, shares), from_arrow_schema(schema))


def _read(
    sources: list[str], shares: list[tuple[Part, ...]], indices: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The rows of the partition whose index comes in, a part of each source."""
    for index in (index for batch in indices for index in batch["id"].to_pylist()):
        for subset, (source, part) in enumerate(zip(sources, shares[index], strict=True)):
            for batch in lmdb_file.read(local(source), part):
                yield batch if len(sources) == 1 else _marked(batch, subset)


def _marked(batch: pa.RecordBatch, subset: int) -> pa.RecordBatch:
    return batch.append_column(SUBSET_FIELD, pa.repeat(pa.scalar(subset, SUBSET_FIELD.type), batch.num_rows))
