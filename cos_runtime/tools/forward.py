"""Run a TEST net on arrays and write every blob it computes, for porting and debugging."""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cos_runtime import storage
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import NetParameter
from cos_runtime.errors import UserError
from cos_runtime.tools import _net_file
from cos_runtime.tools._command import run
from cos_runtime.tools._data_shapes import is_source, labels, with_inputs, without_blobs
from cos_runtime.tools._net_file import NetFile
from cos_runtime.tools._weights import add_weights_options, load_weights

Arrays = dict[str, np.ndarray]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="forward", description=__doc__)
    _net_file.add_options(parser, phase=False)
    add_weights_options(parser)
    parser.add_argument("--input", metavar="IN.npz", help="an array for each input, by the name of its blob")
    parser.add_argument("--output", metavar="OUT.npz", required=True, help="file to write")
    return run(parser, _work, argv)


def build(file: NetFile, arrays: Mapping[str, np.ndarray]) -> Net:
    """The net, its inputs of the shapes of these arrays; what its data layers would read is not looked at.

    Labels may be missing among the arrays: then the layers that need them are left out.

    Raises:
        UserError: the arrays are not those of the net's inputs.
    """
    param = without_blobs(file.param, _missing_labels(file.param, arrays))
    shapes = {name: array.shape for name, array in arrays.items()}
    return Net(with_inputs(param, shapes), file.state.phase, level=file.state.level, stages=file.state.stage)


def compute(net: Net, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Every blob of the net by name, inputs included, as it is at the end of a forward pass on these inputs."""
    with torch.no_grad():
        blobs = net({name: torch.from_numpy(np.array(array, np.float32)) for name, array in arrays.items()})
    return {name: blob.numpy() for name, blob in blobs.items()}


def read_arrays(path: str) -> Arrays:
    """The arrays of numbers in an ``.npz`` file.

    Raises:
        UserError: it is missing, damaged, or holds something else.
    """
    content = storage.read_bytes(path, "--input")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"--input {path} is no .npz file of arrays, or a damaged one: {error}") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise UserError(f'--input {path}: array "{name}" is of the type {array.dtype}: numbers are expected')
        if not array.size:
            raise UserError(f'--input {path}: array "{name}" has the shape {array.shape}, which holds nothing')
    return arrays


def write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz`` file."""
    stream = io.BytesIO()
    # numpy's savez takes names as Python's keywords, so that a blob could not be called "file".
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    storage.write_bytes(path, stream.getvalue())


def _missing_labels(net: NetParameter, arrays: Mapping[str, np.ndarray]) -> set[str]:
    """The inputs without an array, where all of them are labels; refuse other ones, and arrays that are no input."""
    sources = [layer for layer in net.layer if is_source(layer)]
    tops = [top for layer in sources for top in layer.top]
    for name in arrays:
        if name not in tops:
            raise UserError(f'--input has an array "{name}", which is no input: the net takes {_listed(tops)}')
    missing = [top for top in tops if top not in arrays]
    for name in missing:
        if name not in labels(net):
            raise UserError(f'--input has no array "{name}": the net takes {_listed(tops)}')
    return set(missing)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _work(args: argparse.Namespace) -> str:
    arrays = read_arrays(args.input) if args.input else {}
    torch.manual_seed(0)
    net = build(_net_file.read(args), arrays)
    load_weights(net, args)
    blobs = compute(net, arrays)
    write_arrays(args.output, blobs)
    return f"{args.output}: {len(blobs)} blobs: {', '.join(blobs)}"


if __name__ == "__main__":
    raise SystemExit(main())
