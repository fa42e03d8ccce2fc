from pathlib import Path

import pytest

from bootstrap import uploads
from bootstrap.errors import LaunchError
from bootstrap.jobs.record import LocalTarget, MasterTarget
from bootstrap.specs import Request, here, there
from bootstrap.uploads import Uploads

SOLVER = """# net: "not this one"
net: "nets/a.prototxt"  # and mean_file: "neither"
max_iter: 10
snapshot_prefix: "a"
"""
NET = """name: "source: 'x'"
layer { name: "data" source_class: "my.Source" memory_data_param { source: "../data/train_lmdb" batch_size: 4 }
  transform_param { mean_file: '/%s/mean.binaryproto' } }
layer { name: "far" memory_data_param { source: "s3://bucket/test_lmdb" } }
"""
TARGET = MasterTarget(master="spark://10.0.0.5:7077")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "nets").mkdir(parents=True)
    (tmp_path / "data" / "train_lmdb").mkdir(parents=True)
    (tmp_path / "data" / "train_lmdb" / "data.mdb").write_bytes(b"records")
    (tmp_path / "data" / "train_lmdb" / "lock.mdb").write_bytes(b"readers")
    (folder / "mean.binaryproto").write_bytes(b"mean")
    (folder / "solver.prototxt").write_text(SOLVER)
    (folder / "nets" / "a.prototxt").write_text(NET % str(folder).lstrip("/"))
    return folder


def collect(project: Path, tmp_path: Path) -> tuple[str, dict[str, Path]]:
    """The solver's place, and all places with the files that go there."""
    made = Uploads("/there", tmp_path / "scratch")
    place = made.add_solver(project / "solver.prototxt")
    return place, {there: Path(path) for path, there in made.files.items()}


def test_a_solver_takes_along_what_it_names(project: Path, tmp_path: Path) -> None:
    place, files = collect(project, tmp_path)
    assert sorted(there.rpartition("/")[2] for there in files) == [
        "a.prototxt", "data.mdb", "mean.binaryproto", "solver.prototxt"
    ]  # fmt: skip
    solver = files[place].read_text()
    net = next(there for there in files if there.endswith("a.prototxt"))
    assert solver == SOLVER.replace("nets/a.prototxt", net), "comments stay as they are"
    data = next(there for there in files if there.endswith("train_lmdb/data.mdb")).rpartition("/")[0]
    mean = next(there for there in files if there.endswith("mean.binaryproto"))
    text = files[net].read_text()
    assert f'source: "{data}" batch_size: 4' in text
    assert f'mean_file: "{mean}"' in text
    assert "name: \"source: 'x'\"" in text
    assert 'source: "s3://bucket/test_lmdb"' in text


def test_the_same_content_has_the_same_place(project: Path, tmp_path: Path) -> None:
    before, files = collect(project, tmp_path)
    assert collect(project, tmp_path)[0] == before
    (tmp_path / "data" / "train_lmdb" / "data.mdb").write_bytes(b"others")
    after, changed = collect(project, tmp_path)
    assert after != before
    assert [there for there in files if there in changed and "mean" in there]


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("solver.prototxt", "The solver {folder}/solver.prototxt is not there"),
        ("nets/a.prototxt", "{folder}/solver.prototxt:2: net {folder}/nets/a.prototxt is not there"),
        ("mean.binaryproto", "{folder}/nets/a.prototxt:3: mean_file {folder}/mean.binaryproto is not there"),
    ],
)
def test_what_is_missing_is_named_by_file_and_line(project: Path, tmp_path: Path, gone: str, sentence: str) -> None:
    (project / gone).unlink()
    with pytest.raises(LaunchError) as error:
        collect(project, tmp_path)
    assert str(error.value).startswith(sentence.format(folder=project))


