"""Training over Spark: real ranks in a real barrier stage."""

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from cos_runtime.api import CaffeOnSpark, Config, DataSource
from cos_runtime.caffe import solverstate, weights
from cos_runtime.caffe.layers import Layer, register
from cos_runtime.caffe.schema.caffe_pb2 import LayerParameter, NetParameter, SolverParameter
from cos_runtime.engine.failures import RankError
from cos_runtime.errors import UserError
from cos_runtime.sources.lmdb import LMDB
from tests.fixtures.jobs import JobFolder, MakeJob, images
from tests.fixtures.training import BATCH_NORM, assert_same, metrics, train


def test_a_rank_alone_learns_and_leaves_its_files(spark, make_job: MakeJob):
    job = make_job(max_iter=40, solver='display: 10 snapshot: 20 snapshot_prefix: "snap" average_loss: 5')
    train(spark, job)
    steps = metrics(job, "train")
    assert [step["iteration"] for step in steps] == [0, 10, 20, 30, 40]
    assert [step["lr"] is None for step in steps] == [False] * 4 + [True], "the last is a pass after the last update"
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    names = {path.name for path in job.path.iterdir()}
    assert {f"snap_iter_{i}.{kind}" for i in (20, 40) for kind in ("caffemodel", "solverstate")} <= names
    assert Path(job.file("model.caffemodel")).read_bytes() == Path(job.file("snap_iter_40.caffemodel")).read_bytes()
    assert solverstate.read(job.file("snap_iter_20.solverstate")).learned_net == job.file("snap_iter_20.caffemodel")


@pytest.mark.parametrize(
    "solver",
    [
        "",
        "iter_size: 2",
        'type: "Adam" momentum2: 0.999 delta: 1e-8 base_lr: 0.01',
        "clip_gradients: 0.1",
    ],
)
def test_two_ranks_follow_one_with_twice_the_batch(spark, make_job: MakeJob, solver: str):
    # 80 records with 16 a step: the data comes round ten times.
    one = make_job("one", batch=16, records=80, max_iter=50, solver=_replaced(solver))
    two = make_job("two", batch=8, records=80, max_iter=50, solver=_replaced(solver))
    for job in (one, two):
        _use_solver(job, solver)
    assert_same(train(spark, two, "-clusterSize", "2"), train(spark, one), 1e-5)


def _replaced(solver: str) -> str:
    return "" if "base_lr" in solver else solver


def _use_solver(job: JobFolder, solver: str) -> None:
    if "base_lr" not in solver:
        return
    path = Path(job.solver)
    path.write_text(path.read_text().replace("base_lr: 0.1", "").replace("momentum: 0.9", "momentum: 0.9 " + solver))


def test_devices_are_ranks_too(spark, make_job: MakeJob):
    job = make_job(records=80)
    by_devices = train(spark, job, "-devices", "2")
    assert_same(by_devices, train(spark, job, "-clusterSize", "2", model="other.caffemodel"), 0)


def test_a_resumed_run_repeats_the_undisturbed_one(spark, make_job: MakeJob):
    # 80 records: iteration 10 begins at the first record again, as a resumed run does.
    solver = 'snapshot: 10 snapshot_prefix: "snap"'
    whole = make_job("whole", records=80, max_iter=20, solver=solver)
    expected = train(spark, whole)
    rest = make_job("rest", records=80, max_iter=20, solver=solver)
    state, model = whole.file("snap_iter_10.solverstate"), whole.file("snap_iter_10.caffemodel")
    assert_same(train(spark, rest, "-snapshot", state, "-weights", model), expected, 0)


def test_hdf5_snapshots_resume_with_two_ranks(spark, make_job: MakeJob):
    solver = 'snapshot: 5 snapshot_prefix: "snap" snapshot_format: HDF5'
    whole = make_job("whole", records=80, max_iter=10, solver=solver)
    expected = train(spark, whole, "-clusterSize", "2")
    rest = make_job("rest", records=80, max_iter=10, solver=solver)
    state, model = whole.file("snap_iter_5.solverstate.h5"), whole.file("snap_iter_5.caffemodel.h5")
    assert_same(train(spark, rest, "-snapshot", state, "-weights", model, "-clusterSize", "2"), expected, 1e-6)


