"""A rank's share of the records: it crosses Spark once and then comes from a file of the rank's own."""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from cos_runtime.errors import UserError

_SHUFFLED_ROWS = 256


def local_folder() -> str:
    """The node's scratch folder: the first of Spark's local directories, else the system's."""
    return os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or tempfile.gettempdir()


class Spool:
    """Record batches that are read once from an iterator and then again and again from local disk.

    The file has no name (``O_TMPFILE``), so that nothing is left of it however the process ends. It is an Arrow
    IPC file, mapped into memory: reading it copies nothing.

    Args:
        batches: the records, as Spark hands them to the task.
        folder: where the file lies.
        seed: where given, each round after the first has a random order of its own.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch], folder: str, seed: Sequence[int] | None = None) -> None:
        self._seed = seed
        self._batches = batches
        self._folder = folder
        self._records = 0

    def once(self) -> Iterator[pa.RecordBatch]:
        """The first pass: hands out the batches as they come and keeps them.

        Raises:
            UserError: there were no records at all.
        """
        # Not a context manager: the file lives as long as the map that is made of it.
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        writer = None
        for batch in self._batches:
            if not batch.num_rows:
                continue
            if writer is None:
                writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), batch.schema)
            writer.write_batch(batch)
            yield batch
            self._records += batch.num_rows
        if writer is None:
            raise UserError("the rank got no record: there are fewer records than ranks")
        writer.close()
        self._file.flush()

    def load(self) -> int:
        """Make the first pass without using it, and return the number of records."""
        for _ in self.once():
            pass
        return self._records

    def again_and_again(self, start: int = 0, first: int = 0) -> Iterator[pa.RecordBatch]:
        """Rounds without end, from the file, after :meth:`once` has ended.

        Args:
            start: records that the endless sequence is begun after.
            first: the number of the round that it begins with.
        """
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        done, rest = divmod(start, self._records)
        rounds = (self._round(batches, number) for number in itertools.count(first + done))
        yield from _after(itertools.chain.from_iterable(rounds), rest)

    def _round(self, batches: list[pa.RecordBatch], number: int) -> Iterator[pa.RecordBatch]:
        """One time round the records."""
        if self._seed is None or number == 0:
            yield from batches
            return
        order = np.random.default_rng([*self._seed, number]).permutation(self._records)
        starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        which = np.searchsorted(starts, order, side="right") - 1
        within = order - starts[which]
        for begin in range(0, self._records, _SHUFFLED_ROWS):
            piece = slice(begin, begin + _SHUFFLED_ROWS)
            rows = zip(which[piece].tolist(), within[piece].tolist(), strict=True)
            # Not Table.take, which first makes one piece of all the records: they may be more than memory holds.
            yield pa.concat_batches([batches[index].slice(row, 1) for index, row in rows])

    def cycle(self, start: int = 0) -> Iterator[pa.RecordBatch]:
        """The records without end: in the same order each round, unless there is a seed.

        Args:
            start: records that the endless sequence is begun after.
        """
        if not self._records:
            yield from _after(self.once(), start)
            yield from self.again_and_again(max(0, start - self._records), 1)
        else:
            yield from self.again_and_again(start)


def _after(batches: Iterator[pa.RecordBatch], records: int) -> Iterator[pa.RecordBatch]:
    """The batches without their first ``records`` records."""
    for batch in batches:
        if records < batch.num_rows:
            yield batch.slice(records) if records else batch
        records = max(0, records - batch.num_rows)


def rebatch(batches: Iterator[pa.RecordBatch], sizes: Iterator[int]) -> Iterator[pa.RecordBatch]:
    """The same records cut into batches of the given sizes; the last may be smaller, for want of records."""
    parts: list[pa.RecordBatch] = []
    missing = next(sizes)
    for batch in batches:
        start = 0
        while batch.num_rows - start >= missing:
            parts.append(batch.slice(start, missing))
            start += missing
            yield _joined(parts)
            parts = []
            missing = next(sizes)
        if start < batch.num_rows:
            parts.append(batch.slice(start))
            missing -= batch.num_rows - start
    if parts:
        yield _joined(parts)


def _joined(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    return parts[0] if len(parts) == 1 else pa.concat_batches(parts)
