"""Write the weights of a torch state dict, such as torchvision's, as a caffemodel for a net of that architecture."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cos_runtime import storage
from cos_runtime.caffe import weights
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import SolverParameter
from cos_runtime.errors import UserError
from cos_runtime.tools import _data_shapes, _net_file
from cos_runtime.tools._command import run
from cos_runtime.tools._needs import needed

State = dict[str, torch.Tensor]

_NOT_WEIGHTS = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Target:
    """A layer of the net with parameters, or a BatchNorm and the Scale after it, which are one module in torch.

    Attributes:
        names: of the layers.
        shapes: of the blobs that a torch module has for it: weight, bias; mean and variance of a BatchNorm after them.
        is_norm: whether a BatchNorm is part of it.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    is_norm: bool


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="import_torch", description=__doc__)
    _net_file.add_options(parser)
    parser.add_argument("state", metavar="STATE", help=".safetensors, or what torch.save wrote of a state dict")
    parser.add_argument("output", metavar="OUT.caffemodel", help="file to write")
    _data_shapes.add_option(parser)
    return run(parser, _work, argv)


def read_state(path: str) -> State:
    """The tensors in a file, without running anything that is in it.

    Raises:
        UserError: it is missing, damaged, or holds something else than a state dict.
    """
    content = storage.read_bytes(path, "state dict")
    try:
        if path.endswith(".safetensors"):
            state = needed("safetensors.torch").load(content)
        else:
            state = torch.load(storage.local_path(path), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path} is no state dict of tensors, or a damaged one: {str(error).splitlines()[0]}") from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
    found = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise UserError(f"{path} is no state dict: it has no tensors by name")
    return found


def modules(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, np.ndarray]]:
    """The tensors by module, in order, and in it by name: weight, bias and the statistics of a normalization."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, value in state.items():
        module, _, own = name.rpartition(".")
        if own != _NOT_WEIGHTS:
            found.setdefault(module, {})[own] = value.float().numpy()
    return found


def targets(net: Net) -> list[Target]:
    """What of the net takes weights, in order."""
    found: list[Target] = []
    waiting: tuple[str, tuple[tuple[int, ...], ...]] | None = None
    for name, layer in net.named_layers():
        shapes = tuple(tuple(blob.shape) for blob in layer.blobs)
        if layer.param.type == "BatchNorm":
            waiting = (name, shapes[:2])
        elif layer.param.type == "Scale" and waiting:
            found.append(Target((waiting[0], name), shapes + waiting[1], is_norm=True))
            waiting = None
        elif shapes:
            found.append(Target((name,), shapes, is_norm=False))
    return found


def torchvision_name(name: str) -> str:
    """The name that a layer of He et al.'s residual nets has in torchvision's; other names as they are."""
    plain = re.sub(r"^(bn|scale)_?(?=conv1$|\d)", "", name)
    block = re.fullmatch(r"(?:res)?(\d)([a-z])(\d*)_branch(1|2)([abc]?)", plain)
    if block:
        stage, letter, number, branch, part = block.groups()
        kind = "conv" if name.startswith("res") else "bn"
        index = int(number) if number else "abcdefgh".index(letter)
        if branch == "1":
            return f"layer{int(stage) - 1}.{index}.downsample.{0 if kind == 'conv' else 1}"
        return f"layer{int(stage) - 1}.{index}.{kind}{'abc'.index(part) + 1}"
    return {"bn_conv1": "bn1", "fc1000": "fc"}.get(name, name)


def matched(net: Net, state: Mapping[str, torch.Tensor], origin: str) -> dict[str, list[np.ndarray]]:
    """Blobs by layer: by the modules' names where all are the net's, else in order where all shapes agree.

    Raises:
        UserError: neither is so.
    """
    found, wanted = modules(state), targets(net)
    by_name = [found.get(target.names[0]) or found.get(torchvision_name(target.names[0])) for target in wanted]
    if not all(by_name) and origin.endswith(".safetensors"):
        raise UserError(
            f"{origin} has other names than the net, and a .safetensors file keeps no order to go by: "
            "give what torch.save wrote, or rename the layers"
        )
    pairs = by_name if all(by_name) else list(found.values())
    if len(pairs) != len(wanted):
        raise UserError(
            f"{origin} has {len(found)} modules with parameters, the net has {len(wanted)} and other names: "
            "they are of two architectures"
        )
    blobs: dict[str, list[np.ndarray]] = {}
    for target, module, name in zip(wanted, pairs, _names(by_name, found, wanted), strict=True):
        blobs |= _blobs(target, module or {}, f'{origin}: module "{name}"')
    return blobs


def _names(by_name: Sequence[object], found: Mapping[str, object], wanted: Sequence[Target]) -> list[str]:
    return [target.names[0] for target in wanted] if all(by_name) else list(found)


def _blobs(target: Target, module: Mapping[str, np.ndarray], origin: str) -> dict[str, list[np.ndarray]]:
    arrays = [module[own] for own in ("weight", "bias", *_STATISTICS) if own in module]
    shapes = tuple(array.shape for array in arrays)
    if len(shapes) != len(target.shapes) or any(map(_differ, shapes, target.shapes)):
        raise UserError(f'{origin} has the shapes {shapes}, layer "{target.names[-1]}" takes {target.shapes}')
    if not target.is_norm:
        return {target.names[0]: arrays}
    batch_norm, scale = target.names
    return {scale: arrays[:-2], batch_norm: [*arrays[-2:], np.ones(1, np.float32)]}


def _differ(given: tuple[int, ...], own: tuple[int, ...]) -> bool:
    """Whether shapes differ by more than axes of 1 at the end, as those of a fully connected layer as a convolution."""
    longer, shorter = (given, own) if len(given) > len(own) else (own, given)
    return longer != shorter + (1,) * (len(longer) - len(shorter))


def _work(args: argparse.Namespace) -> str:
    file = _net_file.read(args)
    net = _data_shapes.build(file, args.data_shape)
    blobs = matched(net, read_state(args.state), args.state)
    for name, layer in net.named_layers():
        if name in blobs:
            shapes = [own.shape for own in layer.blobs]
            blobs[name] = [array.reshape(shape) for array, shape in zip(blobs[name], shapes, strict=True)]
    missing = net.copy_weights(blobs, args.state)
    if missing:
        raise UserError(f'{args.state} has no weights for layer "{missing[0]}"')
    content = weights.serialize(file.param, net.weights(), SolverParameter.BINARYPROTO)
    storage.write_bytes(args.output, content)
    return f"{args.output}: weights of {len(blobs)} layers"


if __name__ == "__main__":
    raise SystemExit(main())
