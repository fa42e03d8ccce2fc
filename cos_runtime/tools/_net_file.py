"""The net that a tool is given: a net's prototxt, or that of a solver which names one."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from cos_runtime import storage
from cos_runtime.caffe import prototxt
from cos_runtime.caffe.net import with_input_layers
from cos_runtime.caffe.phase import filter_net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, NetParameter, NetState, Phase, SolverParameter
from cos_runtime.errors import UserError


@dataclass(frozen=True)
class NetFile:
    """A net in one state.

    Attributes:
        param: the layers that the state includes; legacy inputs are an Input layer.
        state: phase, level and stages.
        folder: where relative paths in it count from: that of the file which the user named.
    """

    param: NetParameter
    state: NetState
    folder: str


def add_options(parser: argparse.ArgumentParser, *, phase: bool = True) -> None:
    """Add the net itself and the options that choose its state; ``phase``: whether ``--phase`` is one of them."""
    parser.add_argument("net", metavar="FILE.prototxt", help="net, or a solver that names one")
    if phase:
        parser.add_argument("--phase", choices=["train", "test"], type=str.lower, default="train", help="(train)")
    parser.add_argument("--level", type=int, default=0, help="of the net, for min_level and max_level rules (0)")
    parser.add_argument("--stage", action="append", default=[], help="of the net, for stage rules; may be repeated")


def read(args: argparse.Namespace) -> NetFile:
    """The net that the options of :func:`add_options` choose; of the phase TEST where they leave no choice.

    Raises:
        UserError: the file is missing, or neither a net nor a solver with a net; or no layer is in this phase.
    """
    phase = TRAIN if getattr(args, "phase", "test") == "train" else TEST
    param = with_input_layers(read_param(args.net, phase))
    state = NetState(phase=phase, level=args.level, stage=[*param.state.stage, *args.stage])
    chosen = filter_net(param, state)
    if not chosen.layer:
        raise UserError(f"{args.net} has no layer for the phase {Phase.Name(phase)}, level {args.level} and its stages")
    return NetFile(chosen, state, storage.parent(args.net))


def read_param(path: str, phase: Phase) -> NetParameter:
    """All layers of the net in the file at ``path``, or of the one that a solver there uses in this phase."""
    try:
        return prototxt.read_net(path)
    except UserError:
        try:
            solver = prototxt.read_solver(path)
        except UserError:
            solver = None
        if solver is None:
            # The net's error is the one to tell.
            raise
    return _net_of(solver, path, phase)


def _net_of(solver: SolverParameter, path: str, phase: Phase) -> NetParameter:
    """Caffe's ways for a solver to name a net: one for both phases, or one for each, in it or in another file."""
    own = solver.train_net_param if solver.HasField("train_net_param") else None
    name = solver.train_net
    if phase == TEST:
        own = next(iter(solver.test_net_param), own)
        name = next(iter(solver.test_net), name)
    if solver.HasField("net_param"):
        own = solver.net_param
    if own is not None:
        return own
    name = solver.net or name
    if not name:
        raise UserError(f'{path} is a solver that names no net: give a net, or add net: "FILE.prototxt" to it')
    return prototxt.read_net(_found(name, storage.parent(path)))


def _found(name: str, folder: str) -> str:
    """The path as COS counts it, from the solver's folder, or as Caffe does, from the current one."""
    beside = storage.resolve(name, folder)
    return beside if storage.exists(beside) or not storage.exists(name) else name
