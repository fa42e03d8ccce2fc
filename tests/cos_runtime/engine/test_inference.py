"""Testing and features over Spark: every record, in its place, however the rows are spread."""

import itertools
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from cos_runtime.api import CaffeOnSpark, Config, DataSource
from cos_runtime.caffe import prototxt, weights
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST
from cos_runtime.engine import failures, feature_files
from cos_runtime.errors import UserError
from cos_runtime.sources.lmdb import LMDB
from tests.fixtures.jobs import JobFolder, MakeJob, images

# No multiple of the batch of 10, nor of the ranks.
RECORDS = 47


class Uneven(LMDB):
    """The records in five partitions: of none, 7, none, all others but one, and one."""

    def dataframe(self, spark: SparkSession) -> DataFrame:
        frame = super().dataframe(spark)
        rows = [tuple(row) for row in frame.collect()]
        cuts = [0, 0, 7, 7, len(rows) - 1, len(rows)]
        slices = [rows[start:end] for start, end in itertools.pairwise(cuts)]
        spread = spark.sparkContext.parallelize(slices, len(slices)).flatMap(list)
        return spark.createDataFrame(spread, frame.schema)


class Nothing(LMDB):
    """None of the records."""

    def dataframe(self, spark: SparkSession) -> DataFrame:
        return super().dataframe(spark).where("false")


class Slow(LMDB):
    """Takes two seconds for a batch."""

    def decode(self, rows, generator):
        time.sleep(2)
        return super().decode(rows, generator)


@pytest.fixture(scope="module")
def trained(spark, tmp_path_factory: pytest.TempPathFactory) -> JobFolder:
    """A job whose source is uneven, trained by two ranks."""
    job = MakeJob(tmp_path_factory.mktemp("trained"))(
        source_class=f"{__name__}.Uneven", records=81, test_records=RECORDS
    )
    CaffeOnSpark(spark).train(DataSource.getSource(Config(spark, job.args("-train", "-clusterSize", "2")), True))
    return job


def of_all_at_once(job: JobFolder, *blobs: str) -> dict[str, np.ndarray]:
    """What the net itself says of all test records, in one batch."""
    pictures, labels = images(RECORDS, seed=len("test"))
    net = Net(prototxt.read_net(job.file("net.prototxt")), TEST, {"data": (RECORDS, 1, 6, 6), "label": (RECORDS,)})
    net.copy_weights(weights.read(job.file("model.caffemodel")), "model")
    data = torch.from_numpy(np.stack(pictures) * np.float32(0.00390625))
    with torch.inference_mode():
        found = net({"data": data, "label": torch.tensor(labels, dtype=torch.float32)}, blobs)
    return {name: blob.numpy() for name, blob in found.items()}


def test_uneven_partitions_lose_no_record(spark, trained: JobFolder, make_job: MakeJob):
    even = make_job("even", records=81, test_records=RECORDS)
    CaffeOnSpark(spark).train(DataSource.getSource(Config(spark, even.args("-train", "-clusterSize", "2")), True))
    ours, theirs = (weights.read(job.file("model.caffemodel")) for job in (trained, even))
    for layer, blobs in theirs.items():
        assert all(np.array_equal(*pair) for pair in zip(ours[layer], blobs, strict=True)), layer


def test_features_are_a_row_a_record_in_order(spark, trained: JobFolder):
    conf = Config(spark, trained.args("-features", "ip2,ip1", "-label", "label"))
    frame = CaffeOnSpark(spark).features(DataSource.getSource(conf, False))
    assert frame.columns == ["SampleID", "ip2", "ip1", "label"]
    rows = frame.collect()
    assert [row.SampleID for row in rows] == [f"{index:08d}" for index in range(RECORDS)]
    for name, expected in of_all_at_once(trained, "ip2", "ip1", "label").items():
        ours = np.array([row[name] for row in rows])
        assert ours == pytest.approx(expected.reshape(RECORDS, -1), rel=1e-5, abs=1e-6), name


def test_a_label_that_is_a_feature_too_comes_once(spark, trained: JobFolder):
    conf = Config(spark, trained.args("-features", "label,ip2", "-label", "label"))
    assert CaffeOnSpark(spark).features(DataSource.getSource(conf, False)).columns == ["SampleID", "label", "ip2"]


def test_a_value_of_the_whole_batch_is_given_to_each_of_its_records(spark, trained: JobFolder):
    conf = Config(spark, trained.args("-features", "accuracy"))
    rows = CaffeOnSpark(spark).features(DataSource.getSource(conf, False)).collect()
    assert len(rows) == RECORDS
    assert len({row.accuracy[0] for row in rows[:7]}) == 1  # the partition of seven is a batch


def test_the_test_is_over_all_records(spark, trained: JobFolder):
    result = CaffeOnSpark(spark).test(DataSource.getSource(Config(spark, trained.args()), False))
    expected = of_all_at_once(trained, "accuracy", "loss")
    assert result.keys() == expected.keys()
    for name, blob in expected.items():
        assert result[name] == pytest.approx([float(blob)], rel=1e-5), name


