"""The feed by itself: ahead of whoever asks, in order, and never stuck without a word."""

import threading
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch

from cos_runtime.engine.feed import Feed


class Numbers:
    """Decodes a batch of numbers to their tensor plus noise of the generator's."""

    def __init__(self) -> None:
        self.decoded = threading.Semaphore(0)

    def decode(self, rows: pa.RecordBatch, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        self.decoded.release()
        values = rows.column("number").to_numpy().astype(np.float32)
        if values[0] < 0:
            raise ValueError(f"{values[0]:.0f} is no record")
        return {"number": torch.from_numpy(values + generator.random(dtype=np.float32))}


def batches(*firsts: int) -> Iterator[pa.RecordBatch]:
    for first in firsts:
        yield pa.RecordBatch.from_pydict({"number": [first, first + 1]})


def numbers(feed: Feed) -> list[float]:
    return [float(blobs["number"][0]) for blobs in feed]


def test_batches_come_in_order_with_the_same_noise_each_time():
    runs = []
    for _ in range(2):
        with Feed(batches(0, 10, 20), Numbers(), [7]) as feed:
            runs.append(numbers(feed))
    assert [int(value) for value in runs[0]] == [0, 10, 20]
    assert runs[0] == runs[1]
    with Feed(batches(0, 10, 20), Numbers(), [8]) as feed:
        assert numbers(feed) != runs[0]


def test_batches_are_ready_before_they_are_asked_for():
    source = Numbers()
    with Feed(batches(0, 10, 20, 30, 40, 50), source, [7]) as feed:
        for _ in range(3):  # two wait, and one has been decoded for the place that comes free
            assert source.decoded.acquire(timeout=10)
        assert not source.decoded.acquire(timeout=0.3)
        next(feed)
        assert source.decoded.acquire(timeout=10)


def test_whoever_had_to_wait_finds_more_batches_ready_later():
    may_read = threading.Semaphore(0)

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in batches(*range(1000)):
            may_read.acquire(timeout=30)
            yield batch

    with Feed(rows(), Numbers(), [7]) as feed:
        at_first = feed.depth
        for _ in range(2):
            threading.Timer(0.3, may_read.release).start()
            next(feed)
        assert feed.depth == 4 * at_first
        may_read.release(1000)
        while feed._ready.qsize() < feed.depth:
            pass
        next(feed)
        assert feed.depth == 4 * at_first, "none had to wait"


def test_large_batches_are_not_kept_ready_in_any_number():
    class Images(Numbers):
        def decode(self, rows: pa.RecordBatch, generator: np.random.Generator) -> dict[str, torch.Tensor]:
            return {"data": torch.empty(5 << 20)}  # 20 MB, of which three are as many as may wait

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in batches(*range(6)):
            threading.Event().wait(0.1)
            yield batch

    with Feed(rows(), Images(), [7]) as feed:
        assert len(list(feed)) == 6
        assert feed.depth == 2


def test_what_goes_wrong_is_raised_where_the_batch_is_asked_for():
    with Feed(batches(0, -1, 20), Numbers(), [7]) as feed:
        next(feed)
        with pytest.raises(ValueError, match="-1 is no record"):
            next(feed)


def test_a_source_that_is_stuck_is_a_timeout_in_words():
    stuck = threading.Event()

    def rows() -> Iterator[pa.RecordBatch]:
        stuck.wait(30)
        yield from batches(0)

    with Feed(rows(), Numbers(), [7], timeout=0.2) as feed:
        with pytest.raises(TimeoutError, match="no batch was read within 0 s: the source of records is stuck"):
            next(feed)
        stuck.set()


def test_leaving_early_ends_the_thread():
    with Feed(batches(*range(1000)), Numbers(), [7]) as feed:
        next(feed)
    assert not any(thread.name == "cos-feed" for thread in threading.enumerate())
