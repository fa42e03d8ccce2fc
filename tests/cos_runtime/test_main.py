"""The command: what it refuses, before Spark is started for it."""

from pathlib import Path

import numpy as np
import pytest

from cos_runtime import main as command
from cos_runtime import preflight
from cos_runtime.api import Config, DataSource
from cos_runtime.caffe import solverstate, weights
from cos_runtime.caffe.schema.caffe_pb2 import LayerParameter, NetParameter, SolverParameter
from cos_runtime.caffe.solverstate import SolverState
from cos_runtime.errors import UserError
from tests.fixtures.jobs import JobFolder, MakeJob


@pytest.fixture(autouse=True)
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting Spark is already too late."""

    class Started:
        def __getattr__(self, _: str):
            pytest.fail("Spark was started")

    monkeypatch.setattr(command.SparkSession, "builder", Started())


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs the command and returns the one sentence with which it refuses; nothing may be written by then."""

    def run(*args: str) -> str:
        before = _content(tmp_path)
        monkeypatch.setattr(command.sys, "argv", ["main.py", *args])
        assert command.main() == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("error: ")
        assert output.err.count("\n") == 1
        assert _content(tmp_path) == before
        return output.err.removeprefix("error: ").strip()

    return run


def _content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(job: JobFolder, file: str, old: str, new: str) -> None:
    path = Path(job.file(file))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def write_weights(job: JobFolder, **shapes: list[tuple[int, ...]]) -> str:
    """A weights file with zeros of these shapes."""
    param = NetParameter(layer=[LayerParameter(name=name, type="InnerProduct") for name in shapes])
    blobs = {name: [np.zeros(shape, np.float32) for shape in each] for name, each in shapes.items()}
    path = Path(job.file("given.caffemodel"))
    path.write_bytes(weights.serialize(param, blobs, SolverParameter.BINARYPROTO))
    return str(path)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["-trian"], "unknown flag -trian: did you mean -train? (-help lists them all)"),
        (["--train"], "unknown flag --train: did you mean -train? (-help lists them all)"),
        (["-tra"], "unknown flag -tra: did you mean -train? (-help lists them all)"),
        (["-train", "-conf"], "argument -conf: expected one argument"),
        (["-train", "stray"], 'unexpected argument "stray": every value follows its flag (-help lists the flags)'),
        (["-train", "-devices", "two"], "argument -devices: invalid int value: 'two'"),
        (["-train", "-devices", "0"], "-devices is 0: it must be 1 or more"),
        (["-train", "-clusterSize", "-1"], "-clusterSize is -1: it must be 1 or more"),
        (["-train", "-connection", "wifi"], '-connection is "wifi": use one of ethernet, infiniband, efa'),
        (["-train", "-snapshot", "x"], "-snapshot needs -weights, the .caffemodel that was written with it"),
        (["-train"], "-conf is missing: give the solver prototxt"),
        ([], "nothing to do: give -train, -test or -features BLOBS"),
    ],
)
def test_flags(refused, args, sentence):
    assert refused(*args) == sentence


def test_a_missing_solver_or_net(refused, make_job: MakeJob):
    job = make_job()
    missing = job.file("none.prototxt")
    assert refused("-train", "-conf", missing) == f"solver {missing} does not exist"
    edit(job, "solver.prototxt", "net.prototxt", "gone.prototxt")
    assert refused("-train", *job.args()) == f"net {job.file('gone.prototxt')} does not exist"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("momentum: 0.9", "momentun: 0.9", '2:53: Message type "SolverParameter" has no field named "momentun"'),
        ("momentum: 0.9", "momentum: fast", '2:63: field "momentum": Couldn\'t parse float: fast'),
        ("momentum: 0.9", "momentum 0.9", '2:62: field "momentum": Expected ":"'),
        (
            "solver_mode: CPU",
            "solver_mode: TPU",
            '3:27: field "solver_mode": Enum type "SolverParameter.SolverMode" has no value named TPU',
        ),
    ],
)
def test_a_solver_that_does_not_parse(refused, make_job: MakeJob, old: str, new: str, expected: str):
    job = make_job()
    edit(job, "solver.prototxt", old, new)
    assert refused("-train", *job.args()) == f"{job.solver}:{expected}"


