"""Features that Spark's own writers cannot bring to their place."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from cos_runtime import storage
from cos_runtime.engine import feature_files
from cos_runtime.errors import UserError

# fsspec knows it, Spark's Hadoop does not: as an s3:// URL where the Hadoop module for it is not installed.
ELSEWHERE = "memory://features"
ROWS = 25_000


@pytest.fixture
def frame(spark: SparkSession) -> DataFrame:
    """Rows in five partitions, the third of them empty."""
    ids = spark.range(0, ROWS, 1, 5).where(~sf.col("id").between(10_000, 14_999))
    value = (sf.col("id") / 7).cast("float")
    return ids.select(sf.format_string("%08d", "id").alias("SampleID"), sf.array(value, value * 0.001).alias("ip2"))


@pytest.fixture
def memory() -> Iterator[AbstractFileSystem]:
    """The files elsewhere, none of which is left."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    if filesystem.exists("/features"):
        filesystem.rm("/features", recursive=True)


@pytest.mark.parametrize("file_format", ["json", "parquet"])
def test_the_driver_writes_what_spark_would(
    spark: SparkSession, frame: DataFrame, memory: AbstractFileSystem, tmp_path: Path, file_format: str
) -> None:
    feature_files.check(spark, ELSEWHERE, file_format)
    feature_files.write(frame, ELSEWHERE, file_format)
    feature_files.write(frame, str(tmp_path / "sparks"), file_format)
    parts = [f"part-0000{part}.{file_format}" for part in (0, 1, 3, 4)]
    assert sorted(memory.ls("/features", detail=False)) == [f"/features/{name}" for name in ["_SUCCESS", *parts]]
    (tmp_path / "ours").mkdir()
    for name in parts:
        memory.get(f"/features/{name}", str(tmp_path / "ours" / name))
    ours, sparks = (_rows(tmp_path / folder, file_format) for folder in ("ours", "sparks"))
    assert ours == sparks
    assert len(ours) == ROWS - 5_000
    theirs = spark.read.format(file_format).load(f"file://{tmp_path / 'ours'}")
    assert theirs.count() == ROWS - 5_000


def _rows(folder: Path, file_format: str) -> list[str]:
    files = sorted(folder.glob(f"part-*.{file_format}"))
    if file_format == "json":
        return [line for file in files for line in file.read_text().splitlines()]
    return [json.dumps(row) for file in files for row in pq.read_table(file).to_pylist()]


def test_a_file_larger_than_a_row_comes_whole(spark: SparkSession, memory: AbstractFileSystem) -> None:
    wide = spark.range(0, 40, 1, 2).select(sf.col("id").cast("string"), sf.repeat(sf.lit("x"), 1_000_000).alias("ip2"))
    feature_files.write(wide, ELSEWHERE, "json")
    content = b"".join(memory.cat(f"/features/part-0000{part}.json") for part in range(2))
    line = b'{"id":"%d","ip2":"' + b"x" * 1_000_000 + b'"}\n'
    assert hashlib.sha256(content).digest() == hashlib.sha256(b"".join(line % i for i in range(40))).digest()


def test_a_failure_leaves_nothing(spark: SparkSession, memory: AbstractFileSystem) -> None:
    broken = spark.range(4).select(sf.raise_error(sf.lit("no such net")).alias("ip2"))
    with pytest.raises(Exception, match="no such net"):
        feature_files.write(broken, ELSEWHERE, "json")
    assert not memory.exists("/features")


def test_a_format_of_sparks_alone_is_refused(spark: SparkSession) -> None:
    feature_files.check(spark, "/tmp/features", "orc")  # noqa: S108 - nothing is written
    with pytest.raises(UserError, match=r"orc cannot be written to memory://features, .*: give json or parquet"):
        feature_files.check(spark, ELSEWHERE, "orc")


def test_a_format_that_nobody_knows_is_refused(spark: SparkSession) -> None:
    with pytest.raises(UserError, match="-outputFormat jsno: Spark knows no such format: give json or parquet"):
        feature_files.check(spark, "/tmp/features", "jsno")  # noqa: S108 - nothing is written


def test_a_local_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with storage.new_folder(str(tmp_path / "deep" / "whole")) as folder, folder.open("a") as file:
        file.write(b"a")
        assert not (tmp_path / "deep" / "whole").exists()
    assert (tmp_path / "deep" / "whole" / "a").read_bytes() == b"a"
    with pytest.raises(KeyboardInterrupt), storage.new_folder(str(tmp_path / "part")) as folder:  # noqa: PT012
        folder.open("a").close()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
