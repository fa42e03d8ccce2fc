"""The weights file that a tool is given for its net."""

from __future__ import annotations

import argparse

from cos_runtime.caffe import weights
from cos_runtime.caffe.net import Net
from cos_runtime.errors import UserError


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``, and ``--no-weights`` for a net that is to be taken as it is filled."""
    parser.add_argument("--weights", metavar="FILE", help=".caffemodel or .caffemodel.h5")
    parser.add_argument("--no-weights", action="store_true", help="take what the net's fillers give")


def load_weights(net: Net, args: argparse.Namespace) -> None:
    """Take over the weights that the options name.

    Raises:
        UserError: they do not fit, some layer gets none, or the options name none for a net that has parameters.
    """
    if args.weights is not None:
        missing = net.copy_weights(weights.read(args.weights), args.weights)
        if missing:
            raise UserError(f'{args.weights} has no weights for layer "{missing[0]}": it is of another net')
    elif net.learnable and not args.no_weights:
        raise UserError("--weights is missing: give a .caffemodel, or --no-weights to run with what the fillers give")