def test_weights_that_lack_a_layer(refused, make_job: MakeJob):
    job = make_job()
    model = write_weights(job, ip1=[(12, 36), (12,)])
    assert refused("-test", "-conf", job.solver, "-model", model).startswith(f'{model} has no weights for layer "ip2"')


def test_a_layer_that_only_resizes_needs_no_weights(make_job: MakeJob):
    layer = 'layer { name: "up" type: "Deconvolution" bottom: "data" top: "up" convolution_param { num_output: 1 '
    job = make_job(
        extra=f'{layer} kernel_size: 4 stride: 2 bias_term: false weight_filler {{ type: "bilinear" }} }} }}'
    )
    model = write_weights(job, ip1=[(12, 36), (12,)], ip2=[(4, 12), (4,)])
    conf = Config(None, ["-conf", job.solver])
    net, _ = preflight.check_inference(conf, DataSource.getSource(conf, False), model)
    line = np.array([0.25, 0.75, 0.75, 0.25])
    assert dict(net.named_layers())["up"].blobs[0][0, 0].tolist() == np.outer(line, line).tolist()
    edit(job, "net.prototxt", "bilinear", "xavier")
    with pytest.raises(UserError, match='no weights for layer "up"'):
        preflight.check_inference(Config(None, ["-conf", job.solver]), DataSource.getSource(conf, False), model)


def test_a_result_that_would_be_kept_nowhere(refused, make_job: MakeJob):
    job = make_job()
    conf = ["-train", "-conf", job.solver]
    sentence = "-model is missing: name the file for the trained weights, "
    assert refused(*conf, "-test") == f"{sentence}which are then tested"
    edit(job, "solver.prototxt", "max_iter: 20", "max_iter: 20 snapshot: 21 snapshot_after_train: false")
    assert refused(*conf) == f"{sentence}of which the solver keeps no snapshot"


def test_a_binary_file_as_a_prototxt(refused, make_job: MakeJob):
    job = make_job()
    Path(job.file("net.prototxt")).write_bytes(b"\x0a\xff\xfe")
    assert refused("-train", *job.args()) == (
        f"net {job.file('net.prototxt')} is not text: a prototxt file is expected, not a binary one"
    )


def test_an_unknown_layer_type(refused, make_job: MakeJob):
    job = make_job()
    edit(job, "net.prototxt", 'type: "ReLU"', 'type: "ReLUU"')
    sentence = refused("-train", *job.args())
    assert 'layer "relu1"' in sentence
    assert '"ReLUU"' in sentence
    assert 'nearest known is "ReLU"' in sentence


def test_blobs_whose_shapes_do_not_match(refused, make_job: MakeJob):
    extra = 'layer { name: "sum" type: "Eltwise" bottom: "ip1" bottom: "data" top: "sum" }'
    sentence = refused("-train", *make_job(extra=extra).args())
    assert 'layer "sum" (Eltwise)' in sentence
    assert "(8, 12)" in sentence
    assert "(8, 1, 6, 6)" in sentence


@pytest.mark.parametrize("use", ["-train", "-test"])
def test_weights_that_do_not_fit(refused, make_job: MakeJob, use: str):
    job = make_job()
    model = write_weights(job, ip1=[(12, 30), (12,)])
    args = ["-conf", job.solver, use]
    args += ["-model", job.file("new"), "-weights", model] if use == "-train" else ["-model", model]
    sentence = refused(*args)
    assert 'layer "ip1" (InnerProduct)' in sentence
    assert "(12, 30)" in sentence
    assert "(12, 36)" in sentence
    assert model in sentence


@pytest.mark.parametrize("flag", ["-weights", "-model"])
def test_a_file_of_weights_that_is_none(refused, make_job: MakeJob, flag: str):
    job = make_job()
    foreign = job.solver
    use = ["-train", "-model", job.file("new")] if flag == "-weights" else ["-test"]
    assert foreign in refused("-conf", job.solver, *use, flag, foreign)
    missing = job.file("missing")
    assert refused("-conf", job.solver, *use, flag, missing) == f"{flag} {missing} does not exist"


