"""Caffe's solvers: learning-rate policies, update rules, and the solver that applies them to a net."""

from cos_runtime.caffe.solver.blocks import Rows
from cos_runtime.caffe.solver.rates import POLICIES, LearningRate
from cos_runtime.caffe.solver.rules import RULES, UpdateRule, register
from cos_runtime.caffe.solver.smoothing import SmoothedLoss
from cos_runtime.caffe.solver.solver import Solver

__all__ = ["POLICIES", "RULES", "LearningRate", "Rows", "SmoothedLoss", "Solver", "UpdateRule", "register"]