def test_several_weights_are_sent_in_their_order(project: Path, tmp_path: Path) -> None:
    solver = project / "solver.prototxt"
    solver.write_bytes(solver.read_bytes() + b'weights: "b.caffemodel, s3://x/c,a.caffemodel"  # f\xfcr den Anfang\n')
    for name in "ab":
        (project / f"{name}.caffemodel").write_text(name)
    made = Uploads("/there", tmp_path / "scratch")
    flags = {"conf": str(solver), "weights": "a.caffemodel, b.caffemodel", "model": "m", "train": True}
    spec = there(Request("train", TARGET, flags), made)
    first, second = (made.files[str(project / f"{name}.caffemodel")] for name in "ab")
    assert spec.args[-1] == f"{first},{second}"
    (changed,) = (Path(here) for here, there_ in made.files.items() if there_ == spec.args[1])
    assert changed.read_bytes().endswith(f'weights: "{second},s3://x/c,{first}"  # f'.encode() + b"\xfcr den Anfang\n")


def test_what_is_not_text_is_no_solver(project: Path, tmp_path: Path) -> None:
    (project / "solver.prototxt").write_bytes(b"\x08\x00\xff")
    with pytest.raises(LaunchError, match="solver.prototxt cannot be read as text: name a prototxt file"):
        collect(project, tmp_path)


def test_what_is_too_large_belongs_into_the_bucket(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "LARGEST", 5)
    with pytest.raises(LaunchError, match="put it into the cluster's bucket and name its s3:// URL"):
        collect(project, tmp_path)


def test_a_spec_for_another_machine(project: Path, tmp_path: Path) -> None:
    made = Uploads("/there", tmp_path / "scratch")
    (project / "old.caffemodel").write_bytes(b"weights")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "source.py").touch()
    flags = {"conf": str(project / "solver.prototxt"), "train": True, "test": True, "model": "out/a.caffemodel",
             "output": "/results/test.txt", "weights": "old.caffemodel", "devices": 8}  # fmt: skip
    spec = there(Request("train", TARGET, flags, code=(tmp_path / "mine",)), made)
    conf, weights = (made.files[path] for path in made.files if path.endswith(("solver.prototxt", "old.caffemodel")))
    assert spec.args == (
        "-conf", conf, "-train", "-test", "-model", "{work}/model/a.caffemodel", "-output", "{work}/output/test.txt",
        "-devices", "8", "-weights", weights,
    )  # fmt: skip
    assert spec.metrics == "{work}/model/metrics.jsonl"
    assert {result.path: result.place for result in spec.results} == {
        "{work}/model": str(project / "out"),
        "{work}/output": "/results",
    }
    assert spec.code == (made.files[str(tmp_path / "mine" / "source.py")].rpartition("/")[0],)
    assert (spec.name, spec.folder) == ("solver", "{work}")


def test_training_elsewhere_needs_a_model(project: Path, tmp_path: Path) -> None:
    request = Request("train", TARGET, {"conf": str(project / "solver.prototxt"), "train": True})
    with pytest.raises(LaunchError, match="--model is missing"):
        there(request, Uploads("/there", tmp_path / "scratch"))
    url = Request("train", TARGET, {**request.flags, "model": "s3://bucket/m"})
    spec = there(url, Uploads("/there", tmp_path / "scratch"))
    assert (spec.args[-1], spec.results, spec.metrics) == ("s3://bucket/m", (), None)


def test_a_model_that_is_read_is_sent_along(project: Path, tmp_path: Path) -> None:
    (project / "a.caffemodel").write_bytes(b"weights")
    made = Uploads("/there", tmp_path / "scratch")
    flags = {"conf": str(project / "solver.prototxt"), "test": True, "model": "a.caffemodel"}
    spec = there(Request("test", TARGET, flags), made)
    assert spec.args[-1] == made.files[str(project / "a.caffemodel")]
    assert spec.results == ()


def test_a_spec_for_this_machine(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    flags = {"conf": "solver.prototxt", "train": True, "model": "out/a.caffemodel"}
    spec = here(Request("train", LocalTarget(workers=3), flags, name="mine"))
    assert spec.args == ("-conf", "solver.prototxt", "-train", "-model", "out/a.caffemodel", "-clusterSize", "3")
    assert (spec.name, spec.folder, spec.metrics) == ("mine", str(project), str(project / "out/metrics.jsonl"))
    assert all(result.path == result.place for result in spec.results)
