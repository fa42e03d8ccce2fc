"""A rank's share of the records on local disk."""

import itertools
from pathlib import Path

import pyarrow as pa
import pytest

from cos_runtime.engine.spool import Spool, local_folder, rebatch
from cos_runtime.errors import UserError


def batches(*lengths: int):
    start = 0
    for length in lengths:
        yield pa.RecordBatch.from_pydict({"x": pa.array(range(start, start + length), pa.int64())})
        start += length


def values(batch: pa.RecordBatch) -> list[int]:
    return batch.column("x").to_pylist()


def test_records_come_round_again_in_the_same_order(tmp_path):
    spool = Spool(batches(4, 0, 3, 1), str(tmp_path))
    got = itertools.chain.from_iterable(values(batch) for batch in spool.cycle())
    assert list(itertools.islice(got, 30)) == [i % 8 for i in range(30)]


def test_the_first_pass_hands_out_before_all_is_read(tmp_path):
    read = []

    def source():
        for batch in batches(2, 2, 2):
            read.append(batch)
            yield batch

    cycle = Spool(source(), str(tmp_path)).cycle()
    next(cycle)
    assert len(read) == 1


def test_nothing_is_left_in_the_folder(tmp_path):
    cycle = Spool(batches(5), str(tmp_path)).cycle()
    for _ in range(3):
        next(cycle)
        assert list(tmp_path.iterdir()) == []


def test_no_record_at_all_is_refused(tmp_path):
    with pytest.raises(UserError, match="fewer records than ranks"):
        next(Spool(batches(0, 0), str(tmp_path)).cycle())


@pytest.mark.parametrize("size", [1, 3, 5, 8, 100])
def test_rebatching_keeps_every_record_in_order(size):
    cut = list(rebatch(batches(4, 1, 7, 3), itertools.repeat(size)))
    assert [value for batch in cut for value in values(batch)] == list(range(15))
    assert [batch.num_rows for batch in cut[:-1]] == [size] * (15 // size - (15 % size == 0))


def test_rebatching_follows_given_sizes():
    cut = rebatch(batches(4, 6), itertools.cycle([3, 1]))
    assert [values(batch) for batch in cut] == [[0, 1, 2], [3], [4, 5, 6], [7], [8, 9]]


def test_the_folder_is_sparks_first(monkeypatch):
    monkeypatch.setenv("SPARK_LOCAL_DIRS", "/fast,/slow")
    assert local_folder() == "/fast"
    monkeypatch.delenv("SPARK_LOCAL_DIRS")
    assert Path(local_folder()).is_dir()


def test_with_a_seed_each_round_has_an_order_of_its_own_that_can_be_gone_on_with(tmp_path):
    def sequence(start: int, *, loaded: bool = False):
        spool = Spool(batches(400, 0, 300, 7), str(tmp_path), [1, 2])
        if loaded:
            spool.load()
        return itertools.chain.from_iterable(values(batch) for batch in spool.cycle(start))

    rounds = [list(itertools.islice(sequence(707 * number), 707)) for number in range(4)]
    assert [sorted(each) for each in rounds] == [list(range(707))] * 4
    assert rounds[0] == list(range(707))
    assert len(set(map(tuple, rounds))) == 4
    whole = list(itertools.chain.from_iterable(rounds))
    for start in (0, 5, 706, 1000):
        for loaded in (False, True):
            assert list(itertools.islice(sequence(start, loaded=loaded), 1500)) == whole[start : start + 1500]
