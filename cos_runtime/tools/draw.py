"""Draw a net as a graph of its layers, as SVG, PNG or PDF."""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cos_runtime import storage
from cos_runtime.caffe.schema.caffe_pb2 import LayerParameter, NetParameter
from cos_runtime.errors import UserError
from cos_runtime.tools import _data_shapes, _net_file
from cos_runtime.tools._command import run
from cos_runtime.tools._needs import needed
from cos_runtime.tools._table import sizes

FORMATS = ("svg", "png", "pdf")

COLOURS = {"Convolution": "#f4c7c3", "Deconvolution": "#f4c7c3", "InnerProduct": "#c5cae9", "Pooling": "#fde3a7"}
"""Fill of the boxes that people look for; others are white, and those without bottoms grey."""

# Inches: of a line of text, of a character, between boxes, and of a PNG's longest side at most (pixels, of libpng).
LINE, CHARACTER, GAP_X, GAP_Y, MOST_PIXELS = 0.17, 0.078, 0.3, 0.35, 60_000


@dataclass
class Box:
    """A layer with those that work in place on its tops, as one box.

    Attributes:
        lines: what stands in it.
        colour: its fill.
        above: boxes whose tops it takes, with the names of these blobs.
    """

    lines: list[str]
    colour: str
    above: dict[int, list[str]] = field(default_factory=dict)

    @property
    def width(self) -> float:
        """Inches."""
        return max(map(len, self.lines)) * CHARACTER + 0.2

    @property
    def height(self) -> float:
        """Inches."""
        return len(self.lines) * LINE + 0.12


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="draw", description=__doc__)
    _net_file.add_options(parser)
    parser.add_argument("output", metavar="OUT.svg", help=f"file to write; its ending is one of {', '.join(FORMATS)}")
    parser.add_argument("--shapes", action="store_true", help="write the shapes of the blobs at the lines between")
    _data_shapes.add_option(parser)
    return run(parser, _work, argv)


def boxes(net: NetParameter) -> list[Box]:
    """The boxes of a net's layers, in order."""
    found: list[Box] = []
    givers: dict[str, int] = {}
    for layer in net.layer:
        giver = givers.get(layer.bottom[0]) if len(layer.bottom) == 1 else None
        if giver is not None and list(layer.bottom) == list(layer.top):
            found[giver].lines.append(f"{layer.name} ({layer.type})")
            continue
        box = Box([f"{layer.name} ({layer.type})", *_details(layer)], _colour(layer))
        for bottom in layer.bottom:
            if bottom in givers:
                box.above.setdefault(givers[bottom], []).append(bottom)
        found.append(box)
        givers.update(dict.fromkeys(layer.top, len(found) - 1))
    return found


def _colour(layer: LayerParameter) -> str:
    return COLOURS.get(layer.type, "#ffffff") if layer.bottom else "#dddddd"


def _details(layer: LayerParameter) -> list[str]:
    """The numbers by which people tell layers of one type apart."""
    if layer.type in {"Convolution", "Deconvolution"}:
        param = layer.convolution_param
        kernel = list(param.kernel_size) or [param.kernel_h, param.kernel_w]
        stride = list(param.stride) or [param.stride_h or 1]
        return [f"{param.num_output} of {_by(kernel)}, stride {_by(stride)}"]
    if layer.type == "InnerProduct":
        return [f"{layer.inner_product_param.num_output}"]
    if layer.type == "Pooling":
        pooling = layer.pooling_param
        kind = pooling.PoolMethod.Name(pooling.pool)
        if pooling.global_pooling:
            return [f"{kind} of all"]
        return [f"{kind} of {pooling.kernel_size or pooling.kernel_h}, stride {pooling.stride or pooling.stride_h}"]
    return []


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, [*numbers, *numbers] if len(numbers) == 1 else numbers))


def places(found: Sequence[Box]) -> list[tuple[float, float]]:
    """The centre of each box in inches, from left to right and top to bottom, with few crossings (Sugiyama)."""
    igraph = needed("igraph")
    rows = [0] * len(found)
    for index, box in enumerate(found):
        rows[index] = 1 + max((rows[above] for above in box.above), default=-1)
    edges = [(above, index) for index, box in enumerate(found) for above in box.above]
    graph = igraph.Graph(n=len(found), edges=edges, directed=True)
    columns = [point[0] for point in graph.layout_sugiyama(layers=rows, hgap=1).coords[: len(found)]]
    heights = [0.0] * (max(rows) + 1)
    for box, row in zip(found, rows, strict=True):
        heights[row] = max(heights[row], box.height)
    tops = [sum(heights[:row]) + row * GAP_Y for row in range(len(heights))]
    # igraph knows of points only, and brings some nearer to each other than a step.
    in_order = sorted(zip(rows, columns, strict=True))
    steps = [right - left for (row, left), (other, right) in pairwise(in_order) if row == other]
    width = (max(box.width for box in found) + GAP_X) / min(steps, default=1.0)
    return [
        (GAP_X + max(box.width for box in found) / 2 + (column - min(columns)) * width, tops[row] + heights[row] / 2)
        for column, row in zip(columns, rows, strict=True)
    ]


def picture(found: Sequence[Box], shapes: dict[str, tuple[int, ...]], kind: str) -> bytes:
    """The drawing as the content of a file.

    Args:
        found: the boxes.
        shapes: shapes of blobs to write at the lines; empty for none.
        kind: one of :data:`FORMATS`.
    """
    figures, patches = needed("matplotlib.figure"), needed("matplotlib.patches")
    centres = places(found)
    width = max(x + box.width / 2 for (x, _), box in zip(centres, found, strict=True)) + GAP_X
    height = max(y + box.height / 2 for (_, y), box in zip(centres, found, strict=True)) + GAP_Y
    figure = figures.Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, -GAP_Y / 2))
    axes.set_axis_off()
    # Names with two dollars are no formulas.
    style = {"ha": "center", "va": "center", "parse_math": False}
    for (x, y), box in zip(centres, found, strict=True):
        corner = (x - box.width / 2, y - box.height / 2)
        axes.add_patch(patches.Rectangle(corner, box.width, box.height, facecolor=box.colour, edgecolor="black"))
        axes.text(x, y, "\n".join(box.lines), fontsize=8, family="monospace", **style)
        for above, blobs in box.above.items():
            start = (centres[above][0], centres[above][1] + found[above].height / 2)
            end = (x, corner[1])
            axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0})
            label = ", ".join(f"{blob}: {sizes(shapes[blob])}" for blob in blobs if blob in shapes)
            middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
            axes.text(*middle, label, fontsize=6, color="#555555", **style)
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=min(150, MOST_PIXELS / max(width, height)))
    return stream.getvalue()


def _work(args: argparse.Namespace) -> str:
    kind = os.path.splitext(args.output)[1].lstrip(".").lower()
    if kind not in FORMATS:
        raise UserError(f"{args.output}: the ending says how to draw: give one of .{', .'.join(FORMATS)}")
    file = _net_file.read(args)
    shapes = _data_shapes.build(file, args.data_shape).shapes if args.shapes else {}
    found = boxes(file.param)
    storage.write_bytes(args.output, picture(found, shapes, kind))
    return f"{args.output}: {len(file.param.layer)} layers in {len(found)} boxes"


if __name__ == "__main__":
    raise SystemExit(main())