def test_a_missing_one_of_several_files_of_weights(refused, make_job: MakeJob):
    job = make_job()
    model = write_weights(job, ip1=[(12, 36), (12,)])
    missing = job.file("gone.caffemodel")
    assert refused("-train", *job.args("-weights", f"{model}, gone.caffemodel")) == f"-weights {missing} does not exist"
    edit(job, "solver.prototxt", "momentum", f'weights: "{model}" weights: "gone.caffemodel" momentum')
    assert refused("-train", *job.args()) == f"-weights {missing} does not exist"


def test_a_state_of_another_net(refused, make_job: MakeJob):
    job = make_job()
    model = write_weights(job, ip1=[(12, 36), (12,)], ip2=[(4, 12), (4,)])
    assert model in refused("-train", *job.args("-snapshot", model, "-weights", model))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "without a data.mdb"),
        (lambda path: (path.mkdir(), (path / "data.mdb").write_bytes(b"no LMDB" * 5000)), "no LMDB at all"),
    ],
)
def test_an_lmdb_that_is_none(refused, make_job: MakeJob, tmp_path: Path, make, word):
    path = tmp_path / "bad_lmdb"
    make(path)
    sentence = refused("-train", *make_job(train=path).args())
    assert str(path) in sentence
    assert word in sentence


def test_a_truncated_lmdb(refused, make_job: MakeJob, tmp_path: Path):
    job = make_job()
    data = tmp_path / "train_240" / "data.mdb"
    data.write_bytes(data.read_bytes()[:-8192])
    sentence = refused("-train", *job.args())
    assert "train_240" in sentence
    assert "truncated" in sentence


def test_an_empty_lmdb(refused, make_job: MakeJob):
    sentence = refused("-train", *make_job(records=0).args())
    assert "train_0" in sentence
    assert "is empty" in sentence


def test_a_batch_larger_than_the_data(refused, make_job: MakeJob):
    sentence = refused("-train", *make_job(records=10, batch=16).args())
    assert 'layer "data"' in sentence
    assert "16" in sentence
    assert "10" in sentence
    sentence = refused("-train", *make_job("shared", records=20, batch=8).args("-clusterSize", "3"))
    assert "3 ranks with batch_size 8 take 24 records a step and the source has 20" in sentence


def test_output_that_exists(refused, make_job: MakeJob):
    job = make_job(solver='snapshot: 10 snapshot_prefix: "snap"')
    model = write_weights(job, ip1=[(12, 36), (12,)], ip2=[(4, 12), (4,)])
    args = ["-conf", job.solver, "-model", model]
    assert refused("-train", *args) == f"-model {model} exists: name another file, or remove it first"
    old = Path(job.file("snap_iter_20.solverstate"))
    old.write_bytes(b"dear")
    assert str(old) in refused("-train", *job.args())
    old.unlink()
    left = Path(job.file("snap_checkpoint_iter_7.solverstate"))
    left.write_bytes(b"dear too")
    assert refused("-train", *job.args()).startswith(f"{left} is a checkpoint of an earlier run that did not end")
    folder = Path(job.file("out"))
    folder.mkdir()
    assert str(folder) in refused("-features", "ip1", "-output", str(folder), *args)
    assert str(folder) in refused("-test", "-output", str(folder), *args)


@pytest.mark.parametrize("file_format", ["csv", "TEXT"])
def test_a_format_without_lists(refused, make_job: MakeJob, file_format: str):
    job = make_job()
    flags = ["-train", "-features", "ip1", "-output", job.file("out"), "-outputFormat", file_format]
    sentence = f"-outputFormat {file_format} cannot hold features, which are lists: give json or parquet"
    assert refused(*job.args(*flags)) == sentence


def test_the_result_of_a_test_goes_beside_the_features(make_job: MakeJob):
    flags = make_job().args("-test", "-features", "ip1", "-output", "s3://b/features/")
    assert command.test_output(Config(None, flags)) == "s3://b/features.test.txt"


