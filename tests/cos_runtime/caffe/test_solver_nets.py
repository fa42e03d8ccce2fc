"""The nets that a solver names, in Caffe's order."""

import pytest

from cos_runtime.caffe import prototxt, solver_nets
from cos_runtime.caffe.phase import filter_net
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter, SolverParameter
from cos_runtime.errors import UserError

BOTH = """
name: "both"
layer { name: "train" type: "Silence" include { phase: TRAIN } }
layer { name: "test" type: "Silence" include { phase: TEST stage: "a" } include { phase: TEST stage: "b" } }
layer { name: "only_b" type: "Silence" include { phase: TEST stage: "b" } }
"""
NETS = {name: f'name: "{name}" layer {{ name: "{name}" type: "Silence" }}' for name in ("one", "two", "three")}


def find(text: str) -> solver_nets.SolverNets:
    def read(path: str) -> NetParameter:
        return prototxt.parse({"both": BOTH, **NETS}[path], NetParameter(), path)

    return solver_nets.find(prototxt.parse(text, SolverParameter(), "solver"), read, "s.prototxt")


def layers(nets: solver_nets.SolverNets) -> list[list[str]]:
    """The names of the layers of the TRAIN net, then of each TEST net."""
    return [[layer.name for layer in filter_net(nets.net, state).layer] for state in (nets.train, *nets.tests)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('net: "both"', [["train"], []]),
        ('net: "both" test_iter: 1 test_state { stage: "a" }', [["train"], ["test"]]),
        (
            'net: "both" test_iter: 1 test_iter: 2 test_state { stage: "a" } test_state { stage: "b" }',
            [["train"], ["test"], ["test", "only_b"]],
        ),
        ('train_net: "one" test_net: "two"', [["one"], ["two"]]),
        ('train_net: "one"', [["one"], []]),
        ('train_net: "one" test_net: "two" test_net: "three" test_iter: 1 test_iter: 1', [["one"], ["two"], ["three"]]),
        (f"train_net: 'one' test_net: 'two' test_net_param {{ {NETS['three']} }}", [["one"], ["three"], ["two"]]),
        (
            'net: "both" test_net: "two" test_iter: 1 test_iter: 1 test_state {} test_state { stage: "b" }',
            [["train"], ["two"], ["test", "only_b"]],
        ),
    ],
)
def test_nets_and_states(text: str, expected: list[list[str]]) -> None:
    assert layers(find(text)) == expected


def test_a_nets_own_state_counts_too() -> None:
    rules = 'include { stage: "a" stage: "s" } include { min_level: 2 }'
    other = 'layer { name: "other" type: "Silence" exclude { stage: "a" } }'
    own = f'layer {{ name: "own" type: "Silence" {rules} }}'
    net = f'net_param {{ state {{ stage: "a" level: 2 }} {own} {other} }}'
    assert layers(find(net)) == [["own"], ["own"]]
    state = 'train_state { level: 1 } test_iter: 1 test_state { level: 1 stage: "s" }'
    assert layers(find(f"{net} {state}")) == [[], ["own"]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('net: "both" train_net: "one"', "the solver has net and train_net: keep one, the net to train"),
        ('net: "both" net_param {}', "the solver has net and net_param: keep one"),
    ],
)
def test_several_nets_to_train_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        find(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the solver names no net"),
        ('test_net: "one"', "the solver names no net"),
        ('train_net: "one" test_net: "one" test_net: "two" test_iter: 1', "names 2 test nets and has 1 values"),
        ('train_net: "one" test_net: "two" test_iter: 1 test_iter: 1', "names 1 test nets and has 2 values"),
        ('net: "both" test_iter: 1 test_state {} test_state {}', "has 1 test nets .* and 2 values of test_state"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"s.prototxt: the solver .*{reason.removeprefix('the solver ')}"):
        find(text)
