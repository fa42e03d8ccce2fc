"""Snapshots on their way from rank 0 to the driver, which writes them while training goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from cos_runtime.caffe import solverstate, weights
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter
from cos_runtime.caffe.solverstate import SolverState
from cos_runtime.engine.line import Line, LineAddress
from cos_runtime.engine.snapshots import CHECKPOINT
from cos_runtime.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capture:
    """What a snapshot is made of, copied: training may change the originals.

    Attributes:
        purpose: ``CHECKPOINT``, ``SNAPSHOT`` or ``FINAL``.
        net: the net of the weights.
        weights: parameter blobs by layer.
        state: the solver's.
        file_format: ``SolverParameter.BINARYPROTO`` or ``SolverParameter.HDF5``.
    """

    purpose: str
    net: NetParameter
    weights: dict[str, list[np.ndarray]]
    state: SolverState
    file_format: int

    def refuse_infinite(self) -> None:
        """Raise a UserError if a weight is no finite number: such a snapshot would replace a good one."""
        for layer, blobs in self.weights.items():
            if not all(np.isfinite(blob).all() for blob in blobs):
                raise UserError(
                    f'training has diverged: layer "{layer}" has weights that are no finite numbers at iteration '
                    f"{self.state.iteration}: lower base_lr, or set clip_gradients"
                )


class Keeper:
    """Sends captures, in order, on a thread and over a line of their own.

    Args:
        address: the driver's end.
        interval: seconds between checkpoints, 0 for none by time.
        timeout: longest wait for a word of the driver's while it writes one, in seconds.
        clock: seconds, of any origin.
    """

    def __init__(
        self, address: LineAddress, interval: float, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address, self._interval, self._timeout, self._clock = address, interval, timeout, clock
        self._thread = ThreadPoolExecutor(1, "cos-keeper")
        self._sent: list[Future[None]] = []
        self._begun = clock()

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint, and none is still on its way."""
        return bool(self._interval) and self._clock() - self._begun >= self._interval and not self._pending()

    def keep(self, capture: Capture) -> None:
        """Send a capture; the one before it is waited for, so that memory holds two at most.

        A checkpoint is left out where that takes half the time limit: beyond the whole, this rank would be overdue.

        Raises:
            UserError: one that the solver asked for could not be written.
            TimeoutError: nothing was heard of one that the solver asked for.
        """
        self._begun = self._clock()
        if capture.purpose == CHECKPOINT and wait(self._sent, self._timeout / 2).not_done:
            logger.warning(
                "no checkpoint at iteration %d: the snapshot before it is still being written", capture.state.iteration
            )
            return
        self.wait()
        self._sent.append(self._thread.submit(self._send, capture))

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            UserError: one that the solver asked for could not be written.
            TimeoutError: nothing was heard of one that the solver asked for.
        """
        sent, self._sent = self._sent, []
        for each in sent:
            each.result()

    def _pending(self) -> bool:
        return any(not each.done() for each in self._sent)

    def _send(self, capture: Capture) -> None:
        capture.refuse_infinite()
        model = weights.serialize(capture.net, capture.weights, capture.file_format)
        state = solverstate.serialize(capture.state, capture.file_format)
        try:
            self._hand_over(capture, model, state)
        except (UserError, EOFError, OSError) as error:  # TimeoutError is one
            if capture.purpose != CHECKPOINT:
                raise
            # The next one may find room again, and the last one is whole.
            logger.warning("a checkpoint was not kept: %s", str(error) or "the driver has hung up")

    def _hand_over(self, capture: Capture, model: bytes, state: bytes) -> None:
        with Line.call(self._address, self._timeout) as line:
            line.send("snapshot", model, state, iteration=capture.state.iteration, purpose=capture.purpose)
            answer = line.receive(self._timeout)
            while answer.kind == "writing":
                answer = line.receive(self._timeout)
        if answer.kind != "kept":
            raise UserError(answer.facts["error"])