def test_records_of_a_layer_that_reads_in_order_stay_with_those_of_the_source(spark, make_job: MakeJob):
    layers = """
    layer { name: "own" type: "HDF5Data" top: "own" hdf5_data_param { source: "labels.txt" batch_size: 10 } }
    layer { name: "pair" type: "EuclideanLoss" bottom: "label" bottom: "own" top: "pair" }
    """
    test = "include { phase: TEST }"
    job = make_job(test_records=RECORDS, max_iter=1, extra=layers.replace('type: "', f'{test} type: "'))
    job.write_rows("labels", own=images(RECORDS, seed=len("test"))[1])
    conf = Config(spark, job.args("-train", "-features", "own", "-label", "label", "-lmdb_partitions", "3"))
    cos, source = CaffeOnSpark(spark), DataSource.getSource(conf, False)
    cos.train(DataSource.getSource(conf, True))
    assert cos.test(source)["pair"] == [0]
    assert {row.own == row.label for row in cos.features(source).collect()} == {True}
    solver = Path(job.solver)
    solver.write_text(solver.read_text() + " test_iter: 2 test_interval: 1")
    both = Config(spark, job.args("-train", "-clusterSize", "2", model="other.caffemodel"))
    with pytest.raises(UserError, match='layer "own" of the TEST net reads its file in the order of the records'):
        cos.trainWithValidation(DataSource.getSource(both, True), DataSource.getSource(both, False))


def test_outputs_of_any_shape(spark, make_job: MakeJob):
    # As many classes as records in a batch; the last batch, and the last of each rank's, have fewer.
    solver = "test_iter: 11 test_interval: 2 test_initialization: false"
    job = make_job(test_records=RECORDS, test_batch=4, max_iter=2, solver=solver)
    net = Path(job.file("net.prototxt"))
    halves = "reshape_param { shape { dim: -1 dim: 2 } }"
    text = net.read_text().replace('top: "accuracy"', 'top: "accuracy" top: "of_class"')
    net.write_text(f'{text} layer {{ name: "halves" type: "Reshape" bottom: "ip2" top: "halves" {halves} }}')
    flags = ["-train", "-features", "ip2,halves", "-label", "label", "-clusterSize", "2", "-lmdb_partitions", "1"]
    conf = Config(spark, job.args(*flags))
    cos, source = CaffeOnSpark(spark), DataSource.getSource(conf, False)
    passes = cos.trainWithValidation(DataSource.getSource(conf, True), source).collect()
    rows = cos.features(source).collect()
    scores, labels = np.array([row.ip2 for row in rows]), np.array([row.label[0] for row in rows])
    assert [row.halves for row in rows] == [row.ip2 for row in rows]
    assert passes[-1].halves == pytest.approx(scores[:44].mean(0), rel=1e-4, abs=1e-6)
    tested = cos.test(source)
    assert tested["halves"] == pytest.approx(scores.mean(0), rel=1e-4, abs=1e-6)
    batches = [slice(start, start + 4) for start in range(0, RECORDS, 4)]
    sums = sum(len(labels[batch]) * accuracy_of_classes(scores[batch], labels[batch]) for batch in batches)
    assert tested["of_class"] == pytest.approx(sums / RECORDS, abs=1e-6)


def accuracy_of_classes(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each of four classes the part of its records that is predicted; 0 for one without any."""
    hits = scores.argmax(1) == labels
    return np.array([hits[labels == number].sum() / max(1, (labels == number).sum()) for number in range(4)])


def test_a_source_without_records(spark, trained: JobFolder, make_job: MakeJob):
    empty = make_job(source_class=f"{__name__}.Nothing")
    conf = Config(spark, empty.args("-test", model=trained.file("model.caffemodel")))
    with pytest.raises(UserError, match='layer "data": its source has no records: there is nothing to test'):
        CaffeOnSpark(spark).test(DataSource.getSource(conf, False))


def test_a_damaged_record_is_named(spark, trained: JobFolder, make_job: MakeJob, tmp_path: Path):
    job = make_job()
    with lmdb.open(str(tmp_path / "test_50"), lock=False) as environment, environment.begin(write=True) as writing:
        writing.put(b"00000013", b"rubbish")
    conf = Config(spark, job.args("-test", "-features", "ip1", model=trained.file("model.caffemodel")))
    cos, source = CaffeOnSpark(spark), DataSource.getSource(conf, False)
    with pytest.raises(UserError, match="^record 00000013 of .* has no data that can be read"):
        cos.test(source)
    with pytest.raises(UserError, match="^record 00000013 of "), failures.mistakes_told():
        feature_files.write(cos.features(source), str(tmp_path / "features"), "json")


def test_the_source_may_be_silent_for_as_long_as_the_flag_says(spark, trained: JobFolder, make_job: MakeJob):
    slow = make_job(source_class=f"{__name__}.Slow", test_records=10)
    flags = slow.args("-test", "-features", "ip1", "-timeout", "1", model=trained.file("model.caffemodel"))
    cos, source = CaffeOnSpark(spark), DataSource.getSource(Config(spark, flags), False)
    for use in (cos.test, lambda source: cos.features(source).collect()):
        with pytest.raises(PySparkException, match="no batch was read within 1 s"):
            use(source)


def test_the_weights_do_not_stay_with_spark(spark, trained: JobFolder):
    def files() -> list[Path]:
        return [path for path in Path(spark.sparkContext._temp_dir).rglob("*") if path.is_file()]

    source = DataSource.getSource(Config(spark, trained.args()), False)
    before = len(files())
    CaffeOnSpark(spark).test(source)
    assert len(files()) == before


def test_features_go_where_spark_writes(spark, trained: JobFolder, tmp_path: Path):
    conf = Config(spark, trained.args("-features", "ip1"))
    path = f"file://{tmp_path / 'features'}"
    CaffeOnSpark(spark).features(DataSource.getSource(conf, False)).write.parquet(path)
    assert spark.read.parquet(path).count() == RECORDS


def test_an_unknown_blob_is_refused_with_the_nearest(spark, trained: JobFolder):
    conf = Config(spark, trained.args("-features", "ip3"))
    with pytest.raises(UserError, match='no blob "ip3": did you mean "ip'):
        CaffeOnSpark(spark).features(DataSource.getSource(conf, False))
