"""The nets that a solver names: one to train, and one or several to test it by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cos_runtime.caffe.phase import filter_net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, NetParameter, NetState, NetStateRule, SolverParameter
from cos_runtime.errors import UserError


@dataclass(frozen=True)
class SolverNets:
    """All nets of a solver in one, and the state in which each is its own.

    Attributes:
        net: the layers of all of them; each says by its rules of which it is.
        train: phase, level and stages of the TRAIN net.
        tests: those of each TEST net, one at least.
    """

    net: NetParameter
    train: NetState
    tests: Sequence[NetState]


def find(solver: SolverParameter, read: Callable[[str], NetParameter], origin: str) -> SolverNets:
    """The nets, counted and put in order as Caffe does: ``test_net_param``, ``test_net``, then ``net`` for the rest.

    Args:
        solver: may name nets by file.
        read: reads the net of a file.
        origin: the solver's file, for errors.

    Raises:
        UserError: there is no net, more than one to train, or not as many as ``test_iter`` or ``test_state`` say.
    """
    _refuse_several(solver, origin)
    shared = _shared(solver, read)
    if shared is None and not (solver.train_net or solver.HasField("train_net_param")):
        raise UserError(f'{origin}: the solver names no net: give net: "FILE.prototxt"')
    own = [*solver.test_net_param, *map(read, solver.test_net)]
    count = len(solver.test_iter) or max(1, len(own))
    _check_counts(solver, len(own), count, origin, is_shared=shared is not None)
    trained = shared
    if trained is None:
        trained = solver.train_net_param if solver.HasField("train_net_param") else read(solver.train_net)
    tested = own if shared is None else [*own, *[shared] * (count - len(own))]
    train = _state(TRAIN, trained, solver.train_state)
    given = solver.test_state or [NetState()] * count
    # Without a test net the one to train tells the sources of a test.
    tests = [_state(TEST, net, state) for net, state in zip(tested or [trained] * count, given, strict=True)]
    if shared is not None and not own:
        return SolverNets(shared, train, tests)
    merged = NetParameter(name=trained.name)
    _add(merged, trained, train, "")
    for index, (net, state) in enumerate(zip(tested, tests, strict=False)):
        # A stage of its own keeps one test net's layers out of the others.
        _add(merged, net, state, f"test net {index}" if count > 1 else "")
    return SolverNets(merged, train, tests)


def _shared(solver: SolverParameter, read: Callable[[str], NetParameter]) -> NetParameter | None:
    """The net that trains and tests, where there is one."""
    if solver.HasField("net_param"):
        return solver.net_param
    return read(solver.net) if solver.net else None


def _check_counts(solver: SolverParameter, own: int, count: int, origin: str, *, is_shared: bool) -> None:
    if own > count or (0 < own < count and not is_shared):
        raise UserError(
            f"{origin}: the solver names {own} test nets and has {count} values of test_iter: give one for each net"
        )
    if solver.test_state and len(solver.test_state) != count:
        raise UserError(
            f"{origin}: the solver has {count} test nets (one for each test_iter) and {len(solver.test_state)} values "
            "of test_state: give one for each net, or none"
        )


def _refuse_several(solver: SolverParameter, origin: str) -> None:
    """Refuse more than one net to train, as Caffe does."""
    named = [name for name in ("net", "net_param", "train_net", "train_net_param") if solver.HasField(name)]
    if len(named) > 1:
        raise UserError(f"{origin}: the solver has {' and '.join(named)}: keep one, the net to train")


def _state(phase: int, net: NetParameter, given: NetState) -> NetState:
    """The state of a net: what its own file says, and the solver on top."""
    state = NetState()
    state.CopyFrom(net.state)
    state.MergeFrom(given)
    state.phase = phase  # type: ignore[assignment]
    return state


def _add(merged: NetParameter, net: NetParameter, state: NetState, stage: str) -> None:
    """Add the layers that the net has in a state, with a rule that only that state meets."""
    layers = filter_net(net, state).layer
    rule = NetStateRule(phase=state.phase)
    if stage:
        rule.stage.append(stage)
        state.stage.append(stage)
    for layer in layers:
        added = merged.layer.add()
        added.CopyFrom(layer)
        added.ClearField("include")
        added.ClearField("exclude")
        added.include.append(rule)
