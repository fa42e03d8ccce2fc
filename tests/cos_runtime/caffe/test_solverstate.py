"""Files of solver states: Caffe's own are read, ours are what Caffe reads, and damaged ones are named."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest

from cos_runtime.caffe import solverstate
from cos_runtime.caffe.schema import caffe_pb2
from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.caffe.solverstate import SolverState
from cos_runtime.errors import UserError
from tests.cos_runtime.caffe import reference_cases

BINARY, HDF5 = SolverParameter.BINARYPROTO, SolverParameter.HDF5
SHAPES = [(20, 1, 5, 5), (20,), (50, 20, 5, 5), (50,), (500, 800), (500,), (10, 500), (10,)]


@pytest.fixture(scope="module")
def lenet(pytestconfig: pytest.Config) -> Path:
    return reference_cases.folder(pytestconfig, "lenet")


@pytest.fixture(scope="module")
def binary(lenet: Path) -> bytes:
    return (lenet / "lenet_iter_1000.solverstate").read_bytes()


@pytest.fixture(scope="module")
def hdf5(lenet: Path) -> bytes:
    return (lenet / "resumed_iter_1020.solverstate.h5").read_bytes()


def assert_equal(ours: SolverState, theirs: SolverState) -> None:
    assert (ours.iteration, ours.current_step, ours.learned_net) == (
        theirs.iteration,
        theirs.current_step,
        theirs.learned_net,
    )
    for own, given in zip(ours.history, theirs.history, strict=True):
        np.testing.assert_array_equal(own, given)
        assert own.dtype == np.float32


def test_reads_caffes_binary_file(lenet: Path, binary: bytes) -> None:
    state = solverstate.read(str(lenet / "lenet_iter_1000.solverstate"))
    assert (state.iteration, state.current_step, state.learned_net) == (1000, 0, "lenet_iter_1000.caffemodel")
    assert [blob.shape for blob in state.history] == SHAPES
    for ours, theirs in zip(state.history, caffe_pb2.SolverState.FromString(binary).history, strict=True):
        np.testing.assert_array_equal(ours.reshape(-1), np.array(theirs.data, np.float32))


def test_reads_caffes_hdf5_file(lenet: Path) -> None:
    path = lenet / "resumed_iter_1020.solverstate.h5"
    state = solverstate.read(str(path))
    assert (state.iteration, state.current_step, state.learned_net) == (1020, 0, "resumed_iter_1020.caffemodel.h5")
    assert [blob.shape for blob in state.history] == SHAPES
    with h5py.File(path) as file:
        for index, ours in enumerate(state.history):
            np.testing.assert_array_equal(ours, file[f"history/{index}"])


def test_caffes_binary_file_written_again_is_the_same_bytes(binary: bytes) -> None:
    assert solverstate.serialize(solverstate.parse(binary, "binary"), BINARY) == binary


def test_caffes_hdf5_file_written_again_has_the_same_layout(hdf5: bytes) -> None:
    again = solverstate.serialize(solverstate.parse(hdf5, "hdf5"), HDF5)
    assert layout(again) == layout(hdf5)
    assert_equal(solverstate.parse(again, "again"), solverstate.parse(hdf5, "hdf5"))


def layout(content: bytes) -> dict[str, object]:
    """Every item with its shape, its type as stored, and its chunks."""
    found: dict[str, object] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        kind = item.id.get_type().encode() if isinstance(item, h5py.Dataset) else None
        found[name] = (kind, getattr(item, "shape", None), getattr(item, "chunks", None))

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(note)
    return found


@pytest.mark.parametrize("learned_net", ["", "/data/größe_iter_7.caffemodel"])
@pytest.mark.parametrize("file_format", [BINARY, HDF5])
def test_a_round_trip_keeps_everything(file_format: int, learned_net: str) -> None:
    random = np.random.default_rng(1)
    history = [random.normal(size=shape).astype(np.float32) for shape in ((2, 3), (4,), (), (0, 2)) * 3]
    state = SolverState(70_000, 3, history, learned_net)
    assert_equal(solverstate.parse(solverstate.serialize(state, file_format), "file"), state)


def test_reads_a_state_from_before_blobs_had_a_shape() -> None:
    state = caffe_pb2.SolverState(iter=7)
    state.history.add(num=1, channels=1, height=2, width=2, data=[1, 2, 3, 4])
    read = solverstate.parse(state.SerializeToString(), "old")
    assert (read.iteration, read.current_step, read.learned_net) == (7, 0, "")
    np.testing.assert_array_equal(read.history, [[[[[1, 2], [3, 4]]]]])


def test_a_binary_file_cut_anywhere_is_named(binary: bytes) -> None:
    random = np.random.default_rng(2)
    cuts = {*random.integers(1, len(binary), 60).tolist(), *range(40), *range(len(binary) - 60, len(binary))}
    whole = caffe_pb2.SolverState.FromString(binary)
    for count in range(len(whole.history) + 1):
        shorter = caffe_pb2.SolverState(iter=1000, learned_net=whole.learned_net, history=whole.history[:count])
        cuts |= {shorter.ByteSize() + step for step in (-1, 0, 1)}
    for cut in sorted(cuts):
        with pytest.raises(UserError, match=r"^cut\.solverstate is no solver state"):
            solverstate.parse(binary[:cut], "cut.solverstate")


def test_an_hdf5_file_cut_anywhere_is_named(hdf5: bytes) -> None:
    random = np.random.default_rng(3)
    cuts = {*random.integers(1, len(hdf5), 60).tolist(), *range(0, 120, 3), *range(len(hdf5) - 40, len(hdf5))}
    for cut in sorted(cuts):
        with pytest.raises(UserError, match=r"^cut\.h5 is no solver state"):
            solverstate.parse(hdf5[:cut], "cut.h5")


def test_the_file_of_another_kind_is_named(lenet: Path) -> None:
    other = {
        "empty": b"",
        "weights": (lenet / "lenet_iter_1000.caffemodel").read_bytes(),
        "weights.h5": (lenet / "resumed_iter_1020.caffemodel.h5").read_bytes(),
        "net.prototxt": (lenet / "lenet_net.prototxt").read_bytes(),
        "zeros": bytes(1000),
    }
    for name, content in other.items():
        with pytest.raises(UserError, match=f"^{name} is no solver state"):
            solverstate.parse(content, name)


def test_negative_counts_are_refused() -> None:
    content = solverstate.serialize(SolverState(-3, 0, [np.zeros(2, np.float32)]), BINARY)
    with pytest.raises(UserError, match="its iteration is -3"):
        solverstate.parse(content, "negative")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"solver state .*nowhere\.solverstate does not exist"):
        solverstate.read(str(tmp_path / "nowhere.solverstate"))
