"""An LMDB written record by record, seen by others when it is complete."""

from __future__ import annotations

import os
import shutil
import uuid
from types import TracebackType
from typing import Self

import lmdb

from cos_runtime.caffe.schema.caffe_pb2 import Datum
from cos_runtime.errors import UserError

# Records that are written in one transaction, unless they come to more bytes first.
BATCH_RECORDS = 1_000
BATCH_BYTES = 16 * 2**20
FIRST_MAP_SIZE = 64 * 2**20


class LMDBWriter:
    """Context manager that writes a new LMDB folder.

    It is written under another name beside ``path``, which it takes at the end of the context; after an exception
    nothing is left of it.

    Args:
        path: the folder to make; a local path.

    Raises:
        UserError: something is at ``path`` already, or its parent cannot be written to.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        if os.path.lexists(self.path):
            raise UserError(f"output {path} exists already: remove it or name another")
        parent, name = os.path.split(self.path)
        self._beside = os.path.join(parent, f".{name}.{uuid.uuid4().hex}")
        try:
            os.makedirs(self._beside)
        except OSError as error:
            raise UserError(f"output {path} cannot be written: {error.strerror}") from None
        self._map_size = FIRST_MAP_SIZE
        # Nobody else knows the folder: neither locks nor a sync for each transaction are needed.
        self._environment = lmdb.open(self._beside, map_size=self._map_size, lock=False, sync=False)
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_bytes = 0

    def put(self, key: str, datum: Datum) -> None:
        """Add a record; records lie in the order of their keys' UTF-8 bytes, whatever the order they come in.

        Raises:
            UserError: the key was used before, or is longer than LMDB takes (511 bytes).
        """
        value = datum.SerializeToString()
        self._pending.append((key.encode(), value))
        self._pending_bytes += len(value)
        if len(self._pending) >= BATCH_RECORDS or self._pending_bytes >= BATCH_BYTES:
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write()
                self._environment.sync(True)
        except BaseException:
            kind = BaseException
            raise
        finally:
            self._environment.close()
            if kind is None:
                os.replace(self._beside, self.path)
            else:
                shutil.rmtree(self._beside)

    def _write(self) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._pending:
                        self._put(transaction, key, value)
            except lmdb.MapFullError:
                # The transaction has written nothing: all of it comes again.
                self._map_size *= 2
                self._environment.set_mapsize(self._map_size)
            else:
                break
        self._pending, self._pending_bytes = [], 0

    def _put(self, transaction: lmdb.Transaction, key: bytes, value: bytes) -> None:
        try:
            is_new = transaction.put(key, value, overwrite=False)
        except lmdb.BadValsizeError:
            raise UserError(f"{key.decode()} is no key for an LMDB: it must have 1 to 511 bytes") from None
        if not is_new:
            raise UserError(f"there are two records with the key {key.decode()}")
