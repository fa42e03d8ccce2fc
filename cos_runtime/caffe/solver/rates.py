"""Learning-rate policies: what ``SGDSolver::GetLearningRate`` of BVLC Caffe's ``sgd_solver.cpp`` computes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.errors import UserError

Scale = Callable[[SolverParameter, int, int], tuple[float, int]]
"""Of a solver, an iteration and the step so far: what multiplies ``base_lr``, and the step from then on."""


class LearningRate:
    """The rate of a solver at each of its iterations.

    Args:
        param: the solver, with its ``lr_policy`` and the fields of that policy.

    Raises:
        UserError: the policy is unknown, or a field of it is missing or out of range.
    """

    def __init__(self, param: SolverParameter) -> None:
        if param.lr_policy not in POLICIES:
            raise UserError(f'lr_policy "{param.lr_policy}" is unknown: use one of {", ".join(sorted(POLICIES))}')
        policy = POLICIES[param.lr_policy]
        missing = [name for name in ("base_lr", *policy.fields) if not _is_given(param, name)]
        if missing:
            raise UserError(f'lr_policy "{param.lr_policy}" needs {" and ".join(missing)}: give it in the solver')
        if "gamma" in policy.fields and param.gamma < 0:
            raise UserError(f'lr_policy "{param.lr_policy}": gamma is {param.gamma:g}, it must be 0 or more')
        for name in {"stepsize", "max_iter"} & set(policy.fields):
            if getattr(param, name) < 1:
                value = getattr(param, name)
                raise UserError(f'lr_policy "{param.lr_policy}": {name} is {value}, it must be 1 or more')
        self._param = param
        self._scale = policy.scale

    def at(self, iteration: int, current_step: int) -> tuple[float, int]:
        """The rate of an iteration, and ``current_step`` from it on.

        Caffe asks once an iteration and "multistep" takes one step at most each time, so the step is state: a
        snapshot has it.
        """
        # C's arithmetic: what overflows is infinite.
        with np.errstate(all="ignore"):
            scale, current_step = self._scale(self._param, iteration, current_step)
            # Caffe's own roundings: the powers are taken in double, the rate is a float.
            return float(np.float32(self._param.base_lr * scale)), current_step


def _is_given(param: SolverParameter, name: str) -> bool:
    return bool(param.stepvalue) if name == "stepvalue" else param.HasField(name)


def _power(base: float | np.float32, exponent: float) -> float:
    return float(np.power(np.float64(base), exponent))


def _fixed(_: SolverParameter, __: int, current_step: int) -> tuple[float, int]:
    return 1.0, current_step


def _step(param: SolverParameter, iteration: int, _: int) -> tuple[float, int]:
    current_step = iteration // param.stepsize
    return _power(param.gamma, current_step), current_step


def _multistep(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    if current_step < len(param.stepvalue) and iteration >= param.stepvalue[current_step]:
        current_step += 1
    return _power(param.gamma, current_step), current_step


def _exp(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    return _power(param.gamma, iteration), current_step


def _inv(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    return _power(np.float32(1) + np.float32(param.gamma) * np.float32(iteration), -param.power), current_step


def _poly(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    return _power(np.float32(1) - np.float32(iteration) / np.float32(param.max_iter), param.power), current_step


def _sigmoid(param: SolverParameter, iteration: int, current_step: int) -> tuple[float, int]:
    distance = np.float32(-param.gamma) * np.float32(iteration - param.stepsize)
    return float(1 / (1 + np.exp(np.float64(distance)))), current_step


@dataclass(frozen=True)
class Policy:
    """A policy: the solver's fields that it needs besides ``base_lr``, and its formula."""

    fields: tuple[str, ...]
    scale: Scale


POLICIES: dict[str, Policy] = {
    "fixed": Policy((), _fixed),
    "step": Policy(("gamma", "stepsize"), _step),
    "multistep": Policy(("gamma", "stepvalue"), _multistep),
    "exp": Policy(("gamma",), _exp),
    "inv": Policy(("gamma", "power"), _inv),
    "poly": Policy(("power", "max_iter"), _poly),
    "sigmoid": Policy(("gamma", "stepsize"), _sigmoid),
}
