"""Training that loses a rank goes on by itself, to the weights of an undisturbed run."""

import os
from pathlib import Path

import pytest

from cos_runtime.sources.lmdb import LMDB
from tests.fixtures.jobs import MakeJob
from tests.fixtures.training import BATCH_NORM, assert_same, metrics, train

# Dropout, layers with a memory of their own, mirrors: whatever a restart could get wrong.
RANDOM = {"extra": BATCH_NORM, "transform": "mirror: true"}


class Interrupted(LMDB):
    """Sends its process a signal at the batches named in a file beside the solver, once each.

    A line of the file is the first record of a batch (of which the rank follows), how often it has come by before, and
    the signal.
    """

    def decode(self, rows, generator):
        first = rows.column("id")[0].as_py()
        seen = self.__dict__.setdefault("seen", {})
        seen[first] = seen.get(first, 0) + 1
        for line in Path(self.folder, "signals").read_text().split():
            record, times, number = line.split(":")
            if record == first and seen[first] == int(times):
                try:
                    Path(self.folder, f"sent-{line}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), int(number))
        return super().decode(rows, generator)


def interrupted(make_job: MakeJob, *signals: str, **fields: object):
    job = make_job("interrupted", source_class=f"{__name__}.Interrupted", **fields)
    Path(job.file("signals")).write_text("\n".join(signals))
    return job


@pytest.fixture
def expected(spark, make_job: MakeJob):
    """The weights of a run of two ranks that nothing disturbs."""
    return train(spark, make_job("whole", records=104, max_iter=30, **RANDOM), "-clusterSize", "2")


def test_a_killed_rank_costs_nothing_but_time(spark, make_job: MakeJob, expected):
    # Rank 1 comes by its third batch again at iteration 15, which is decoded some steps ahead.
    job = interrupted(make_job, "00000033:2:9", records=104, max_iter=30, **RANDOM)
    found = train(spark, job, "-clusterSize", "2", "-checkpoint_iterations", "4")
    assert_same(found, expected, 0)
    assert len(metrics(job, "failed")) == 1
    starts = [start["iteration"] for start in metrics(job, "started")]
    assert starts in ([0, 4], [0, 8], [0, 12])
    assert not list(job.path.glob("*checkpoint*"))
