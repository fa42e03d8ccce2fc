"""Print the shape of every blob and the parameters of every layer of a net."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import Phase
from cos_runtime.tools import _data_shapes, _net_file
from cos_runtime.tools._command import run
from cos_runtime.tools._table import render, sizes


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="summary", description=__doc__)
    _net_file.add_options(parser)
    _data_shapes.add_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return run(parser, _work, argv)


def describe(net: Net, types: Sequence[str]) -> dict[str, Any]:
    """What there is to tell of a net, as JSON has it.

    Args:
        types: the layers' types: those of the net's inputs stand for others.

    Returns:
        ``name``, ``phase``, ``inputs``, ``outputs``, ``blobs`` (shape by name), ``layers`` (each with ``name``,
        ``type``, ``bottoms``, ``tops``, ``parameters``, their number, and ``parameter_shapes``) and ``parameters``,
        the number of all, shared ones counted once.
    """
    layers = [
        {
            "name": layer.param.name,
            "type": kind,
            "bottoms": list(layer.param.bottom),
            "tops": list(layer.param.top),
            "parameters": sum(blob.numel() for blob in layer.blobs),
            "parameter_shapes": [list(blob.shape) for blob in layer.blobs],
        }
        for (_, layer), kind in zip(net.named_layers(), types, strict=True)
    ]
    return {
        "name": net.name,
        "phase": Phase.Name(net.phase),
        "inputs": net.inputs,
        "outputs": net.outputs,
        "blobs": {name: list(shape) for name, shape in net.shapes.items()},
        "layers": layers,
        "parameters": sum(blob.parameter.numel() for blob in net.learnable),
    }


def _work(args: argparse.Namespace) -> str:
    file = _net_file.read(args)
    net = _data_shapes.build(file, args.data_shape)
    summary = describe(net, [layer.type for layer in file.param.layer])
    return json.dumps(summary, indent=2) if args.json else _table(summary)


def _table(summary: dict[str, Any]) -> str:
    rows = []
    for layer in summary["layers"]:
        tops = [f"{top} ({sizes(summary['blobs'][top])})" for top in layer["tops"]]
        rows.append((layer["name"], layer["type"], ", ".join(layer["bottoms"]), ", ".join(tops), layer["parameters"]))
    lines = render(
        ["layer", "type", "bottoms", "tops", "parameters"],
        [(*texts, f"{count:,}") for *texts, count in rows],
        right=["parameters"],
    )
    title = f"{summary['name'] or 'net'} ({summary['phase']})"
    return f"{title}\n{lines}\n{len(rows)} layers, {len(summary['blobs'])} blobs, {summary['parameters']:,} parameters"


if __name__ == "__main__":
    raise SystemExit(main())
