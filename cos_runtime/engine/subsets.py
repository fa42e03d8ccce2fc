"""The rank's stream of records, which has those of validation before those of training, taken apart."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from cos_runtime.sources.deal import SUBSET


def split(batches: Iterator[pa.RecordBatch], count: int) -> list[Iterator[pa.RecordBatch]]:
    """The rows of each of ``count`` sets; each iterator is to be exhausted before the next one is begun.

    Args:
        batches: rows with a column ``deal.SUBSET``, in its order.
    """
    stream = _Stream(batches)
    return [stream.rows_of(subset) for subset in range(count)]


class _Stream:
    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rest: pa.RecordBatch | None = None

    def rows_of(self, subset: int) -> Iterator[pa.RecordBatch]:
        while (batch := self._next()) is not None:
            count = pc.sum(pc.equal(batch.column(SUBSET), subset)).as_py() or 0
            if count:
                yield batch.slice(0, count).drop_columns([SUBSET])
            if count < batch.num_rows:
                self._rest = batch.slice(count)
                return

    def _next(self) -> pa.RecordBatch | None:
        rest, self._rest = self._rest, None
        return next(self._batches, None) if rest is None else rest
