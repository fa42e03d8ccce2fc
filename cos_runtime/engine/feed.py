"""The feed: batches decoded ahead of the step, on a thread of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import torch

from cos_runtime.sources.base import Decoder

Blobs = dict[str, torch.Tensor]

# Batches kept ready at first; where steps have to wait for them, more, as long as they take no more memory than this.
_DEPTH = 2
_MOST_BYTES = 64 << 20

# A thread that waits for Spark's next batch cannot be woken; it ends with the process at the latest.
_END_LIMIT = 30.0


class Feed:
    """Decoded batches, a few of them ready before they are asked for: the more, the less even their making is.

    Args:
        rows: batches of records; the end of the iterator is the end of the feed.
        source: decodes the records.
        seed: of the crops and mirrors; each batch has a generator of its own, made of this and the batch's number.
        first: number of the first batch: how many were fed by an earlier run that this one goes on from.
        timeout: longest wait for a batch, in seconds.

    Attributes:
        taken: batches handed out so far.
        depth: batches that are kept ready now.
    """

    def __init__(
        self,
        rows: Iterator[pa.RecordBatch],
        source: Decoder,
        seed: Sequence[int],
        *,
        first: int = 0,
        timeout: float = 300.0,
    ) -> None:
        self._rows = rows
        self._source = source
        self._seed = seed
        self._first = first
        self._timeout = timeout
        self.taken = 0
        self.depth = _DEPTH
        self._ready: queue.Queue[Blobs | BaseException | None] = queue.Queue()
        self._free = threading.Semaphore(_DEPTH)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="cos-feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=_END_LIMIT)

    def __iter__(self) -> Iterator[Blobs]:
        return self

    def __next__(self) -> Blobs:
        """The next batch.

        Raises:
            StopIteration: there are no more records.
            TimeoutError: no batch came in time.
        """
        has_to_wait = self._ready.empty()
        try:
            item = self._ready.get(timeout=self._timeout)
        except queue.Empty:
            raise TimeoutError(
                f"no batch was read within {self._timeout:.0f} s: the source of records is stuck"
            ) from None
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        self.taken += 1
        self._free.release()
        if has_to_wait:
            self._deepen(item)
        return item

    def _deepen(self, batch: Blobs) -> None:
        """Keep twice as many batches ready, if memory allows it."""
        size = sum(blob.numel() * blob.element_size() for blob in batch.values())
        if 2 * self.depth * size <= _MOST_BYTES:
            self._free.release(self.depth)
            self.depth *= 2

    def _fill(self) -> None:
        try:
            for number, rows in enumerate(self._rows, self._first):
                if self._stop.is_set():
                    return
                self._put(self._source.decode(rows, np.random.default_rng([*self._seed, number])))
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is asked for
            self._put(error)

    def _put(self, item: Blobs | BaseException | None) -> None:
        while not self._stop.is_set():
            if self._free.acquire(timeout=0.2):
                self._ready.put(item)
                return
