"""Layers that multiply each item of a batch by a weight matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from cos_runtime.caffe.layers.base import Layer, Shape, register
from cos_runtime.caffe.layers.labels import class_numbers


@register("InnerProduct")
class InnerProduct(Layer):
    """top = bottom x weight' + bias over the axes from ``axis`` on, flattened.

    Blobs: weight (num_output, inputs), or (inputs, num_output) with ``transpose``; bias (num_output,).
    """

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.inner_product_param
        if param.num_output < 1:
            self.refuse(f"num_output is {param.num_output}, it must be 1 or more")
        self.axis = self.canonical_axis(param.axis, len(bottoms[0]))
        self.transpose, self.has_bias = param.transpose, param.bias_term
        self.inputs = math.prod(bottoms[0][self.axis :])
        weight = (param.num_output, self.inputs)
        self.add_blob(weight[::-1] if param.transpose else weight, param.weight_filler)
        if self.has_bias:
            self.add_blob((param.num_output,), param.bias_filler)
        return [(*bottoms[0][: self.axis], param.num_output)]

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(self.axis)
        if x.shape[-1] != self.inputs:
            self.refuse(f"the bottom has {x.shape[-1]} values an item where the weights take {self.inputs}")
        weight = self.blobs[0].t() if self.transpose else self.blobs[0]
        return functional.linear(x, weight, self.blobs[1] if self.has_bias else None)


@register("Embed")
class Embed(Layer):
    """top[..., :] = weight[bottom[...]] + bias: a row for each number from 0 to input_dim - 1.

    Blobs: weight (input_dim, num_output); bias (num_output,).
    """

    without_gradient = (0,)

    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.param.embed_param
        if min(param.num_output, param.input_dim) < 1:
            self.refuse(f"num_output is {param.num_output} and input_dim {param.input_dim}: both must be 1 or more")
        self.add_blob((param.input_dim, param.num_output), param.weight_filler)
        self.has_bias = param.bias_term
        if self.has_bias:
            self.add_blob((param.num_output,), param.bias_filler)
        return [(*bottoms[0], param.num_output)]

    def forward(self, x: Tensor) -> Tensor:
        weight = self.blobs[0]
        rows = functional.embedding(class_numbers(self, x, weight.shape[0]), weight)
        return rows + self.blobs[1] if self.has_bias else rows
