"""A Caffe net as a torch module that keeps the names of layers and blobs."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from cos_runtime.caffe.blobs import from_message
from cos_runtime.caffe.layers import LAYERS, Layer, Shape
from cos_runtime.caffe.phase import filter_net
from cos_runtime.caffe.schema import weights_pb2
from cos_runtime.caffe.schema.caffe_pb2 import TRAIN, LayerParameter, NetParameter, NetState, ParamSpec, Phase
from cos_runtime.caffe.steps import Step, plan
from cos_runtime.caffe.upgrade import upgrade_net, with_input_layers
from cos_runtime.errors import UserError

__all__ = ["LearnableBlob", "Net", "Weights", "same_shape", "with_input_layers"]

Weights = Mapping[str, Sequence[np.ndarray]]
"""Parameter blobs by layer name, in Caffe's order."""


class HasName(Protocol):
    """A layer of any schema."""

    @property
    def name(self) -> str:
        """Its name, which need not be its own alone."""


@dataclass(frozen=True)
class LearnableBlob:
    """A parameter blob of a solver, with the multipliers of its ``param`` entry."""

    layer: str
    index: int
    parameter: nn.Parameter
    lr_mult: float
    decay_mult: float


class Net(nn.Module):
    """The layers of a prototxt that a phase includes, connected by their blobs.

    Args:
        param: the whole net, with the layers of every phase; one of an old form is upgraded.
        phase: ``TRAIN`` or ``TEST``.
        input_shapes: shapes of tops of data layers that the prototxt does not tell (those of ``Data``).
        level: the net's level, for ``min_level`` and ``max_level`` rules.
        stages: the net's stages, for ``stage`` and ``not_stage`` rules; those of the prototxt's ``state`` count too.

    Attributes:
        param: the net of this phase: the layers that it includes, as weights files repeat them.
        shapes: the shape of every blob, for the batch size of the data layers, in order of appearance.
        inputs: names of the blobs to give to :meth:`forward`.
        outputs: names of the blobs that no layer takes, in Caffe's order.
        losses: weight of every top that is part of the loss.
        learnable: the blobs for which a solver keeps history, in Caffe's order; it updates those of ``lr_mult`` not 0.
        state_blobs: those among them that layers keep themselves and no solver updates, such as BatchNorm's sums.

    Raises:
        UserError: a layer's type is unknown, blobs do not connect, or shapes do not fit.
    """

    def __init__(
        self,
        param: NetParameter,
        phase: Phase,
        input_shapes: Mapping[str, Shape] | None = None,
        *,
        level: int = 0,
        stages: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.name = param.name
        self.phase = phase
        self.shapes: dict[str, Shape] = {}
        self.inputs: list[str] = []
        self.losses: dict[str, float] = {}
        self.learnable: list[LearnableBlob] = []
        self.state_blobs: list[nn.Parameter] = []
        # By number: torch has names of its own, such as "training", which a layer may bear too.
        self.layers = nn.ModuleList()
        self._shared: dict[str, LearnableBlob] = {}
        self._readers: Counter[str] = Counter()
        param = filter_net(upgrade_net(param), NetState(phase=phase, level=level, stage=[*param.state.stage, *stages]))
        _complete_shared_specs(param)
        self.param = param
        self._names = distinct_names(param.layer)
        unused: dict[str, None] = {}
        layers = [self._add(each, dict(input_shapes or {}), unused) for each in param.layer]
        steps = [Step.of(layer, force_backward=param.force_backward) for layer in layers]
        self.outputs = sorted(unused)
        self._plan_gradients(steps)
        self._steps = plan(steps, self.outputs)
        self.train(phase == TRAIN)

    def _add(self, param: LayerParameter, input_shapes: Mapping[str, Shape], unused: dict[str, None]) -> Layer:
        kind = _layer_class(param)
        has_automatic_top = kind.is_loss and not param.top
        if has_automatic_top:
            # Of a loss without a top Caffe makes one that has no name, and is no output: here one that no other has.
            given, param = param, LayerParameter(top=[f"{param.name} (automatic, layer {len(self.layers)})"])
            param.MergeFrom(given)
        layer = kind(param, param.phase if param.HasField("phase") else self.phase)
        _check_counts(layer)
        for bottom in param.bottom:
            if bottom not in self.shapes:
                layer.refuse(f'bottom blob "{bottom}" is given by no layer before it')
            unused.pop(bottom, None)
            self._readers[bottom] += 1
        shapes = layer.setup([self.shapes[bottom] for bottom in param.bottom])
        if param.blobs:
            _fill_from_prototxt(layer)
        if layer.is_source:
            shapes = [
                input_shapes.get(top) or (shapes[i] if i < len(shapes) else self._unknown_shape(layer, top))
                for i, top in enumerate(param.top)
            ]
            self.inputs += param.top
        for index, (top, shape) in enumerate(zip(param.top, shapes, strict=True)):
            self._check_name(layer, index)
            if min(shape, default=1) < 1:
                reason = "its bottom is too small for it" if param.bottom else "each axis needs 1 or more"
                layer.refuse(f'top blob "{top}" would have the shape {shape}: {reason}')
            layer.check_size(f'top blob "{top}"', shape)
            self.shapes[top] = shape
            if not has_automatic_top:
                unused[top] = None
        self._register(param, layer)
        return layer

    def _check_name(self, layer: Layer, index: int) -> None:
        """Refuse a top that has an earlier blob's name, but for a layer in place over a blob that it alone reads."""
        param = layer.param
        top = param.top[index]
        if top in self.shapes:
            # Caffe compares a top with the bottom of the same number.
            if index >= len(param.bottom) or top != param.bottom[index]:
                layer.refuse(f'top blob "{top}" is given by an earlier layer already')
            # It gives each of several readers a copy, by a name of its own: then the names differ.
            if self._readers[top] > 1:
                layer.refuse(
                    f'it is in place over blob "{top}", which another layer or a loss_weight reads too: '
                    "give its top another name"
                )
        is_loss = index < len(param.loss_weight) and param.loss_weight[index]
        self._readers[top] = 1 if is_loss else 0

    @staticmethod
    def _unknown_shape(layer: Layer, top: str) -> Shape:
        layer.refuse(f'the shape of "{top}" is in its records, not in the prototxt: give it with the records')

    def _register(self, param: LayerParameter, layer: Layer) -> None:
        if layer.is_loss and len(param.top) > 1 and not param.loss_weight:
            layer.refuse(f"it has {len(param.top)} tops and no loss_weight: give one for each top")
        weights = list(param.loss_weight) or ([1.0] if layer.is_loss else [])
        for top, weight in zip(param.top, weights, strict=False):
            if weight:
                self.losses[top] = weight
        if len(param.param) > len(layer.blobs):
            layer.refuse(f"{len(param.param)} param entries for {len(layer.blobs)} parameter blobs")
        for index in range(len(layer.blobs)):
            self._register_blob(layer, index, param.param[index] if index < len(param.param) else ParamSpec())
        self.layers.append(layer)

    def _register_blob(self, layer: Layer, index: int, spec: ParamSpec) -> None:
        own = layer.blobs.owned[index]
        if spec.name in self._shared:
            owner = self._shared[spec.name]
            strict = spec.share_mode == ParamSpec.STRICT
            fits = own.shape == owner.parameter.shape if strict else own.numel() == owner.parameter.numel()
            if not fits:
                layer.refuse(
                    f'param "{spec.name}" is shared with layer "{owner.layer}", whose shape '
                    f"{tuple(owner.parameter.shape)} is not {tuple(own.shape)}"
                )
            layer.blobs.share(index, owner.parameter)
            return
        if not own.requires_grad:
            self.state_blobs.append(own)
        lr_mult = spec.lr_mult if own.requires_grad else 0.0
        blob = LearnableBlob(layer.param.name, index, own, lr_mult, spec.decay_mult)
        if spec.name:
            self._shared[spec.name] = blob
        if lr_mult == 0 and not (layer.differentiates_frozen or self.param.force_backward):
            own.requires_grad_(False)
        self.learnable.append(blob)

    def _under_losses(self, steps: list[Step]) -> dict[int, bool]:
        """The numbers of steps from which a loss is reached, the last first: whether through a reader of its tops."""
        needed, read = set(self.losses), set[str]()
        found = {}
        for number, step in reversed([*enumerate(steps)]):
            if needed.isdisjoint(step.tops):
                continue
            found[number] = not read.isdisjoint(step.tops)
            bottoms = {name for name, is_cut in zip_longest(step.bottoms, step.detached) if not is_cut}
            for names in (needed, read):
                names.difference_update(step.tops)  # before an in-place layer its name is another blob's
                names.update(bottoms)
        return found

    def _plan_gradients(self, steps: list[Step]) -> None:
        """Turn gradients off, as Caffe does, for layers from which no loss is reached; without losses, for none.

        What Caffe spoils, or gives up at its first backward pass, is refused.
        """
        if not self.losses:
            return
        under_losses, learned = self._under_losses(steps), self._learned_bottoms(steps)
        for number, is_read in under_losses.items():
            layer = steps[number].layer
            if layer.is_loss and not layer.param.loss_weight and is_read:
                # Caffe splits a blob for a loss_weight that is given alone: the reader writes its gradient over it.
                layer.refuse(
                    f'its top "{layer.param.top[0]}" is read by another layer on the way to a loss: '
                    "give it a loss_weight"
                )
            if self.phase == TRAIN:
                _refuse_gradients_of(steps[number], learned[number])
        kept = {id(blob) for number in under_losses for blob in steps[number].layer.blobs.owned}
        for blob in self.parameters():
            if id(blob) not in kept:
                blob.requires_grad_(False)

    def _learned_bottoms(self, steps: list[Step]) -> list[set[int]]:
        """For each step the numbers of its bottoms that depend on what is learned."""
        rates = {id(blob.parameter): blob.lr_mult for blob in self.learnable}
        learned: dict[str, bool] = {}
        found = []
        for step in steps:
            numbers = {number for number, name in enumerate(step.bottoms) if learned[name]}
            found.append(numbers)
            cut = {number for number, is_cut in enumerate(step.detached) if is_cut}
            has_rate = any(rates.get(id(blob)) for blob in step.layer.blobs.owned)
            learned.update(dict.fromkeys(step.tops, has_rate or bool(numbers - cut)))
        return found

    def forward(self, inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Run the net.

        Args:
            inputs: a tensor for each of :attr:`inputs`; the batch may have any size. Tops of a layer that makes them
                itself, such as HDF5Data, may be given too: it is passed over then.
            wanted: names of the blobs to return; None returns all. The others are freed as soon as may be.

        Returns:
            The blobs by name, with the value they have at the end (of an in-place layer, its top).
        """
        blobs: dict[str, Tensor] = {}
        for step in self._steps:
            if step.layer.is_source or (not step.bottoms and inputs.keys() >= set(step.tops)):
                blobs.update({name: inputs[name] for name in step.tops if name in inputs})
            else:
                bottoms = [blobs[name] for name in step.bottoms]
                for i, cut in enumerate(step.detached):
                    bottoms[i] = bottoms[i].detach() if cut else bottoms[i]
                tops = step.compute(*bottoms)
                tops = tops if isinstance(tops, tuple) else (tops,)
                if step.layer.reads_in_order and inputs:
                    tops = self._beside(inputs, tops)
                blobs.update(zip(step.tops, tops, strict=False))
                for memory in step.leaves:
                    memory.leave(tops[0])
            if wanted is not None:
                for name in step.spent:
                    if name not in wanted and name not in self.losses:
                        del blobs[name]
        return blobs if wanted is None else {name: blobs[name] for name in wanted}

    def _beside(self, inputs: Mapping[str, Tensor], tops: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Tops of a layer that reads records itself, as many as of the source's in a last, smaller batch."""
        name, rows = next(iter(inputs.items()))
        is_smaller = len(rows) < self.shapes[name][0] == len(tops[0])
        return tuple(top[: len(rows)] for top in tops) if is_smaller else tops

    def loss(self, blobs: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of all loss tops, a scalar tensor; zero for a net without losses."""
        terms = [weight * blobs[name].sum() for name, weight in self.losses.items()]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    @property
    def reads_in_order(self) -> bool:
        """Whether a layer reads records itself, from their first on in each run."""
        return any(layer.reads_in_order for _, layer in self.named_layers())

    def weights(self) -> dict[str, list[np.ndarray]]:
        """A copy of all parameter blobs by layer, in net order; layers without any have an empty list."""
        return {
            name: [blob.detach().cpu().numpy().copy() for blob in layer.blobs] for name, layer in self.named_layers()
        }

    def copy_weights(self, weights: Mapping[str, Sequence[np.ndarray | None]], origin: str) -> list[str]:
        """Take over the blobs of the layers that have one of these names; others stay as filled.

        Args:
            weights: blobs by layer; layers that the net lacks are passed over, as in Caffe. A blob that the net
                shares with another layer may be missing (None, or the list ends before it).
            origin: the file's name, for error messages.

        Returns:
            Names of the layers with parameters that got none.

        Raises:
            UserError: number or shapes of a layer's blobs differ from the net's.
        """
        missing = []
        owners = {id(blob.parameter): (blob.layer, blob.index) for blob in self.learnable}
        for name, layer in self.named_layers():
            given = list(weights.get(name, ()))
            arrays = given + [None] * (len(layer.blobs) - len(given))
            own = [(layer.param.name, index) for index in range(len(arrays))]
            shared = [owners.get(id(blob), place) != place for blob, place in zip(layer.blobs.owned, own, strict=False)]
            is_lacking = any(array is None and not other for array, other in zip(arrays, shared, strict=False))
            if is_lacking and not given:
                missing.append(name)
                continue
            if is_lacking or len(arrays) > len(layer.blobs):
                count = sum(array is not None for array in given)
                layer.refuse(f"{origin} has {count} parameter blobs where the net has {len(layer.blobs)}")
            for index, array in enumerate(arrays):
                if array is not None:
                    _copy_blob(layer, index, array, origin)
        return missing

    def copy_lacking_weights(self, other: Net, weights: Mapping[str, Sequence[np.ndarray | None]], origin: str) -> None:
        """Take over, as :meth:`copy_weights`, the blobs of layers that another net has not."""
        theirs = {name for name, _ in other.named_layers()}
        self.copy_weights({name: blobs for name, blobs in weights.items() if name not in theirs}, origin)

    def share_weights(self, other: Net) -> None:
        """Use the parameter blobs of another net's layers of the same names, as they are and will be."""
        theirs = dict(other.named_layers())
        for name, layer in self.named_layers():
            if name not in theirs:
                continue
            own, shared = ([tuple(blob.shape) for blob in each.blobs] for each in (layer, theirs[name]))
            if own != shared:
                layer.refuse(f"its parameter shapes {own} differ from those of the net it shares them with, {shared}")
            layer.blobs = theirs[name].blobs

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """Every layer with its name, in net order."""
        for name, module in zip(self._names, self.layers, strict=True):
            yield name, cast(Layer, module)


def _refuse_gradients_of(step: Step, learned: Collection[int]) -> None:
    """Refuse a step on the way to a loss that Caffe gives up when it is asked for these bottoms' gradients."""
    for place in step.layer.without_gradient:
        number = place % len(step.bottoms) if place < 0 else place
        if number in learned and not (step.detached and step.detached[number]):
            step.layer.refuse(
                f'bottom "{step.bottoms[number]}" is learned, and gets no gradient here: '
                "are its bottoms in the right order? If so, give propagate_down: false for this one"
            )


def distinct_names(layers: Iterable[HasName]) -> list[str]:
    """The layers' names, those that an earlier one has too with an apostrophe more."""
    names: dict[str, None] = {}
    for layer in layers:
        name = layer.name
        while name in names:
            name += "'"
        names[name] = None
    return [*names]


def _copy_blob(layer: Layer, index: int, array: np.ndarray, origin: str) -> None:
    blob = layer.blobs[index]
    if not same_shape(array.shape, tuple(blob.shape)):
        layer.refuse(
            f"blob {index} in {origin} has the shape {array.shape} where the net has {tuple(blob.shape)}: "
            "give the layer another name to train it anew"
        )
    own = blob.detach()
    if own.is_cpu and own.is_contiguous() and array.dtype == np.float32:
        # As bytes: those of a file may lie anywhere, and numpy copies floats one by one that are not aligned.
        np.copyto(own.numpy().reshape(-1).view(np.uint8), np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    else:
        own.copy_(torch.from_numpy(np.array(array, np.float32)).view(blob.shape))


def _fill_from_prototxt(layer: Layer) -> None:
    """Take over the values that the layer's entry itself has, in the place of its fillers'."""
    given = layer.param.blobs
    if len(given) != len(layer.blobs):
        layer.refuse(f"the prototxt has {len(given)} blobs of it where it has {len(layer.blobs)} parameter blobs")
    for index, blob in enumerate(given):
        try:
            array = from_message(weights_pb2.Blob.FromString(blob.SerializeToString()))
        except ValueError as error:
            layer.refuse(f"blob {index} in the prototxt: {error}")
        _copy_blob(layer, index, array, "the prototxt")


def _layer_class(param: LayerParameter) -> type[Layer]:
    if param.type not in LAYERS:
        known = {name.lower(): name for name in LAYERS}
        near = known[difflib.get_close_matches(param.type.lower(), known, n=1, cutoff=0.0)[0]]
        raise UserError(f'layer "{param.name}" has the unknown type "{param.type}": the nearest known is "{near}"')
    return LAYERS[param.type]


def _check_counts(layer: Layer) -> None:
    param = layer.param
    for what, names, (least, most), field, values in (
        ("bottom", param.bottom, layer.n_bottoms, "propagate_down", param.propagate_down),
        ("top", param.top, layer.n_tops, "loss_weight", param.loss_weight),
    ):
        count = len(names)
        if not least <= count <= most:
            expected = f"{least}" if least == most else f"{least} or more" if count < least else f"{most} at most"
            layer.refuse(f"it has {count} {what} blobs, {expected} are expected")
        if len(values) not in (0, count):
            layer.refuse(f"it has {len(values)} {field} for {count} {what} blobs: give none, or one for each")


def _complete_shared_specs(net: NetParameter) -> None:
    """Give the owner of a shared blob, the first layer that names it, the multipliers that only a later one has."""
    owners: dict[str, ParamSpec] = {}
    named = [(layer, spec) for layer in net.layer for spec in layer.param if spec.name]
    for user, spec in named:
        owner = owners.setdefault(spec.name, spec)
        for field in ("lr_mult", "decay_mult"):
            if not spec.HasField(field):
                continue
            ours, theirs = getattr(spec, field), getattr(owner, field)
            if owner.HasField(field) and ours != theirs:
                raise UserError(
                    f'layer "{user.name}" ({user.type}): param "{spec.name}" has {field} {ours:g}, '
                    f"but {theirs:g} in the layer it is shared with"
                )
            setattr(owner, field, ours)


def same_shape(given: Shape, own: Shape) -> bool:
    """Whether shapes are equal; four axes of an old file match fewer once its leading ones are gone."""
    if given == own:
        return True
    return len(given) == 4 and len(own) < 4 and given == (1,) * (4 - len(own)) + own
