"""The Python layer: a torch module of the user's own package."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cos_runtime.caffe.layers.base import ANY, Layer, Shape, register

BUILT_IN = {("rpn.proposal_layer", "ProposalLayer"): ("cos_runtime.caffe.layers.proposal", "Proposal")}
"""Modules that published nets name and nobody has installed, and what stands for them here."""


@register("Python")
class Python(Layer):
    """tops = the torch module ``python_param.layer`` of the Python module ``python_param.module``, called with bottoms.

    The module is made with the arguments in ``param_str``, a Python dictionary with or without its braces
    (``"'size': 3"``), and returns a tensor, or a tuple with one a top. Its parameters are the layer's blobs, in the
    order of ``named_parameters``; its buffers are in no weights file. Shapes of tops come from one call with zeros.
    """

    n_bottoms = (0, ANY)
    n_tops = (0, ANY)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.module = self._module().train(self.is_training)
        self.names = [name for name, _ in self.module.named_parameters()]
        for parameter in self.module.parameters():
            self.blobs.append(parameter)
        try:
            with torch.no_grad():
                tops = self._call(*(torch.zeros(shape) for shape in bottoms))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.refuse(f"{self._path} fails on bottoms of the shapes {list(bottoms)}: {reason}")
        if len(tops) != len(self.param.top):
            self.refuse(f"{self._path} returns {len(tops)} tensors for {len(self.param.top)} tops")
        return [tuple(top.shape) for top in tops]

    @property
    def _path(self) -> str:
        return f"{self.param.python_param.module}.{self.param.python_param.layer}"

    def _module(self) -> nn.Module:
        param = self.param.python_param
        module, name = BUILT_IN.get((param.module, param.layer), (param.module, param.layer))
        try:
            kind = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            self.refuse(f"python_param names {self._path}, which cannot be imported: {error}")
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            self.refuse(f"{self._path} is no torch module: derive the class from torch.nn.Module")
        try:
            return kind(**self._arguments())
        except (TypeError, ValueError, RuntimeError) as error:
            self.refuse(f'{self._path} does not take param_str "{param.param_str}": {error}')

    def _arguments(self) -> dict[str, Any]:
        text = self.param.python_param.param_str.strip()
        try:
            arguments = ast.literal_eval(text if text.startswith("{") else f"{{{text}}}")
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict) or not all(isinstance(name, str) for name in arguments):
            self.refuse(f'param_str "{text}" is no dictionary of arguments: write it as in "\'size\': 3"')
        return arguments

    def _call(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        # Through the blobs, which a net may have shared with other layers since.
        tops = functional_call(self.module, dict(zip(self.names, self.blobs, strict=True)), bottoms)
        return tops if isinstance(tops, tuple) else () if tops is None else (tops,)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return self._call(*bottoms)
