"""Layers that go through time: the first axis of their bottoms."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.gradients import with_factor

State = tuple[Tensor, ...]


class _Recurrent(Layer):
    """A layer with a state (streams, num_output) that each timestep changes.

    Bottoms: x (times, streams, ...); cont (times, streams), by which the state is multiplied before each step: 0 where
    a sequence begins, 1 where one goes on; a static input (streams, ...), the same at each step, if there is one more
    bottom. Between passes the state is kept. With ``expose_hidden`` it is not kept, but taken from further bottoms and
    given as further tops, each (1, streams, num_output); no gradient goes through these, as in Caffe.
    """

    n_bottoms = (2, 5)
    n_tops = (1, 3)
    without_gradient = (1,)
    label_bottom = 1
    differentiates_frozen = True
    n_states: ClassVar[int]
    """How many blobs the state has; the first is the hidden one."""
    n_gates: ClassVar[int]
    """How many sums of the inputs a unit has."""

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.recurrent_param
        if param.num_output < 1:
            self.refuse(f"num_output is {param.num_output}, it must be 1 or more")
        x, cont = bottoms[:2]
        if len(x) < 3 or cont != x[:2]:
            self.refuse(f"it takes (times, streams, values...) and (times, streams), not the shapes {x} and {cont}")
        exposed = self.n_states if param.expose_hidden else 0
        self._check_counts(len(bottoms), exposed)
        self.has_static = len(bottoms) > 2 + exposed
        state = (1, x[1], param.num_output)
        for shape in bottoms[len(bottoms) - exposed :]:
            if shape != state:
                self.refuse(f"a hidden state has the shape {state}, not {shape}")
        self.add_blob((self.n_gates * param.num_output, math.prod(x[2:])), param.weight_filler)
        self.add_blob((self.n_gates * param.num_output,), param.bias_filler)
        if self.has_static:
            if len(bottoms[2]) < 2 or bottoms[2][0] != x[1]:
                self.refuse(f"a static input of the shape {bottoms[2]} has not the values of {x[1]} streams")
            self.add_blob((self.n_gates * param.num_output, math.prod(bottoms[2][1:])), param.weight_filler)
        self.add_own_blobs(param.num_output)
        self.is_exposed, self.num_output = param.expose_hidden, param.num_output
        self.state: State | None = None
        return [(*x[:2], param.num_output), *[state] * exposed]

    def _check_counts(self, bottoms: int, exposed: int) -> None:
        if bottoms not in (2 + exposed, 3 + exposed):
            self.refuse(f"it has {bottoms} bottoms, {2 + exposed} or, with a static one, {3 + exposed} are expected")
        if len(self.param.top) != 1 + exposed:
            self.refuse(f"it has {len(self.param.top)} tops, {1 + exposed} are expected")

    @abstractmethod
    def add_own_blobs(self, num_output: int) -> None:
        """Make the blobs after those of the inputs."""

    @abstractmethod
    def step(self, inputs: Tensor, cont: Tensor, state: State) -> State:
        """The state after one timestep."""

    def outputs(self, hidden: Tensor) -> Tensor:
        """The top, from the hidden state of every timestep."""
        return hidden

    def forward(self, x: Tensor, cont: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
        inputs = functional.linear(x.flatten(2), self.blobs[0], self.blobs[1])
        if self.has_static:
            inputs = inputs + functional.linear(others[0].flatten(1), self.blobs[2])
        state = self._first_state(x, others)
        hidden = []
        for inputs_now, cont_now in zip(inputs, cont.detach()[..., None], strict=True):
            state = self.step(inputs_now, cont_now, state)
            hidden.append(state[0])
        top = self.outputs(torch.stack(hidden))
        last = tuple(blob.detach() for blob in state)
        if self.is_exposed:
            return top, *(blob[None] for blob in last)
        self.state = last
        return top

    def _first_state(self, x: Tensor, others: tuple[Tensor, ...]) -> State:
        if self.is_exposed:
            return tuple(blob.detach()[0] for blob in others[-self.n_states :])
        if self.state is None or self.state[0].shape[0] != x.shape[1] or self.state[0].device != x.device:
            return (x.new_zeros(x.shape[1], self.num_output),) * self.n_states
        return self.state


@register("RNN")
class RNN(_Recurrent):
    """h_t = tanh(W_hh (cont_t h_t-1) + W_xh x_t + b_h); top_t = tanh(W_ho h_t + b_o).

    Blobs: W_xh (num_output, values), b_h (num_output,), W of the static input if there is one, W_hh and W_ho
    (num_output, num_output), b_o (num_output,).
    """

    n_states = 1
    n_gates = 1

    def add_own_blobs(self, num_output: int) -> None:
        param = self.param.recurrent_param
        self.add_blob((num_output, num_output), param.weight_filler)
        self.add_blob((num_output, num_output), param.weight_filler)
        self.add_blob((num_output,), param.bias_filler)

    def step(self, inputs: Tensor, cont: Tensor, state: State) -> State:
        return ((inputs + functional.linear(cont * state[0], self.blobs[len(self.blobs) - 3])).tanh(),)

    def outputs(self, hidden: Tensor) -> Tensor:
        count = len(self.blobs)
        return functional.linear(hidden, self.blobs[count - 2], self.blobs[count - 1]).tanh()


@register("LSTM")
class LSTM(_Recurrent):
    """top_t = h_t = o tanh(c_t), c_t = cont_t f c_t-1 + i g, where W_hc (cont_t h_t-1) + W_xc x_t + b_c has four rows.

    i, f and o are sigmoids of the first three, g the tanh of the fourth.

    Blobs: W_xc (4 * num_output, values), b_c (4 * num_output,), W of the static input if there is one, W_hc
    (4 * num_output, num_output).
    """

    n_states = 2
    n_gates = 4

    def add_own_blobs(self, num_output: int) -> None:
        self.add_blob((4 * num_output, num_output), self.param.recurrent_param.weight_filler)

    def step(self, inputs: Tensor, cont: Tensor, state: State) -> State:
        hidden, cell = state
        return _lstm_unit(cell, inputs + functional.linear(cont * hidden, self.blobs[len(self.blobs) - 1]), cont)


def _lstm_unit(cell: Tensor, gates: Tensor, cont: Tensor) -> State:
    """Hidden state and cell after a step, from the cell before it and the sums of the four gates' inputs."""
    let_in, forget, let_out, candidate = gates.chunk(4, -1)
    kept = cont * forget.detach().sigmoid()
    # Where cont is neither 0 nor 1, Caffe's gradient on the CPU is not the function's.
    kept = with_factor(forget, kept, kept * (1 - kept))
    cell = kept * cell + let_in.sigmoid() * candidate.tanh()
    return let_out.sigmoid() * cell.tanh(), cell


@register("LSTMUnit")
class LSTMUnit(Layer):
    """One step of an LSTM without its weights.

    Bottoms: cell (1, streams, n), sums of the gates (1, streams, 4 n), cont (1, streams).

    Tops: the new cell and the hidden state, (1, streams, n) each.
    """

    n_bottoms = (3, 3)
    n_tops = (2, 2)
    without_gradient = (2,)
    label_bottom = 2

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        cell, sums, cont = bottoms
        if len(cell) != 3 or cell[0] != 1 or sums != (*cell[:2], 4 * cell[2]) or cont != cell[:2]:
            self.refuse(f"it takes (1, streams, n), (1, streams, 4 n) and (1, streams), not {cell}, {sums} and {cont}")
        return [cell, cell]

    def forward(self, cell: Tensor, sums: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = _lstm_unit(cell, sums, cont.detach()[..., None])
        return cell, hidden
