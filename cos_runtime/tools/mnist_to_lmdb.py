"""Write a Caffe LMDB of MNIST's IDX files."""

import argparse
import gzip
import zlib
from collections.abc import Sequence

import numpy as np

from cos_runtime import storage
from cos_runtime.caffe.datum import from_array
from cos_runtime.errors import UserError
from cos_runtime.tools._command import run
from cos_runtime.tools._lmdb_writer import LMDBWriter


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="mnist_to_lmdb", description=__doc__)
    parser.add_argument("images", metavar="IMAGES", help="IDX file of the images, gzip or plain")
    parser.add_argument("labels", metavar="LABELS", help="IDX file of their labels, gzip or plain")
    parser.add_argument("output", metavar="OUT_DIR", help="folder to make")
    return run(parser, _work, argv)


def convert(images_file: str, labels_file: str, output: str) -> int:
    """Write the images (paths or URLs of IDX files) to the new LMDB folder ``output``.

    The keys are ``00000000``, ``00000001`` …, each record an uncompressed Datum of 1 x height x width.

    Returns:
        The number of records.

    Raises:
        UserError: a file is missing, damaged or no IDX file, they do not match, or ``output`` exists.
    """
    images, labels = read_idx(images_file, axes=3), read_idx(labels_file, axes=1)
    if len(images) != len(labels):
        raise UserError(f"{images_file} has {len(images)} images and {labels_file} {len(labels)} labels")
    with LMDBWriter(output) as writer:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            writer.put(f"{index:08d}", from_array(image[None], int(label)))
    return len(images)


def read_idx(path: str, axes: int) -> np.ndarray:
    """The uint8 array in an IDX file, gzip or plain.

    Args:
        axes: the number of axes the array must have.
    """
    content = storage.read_bytes(path, "IDX file")
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"IDX file {path} is damaged: {error}") from None
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise UserError(f"{path} is no IDX file of bytes with {axes} axes")
    shape = tuple(int(size) for size in np.frombuffer(content, dtype=">u4", count=axes, offset=4))
    if len(content) - start != np.prod(shape):
        raise UserError(f"IDX file {path} is damaged: it holds {len(content) - start} values for its shape {shape}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _work(args: argparse.Namespace) -> str:
    return f"{args.output}: {convert(args.images, args.labels, args.output)} records"


if __name__ == "__main__":
    raise SystemExit(main())
