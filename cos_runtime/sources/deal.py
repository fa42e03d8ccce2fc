"""Rows dealt to ranks as cards are dealt to players."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from itertools import accumulate
from typing import TYPE_CHECKING

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as sf

if TYPE_CHECKING:
    from pyspark.sql import Column

# Spark's monotonically_increasing_id is the partition, shifted by this, plus the row's index in it.
PARTITION_SHIFT = 33
POSITION = "__position"


# Which of several sets of records a row is of: their number, in order.
SUBSET = "__subset"


def deal_all(sets: Sequence[DataFrame], ranks: int, shuffle: int | None = None) -> DataFrame:
    """All sets dealt, in the same ``ranks`` partitions: each has its rows of the first, in order, then of the next, ….

    A column :data:`SUBSET` has the number of a row's set. The rows of the last set, which are those of training, are
    shuffled where :func:`shuffled` has a seed.
    """
    *before, last = sets
    marked = [
        _placed(df, ranks).withColumn(SUBSET, sf.lit(subset))
        for subset, df in enumerate([*before, shuffled(last, shuffle)])
    ]
    return _in_order(reduce(partial(DataFrame.unionByName, allowMissingColumns=True), marked), ranks, SUBSET, POSITION)


def shuffled(df: DataFrame, seed: int | None) -> DataFrame:
    """The rows in a random order that follows from the seed and the rows' ``id`` alone; None leaves them in order."""
    # Not by rand(): its numbers follow from the partitions, which another start may have others of.
    return df if seed is None else df.orderBy(sf.xxhash64(sf.lit(seed), "id"), "id")


def deal(df: DataFrame, ranks: int, shuffle: int | None = None) -> DataFrame:
    """The rows of ``df`` in exactly ``ranks`` partitions: row ``p`` is in partition ``p % ranks``, each in order.

    None is lost however uneven the partitions of ``df`` are. With more than one rank ``df`` is computed here, once,
    and kept on the executors' disks as long as the result is referenced; with an executor, its rows are lost.

    Args:
        shuffle: the seed of a random order, see :func:`shuffled`.
    """
    return _in_order(_placed(shuffled(df, shuffle), ranks), ranks, POSITION)


def one_by_one(kept: DataFrame) -> DataFrame:
    """Each row of a DataFrame that Spark keeps, in a partition of its own, in order."""
    counts = _counts(kept)
    return _in_order(kept.withColumn(POSITION, _position(counts)), max(sum(counts.values()), 1), POSITION)


def _in_order(placed: DataFrame, ranks: int, *order: str) -> DataFrame:
    # For one rank too a shuffle: a barrier stage takes no coalesce().
    rank = (sf.col(POSITION) % ranks).cast("int")
    return placed.repartitionById(ranks, rank).sortWithinPartitions(*order).drop(POSITION)


def _placed(df: DataFrame, ranks: int) -> DataFrame:
    """``df`` with each row's position; for one rank any growing number will do."""
    if ranks == 1:
        return df.withColumn(POSITION, sf.monotonically_increasing_id())
    # Were `df` computed again for the counts, with fewer columns, adaptive execution might cut it otherwise.
    kept = df.localCheckpoint(storageLevel=StorageLevel.DISK_ONLY)
    return kept.withColumn(POSITION, _position(_counts(kept)))


def _counts(kept: DataFrame) -> dict[int, int]:
    """How many rows the partitions have, those without left out; ``kept`` by Spark, as it is read for this."""
    found = kept.groupBy(sf.spark_partition_id().alias("partition")).count().collect()
    return {row["partition"]: row["count"] for row in found}


def _position(counts: Mapping[int, int]) -> Column:
    """The index of a row among all: the number of rows in the partitions before its own, and its index there."""
    lengths = [counts.get(partition, 0) for partition in range(max(counts, default=0) + 1)]
    offsets = [0, *accumulate(lengths[:-1])]
    mark = sf.monotonically_increasing_id()
    index_in_partition = mark.bitwiseAND(sf.lit((1 << PARTITION_SHIFT) - 1))
    return sf.element_at(sf.array(*map(sf.lit, offsets)), (sf.spark_partition_id() + 1)) + index_in_partition
