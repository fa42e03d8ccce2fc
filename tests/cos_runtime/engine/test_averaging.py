"""SparkNet's way to train together: weights averaged by the driver after steps of one's own."""

from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.jobs import MakeJob
from tests.fixtures.training import assert_same, metrics, train

pytestmark = pytest.mark.slow


def test_a_mean_after_each_step_is_what_allreduce_gives(spark, make_job: MakeJob):
    # Weights are the same before each step, and what a step does to them is linear in the gradients.
    job = make_job(max_iter=20, records=80)
    by_allreduce = train(spark, job, "-clusterSize", "2")
    by_driver = train(spark, job, "-clusterSize", "2", "-local_steps", "1", model="driver.caffemodel")
    assert_same(by_driver, by_allreduce, 1e-5)


def test_steps_of_ones_own_are_another_way_that_learns_too(spark, make_job: MakeJob):
    # The last round, of 43 - 40 iterations, is averaged too, and the snapshots are means.
    job = make_job(max_iter=43, records=80, solver="display: 10 test_interval: 20 test_iter: 2 snapshot: 20")
    flags = ["-clusterSize", "2", "-local_steps", "8"]
    found = train(spark, job, *flags)
    assert all(np.isfinite(blob).all() for blobs in found.values() for blob in blobs)
    steps = metrics(job, "train")
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    with pytest.raises(AssertionError):
        assert_same(found, train(spark, make_job("allreduce", max_iter=43, records=80), "-clusterSize", "2"), 1e-4)
    assert Path(job.file("solver_iter_40.solverstate")).exists(), "named as Caffe does without a snapshot_prefix"


def test_a_loss_that_is_no_number_ends_it_on_all_ranks(spark, make_job: MakeJob):
    job = make_job(max_iter=40, records=80)
    solver = Path(job.solver)
    solver.write_text(solver.read_text().replace("base_lr: 0.1", "base_lr: 1e30"))
    with pytest.raises(Exception, match="training has diverged"):
        train(spark, job, "-clusterSize", "2", "-local_steps", "4")
