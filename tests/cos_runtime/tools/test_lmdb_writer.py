"""An LMDB that is written record by record and seen when it is complete."""

from pathlib import Path

import lmdb
import numpy as np
import pytest

from cos_runtime.caffe.datum import from_array
from cos_runtime.caffe.schema.caffe_pb2 import Datum
from cos_runtime.errors import UserError
from cos_runtime.tools import _lmdb_writer
from cos_runtime.tools._lmdb_writer import LMDBWriter

RECORD = from_array(np.arange(6, dtype=np.uint8).reshape(1, 2, 3), 4)


def content(path: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def test_records_are_there_at_the_end_and_nothing_else(tmp_path: Path) -> None:
    with LMDBWriter(str(tmp_path / "sub" / "out")) as writer:
        writer.put("b", RECORD)
        writer.put("a", Datum())
        assert not (tmp_path / "sub" / "out").exists()
    assert content(tmp_path / "sub" / "out") == {b"a": b"", b"b": RECORD.SerializeToString()}
    assert [path.name for path in tmp_path.rglob("*")] == ["sub", "out", "data.mdb"]


def test_the_map_grows_with_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lmdb_writer, "FIRST_MAP_SIZE", 16 * 4096)
    monkeypatch.setattr(_lmdb_writer, "BATCH_RECORDS", 7)
    with LMDBWriter(str(tmp_path / "out")) as writer:
        for index in range(100):
            writer.put(f"{index:03d}", Datum(data=bytes([index]) * 20_000, label=index))
    records = [Datum.FromString(value) for value in content(tmp_path / "out").values()]
    assert [record.label for record in records] == list(range(100))
    assert all(record.data == bytes([record.label]) * 20_000 for record in records)


def test_an_existing_output_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=f"output {tmp_path / 'out'} exists already"):
        LMDBWriter(str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_parent_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        LMDBWriter(str(tmp_path / "file" / "out"))


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    def write() -> None:
        with LMDBWriter(str(tmp_path / "out")) as writer:
            writer.put("a", RECORD)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keys", "reason"), [(["a", "a"], "two records with the key a"), (["a" * 512], "no key"), ([""], "no key")]
)
def test_a_key_that_cannot_be_is_refused_and_nothing_is_left(tmp_path: Path, keys: list[str], reason: str) -> None:
    def write() -> None:
        with LMDBWriter(str(tmp_path / "out")) as writer:
            for key in keys:
                writer.put(key, RECORD)

    with pytest.raises(UserError, match=reason):
        write()
    assert not list(tmp_path.iterdir())
