"""LMDB files of Caffe Datums: opened for reading without a trace, checked, and cut in parts."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import lmdb
import pyarrow as pa

from cos_runtime.caffe import datum
from cos_runtime.caffe.schema.caffe_pb2 import Datum
from cos_runtime.errors import CorruptRecordError, UserError
from cos_runtime.sources.image_schema import IMAGE_SCHEMA

BATCH_ROWS = 1_000
BATCH_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Part:
    """Every ``stride``-th record from the one with ``first_key`` on, ``records`` in all."""

    first_key: bytes
    records: int
    stride: int = 1


@dataclass
class _Shared:
    environment: lmdb.Environment
    users: int = 0


# LMDB forbids to open a file twice in a process: readers in one process share an environment. The lock is reentrant
# as a reader that was left half way is closed by the garbage collector, at any point of this thread.
_shared: dict[tuple[int, int, int], _Shared] = {}
_shared_lock = threading.RLock()


@contextmanager
def opened(path: str) -> Iterator[lmdb.Environment]:
    """The LMDB at ``path``, its folder or its ``data.mdb``, open for reading while the context lasts.

    Nothing is written beside it, so a read-only folder will do.

    Raises:
        UserError: nothing is there, or something that is no whole LMDB.
    """
    data_file = _data_file(path)
    status = os.stat(data_file)
    # A forked process must not use its parent's environments.
    key = (os.getpid(), status.st_dev, status.st_ino)
    with _shared_lock:
        if key not in _shared:
            _shared[key] = _Shared(_open(path, data_file))
        shared = _shared[key]
        shared.users += 1
    try:
        yield shared.environment
    finally:
        with _shared_lock:
            shared.users -= 1
            if not shared.users:
                del _shared[key]
                shared.environment.close()


def _data_file(path: str) -> str:
    if not os.path.exists(path):
        raise UserError(f"LMDB {path} does not exist")
    if not os.path.isdir(path):
        return path
    data_file = os.path.join(path, "data.mdb")
    if not os.path.isfile(data_file):
        raise UserError(f"LMDB {path} is a folder without a data.mdb: name the folder that holds it")
    return data_file


def _open(path: str, data_file: str) -> lmdb.Environment:
    size = os.path.getsize(data_file)
    if not size:
        raise UserError(f"LMDB {path} is damaged: its data.mdb has no content")
    try:
        environment = lmdb.open(data_file, subdir=False, readonly=True, lock=False, create=False)
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError):
        raise UserError(f"LMDB {path} is damaged, or no LMDB at all") from None
    except lmdb.Error as error:
        raise UserError(f"LMDB {path} cannot be opened: {error}") from None
    # The file is mapped to memory: to touch a page that is not there would kill the process.
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < needed:
        environment.close()
        raise UserError(f"LMDB {path} is truncated: its data.mdb has {size} bytes of {needed}")
    return environment


def count(path: str) -> int:
    """The number of records.

    Raises:
        UserError: the LMDB cannot be read, or is empty.
    """
    with opened(path) as environment:
        entries = int(environment.stat()["entries"])
    if not entries:
        raise UserError(f"LMDB {path} is empty")
    return entries


def first_datum(path: str) -> Datum:
    """The first record.

    Raises:
        UserError: the LMDB cannot be read, is empty, or holds something else than Datums.
    """
    part = Part(ranges(path, 1)[0].first_key, records=1)
    return next(datums(path, part))[1]


def ranges(path: str, parts: int) -> list[Part]:
    """The records in at most ``parts`` ranges of about the same length, in order, none empty."""
    entries = count(path)
    parts = min(parts, entries)
    lengths = [entries // parts + (index < entries % parts) for index in range(parts)]
    found = []
    with _reading(path) as cursor:
        keys = cursor.iternext(keys=True, values=False)
        for length in lengths:
            found.append(Part(bytes(next(keys)), length))
            deque(islice(keys, length - 1), maxlen=0)
    return found


def strides(path: str, parts: int) -> list[Part]:
    """The records dealt to exactly ``parts`` parts: record ``p`` to part ``p % parts``."""
    entries = count(path)
    with _reading(path) as cursor:
        keys = [bytes(key) for key in islice(cursor.iternext(keys=True, values=False), parts)]
    keys += [b""] * (parts - len(keys))
    return [Part(key, len(range(index, entries, parts)), parts) for index, key in enumerate(keys)]


def read(path: str, part: Part) -> Iterator[pa.RecordBatch]:
    """The records of a part as rows of the image schema, a thousand or 16 MB at a time.

    A record that is no sound Datum is a row without data: whoever decodes it decides whether to do without it.

    Raises:
        UserError: the file is damaged.
    """
    rows: list[tuple[object, ...]] = []
    n_bytes = 0
    for name, value in _values(path, part):
        row = _row(value, _origin(path, name))
        rows.append((name, *row))
        n_bytes += len(row[-1] or b"")
        if len(rows) >= BATCH_ROWS or n_bytes >= BATCH_BYTES:
            yield _batch(rows)
            rows, n_bytes = [], 0
    if rows:
        yield _batch(rows)


def _row(value: bytes | memoryview, origin: str) -> tuple[int | None, int, int, int, bool, bytes | None]:
    try:
        record = datum.parse(value, origin)
    except CorruptRecordError:
        return None, 0, 0, 0, False, None
    content = datum.stored_bytes(record)
    return record.label, record.channels, record.height, record.width, record.encoded, content


def _batch(rows: list[tuple[object, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, IMAGE_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=IMAGE_SCHEMA)


def datums(path: str, part: Part) -> Iterator[tuple[str, Datum]]:
    """Id and Datum of each record of a part.

    Raises:
        UserError: a record is no sound Datum, or the file is damaged.
    """
    for name, value in _values(path, part):
        yield name, datum.parse(value, _origin(path, name))


def _origin(path: str, name: str) -> str:
    return f"record {name} of LMDB {path}"


def _values(path: str, part: Part) -> Iterator[tuple[str, bytes | memoryview]]:
    """Id and content of each record of a part; the content is a view, good until the next one is asked for."""
    if not part.records:
        return
    with _reading(path) as cursor:
        is_found = cursor.set_key(part.first_key)
        for index in range(part.records):
            if index:
                # Values are views of the map: those of the records passed over are never touched.
                is_found = all(cursor.next() for _ in range(part.stride))
            if not is_found:
                raise UserError(f"LMDB {path} is damaged: it has fewer records than it counts")
            name = bytes(cursor.key()).decode(errors="backslashreplace")
            yield name, cursor.value()


@contextmanager
def _reading(path: str) -> Iterator[lmdb.Cursor]:
    with opened(path) as environment:
        try:
            with environment.begin(buffers=True) as transaction, transaction.cursor() as cursor:
                yield cursor
        except lmdb.Error as error:
            raise UserError(f"LMDB {path} is damaged: {error}") from None
