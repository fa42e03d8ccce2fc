"""Damaged records: left out and counted while they are few, refused above the share."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from cos_runtime.errors import CorruptRecordError, UserError
from cos_runtime.sources.tolerant import FEW, Skipped, Tolerant


class Numbers:
    """Decodes numbers to themselves and a random one each; negative ones are damaged."""

    def decode(self, rows: pa.RecordBatch, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        values = rows.column("x").to_numpy()
        noise = generator.random(len(values))
        if (values < 0).any():
            raise CorruptRecordError(f"record {values.min()} is damaged")
        return {"x": torch.tensor(values), "noise": torch.from_numpy(noise)}


def rows(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"x": pa.array(values, pa.int64())})


def tolerant(share: float = 0.01) -> tuple[Tolerant, list[Skipped]]:
    reports: list[Skipped] = []
    return Tolerant(Numbers(), share, reports.append), reports


@pytest.mark.parametrize(
    ("given", "taken"),
    [((-1, 2, 3), [2, 2, 3]), ((1, -2, -3), [1, 1, 1]), ((1, -2, -3, 4), [1, 4, 4, 4]), ((1, 2, -3), [1, 2, 1])],
)
def test_the_next_sound_record_takes_the_place(given: tuple[int, ...], taken: list[int]):
    decode, reports = tolerant()
    assert decode.decode(rows(*given), np.random.default_rng(0))["x"].tolist() == taken
    damaged = sum(value < 0 for value in given)
    assert [(report.records, report.seen) for report in reports] == [(damaged, len(given))]
    assert "is damaged" in reports[0].example


def test_the_random_numbers_are_those_of_a_sound_batch():
    decode, _ = tolerant()
    sound = decode.decode(rows(1, 2, 3), np.random.default_rng(5))["noise"]
    assert torch.equal(decode.decode(rows(1, -2, 3), np.random.default_rng(5))["noise"], sound)


def test_above_the_share_the_job_fails_with_the_count_and_the_last_record():
    decode, reports = tolerant(0.002)
    for number in range(2):
        decode.decode(rows(1, -2), np.random.default_rng(number))
    assert reports[-1].records == 2 == 0.002 * FEW
    with pytest.raises(UserError, match=r"record -7 is damaged; 3 of 6 records are damaged, and -corrupt_share 0\.002"):
        decode.decode(rows(1, -7), np.random.default_rng(0))


def test_few_among_very_many_are_no_reason_to_fail():
    decode, reports = tolerant(0.01)
    for number in range(1000):
        decode.decode(rows(*range(100), -1 if number % 2 else 1), np.random.default_rng(0))
    assert reports[-1].records == 500


def test_a_share_of_none_ends_at_the_first():
    decode, reports = tolerant(0)
    with pytest.raises(CorruptRecordError, match="record -1 is damaged"):
        decode.decode(rows(-1, 2), np.random.default_rng(0))
    assert not reports


def test_a_batch_without_a_sound_record_is_refused():
    decode, _ = tolerant(1.0)
    with pytest.raises(UserError, match="2 of 2 records are damaged"):
        decode.decode(rows(-1, -2), np.random.default_rng(0))
