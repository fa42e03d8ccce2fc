"""The solver: Caffe's update of a net's weights by their gradients (``sgd_solver.cpp`` of BVLC Caffe)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cos_runtime.caffe.net import LearnableBlob, Net, same_shape
from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.caffe.solver.rates import LearningRate
from cos_runtime.caffe.solver.rules import Tensors, find_rule
from cos_runtime.caffe.solverstate import SolverState
from cos_runtime.errors import UserError


@dataclass(frozen=True)
class _Group:
    """Blobs with the same multipliers: one call updates all of them."""

    parameters: list[Tensor]
    histories: list[Tensors]
    lr_mult: float
    decay_mult: float


class Solver:
    """Updates the weights of a net, one iteration a :meth:`step`.

    Make it when the net is on the device where it will be trained: the history goes there too.

    Args:
        param: the solver; its net and its schedule of tests and snapshots are the caller's business.
        net: the net to train; its blobs of ``lr_mult`` 0 are never touched.

    Attributes:
        type: name of the update rule.
        iteration: number of updates made.
        current_step: how many steps of the learning rate are done (policies "step" and "multistep").
        history: the rule's history blobs in Caffe's order: one for each learnable blob, then, for rules with
            two histories, the second for each. Those of untouched blobs are zeros.

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
        self._groups = self._group()

    def _group(self) -> list[_Group]:
        members: dict[tuple[float, float], list[int]] = {}
        for index, blob in enumerate(self._learnable):
            if blob.lr_mult:
                members.setdefault((blob.lr_mult, blob.decay_mult), []).append(index)
        count = len(self._learnable)
        starts = [count * kind for kind in range(self._rule.histories)]
        return [
            _Group(
                [self._learnable[index].parameter for index in indexes],
                [[self.history[start + index] for index in indexes] for start in starts],
                lr_mult,
                decay_mult,
            )
            for (lr_mult, decay_mult), indexes in members.items()
        ]

    @property
    def rate(self) -> float:
        """The learning rate of the current iteration, before any ``lr_mult``."""
        return self._rate.at(self.iteration, self.current_step)[0]

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights by the gradients in ``parameter.grad``, the sum of ``iter_size`` passes, and clear them.

        The gradients are overwritten and zeroed in place, never replaced: they may be views of a bucket that ranks
        exchange. A blob without a gradient has one of zeros, so that weight decay reaches it as in Caffe.
        """
        rate, self.current_step = self._rate.at(self.iteration, self.current_step)
        gradients = [[_gradient(parameter) for parameter in group.parameters] for group in self._groups]
        together = [gradient for members in gradients for gradient in members]
        if together:
            self._clip(together)
            if self._param.iter_size > 1:
                torch._foreach_mul_(together, 1 / self._param.iter_size)
        for group, members in zip(self._groups, gradients, strict=True):
            self._regularize(group, members)
            update = self._rule.update(members, group.histories, rate * group.lr_mult, self.iteration)
            torch._foreach_sub_(group.parameters, update)
            torch._foreach_zero_(members)
        self.iteration += 1

    @property
    def param_groups(self) -> list[dict[str, list[Tensor]]]:
        """The weights that :meth:`step` updates, as torch's optimizers have them."""
        return [{"params": group.parameters} for group in self._groups]

    @torch.no_grad()
    def skip(self) -> None:
        """Make an iteration that leaves the weights as they are, and clear the gradients."""
        self.current_step = self._rate.at(self.iteration, self.current_step)[1]
        torch._foreach_zero_([_gradient(each) for group in self._groups for each in group.parameters])
        self.iteration += 1

    def _clip(self, gradients: Tensors) -> None:
        """Scale all gradients down so that their norm together is ``clip_gradients`` at most.

        Caffe's order: before the gradients are divided by ``iter_size``, and before weight decay.
        """
        limit = self._param.clip_gradients
        if limit < 0:
            return
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        # A tensor, for to look at the norm would wait for the device.
        torch._foreach_mul_(gradients, torch.where(norm > limit, limit / norm, 1.0))

    def _regularize(self, group: _Group, gradients: Tensors) -> None:
        decay = self._param.weight_decay * group.decay_mult
        if not decay:
            return
        is_l1 = self._param.regularization_type == "L1"
        torch._foreach_add_(
            gradients, torch._foreach_sign(group.parameters) if is_l1 else group.parameters, alpha=decay
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
        self.iteration, self.current_step = state.iteration, state.current_step

    def _check_history(self, what: str, given: np.ndarray, blob: LearnableBlob, kind: int) -> None:
        own = tuple(blob.parameter.shape)
        if not same_shape(given.shape, own):
            raise UserError(
                f"{what} has the shape {given.shape} where parameter blob {blob.index} of layer "
                f'"{blob.layer}" has {own}'
            )
        if kind in self._rule.non_negative and (given < 0).any():
            raise UserError(f"{what} has negative values, which type {self.type} has not: it is of another solver type")


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _check(param: SolverParameter) -> None:
    for name in ("iter_size", "average_loss"):
        value: int = getattr(param, name)
        if value < 1:
            raise UserError(f"{name} is {value}: it must be 1 or more")
    if param.regularization_type not in ("L1", "L2"):
        raise UserError(f'regularization_type "{param.regularization_type}" is unknown: use L1 or L2')
