"""Caffe's LMDBs: read in order, dealt to ranks, and refused where they are damaged."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import fsspec
import lmdb
import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from cos_runtime.caffe.schema.caffe_pb2 import Datum
from cos_runtime.errors import CorruptRecordError, UserError
from cos_runtime.sources import lmdb_file
from cos_runtime.sources.base import DataSource
from cos_runtime.sources.deal import SUBSET
from cos_runtime.sources.lmdb import LMDB
from tests.cos_runtime.sources.own_source import Even
from tests.fixtures.mnist import SmallLMDB
from tests.fixtures.source_conf import conf_of, memory_data

IMAGES = np.random.default_rng(0).integers(0, 256, (25, 1, 2, 3), dtype=np.uint8)


def source(path: object, *, is_train: bool = True, **options: object) -> LMDB:
    return LMDB(conf_of(memory_data(path), **options), 0, is_train)


def data_layer(path: object, more: str = "") -> str:
    return f'type: "Data" top: "data" top: "label" data_param {{ source: "{path}" backend: LMDB batch_size: 2 }} {more}'


def partitions(df: DataFrame, column: str = "label") -> list[list[object]]:
    """A column's values by partition, in order; empty partitions at the end are not seen."""
    rows = df.select(sf.spark_partition_id().alias("partition"), column).collect()
    parts: list[list[object]] = [[] for _ in range(max((row.partition for row in rows), default=-1) + 1)]
    for row in rows:
        parts[row.partition].append(row[column])
    return parts


def test_records_come_in_the_order_of_their_keys(spark: SparkSession, small_lmdb: SmallLMDB) -> None:
    path = small_lmdb(IMAGES)
    rows = source(path, lmdb_partitions=3).dataframe(spark).collect()
    assert [row.id for row in rows] == [f"{index:08d}" for index in range(25)]
    assert [row.label for row in rows] == list(range(25))
    assert [bytes(row.data) for row in rows] == [image.tobytes() for image in IMAGES]
    assert {(row.channels, row.height, row.width, row.encoded) for row in rows} == {(1, 2, 3, False)}


@pytest.mark.parametrize(("wanted", "lengths"), [(1, [25]), (3, [9, 8, 8]), (40, [1] * 25), (None, [13, 12])])
def test_partitions_are_ranges(
    spark: SparkSession, small_lmdb: SmallLMDB, wanted: int | None, lengths: list[int]
) -> None:
    parts = partitions(source(small_lmdb(IMAGES), lmdb_partitions=wanted).dataframe(spark))
    assert [len(part) for part in parts] == lengths
    assert [label for part in parts for label in part] == list(range(25))


@pytest.mark.parametrize("ranks", [1, 2, 3, 25])
def test_records_are_dealt_in_turn(spark: SparkSession, small_lmdb: SmallLMDB, ranks: int) -> None:
    df = source(small_lmdb(IMAGES)).dealt(spark, ranks)
    assert partitions(df) == [list(range(25))[rank::ranks] for rank in range(ranks)]


def test_more_ranks_than_records_leave_some_empty(spark: SparkSession, small_lmdb: SmallLMDB) -> None:
    df = source(small_lmdb(IMAGES[:2])).dealt(spark, 4)
    assert partitions(df) == [[0], [1]]
    assert df.rdd.getNumPartitions() == 4


def test_dealing_a_frame_gives_what_dealing_the_file_gives(spark: SparkSession, small_lmdb: SmallLMDB) -> None:
    records = source(small_lmdb(IMAGES), lmdb_partitions=4)
    for ranks in (1, 2, 3):
        assert partitions(DataSource.dealt(records, spark, ranks), "id") == partitions(
            records.dealt(spark, ranks), "id"
        )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_validation_records_come_before_those_for_training(
    spark: SparkSession, small_lmdb: SmallLMDB, ranks: int
) -> None:
    training, validation = (
        source(small_lmdb(IMAGES)),
        source(small_lmdb(IMAGES[:7], range(100, 107), name="validation")),
    )
    expected = [[*range(100, 107)][rank::ranks] + [*range(25)][rank::ranks] for rank in range(ranks)]
    df = training.dealt_after([validation], spark, ranks)
    assert partitions(df) == expected
    assert {(row[SUBSET], row.label >= 100) for row in df.collect()} == {(0, True), (1, False)}
    general = DataSource.dealt_after(training, [validation], spark, ranks)
    assert partitions(general) == expected
    assert general.columns == df.columns