def test_fine_tuning_begins_with_the_weights_and_trains_new_layers_anew(spark, make_job: MakeJob):
    base = make_job("base")
    trained = train(spark, base)
    tuned = make_job("tuned", max_iter=1, solver="display: 1")
    net = Path(tuned.file("net.prototxt"))
    net.write_text(net.read_text().replace('name: "ip2"', 'name: "ip2_new"').replace("lr_mult: 1 ", "lr_mult: 0 "))
    result = train(spark, tuned, "-weights", base.file("model.caffemodel"))
    assert np.array_equal(result["ip1"][0], trained["ip1"][0])
    assert not np.allclose(result["ip2_new"][0], trained["ip2"][0])


def test_without_an_iteration_the_model_has_the_weights_that_were_given(spark, make_job: MakeJob):
    first, second = (make_job(name, max_iter=3 + seed) for seed, name in enumerate(("first", "second")))
    ours, theirs = train(spark, first), train(spark, second)
    job = make_job(max_iter=0, solver=f'display: 1 weights: "nowhere" weights: "{first.file("model.caffemodel")}"')
    part = Path(job.file("part.caffemodel"))
    net = NetParameter(layer=[LayerParameter(name="ip2", type="InnerProduct")])
    part.write_bytes(weights.serialize(net, {"ip2": theirs["ip2"]}, SolverParameter.BINARYPROTO))
    found = train(spark, job, "-weights", f"{first.file('model.caffemodel')}, part.caffemodel")
    assert_same(found, {**ours, "ip2": theirs["ip2"]}, 0)
    assert [step["iteration"] for step in metrics(job, "train")] == [0]


