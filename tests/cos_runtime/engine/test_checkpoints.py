"""Checkpoints and snapshots: which stay, what they are good for, and what a bad run leaves of them."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cos_runtime.api import CaffeOnSpark, Config, DataSource
from cos_runtime.caffe import solverstate, weights
from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.engine.failures import RankError
from cos_runtime.engine.snapshots import CHECKPOINT, Snapshots
from cos_runtime.sources.lmdb import LMDB
from tests.fixtures.jobs import MakeJob
from tests.fixtures.training import BATCH_NORM, assert_same, metrics, train


class Poisoned(LMDB):
    """The tenth batch of rank 1 (of two) has pixels that are no numbers."""

    batches = 0

    def decode(self, rows, generator):
        blobs = super().decode(rows, generator)
        self.batches += 1
        if self.batches == 10 and int(rows.column("id")[0].as_py()) % 2:
            blobs["data"][0] = float("nan")
        return blobs


class Doomed(LMDB):
    """Kills its process at the third batch, whatever is done."""

    batches = 0

    def decode(self, rows, generator):
        self.batches += 1
        if self.batches == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(rows, generator)


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_good_checkpoints(spark, make_job: MakeJob):
    job = make_job(max_iter=100, source_class=f"{__name__}.Poisoned")
    with pytest.raises(
        RankError, match=r"rank 1 on \S+: training has diverged: the loss is nan at iteration 9"
    ) as told:
        train(spark, job, "-clusterSize", "2", "-checkpoint_iterations", "2")
    assert told.value.is_users
    assert len(metrics(job, "started")) == 1  # a new start would come to the same
    left = {path.name for path in job.path.glob("*_iter_*")}
    assert left == {f"model_checkpoint_iter_{i}.{kind}" for i in (6, 8) for kind in ("caffemodel", "solverstate")}
    model, state = job.file("model_checkpoint_iter_8.caffemodel"), job.file("model_checkpoint_iter_8.solverstate")
    assert f"go on with -snapshot {state} -weights {model}" in metrics(job, "failed")[-1]["error"]
    assert all(np.isfinite(blob).all() for blobs in weights.read(model).values() for blob in blobs)


def test_checkpoints_by_time_go_at_a_good_end(spark, make_job: MakeJob):
    job = make_job(max_iter=400)
    train(spark, job, "-checkpoint_seconds", "0.1")
    assert [line for line in metrics(job, "snapshot") if "checkpoint" in line["path"]]
    assert not list(job.path.glob("*checkpoint*"))


def test_a_killed_rank_costs_nothing_but_time(spark, make_job: MakeJob):
    # Rank 1 has 52 records and comes by its third batch again at iteration 15.
    fields = {"records": 104, "max_iter": 30, "extra": BATCH_NORM, "transform": "mirror: true"}
    fields["source_class"] = "tests.cos_runtime.engine.disturbed_source.Disturbed"
    found = {}
    for name, disturbance in (("whole", ""), ("killed", "33:2:kill")):
        job = make_job(name, **fields)
        Path(job.file("disturbances")).write_text(disturbance)
        found[name] = train(spark, job, "-clusterSize", "2", "-checkpoint_iterations", "4")
    assert_same(found["killed"], found["whole"], 0)
    assert [start["iteration"] for start in metrics(job, "started")] in ([0, 4], [0, 8], [0, 12])
    assert not list(job.path.glob("*checkpoint*"))


def test_new_starts_are_counted(spark, make_job: MakeJob):
    job = make_job(source_class=f"{__name__}.Doomed")
    with pytest.raises(RankError, match=r"ended without a word: .* \(after 1 new start\)"):
        train(spark, job, "-max_restarts", "1")
    assert len(metrics(job, "started")) == 2


@pytest.mark.parametrize("ranks", [(2, 1), (1, 2)])
@pytest.mark.parametrize("span", [(104, 10, 20), (105, 4, 6)])
def test_another_number_of_ranks_goes_on_in_the_same_records(
    spark, make_job: MakeJob, ranks: tuple[int, int], span: tuple[int, int, int]
):
    # 105 records are no whole number a rank: in the first round, two ranks see them in order all the same.
    records, stop, end = span
    solver = f'snapshot: {stop} snapshot_prefix: "snap"'
    before, after = ranks
    whole = make_job("whole", records=records, batch=16 // before, max_iter=end, solver=solver)
    expected = train(spark, whole, "-clusterSize", str(before))
    rest = make_job("rest", records=records, batch=16 // after, max_iter=end, solver=solver)
    state, model = whole.file(f"snap_iter_{stop}.solverstate"), whole.file(f"snap_iter_{stop}.caffemodel")
    found = train(spark, rest, "-clusterSize", str(after), "-snapshot", state, "-weights", model)
    assert_same(found, expected, 1e-5)
    assert solverstate.read(rest.file(f"snap_iter_{end}.solverstate")).records == 16 * end


def test_a_shuffled_run_is_gone_on_with_in_its_own_order(spark, make_job: MakeJob):
    # 104 records and 16 a step: the second round begins within iteration 6, the third within iteration 13.
    whole = make_job("whole", records=104, max_iter=18, solver='snapshot: 9 snapshot_prefix: "snap"')
    expected = train(spark, whole, "-clusterSize", "2", "-shuffle")
    state, model = whole.file("snap_iter_9.solverstate"), whole.file("snap_iter_9.caffemodel")
    flags = ["-clusterSize", "2", "-snapshot", state, "-weights", model]
    rest = make_job("rest", records=104, max_iter=18)
    assert_same(train(spark, rest, *flags, "-shuffle"), expected, 0)
    with pytest.raises(AssertionError):
        assert_same(train(spark, rest, *flags, model="unshuffled.caffemodel"), expected, 1e-3)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files of this process can grow to ``size`` bytes, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [1_000, 15_000])  # less than the weights; less than the state
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, room: int):
    solver = SolverParameter(snapshot_format=SolverParameter.BINARYPROTO)
    snapshots = Snapshots(solver, "", "", checkpoint_prefix=str(tmp_path / "model_checkpoint"), kept=1)
    snapshots.save(4, b"m" * 10_000, b"s" * 20_000, CHECKPOINT)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with room_for(room), pytest.raises(OSError, match="File too large"):
        snapshots.save(8, b"M" * 10_000, b"S" * 20_000, CHECKPOINT)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    snapshots.save(12, b"N" * 10_000, b"T" * 20_000, CHECKPOINT)
    snapshots.remove_checkpoints(snapshots.kept)
    assert {path.name for path in tmp_path.iterdir()} == {
        "model_checkpoint_iter_12.caffemodel",
        "model_checkpoint_iter_12.solverstate",
    }


def test_the_best_weights_are_kept_and_training_ends_when_none_are_better(spark, make_job: MakeJob):
    # Nothing is learned: every pass is over all 50 records and comes to the same.
    job = make_job(max_iter=100, solver="test_iter: 5 test_interval: 4")
    solver = Path(job.solver)
    solver.write_text(solver.read_text().replace("base_lr: 0.1", "base_lr: 0"))
    conf = Config(spark, job.args("-train", "-best", "loss", "-patience", "3", "-clusterSize", "2"))
    rows = CaffeOnSpark(spark).trainWithValidation(DataSource.getSource(conf, True), DataSource.getSource(conf, False))
    assert rows.count() == 4
    assert [
        line["iteration"] for line in metrics(job, "snapshot") if line["path"] == job.file("model_best.caffemodel")
    ] == [0]
    assert metrics(job, "finished")[-1]["iteration"] == 12
    assert_same(weights.read(job.file("model_best.caffemodel")), weights.read(conf.modelPath), 0)