def test_a_subclass_with_records_of_its_own_is_dealt_by_them(spark: SparkSession, small_lmdb: SmallLMDB) -> None:
    even = Even(conf_of(memory_data(small_lmdb(IMAGES))), 0, True)
    assert partitions(even.dealt(spark, 2)) == [[*range(0, 25, 4)], [*range(2, 25, 4)]]
    both = even.dealt_after([source(small_lmdb(IMAGES[:3], [101, 102, 103], name="validation"))], spark, 2)
    assert partitions(both) == [[101, 103, *range(0, 25, 4)], [102, *range(2, 25, 4)]]


def test_mnist_is_read_whole(spark: SparkSession, mnist_lmdbs: Path) -> None:
    layer = data_layer(mnist_lmdbs / "mnist_train_lmdb", "transform_param { scale: 0.00390625 }")
    records = DataSource.getSource(conf_of(layer), True)
    assert records.count() == 60_000
    assert records.top_shapes() == {"data": (2, 1, 28, 28), "label": (2,)}
    df = records.dataframe(spark)
    counts = {row.label: row["count"] for row in df.groupBy("label").count().collect()}
    assert [counts[digit] for digit in range(10)] == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    batch = next(lmdb_file.read(str(mnist_lmdbs / "mnist_train_lmdb"), lmdb_file.Part(b"00000000", 5)))
    tops = records.decode(batch, np.random.default_rng(0))
    assert tops["label"].tolist() == [5, 0, 4, 1, 9]
    assert float(tops["data"].max()) == 255 / 256


def test_a_frame_feeds_decode_on_the_executors(spark: SparkSession, small_lmdb: SmallLMDB) -> None:
    records = source(small_lmdb(IMAGES))
    records.check()
    sums = _sums(spark, records)
    assert sums == [float(IMAGES[rank::2].astype(np.float32).sum()) for rank in (0, 1)]


def _sums(spark: SparkSession, records: DataSource) -> list[float]:
    def total(batches):
        import pyarrow as pa  # noqa: PLC0415

        values = [float(records.decode(rows, np.random.default_rng(0))["data"].sum()) for rows in batches]
        yield pa.RecordBatch.from_pydict({"sum": [sum(values)]})

    return [row["sum"] for row in records.dealt(spark, 2).mapInArrow(total, "sum double", barrier=True).collect()]


def test_a_source_of_ones_own_is_named_by_its_python_path(spark: SparkSession, small_lmdb: SmallLMDB) -> None:
    module = "tests.cos_runtime.sources.own_source"
    layer = memory_data(small_lmdb(IMAGES)).replace("com.yahoo.ml.caffe.LMDB", f"{module}.Darker")
    darker = DataSource.getSource(conf_of(layer), True)
    assert _sums(spark, darker) == [float(IMAGES[rank::2].sum()) / 2 for rank in (0, 1)]
    layer = memory_data("9").replace("com.yahoo.ml.caffe.LMDB", f"{module}.Shades")
    shades = DataSource.getSource(conf_of(layer), True)
    assert _sums(spark, shades) == [6.0 * (0 + 2 + 4 + 6 + 8), 6.0 * (1 + 3 + 5 + 7)]
    assert partitions(shades.dealt(spark, 2), "id")[1] == ["shade 1", "shade 3", "shade 5", "shade 7"]


def test_floats_and_encoded_images_keep_their_bytes(small_lmdb: SmallLMDB) -> None:
    floats = np.full((1, 2, 3), 1.5, np.float32)
    path = str(small_lmdb([floats, Datum(encoded=True, data=b"a file", label=4)]))
    rows = next(lmdb_file.read(path, lmdb_file.ranges(path, 1)[0])).to_pylist()
    assert rows[0]["data"] == floats.tobytes()
    assert (rows[1]["encoded"], rows[1]["data"], rows[1]["channels"]) == (True, b"a file", 0)