def test_places_that_cannot_be_written_to(refused, make_job: MakeJob):
    job = make_job()
    model, nowhere = "/proc/nowhere/m.caffemodel", f"{job.solver}/m"
    assert refused("-train", *job.args(model=model)).startswith(f"-model {model} cannot be written: No such file")
    for flags in (["-train", "-model", nowhere], ["-train", "-test", "-model", job.file("m"), "-output", nowhere]):
        assert f"{nowhere} cannot be written: " in refused("-conf", job.solver, *flags)
    edit(job, "solver.prototxt", "max_iter: 20", 'max_iter: 20 snapshot: 10 snapshot_prefix: "/proc/nowhere/snap"')
    assert refused("-train", *job.args()).startswith("snapshot_prefix /proc/nowhere/snap cannot be written: ")


def test_the_best_weights_of_another_run_stay_where_the_state_has_none(refused, make_job: MakeJob):
    job = make_job(solver="test_interval: 5 test_iter: 5")
    model = write_weights(job, ip1=[(12, 36), (12,)], ip2=[(4, 12), (4,)])
    history = [np.zeros(shape, np.float32) for shape in ((12, 36), (12,), (4, 12), (4,))]
    for best in (None, 0.5):
        state = Path(job.file("given.solverstate"))
        content = solverstate.serialize(SolverState(10, 0, history, best=best), SolverParameter.BINARYPROTO)
        state.write_bytes(content)
        Path(job.file("model_best.caffemodel")).write_bytes(b"precious")
        flags = job.args("-train", "-best", "loss", "-snapshot", str(state), "-weights", model)
        if best is None:
            assert refused(*flags).startswith(f"-best would write over {job.file('model_best.caffemodel')}")
        else:
            with pytest.raises(pytest.fail.Exception, match="Spark was started"):
                command.run(flags)


def test_a_blob_that_the_net_lacks(refused, make_job: MakeJob):
    job = make_job()
    model = write_weights(job, ip1=[(12, 36), (12,)], ip2=[(4, 12), (4,)])
    sentence = refused("-features", "ip1,ip3", "-output", job.file("out"), "-conf", job.solver, "-model", model)
    assert sentence.startswith('-features: the TEST net has no blob "ip3": did you mean "ip')


@pytest.fixture
def broken_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module that cannot be imported."""
    (tmp_path / "broken_source.py").write_text('raise RuntimeError("no licence for the camera")')
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("no.such.module.Source", "cannot be imported"),
        ("os.path.join", "not a subclass of DataSource"),
        ("com.yahoo.ml.caffe.Nothing", "cannot be imported"),
        (".own.Source", "cannot be imported (TypeError: "),
        ("broken_source.Source", "cannot be imported (RuntimeError: no licence for the camera): "),
    ],
)
def test_a_source_class_that_is_none(refused, make_job: MakeJob, broken_source: None, name: str, word: str):
    sentence = refused("-train", *make_job(source_class=name).args())
    assert 'layer "data"' in sentence
    assert name in sentence
    assert word in sentence


def test_a_net_without_a_data_layer_for_a_phase(refused, make_job: MakeJob):
    job = make_job()
    edit(job, "net.prototxt", "include { phase: TEST }\n  memory", "include { phase: TRAIN stage: 'never' }\n  memory")
    sentence = refused("-test", *job.args())
    assert "has no data layer for the phase TEST" in sentence


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("max_iter: 20", "", "max_iter is missing"),
        ("max_iter: 20", "max_iter: -1", "max_iter is -1: it must be 0 or more"),
        ('lr_policy: "fixed"', 'lr_policy: "sometimes"', "sometimes"),
        ("random_seed: 3", "random_seed: 3 test_interval: 5", "test_interval is given without test_iter"),
    ],
)
def test_a_solver_that_makes_no_sense(refused, make_job: MakeJob, old: str, new: str, word: str):
    job = make_job()
    edit(job, "solver.prototxt", old, new)
    assert word in refused("-train", *job.args())
