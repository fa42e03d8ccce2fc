"""Write the mean image of a Caffe LMDB, for transform_param's mean_file."""

import argparse
from collections.abc import Sequence

import numpy as np

from cos_runtime.caffe.datum import to_array
from cos_runtime.caffe.transform import write_mean
from cos_runtime.errors import UserError
from cos_runtime.sources import lmdb_file
from cos_runtime.tools._command import run


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="compute_mean", description=__doc__)
    parser.add_argument("lmdb", metavar="LMDB", help="folder of the LMDB")
    parser.add_argument("output", metavar="OUT_FILE", help="file to write, such as mean.binaryproto")
    return run(parser, _work, argv)


def mean_image(path: str) -> np.ndarray:
    """The mean of all images of the LMDB at ``path``, float32 [C, H, W].

    Raises:
        UserError: the LMDB cannot be read, or its images are not all of one shape.
    """
    everything = lmdb_file.ranges(path, 1)[0]
    total = np.zeros(())
    for name, record in lmdb_file.datums(path, everything):
        image = to_array(record, None, f"record {name} of LMDB {path}")
        if not total.shape:
            total = np.zeros(image.shape)
        if image.shape != total.shape:
            raise UserError(
                f"record {name} of LMDB {path} is of {image.shape}, the first of {total.shape} "
                f"(channels, height, width): a mean image takes images of one shape"
            )
        total += image
    return (total / everything.records).astype(np.float32)


def _work(args: argparse.Namespace) -> str:
    mean = mean_image(args.lmdb)
    write_mean(args.output, mean)
    channels = ", ".join(f"{value:.6g}" for value in mean.mean(axis=(1, 2)))
    return f"{args.output}: mean image of {' x '.join(map(str, mean.shape))}; mean_value of each channel: {channels}"


if __name__ == "__main__":
    raise SystemExit(main())