def test_validation_is_interleaved(spark, make_job: MakeJob):
    job = make_job(max_iter=20, solver="test_iter: 5 test_interval: 10 display: 10")
    conf = Config(spark, job.args("-train", "-clusterSize", "2"))
    frame = CaffeOnSpark(spark).trainWithValidation(DataSource.getSource(conf, True), DataSource.getSource(conf, False))
    assert frame.columns == ["accuracy", "loss"]
    rows = frame.collect()
    assert len(rows) == 3  # before the first iteration, at 10, and at 20
    assert [line["iteration"] for line in metrics(job, "test")] == [0, 10, 20]
    assert rows[-1].accuracy[0] > 0.9
    assert rows[-1].loss[0] < rows[0].loss[0]
    # 5 batches of 10 are the whole test set: the last pass is what testing the model gives.
    tested = CaffeOnSpark(spark).test(DataSource.getSource(conf, False))
    assert tested["accuracy"] == pytest.approx(rows[-1].accuracy, abs=1e-6)
    assert tested["loss"] == pytest.approx(rows[-1].loss, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_validation_pass_goes_on_where_the_last_one_ended(spark, make_job: MakeJob, ranks: int):
    # 3 batches of 10 of 50 records a pass; nothing is learned, so that passes differ by their records alone.
    job = make_job(max_iter=3, solver="test_iter: 3 test_interval: 1")
    path = Path(job.solver)
    path.write_text(path.read_text().replace("base_lr: 0.1", "base_lr: 0"))
    conf = Config(spark, job.args("-train", "-clusterSize", str(ranks)))
    frame = CaffeOnSpark(spark).trainWithValidation(DataSource.getSource(conf, True), DataSource.getSource(conf, False))
    losses = [row.loss[0] for row in frame.collect()]
    per_batch = _batch_losses(conf, spark)
    expected = [np.mean([per_batch[(3 * number + i) % 5] for i in range(3)]) for number in range(4)]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_each_of_several_test_nets_has_its_own_records(spark, make_job: MakeJob):
    job = make_job(max_iter=4, solver="test_iter: 5 test_iter: 3 test_interval: 2")
    net, solver = Path(job.file("net.prototxt")), Path(job.solver)
    # The second is tested by what it is trained on, and has no accuracy.
    other = net.read_text().replace("/test_50", "/train_240").replace('type: "Accuracy"', 'type: "ArgMax"')
    other = other.replace('bottom: "label" top: "accuracy"', 'top: "best"')
    Path(job.file("other.prototxt")).write_text(other)
    files = 'train_net: "net.prototxt" test_net: "net.prototxt" test_net: "other.prototxt"'
    solver.write_text(solver.read_text().replace('net: "net.prototxt"', files).replace("base_lr: 0.1", "base_lr: 0"))
    conf = Config(spark, job.args("-train", "-clusterSize", "2"))
    validations = [DataSource.getSource(conf, False, number) for number in range(2)]
    frame = CaffeOnSpark(spark).trainWithValidation(DataSource.getSource(conf, True), validations)
    assert frame.columns == ["test_net", "accuracy", "loss", "best"]
    rows = frame.collect()
    assert [row.test_net for row in rows] == [0, 1] * 3
    assert [line["net"] for line in metrics(job, "test")] == [0, 1] * 3
    assert {row.accuracy is None for row in rows if row.test_net} == {True}
    whole = CaffeOnSpark(spark).test(validations[0])["loss"]
    assert [row.loss[0] for row in rows if row.test_net == 0] == pytest.approx(whole * 3, rel=1e-5)
    assert len({round(row.loss[0], 6) for row in rows if row.test_net == 1}) == 3, "3 of 24 batches a pass"
    assert "Testing net (#1)" in Path(job.file("train.log")).read_text()


@pytest.mark.parametrize("ranks", [1, 2])
def test_records_of_a_layer_that_reads_in_order_stay_with_those_of_the_source(spark, make_job: MakeJob, ranks: int):
    """Also after the first round of records that are no multiple of the ranks, and after a new start."""
    layers = """
    layer { name: "own" type: "HDF5Data" top: "own" hdf5_data_param { source: "labels.txt" batch_size: 8 } }
    layer { name: "pair" type: "EuclideanLoss" bottom: "label" bottom: "own" top: "pair" }
    layer { name: "constant" type: "HDF5Data" top: "one" hdf5_data_param { source: "constant.txt" batch_size: 1 } }
    layer { name: "scaled" type: "Reduction" bottom: "one" top: "constant" }
    """
    source = "tests.cos_runtime.engine.disturbed_source.Disturbed"
    job = make_job(records=81, max_iter=24, solver="display: 1", extra=layers, source_class=source)
    job.write_rows("labels", own=images(81, seed=len("train"))[1])
    job.write_rows("constant", one=[7])
    Path(job.file("disturbances")).write_text("80:1:kill")
    train(spark, job, "-clusterSize", str(ranks), "-checkpoint_iterations", "2")
    outputs = [step["outputs"] for step in metrics(job, "train") if step["outputs"]]
    assert {(each["pair"], each["constant"]) for each in outputs} == {(0.0, 7.0)}
    assert len(metrics(job, "started")) == 2


@register("Halved")
class Halved(Layer):
    """top = bottom / 2."""

    def setup(self, bottoms):
        return [bottoms[0]]

    def forward(self, x):
        return x / 2


def test_ranks_are_given_layers_of_ones_own(spark, make_job: MakeJob):
    layer = 'layer { name: "half" type: "Halved" bottom: "ip1" top: "ip1" }'
    job = make_job(max_iter=1, extra=layer)
    assert "half" in train(spark, job)


def test_the_level_that_the_net_itself_asks_for(spark, make_job: MakeJob):
    deep = """layer { name: "deep" type: "Scale" bottom: "ip1" top: "ip1" include { min_level: 1 } }"""
    job = make_job(max_iter=1, extra=deep)
    net = Path(job.file("net.prototxt"))
    net.write_text("state { level: 1 }" + net.read_text())
    assert len(train(spark, job)["deep"]) == 1


class Empty(LMDB):
    """Has no records when they are read."""

    def dataframe(self, spark):
        return super().dataframe(spark).limit(0)


class Unreadable(LMDB):
    """Its records cannot be read."""

    def dataframe(self, spark):
        def fail(batches):
            raise ValueError("a broken disk")
            yield from batches

        frame = super().dataframe(spark)
        return frame.mapInArrow(fail, frame.schema)


class Refused(LMDB):
    """Its records are behind a connection that is refused."""

    def dataframe(self, spark):
        raise ConnectionRefusedError("the database takes no calls")


def test_a_source_that_is_refused_a_connection_cancels_nothing(spark, make_job: MakeJob):
    with pytest.raises(ConnectionRefusedError, match="the database takes no calls"):
        train(spark, make_job(source_class=f"{__name__}.Refused"))


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("Empty", "0 of 2 ranks ran: has the source any records"),
        ("Unreadable", "records could not be dealt: .*a broken"),
    ],
)
def test_a_source_that_gives_nothing_is_a_failed_job(spark, make_job: MakeJob, name: str, cause: str):
    job = make_job(source_class=f"{__name__}.{name}")
    with pytest.raises(RankError, match=cause):
        train(spark, job, "-clusterSize", "2")
    assert re.search(cause, metrics(job, "failed")[-1]["error"])
    assert not Path(job.file("model.caffemodel")).exists()