def test_batches_are_bounded_in_rows_and_bytes(small_lmdb: SmallLMDB, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(small_lmdb(IMAGES))
    everything = lmdb_file.ranges(path, 1)[0]
    monkeypatch.setattr(lmdb_file, "BATCH_ROWS", 10)
    assert [batch.num_rows for batch in lmdb_file.read(path, everything)] == [10, 10, 5]
    monkeypatch.setattr(lmdb_file, "BATCH_BYTES", 4 * 6)
    assert [batch.num_rows for batch in lmdb_file.read(path, everything)] == [4] * 6 + [1]


def test_a_relative_source_counts_from_the_solvers_folder(small_lmdb: SmallLMDB) -> None:
    folder = small_lmdb(IMAGES, name="records").parent
    assert source("records", solver_folder=str(folder)).count() == 25
    assert source("file:records", solver_folder=str(folder)).count() == 25


def test_the_data_file_itself_may_be_named(small_lmdb: SmallLMDB) -> None:
    assert source(small_lmdb(IMAGES) / "data.mdb").count() == 25


def test_nothing_is_written_beside_the_data(small_lmdb: SmallLMDB, spark: SparkSession) -> None:
    path = small_lmdb(IMAGES)
    path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    before = (path / "data.mdb").stat()
    records = source(path)
    records.check()
    assert records.dataframe(spark).count() == 25
    assert [entry.name for entry in path.iterdir()] == ["data.mdb"]
    assert (path / "data.mdb").stat().st_mtime_ns == before.st_mtime_ns


def test_readers_in_one_process_share_the_file_and_close_it(small_lmdb: SmallLMDB) -> None:
    first, second = str(small_lmdb(IMAGES, name="first")), str(small_lmdb(IMAGES[:4], name="second"))
    readers = [lmdb_file.read(path, part) for path in (first, first, second) for part in lmdb_file.strides(path, 2)]
    rows = [next(reader).num_rows for reader in readers]
    assert rows == [13, 12, 13, 12, 2, 2]
    # A reader left half way holds its file until it is closed.
    held = lmdb_file.datums(first, lmdb_file.ranges(first, 1)[0])
    next(held)
    with lmdb_file.opened(first), lmdb_file.opened(os.path.join(first, "data.mdb")):
        pass
    assert next(held)[0] == "00000001"
    held.close()
    for reader in readers:
        reader.close()
    assert not _open_files(first, second)


def _open_files(*folders: str) -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return [name for name in found if name.startswith(folders)]


def test_a_failed_check_leaves_no_file_open(small_lmdb: SmallLMDB) -> None:
    path = small_lmdb(IMAGES)
    os.truncate(path / "data.mdb", 8192 + 100)
    for _ in range(3):
        with pytest.raises(UserError):
            source(path).check()
    assert not _open_files(str(path))


def test_a_remote_lmdb_is_fetched_once(
    small_lmdb: SmallLMDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: SparkSession
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "host"))
    (tmp_path / "host").mkdir()
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(small_lmdb(IMAGES)), "/bucket/lmdb", recursive=True)
    records = source("memory://bucket/lmdb")
    records.check()
    assert records.count() == 25
    assert source("lmdb", solver_folder="memory://bucket").count() == 25
    fetched = [path for path in (tmp_path / "host").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert len(fetched) == 1
    filesystem.put(str(small_lmdb(IMAGES[:7], name="newer") / "data.mdb"), "/bucket/lmdb/data.mdb")
    assert records.count() == 7
    filesystem.rm("/bucket/lmdb", recursive=True)
    with pytest.raises(UserError, match="LMDB memory://bucket/lmdb/data.mdb does not exist"):
        records.check()


def test_a_data_layer_takes_the_size_of_the_first_record(small_lmdb: SmallLMDB) -> None:
    layer = data_layer(small_lmdb(IMAGES), "transform_param { crop_size: 2 }")
    assert DataSource.getSource(conf_of(layer), True).top_shapes() == {"data": (2, 1, 2, 2), "label": (2,)}


def test_more_records_than_there_are_cannot_make_a_batch(small_lmdb: SmallLMDB) -> None:
    path = small_lmdb(IMAGES[:1])
    with pytest.raises(UserError, match="batch_size 2, more than the 1 records of LMDB .*: lower batch_size"):
        source(path).check()
    source(path, is_train=False).check()


def test_partitions_must_be_some(small_lmdb: SmallLMDB) -> None:
    with pytest.raises(UserError, match="lmdb_partitions is 0"):
        source(small_lmdb(IMAGES), lmdb_partitions=0).check()


def _remove(path: Path) -> None:
    (path / "data.mdb").unlink()
    path.rmdir()


def _foreign(path: Path) -> None:
    (path / "data.mdb").write_bytes(b"something else " * 10_000)


def _write(path: Path, **records: bytes) -> None:
    (path / "data.mdb").unlink()
    with lmdb.open(str(path), lock=False) as environment, environment.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key.encode(), value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_remove, "LMDB {} does not exist"),
        (lambda path: (path / "data.mdb").unlink(), "LMDB {} is a folder without a data.mdb"),
        (_foreign, "LMDB {} is damaged, or no LMDB at all"),
        (lambda path: os.truncate(path / "data.mdb", 0), "LMDB {} is damaged: its data.mdb has no content"),
        (lambda path: os.truncate(path / "data.mdb", 1000), "LMDB {} is damaged, or no LMDB at all"),
        (lambda path: os.truncate(path / "data.mdb", 4096), "LMDB {} is damaged, or no LMDB at all"),
        (lambda path: os.truncate(path / "data.mdb", 8192), "LMDB {} is truncated: its data.mdb has 8192 bytes of"),
        (lambda path: os.truncate(path / "data.mdb", 8193), "LMDB {} is truncated"),
        (_write, "LMDB {} is empty"),
        (lambda path: _write(path, key=b"hello"), "record key of LMDB {} is no Caffe Datum"),
        (lambda path: _write(path, key=b""), "record key of LMDB {} is no sound Caffe Datum"),
    ],
)
def test_a_file_that_is_no_whole_lmdb_is_refused(
    small_lmdb: SmallLMDB, damage: Callable[[Path], None], reason: str
) -> None:
    path = small_lmdb(IMAGES)
    damage(path)
    with pytest.raises(UserError) as caught:
        source(path).check()
    assert str(caught.value).startswith(reason.format(path))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_lmdb_is_refused_wherever_it_ends(small_lmdb: SmallLMDB, share: float) -> None:
    path = small_lmdb(np.zeros((200, 1, 28, 28), np.uint8))
    size = (path / "data.mdb").stat().st_size
    os.truncate(path / "data.mdb", int(size * share))
    with pytest.raises(UserError, match="is truncated: its data.mdb has"):
        source(path).check()


def test_a_file_with_no_record_of_its_own_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database")
    with pytest.raises(UserError, match=f"LMDB {path} is damaged, or no LMDB at all"):
        source(path).check()


def test_a_damaged_record_in_the_middle_is_named(spark: SparkSession, small_lmdb: SmallLMDB) -> None:
    path = small_lmdb(IMAGES)
    with lmdb.open(str(path), lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"00000013", b"rubbish")
    records = source(path)
    records.check()
    rows = records.dataframe(spark).toArrow().combine_chunks().to_batches()[0]
    assert [row["id"] for row in rows.to_pylist() if row["data"] is None] == ["00000013"]
    with pytest.raises(CorruptRecordError, match=f"record 00000013 of {path} has no data that can be read"):
        records.decode(rows, np.random.default_rng(0))


def test_a_file_that_cannot_be_read_is_refused(small_lmdb: SmallLMDB, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise lmdb.Error("Permission denied")

    path = small_lmdb(IMAGES)
    monkeypatch.setattr(lmdb, "open", refuse)
    with pytest.raises(UserError, match=f"LMDB {path} cannot be opened: Permission denied"):
        source(path).check()
