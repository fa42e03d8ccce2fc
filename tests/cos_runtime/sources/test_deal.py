"""Rows dealt to ranks: exactly so many partitions, every row once, in order."""

from collections.abc import Iterator

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from cos_runtime.sources.deal import deal


def partitions(df: DataFrame) -> list[list[int]]:
    """The column ``n`` of each partition, as a task sees it."""
    rows = df.mapInArrow(_values, "partition int, n array<bigint>").collect()
    return [row.n for row in sorted(rows, key=lambda row: row.partition)]


def _values(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    from pyspark import TaskContext  # noqa: PLC0415

    values = [value for batch in batches for value in batch.column("n").to_pylist()]
    columns = {"partition": [TaskContext.get().partitionId()], "n": [values]}
    schema = pa.schema([("partition", pa.int32()), ("n", pa.list_(pa.int64()))])
    yield pa.RecordBatch.from_pydict(columns, schema=schema)


def uneven(spark: SparkSession, lengths: list[int]) -> DataFrame:
    """Rows 0, 1, 2 … in partitions of these lengths."""
    rows, begin = [], 0
    for length in lengths:
        rows.append(list(range(begin, begin + length)))
        begin += length
    parts = spark.sparkContext.parallelize(rows, len(rows))
    return spark.createDataFrame(parts.flatMap(lambda part: [(n, f"row {n}") for n in part]), "n long, text string")


@pytest.mark.parametrize("lengths", [[10], [3, 4, 3], [0, 5, 0, 0, 1, 7, 0], [1, 0, 0, 1], [0, 0, 11]])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_row_p_goes_to_rank_p_modulo_ranks(spark: SparkSession, lengths: list[int], ranks: int) -> None:
    df = uneven(spark, lengths)
    everything = list(range(sum(lengths)))
    assert partitions(deal(df, ranks)) == [everything[rank::ranks] for rank in range(ranks)]
    assert deal(df, ranks).schema == df.schema


def test_more_ranks_than_rows_leave_some_empty(spark: SparkSession) -> None:
    assert partitions(deal(uneven(spark, [1, 1]), 4)) == [[0], [1], [], []]


@pytest.mark.parametrize("ranks", [1, 3])
def test_no_rows_are_dealt_too(spark: SparkSession, ranks: int) -> None:
    assert [value for part in partitions(deal(uneven(spark, [0, 0]), ranks)) for value in part] == []


@pytest.fixture
def cutting(spark: SparkSession) -> Iterator[None]:
    """Adaptive execution that cuts a shuffle by its bytes, so that fewer columns give fewer partitions."""
    settings = {
        "spark.sql.shuffle.partitions": "10",
        "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",
        "spark.sql.adaptive.coalescePartitions.minPartitionSize": "4KB",
        "spark.sql.adaptive.advisoryPartitionSizeInBytes": "20KB",
    }
    before = {name: spark.conf.get(name) for name in settings}
    for name, value in settings.items():
        spark.conf.set(name, value)
    yield
    for name, value in before.items():
        spark.conf.set(name, value)


@pytest.mark.usefixtures("cutting")
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_sorted_frame_keeps_its_order_however_it_is_cut(spark: SparkSession, ranks: int) -> None:
    text = sf.concat(*(sf.md5((sf.col("id") + salt).cast("string")) for salt in range(10)))
    df = spark.range(1000).select(sf.col("id").alias("n"), text.alias("text")).repartition(5).orderBy("n")
    assert len(partitions(df)) > 3
    assert partitions(deal(df, ranks)) == [list(range(1000))[rank::ranks] for rank in range(ranks)]


def test_a_shuffle_follows_from_seed_and_ids_alone(spark: SparkSession) -> None:
    frames = [uneven(spark, lengths).withColumn("id", sf.col("text")) for lengths in ([40], [3, 30, 7])]
    dealt = [partitions(deal(df, 2, shuffle=5)) for df in frames]
    assert dealt[0] == dealt[1]
    order = [value for pair in zip(*dealt[0], strict=True) for value in pair]
    assert sorted(order) == list(range(40))
    assert order != list(range(40))
    assert partitions(deal(frames[0], 2, shuffle=6)) != dealt[0]


def test_a_barrier_stage_gets_all_ranks_at_once(spark: SparkSession) -> None:
    rows = deal(uneven(spark, [3, 0, 5]), 2).mapInArrow(_values, "partition int, n array<bigint>", barrier=True)
    assert sorted(row.n for row in rows.collect()) == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_a_column_may_have_any_name(spark: SparkSession) -> None:
    df = uneven(spark, [2, 2]).withColumn("position", sf.lit(1)).withColumn("partition", sf.lit(2))
    assert partitions(deal(df, 2)) == [[0, 2], [1, 3]]
