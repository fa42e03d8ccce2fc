"""Damaged records in a training over Spark: left out, counted and told, or the end of it above the share."""

from pathlib import Path

import lmdb
import numpy as np
import pytest

from cos_runtime.engine.failures import RankError
from tests.cos_runtime.engine.test_training import metrics, train
from tests.fixtures.jobs import JobFolder, MakeJob

DAMAGED = ("00000013", "00000100")


@pytest.fixture
def job(make_job: MakeJob, tmp_path: Path) -> JobFolder:
    """A job of 240 records, of which rank 1 of two meets one that is no Datum and rank 0 another, in each epoch."""
    job = make_job(max_iter=45)
    with lmdb.open(str(tmp_path / "train_240"), lock=False) as environment, environment.begin(write=True) as writing:
        for key in DAMAGED:
            writing.put(key.encode(), b"rubbish")
    return job


def test_they_are_left_out_and_told(spark, job: JobFolder):
    found = train(spark, job, "-clusterSize", "2")
    assert all(np.isfinite(blob).all() for blobs in found.values() for blob in blobs)
    skipped = metrics(job, "skipped")
    for rank, key in ((1, DAMAGED[0]), (0, DAMAGED[1])):
        own = [event for event in skipped if event["rank"] == rank]
        # 45 steps of 8 are three epochs of a rank's 120 records.
        assert [event["records"] for event in own][:3] == [1, 2, 3]
        assert all(f"record {key} of" in event["example"] for event in own)


def test_above_the_share_the_job_fails(spark, job: JobFolder):
    with pytest.raises(RankError, match=r"rank [01] on \S+: record 00000(013|100) of \S+ has no data that can be read"):
        train(spark, job, "-clusterSize", "2", "-corrupt_share", "0")
    assert not Path(job.file("model.caffemodel")).exists()
