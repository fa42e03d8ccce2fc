"""The solver: Caffe's update of a net's weights by their gradients (``sgd_solver.cpp`` of BVLC Caffe)."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from cos_runtime.caffe.net import LearnableBlob, Net, same_shape
from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.caffe.solver.blocks import Blob, Block, Rows, in_blocks
from cos_runtime.caffe.solver.rates import LearningRate
from cos_runtime.caffe.solver.rules import Tensors, find_rule
from cos_runtime.caffe.solverstate import SolverState
from cos_runtime.errors import UserError


class Solver:
    """Updates the weights of a net, one iteration a :meth:`step`.

    Make it when the net is on the device where it will be trained: the history goes there too.

    Args:
        param: the solver; its net and its schedule of tests and snapshots are the caller's business.
        net: the net to train; its blobs of ``lr_mult`` 0 stay as they are, but for what a restored momentum does.

    Attributes:
        type: name of the update rule.
        iteration: number of updates made.
        current_step: how many steps of the learning rate are done (policies "step" and "multistep").
        history: the rule's history blobs in Caffe's order: one for each learnable blob, then, for rules with
            two histories, the second for each. Of a blob of ``lr_mult`` 0 it is what weight decay, and its gradient
            if it has one, make of it.

    Raises:
        UserError: type, policy or a value of the solver is not one that Caffe knows.
    """

    def __init__(self, param: SolverParameter, net: Net) -> None:
        self._rule = find_rule(param)
        self.type = self._rule.name
        self._rate = LearningRate(param)
        _check(param)
        self.iteration = 0
        self.current_step = 0
        self._param = param
        self._learnable = net.learnable
        copies = [blob.parameter for _ in range(self._rule.histories) for blob in net.learnable]
        self.history: list[Tensor] = [torch.zeros_like(blob, requires_grad=False) for blob in copies]
        self._blobs = self._updated()

    def _updated(self) -> dict[int, Blob]:
        """The blobs that are updated, or their history, by the id of their parameter."""
        count = len(self._learnable)
        kinds = range(self._rule.histories)
        return {
            id(blob.parameter): Blob(
                blob.parameter, [self.history[count * kind + index] for kind in kinds], blob.lr_mult, blob.decay_mult
            )
            for index, blob in enumerate(self._learnable)
            if blob.lr_mult or blob.parameter.requires_grad or self._has_update_at_rate_0(blob, self.history[index])
        }

    def _has_update_at_rate_0(self, blob: LearnableBlob, history: Tensor) -> bool:
        """Whether weight decay makes a history of it, or a history, restored from when it was trained, moves it."""
        if self._rule.keeps_history_at_rate_0:
            return bool(self._param.weight_decay * blob.decay_mult)
        return bool(history.any())

    @property
    def rate(self) -> float:
        """The learning rate of the current iteration, before any ``lr_mult``."""
        return self._rate.at(self.iteration, self.current_step)[0]

    @torch.no_grad()
    def step(self, arriving: Iterable[Sequence[Rows]] = ()) -> None:
        """Update the weights by the gradients in ``parameter.grad``, the sum of ``iter_size`` passes, and clear them.

        The gradients are overwritten and zeroed in place, never replaced: they may be views of a bucket that ranks
        exchange. A blob without a gradient has one of zeros, so that weight decay reaches it as in Caffe.

        Args:
            arriving: waits for gradients that are under way, and tells the rows of those that have come. Their weights
                are updated while it waits for more. What it does not tell of is there when it ends.
        """
        rate, self.current_step = self._rate.at(self.iteration, self.current_step)
        if self._param.clip_gradients >= 0:
            collections.deque(arriving, maxlen=0)
            self._clip([blob.gradient for blob in self._blobs.values() if blob.is_differentiated])
            arriving = ()
        told: set[int] = set()
        for rows in arriving:
            told.update(id(each.parameter) for each in rows)
            self._update(rows, rate)
        rest = [blob.parameter for key, blob in self._blobs.items() if key not in told]
        self._update([Rows.all_of(each) for each in rest], rate)
        self.iteration += 1

    @property
    def param_groups(self) -> list[dict[str, list[Tensor]]]:
        """The weights of which :meth:`step` takes gradients, as torch's optimizers have them."""
        return [{"params": [blob.parameter for blob in self._blobs.values() if blob.is_differentiated]}]

    @torch.no_grad()
    def skip(self) -> None:
        """Make an iteration that leaves the weights as they are, and clear the gradients."""
        self.current_step = self._rate.at(self.iteration, self.current_step)[1]
        torch._foreach_zero_([blob.gradient for blob in self._blobs.values()])
        self.iteration += 1

    def _update(self, rows: Sequence[Rows], rate: float) -> None:
        for block in in_blocks(rows, self._blobs):
            gradients = block.gradients
            if self._param.iter_size > 1:
                torch._foreach_mul_(gradients, 1 / self._param.iter_size)
            self._regularize(block)
            update = self._rule.update(gradients, block.histories, rate * block.lr_mult, self.iteration)
            if block.lr_mult or not self._rule.keeps_history_at_rate_0:
                torch._foreach_sub_(block.parameters, update)
            torch._foreach_zero_(gradients)

    def _clip(self, gradients: Tensors) -> None:
        """Scale all gradients down so that their norm together is ``clip_gradients`` at most.

        Caffe's order: before the gradients are divided by ``iter_size``, and before weight decay.
        """
        if not gradients:
            return
        limit = self._param.clip_gradients
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        # A tensor, for to look at the norm would wait for the device.
        torch._foreach_mul_(gradients, torch.where(norm > limit, limit / norm, 1.0))

    def _regularize(self, block: Block) -> None:
        decay = self._param.weight_decay * block.decay_mult
        if not decay:
            return
        is_l1 = self._param.regularization_type == "L1"
        torch._foreach_add_(
            block.gradients, torch._foreach_sign(block.parameters) if is_l1 else block.parameters, alpha=decay
        )

    def state(self, learned_net: str = "") -> SolverState:
        """A copy of the solver's state; ``learned_net`` names the weights file that goes with it."""
        history = [blob.to("cpu", copy=True).numpy() for blob in self.history]
        return SolverState(self.iteration, self.current_step, history, learned_net)

    def restore(self, state: SolverState, origin: str = "the solver state") -> None:
        """Go on from a state; ``origin`` is its file's name, for errors.

        Raises:
            UserError: the state's history is not that of this net and this type of solver.
        """
        if len(state.history) != len(self.history):
            raise UserError(
                f"{origin} has {len(state.history)} history blobs, where type {self.type} has {len(self.history)} for "
                f"the {len(self._learnable)} parameter blobs of this net: it is of another solver type or another net"
            )
        for index, given in enumerate(state.history):
            kind, blob = divmod(index, len(self._learnable))
            self._check_history(f"history blob {index} in {origin}", given, self._learnable[blob], kind)
        for own, given in zip(self.history, state.history, strict=True):
            own.copy_(torch.from_numpy(given).reshape(own.shape))
        self.go_on_from(state.iteration, state.current_step)

    def go_on_from(self, iteration: int, current_step: int) -> None:
        """Go on from an iteration, with the histories that are in place now."""
        self.iteration, self.current_step = iteration, current_step
        self._blobs = self._updated()

    def _check_history(self, what: str, given: np.ndarray, blob: LearnableBlob, kind: int) -> None:
        own = tuple(blob.parameter.shape)
        if not same_shape(given.shape, own):
            raise UserError(
                f"{what} has the shape {given.shape} where parameter blob {blob.index} of layer "
                f'"{blob.layer}" has {own}'
            )
        if kind in self._rule.non_negative and (given < 0).any():
            raise UserError(f"{what} has negative values, which type {self.type} has not: it is of another solver type")


def _check(param: SolverParameter) -> None:
    for name in ("iter_size", "average_loss"):
        value: int = getattr(param, name)
        if value < 1:
            raise UserError(f"{name} is {value}: it must be 1 or more")
    if param.regularization_type not in ("L1", "L2"):
        raise UserError(f'regularization_type "{param.regularization_type}" is unknown: use L1 or L2')
