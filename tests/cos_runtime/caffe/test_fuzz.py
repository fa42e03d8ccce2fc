"""Whatever a file holds, reading it gives a value or one sentence: no other error, no hang, no flood of memory."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cos_runtime.caffe import datum, prototxt, solverstate, weights
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, Datum, NetParameter, SolverParameter
from cos_runtime.caffe.solver import Solver
from cos_runtime.caffe.upgrade import upgrade_net
from cos_runtime.errors import UserError

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
NETS = [
    (EXAMPLES / name).read_text()
    for name in ("mnist/lenet_train_test.prototxt", "cifar10/cifar10_full_train_test.prototxt")
]
SHAPES = {"data": (2, 3, 32, 32), "label": (2,)}
# A few gigabytes beyond what is there: enough for any net that is one, too little for what a wrong digit asks for.
ROOM = 4 << 30

bounded = settings(max_examples=150, deadline=10_000, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
pieces = st.one_of(
    st.sampled_from(
        ["{", "}", '"', ":", "-1", "0", "99999999999", "1e9", "layer {", "bottom: 'data'", "TEST", "\0", "é"]
    ),
    st.text(max_size=4),
)


@pytest.fixture(autouse=True)
def room() -> Iterator[None]:
    """Cap this process's memory, so that a flood fails here and takes nobody else along."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


# Where to replace, as a share of the length, how much, and by what: the report of a failure stays short.
text_damages = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), pieces), min_size=1, max_size=3)
byte_damages = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4)
Sequence = TypeVar("Sequence", str, bytes)


def damaged(content: Sequence, damages: list[tuple[float, int, Sequence]]) -> Sequence:
    for share, length, piece in damages:
        start = round(share * len(content))
        content = content[:start] + piece + content[start + length :]
    return content


@bounded
@given(st.integers(0, 1), text_damages, st.sampled_from([TRAIN, TEST]))
def test_a_net(which: int, damages: list[tuple[float, int, str]], phase: int) -> None:
    with contextlib.suppress(UserError):
        Net(upgrade_net(prototxt.parse(damaged(NETS[which], damages), NetParameter(), "net.prototxt")), phase, SHAPES)


@bounded
@given(text_damages)
def test_a_solver(damages: list[tuple[float, int, str]]) -> None:
    text = damaged((EXAMPLES / "mnist/lenet_solver.prototxt").read_text(), damages)
    net = Net(prototxt.parse(NETS[0], NetParameter(), "net.prototxt"), TRAIN, {"data": (2, 1, 28, 28), "label": (2,)})
    with contextlib.suppress(UserError):
        Solver(prototxt.parse(text, SolverParameter(), "solver.prototxt"), net)


def small_files(file_format: int) -> tuple[bytes, bytes]:
    """A weights file and a solver state of a small net."""
    text = (
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 } }'
    )
    net = Net(prototxt.parse(text, NetParameter(), "net.prototxt"), TRAIN)
    solver = Solver(SolverParameter(base_lr=0.1, lr_policy="fixed"), net)
    model = weights.serialize(net.param, net.weights(), file_format)
    return model, solverstate.serialize(solver.state("model"), file_format)


FILES = [small_files(SolverParameter.BINARYPROTO), small_files(SolverParameter.HDF5)]


@bounded
@given(st.integers(0, 1), byte_damages)
def test_weights(which: int, damages: list[tuple[float, int, bytes]]) -> None:
    with contextlib.suppress(UserError):
        weights.parse(damaged(FILES[which][0], damages), "model")


@bounded
@given(st.integers(0, 1), byte_damages)
def test_a_solver_state(which: int, damages: list[tuple[float, int, bytes]]) -> None:
    with contextlib.suppress(UserError):
        solverstate.parse(damaged(FILES[which][1], damages), "state")


DATUMS = [
    Datum(channels=1, height=2, width=2, data=b"abcd", label=1).SerializeToString(),
    Datum(channels=1, height=1, width=2, float_data=[0.5, 1.5]).SerializeToString(),
    Datum(encoded=True, data=b"\x89PNG\r\n\x1a\n").SerializeToString(),
]


@bounded
@given(st.integers(0, 2), byte_damages)
def test_a_datum(which: int, damages: list[tuple[float, int, bytes]]) -> None:
    with contextlib.suppress(UserError):
        datum.to_array(datum.parse(damaged(DATUMS[which], damages), "record"), None, "record")


def test_a_blob_beyond_caffes_count_is_refused() -> None:
    text = NETS[0].replace("num_output: 500", "num_output: 2000000000")
    with pytest.raises(UserError, match=r'layer "ip1" .*more than 2,147,483,647 values'):
        Net(prototxt.parse(text, NetParameter(), "net.prototxt"), TRAIN, {"data": (2, 1, 28, 28), "label": (2,)})


def test_a_blob_beyond_the_memory_is_refused() -> None:
    text = NETS[0].replace("num_output: 500", "num_output: 2600000")
    with pytest.raises(UserError, match=r'layer "ip1" .*no parameter blob of the shape \(2600000, 800\) can be made'):
        Net(prototxt.parse(text, NetParameter(), "net.prototxt"), TRAIN, {"data": (2, 1, 28, 28), "label": (2,)})