def test_what_the_test_net_alone_has_is_of_the_weights_file(spark, make_job: MakeJob):
    scale = 'layer { name: "cal" type: "Scale" bottom: "ip1" top: "ip1" include { phase: TEST } }'
    source = "tests.cos_runtime.engine.disturbed_source.Disturbed"
    job = make_job(max_iter=8, solver="test_iter: 5 test_interval: 4", extra=scale, source_class=source)
    Path(job.file("disturbances")).write_text("80:1:kill")  # at iteration 5, after which all begins anew
    Path(job.solver).write_text(Path(job.solver).read_text().replace("base_lr: 0.1", "base_lr: 0"))
    layer = LayerParameter(name="cal", type="Scale")
    content = weights.serialize(NetParameter(layer=[layer]), {"cal": [np.zeros(12, np.float32)]}, SolverParameter.HDF5)
    Path(job.file("cal.caffemodel.h5")).write_bytes(content)
    args = ["-clusterSize", "2", "-checkpoint_iterations", "2", "-weights", job.file("cal.caffemodel.h5")]
    conf = Config(spark, job.args("-train", *args))
    frame = CaffeOnSpark(spark).trainWithValidation(DataSource.getSource(conf, True), DataSource.getSource(conf, False))
    assert [row.loss[0] for row in frame.collect()] == pytest.approx([np.log(4)] * 3, rel=1e-6)
    assert len(metrics(job, "started")) == 2


def _batch_losses(conf: Config, spark) -> list[float]:
    """The loss of each batch of ten of the test set."""
    conf.features = ["loss"]
    source = DataSource.getSource(conf, False)
    source.lmdb_partitions = 1
    return [row.loss[0] for row in CaffeOnSpark(spark).features(source).collect()][::10]


def test_what_layers_keep_is_averaged_over_the_ranks(spark, make_job: MakeJob):
    # The pass that is displayed after the last update leaves no trace in the weights.
    job = make_job(max_iter=15, extra=BATCH_NORM, solver="display: 5")
    found = train(spark, job, "-clusterSize", "2")
    assert len(found["bn"]) == 3
    assert found["bn"][2][0] == pytest.approx(sum(0.999**i for i in range(15)), rel=1e-5)
    assert np.abs(found["bn"][0]).max() > 0


def test_a_random_run_is_repeated_bit_for_bit(spark, make_job: MakeJob):
    job = make_job(max_iter=10, extra=BATCH_NORM, transform="mirror: true")
    first = train(spark, job, "-clusterSize", "2")
    assert_same(train(spark, job, "-clusterSize", "2", "-persistent", model="again.caffemodel"), first, 0)


class Breaking(LMDB):
    """Breaks at the third batch of rank 1."""

    batches = 0

    def decode(self, rows, generator):
        self.batches += 1
        if self.batches == 3 and rows.column("id")[0].as_py().endswith(("1", "3", "5", "7", "9")):
            self.harm()
        return super().decode(rows, generator)

    def harm(self):
        raise ValueError("the records of this rank are cursed")


class Dying(Breaking):
    """As :class:`Breaking`, but the whole process goes."""

    def harm(self):
        os.kill(os.getpid(), 9)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Breaking", r"rank 1 on \S+: ValueError: the records of this rank are cursed"),
        ("Dying", r"rank 1 on \S+ ended without a word: it was killed"),
    ],
)
def test_a_rank_that_fails_is_named_with_its_cause(spark, make_job: MakeJob, name: str, sentence: str):
    job = make_job(max_iter=100_000, source_class=f"{__name__}.{name}")
    start = time.monotonic()
    with pytest.raises(RankError, match=sentence):
        train(spark, job, "-clusterSize", "2", "-max_restarts", "0")
    assert time.monotonic() - start < 60  # and not the time limit of an exchange
    assert not Path(job.file("model.caffemodel")).exists()
    assert metrics(job, "failed")


def test_more_ranks_than_slots_are_refused_at_once(spark, make_job: MakeJob):
    job = make_job()
    with pytest.raises(UserError, match=r"3 ranks \(-clusterSize 3 x -devices 1\).*has 2.*local\[3\].*lower"):
        train(spark, job, "-clusterSize", "3")
