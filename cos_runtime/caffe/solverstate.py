"""Files of a solver's state: Caffe's ``.solverstate`` in binary (a ``SolverState`` message) and in HDF5."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, fields
from typing import Any

import h5py
import numpy as np

from cos_runtime import storage
from cos_runtime.caffe.blobs import (
    damage_named,
    from_message,
    is_hdf5,
    read_dataset,
    reading_hdf5,
    to_parts,
    write_dataset,
)
from cos_runtime.caffe.schema import caffe_pb2, weights_pb2
from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.caffe.wire import Parts, delimited

_HISTORY_FIELD, _RANK_BLOBS_FIELD = 3, 1003
# What Caffe itself does not write, and passes over.
_OWN_NUMBERS = ("records", "ranks", "ranks_since", "seed", "best", "stale", "loss_scale", "loss_scale_age")


@dataclass(frozen=True)
class SolverState:
    """All that a solver needs, besides the weights, to go on as if it had never stopped.

    The fields after ``learned_net`` are this project's own: a file that Caffe wrote has none of them, and Caffe reads
    a file with them as one without.

    Attributes:
        iteration: number of updates made.
        current_step: steps of the learning rate done.
        history: the update rule's blobs, in Caffe's order.
        learned_net: path of the weights file that goes with the state; empty where it names none.
        records: training records that all ranks together have taken; None where the file does not say.
        ranks: how many ranks took them; None where the file does not say.
        ranks_since: how many of the records were taken before there were that many ranks.
        seed: of the job's random numbers; None where the file does not say.
        best: the best value of a validation pass; None where there was none.
        stale: validation passes since then.
        loss_scale: the factor of a float16 training's loss; None where there was none.
        loss_scale_age: iterations since it changed.
        rank_blobs: for each rank, float32 [n], what its layers keep themselves (``Net.state_blobs``, one after the
            other); empty where the weights file has all of it.
    """

    iteration: int
    current_step: int
    history: list[np.ndarray]
    learned_net: str = ""
    records: int | None = None
    ranks: int | None = None
    ranks_since: int = 0
    seed: int | None = None
    best: float | None = None
    stale: int = 0
    loss_scale: float | None = None
    loss_scale_age: int = 0
    rank_blobs: list[np.ndarray] = field(default_factory=list)


def read(path: str) -> SolverState:
    """The state in the file at ``path`` (path or URL)."""
    return parse(storage.read_bytes(path, "solver state"), path)


def parse(content: bytes, origin: str) -> SolverState:
    """The state in a file's content, which tells which kind it is.

    Args:
        origin: the file's name, for error messages.

    Raises:
        UserError: it is no solver state, or a damaged one.
    """
    with damage_named(origin, "solver state"):
        state = _from_hdf5(content) if is_hdf5(content) else _from_binary(content)
        if state.iteration < 0 or state.current_step < 0:
            raise ValueError(f"its iteration is {state.iteration} and its current_step {state.current_step}")
        return state


def serialize(state: SolverState, file_format: int) -> bytes:
    """The content of a state file as Caffe writes and reads it.

    Args:
        file_format: ``SolverParameter.BINARYPROTO`` or ``SolverParameter.HDF5``.
    """
    return _to_hdf5(state) if file_format == SolverParameter.HDF5 else _to_binary(state)


def _from_binary(content: bytes) -> SolverState:
    try:
        return _state_of(weights_pb2.State.FromString(content))
    except ValueError:
        # Values that are not packed in one piece: see weights.py.
        packed = caffe_pb2.SolverState.FromString(content).SerializePartialToString()
        return _state_of(weights_pb2.State.FromString(packed))


def _state_of(message: weights_pb2.State) -> SolverState:
    if not message.HasField("iter"):
        raise ValueError("it has no iteration")
    # The last field of the file, which Caffe wrote already when blobs still had four fixed axes: a file without
    # either was cut off between two fields.
    if not message.HasField("current_step") and not any(blob.HasField("num") for blob in message.history):
        raise ValueError("it ends before current_step")
    history = [from_message(blob) for blob in message.history]
    own = {name: getattr(message, name) for name in _OWN_NUMBERS if message.HasField(name)}
    rank_blobs = [from_message(blob) for blob in message.rank_blobs]
    return SolverState(message.iter, message.current_step, history, message.learned_net, rank_blobs=rank_blobs, **own)


def _to_binary(state: SolverState) -> bytes:
    head = weights_pb2.State(iter=state.iteration)
    if state.learned_net:
        head.learned_net = state.learned_net
    parts: Parts = [head.SerializeToString()]
    for blob in state.history:
        parts += delimited(_HISTORY_FIELD, to_parts(blob))
    for blob in state.rank_blobs:
        parts += delimited(_RANK_BLOBS_FIELD, to_parts(blob))
    # The last, so that a file that was cut off shows.
    parts.append(weights_pb2.State(current_step=state.current_step, **_own_numbers(state)).SerializeToString())
    return b"".join(parts)


def _own_numbers(state: SolverState) -> dict[str, Any]:
    """The numbers that Caffe does not know, those that say nothing left out."""
    found = {each.name: (getattr(state, each.name), each.default) for each in fields(state)}
    return {name: value for name, (value, default) in found.items() if name in _OWN_NUMBERS and value != default}


def _from_hdf5(content: bytes) -> SolverState:
    with reading_hdf5(content) as file:
        group = file["history"]
        history = [read_dataset(group[str(index)]) for index in range(len(group))]
        learned_net = bytes(file["learned_net"][()]).decode() if "learned_net" in file else ""
        own = {name: _number(file[name]) for name in _OWN_NUMBERS if name in file}
        ranks = file.get("rank_blobs", {})
        rank_blobs = [read_dataset(ranks[str(index)]) for index in range(len(ranks))]
        numbers = _number(file["iter"]), _number(file["current_step"])
        return SolverState(*numbers, history, learned_net, rank_blobs=rank_blobs, **own)


def _number(dataset: h5py.Dataset) -> Any:
    return np.asarray(dataset[()]).reshape(-1)[0].item()


def _to_hdf5(state: SolverState) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("iter", data=np.array([state.iteration], np.int32))
        if state.learned_net:
            # A fixed string that ends in a null, as C reads it.
            learned_net = state.learned_net.encode() + b"\0"
            file.create_dataset("learned_net", data=np.array(learned_net, f"S{len(learned_net)}"))
        file.create_dataset("current_step", data=np.array([state.current_step], np.int32))
        history = file.create_group("history")
        for index, blob in enumerate(state.history):
            write_dataset(history, index, blob)
        for name, number in _own_numbers(state).items():
            file.create_dataset(name, data=np.array([number]))
        if state.rank_blobs:
            ranks = file.create_group("rank_blobs")
            for index, blob in enumerate(state.rank_blobs):
                write_dataset(ranks, index, blob)
    return buffer.getvalue()
