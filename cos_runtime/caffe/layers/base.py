"""What a layer is, and the register in which a net finds its class by name.

A layer of one's own is one small class::

    @register("Double")
    class Double(Layer):
        \"\"\"top = 2 * bottom.\"\"\"

        def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
            return [bottoms[0]]

        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

torch differentiates it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NoReturn, TypeVar, cast

import torch
from torch import Tensor, nn

from cos_runtime.caffe.fillers import fill
from cos_runtime.caffe.schema.caffe_pb2 import TRAIN, FillerParameter, LayerParameter, NetParameter, Phase
from cos_runtime.errors import UserError

Shape = tuple[int, ...]
_MOST_VALUES = 2**31 - 1  # Blob::Reshape's check: a blob's count is an int
_MOST_AXES = 32  # kMaxBlobAxes
ANY = 1_000_000  # "any number of" bottoms or tops

LAYERS: dict[str, type[Layer]] = {}
"""Every known layer class by Caffe's type name."""


class Blobs(nn.ParameterList):
    """A layer's parameter blobs; one whose values are another's is given in its own shape all the same."""

    def __init__(self) -> None:
        super().__init__()
        self._shapes: dict[int, Shape] = {}

    @property
    def owned(self) -> list[nn.Parameter]:
        """The parameters that hold the values, of another layer's shape where that is another."""
        return [cast(nn.Parameter, super(Blobs, self).__getitem__(index)) for index in range(len(self))]

    def share(self, index: int, parameter: nn.Parameter) -> None:
        """Use the values of another layer's blob, which has as many."""
        shape = tuple(self[index].shape)
        self[index] = parameter
        if parameter.shape != shape:
            self._shapes[index] = shape

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]  # none takes a slice
        blob: Tensor = super().__getitem__(index)
        return blob.view(self._shapes[index]) if index in self._shapes else blob


class Layer(nn.Module):
    """One layer of a net: a torch module over blobs given and returned in the order of its bottoms and tops.

    A subclass gives :meth:`setup`, which computes the shapes of the tops and makes the parameter blobs
    by :meth:`add_blob`, and ``forward``, which takes the bottoms and returns the top, or a tuple of tops.
    ``forward`` reads sizes from its arguments and not from ``setup``, for a last batch may be smaller.

    Args:
        param: the layer as the prototxt has it.
        phase: ``TRAIN`` or ``TEST``.
    """

    n_bottoms: ClassVar[tuple[int, int]] = (1, 1)
    """Least and most bottoms."""
    n_tops: ClassVar[tuple[int, int]] = (1, 1)
    """Least and most tops."""
    is_source: ClassVar[bool] = False
    """Whether the tops come from outside the net (a data layer)."""
    is_loss: ClassVar[bool] = False
    """Whether the first top is a loss, of weight 1 where no ``loss_weight`` is given."""

    reads_in_order: bool = False
    """Whether it reads records itself, one after the other, from the first on in each run."""

    label_bottom: ClassVar[int | None] = None
    """The number of the bottom to which ``force_backward`` asks for no gradient."""

    ignores_gradient_in_place: ClassVar[bool] = False
    """Whether Caffe, in place, loses the gradient from above, and a scale of the loss with it."""

    without_gradient: ClassVar[tuple[int, ...]] = ()
    """The numbers of bottoms, from the end where negative, whose gradient Caffe ends at when it is asked for."""
    differentiates_frozen: ClassVar[bool] = False
    """Whether Caffe computes the gradients of blobs of ``lr_mult`` 0 too."""

    overwrites: ClassVar[bool] = False
    """Whether ``forward`` minds :attr:`may_overwrite`."""

    def __init__(self, param: LayerParameter, phase: Phase) -> None:
        super().__init__()
        self.param = param
        self.phase = phase
        self.blobs = Blobs()
        self.is_in_place = param.bottom[:1] == param.top[:1]
        """Whether the top is the bottom, so that Caffe's backward pass finds the top's values in the bottom."""
        self.may_overwrite = False
        """Whether the net lets ``forward`` write the top over the bottom's memory."""

    @property
    def is_training(self) -> bool:
        """Whether the layer belongs to a TRAIN net."""
        return self.phase == TRAIN

    @abstractmethod
    def setup(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Make the parameter blobs for these bottom shapes and return the shapes of the tops.

        Raises:
            UserError: where shapes or parameters do not fit (see :meth:`refuse`).
        """

    def add_blob(self, shape: Sequence[int], filler: FillerParameter | None = None, learnable: bool = True) -> None:
        """Append a parameter blob, filled by ``filler`` (zeros without one).

        A blob that is not ``learnable`` is state the layer itself keeps (BatchNorm's sums): it has no gradient and no
        solver touches it.
        """
        self.check_size("a parameter blob", shape)
        try:
            blob = fill(torch.zeros(tuple(shape)), filler)
        except UserError as error:
            self.refuse(str(error))
        except RuntimeError as error:  # torch's error for memory that is not there
            self.refuse(f"no parameter blob of the shape {tuple(shape)} can be made: {error}")
        self.blobs.append(nn.Parameter(blob, requires_grad=learnable))

    def check_size(self, what: str, shape: Sequence[int]) -> None:
        """Refuse a blob with more values or axes than Caffe counts."""
        if len(shape) > _MOST_AXES:
            self.refuse(f"{what} of the shape {tuple(shape)} has more than {_MOST_AXES} axes, Caffe's limit")
        if math.prod(shape) > _MOST_VALUES:
            self.refuse(f"{what} of the shape {tuple(shape)} has more than {_MOST_VALUES:,} values, Caffe's limit")

    def refuse(self, reason: str) -> NoReturn:
        """Raise a UserError that names this layer."""
        raise UserError(f'layer "{self.param.name}" ({self.param.type}): {reason}')

    def canonical_axis(self, axis: int, ndim: int) -> int:
        """The axis counted from the front; a negative one counts from the back, as in Caffe."""
        if not -ndim <= axis < ndim:
            self.refuse(f"axis {axis} is out of range for a bottom of {ndim} axes")
        return axis % ndim

    def need_axes(self, bottom: Shape, ndim: int) -> None:
        """Refuse a bottom that has not this number of axes."""
        if len(bottom) != ndim:
            self.refuse(f"it takes a bottom of {ndim} axes, not one of the shape {bottom}")

    def refuse_in_place(self) -> None:
        """Refuse a top that is also a bottom, for a layer that Caffe does not compute in place."""
        for name in self.param.top:
            if name in self.param.bottom:
                self.refuse(f'it cannot be computed in place: give its top another name than "{name}"')


L = TypeVar("L", bound=type[Layer])


def register(name: str) -> Callable[[L], L]:
    """Class decorator: make a layer class known by the type name that prototxt files use."""

    def add(cls: L) -> L:
        LAYERS[name] = cls
        return cls

    return add


def registered_elsewhere(net: NetParameter) -> dict[str, type[Layer]]:
    """The classes of a net's layers, by type, that are none of this package's: other processes are given them."""
    own = __name__.partition(".")[0]
    found = {layer.type: LAYERS[layer.type] for layer in net.layer if layer.type in LAYERS}
    return {name: kind for name, kind in found.items() if kind.__module__.partition(".")[0] != own}
