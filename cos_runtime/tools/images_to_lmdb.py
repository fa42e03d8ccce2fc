"""Write a Caffe LMDB of image files, as Caffe's convert_imageset does."""

import argparse
import io
import posixpath
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cos_runtime import storage
from cos_runtime.caffe.datum import from_array
from cos_runtime.caffe.pixels import decode_image, resize
from cos_runtime.caffe.schema.caffe_pb2 import Datum
from cos_runtime.errors import UserError
from cos_runtime.tools._command import run
from cos_runtime.tools._lmdb_writer import LMDBWriter


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="images_to_lmdb", description=__doc__)
    parser.add_argument("root", metavar="IMAGE_ROOT", help="folder that the file names count from")
    parser.add_argument("list", metavar="LABEL_FILE", help="text file, a line an image: its file name and its label")
    parser.add_argument("output", metavar="OUT_DIR", help="folder to make")
    parser.add_argument("--resize", metavar="HxW", type=_size, help="height and width to bring the images to")
    parser.add_argument("--gray", action="store_true", help="one channel instead of three")
    parser.add_argument("--shuffle", action="store_true", help="take the lines in random order")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle (0)")
    parser.add_argument("--encoded", action="store_true", help="store image files instead of pixels")
    return run(parser, _work, argv)


def read_list(path: str) -> list[tuple[str, int]]:
    """File name and label of each line; a name may have blanks.

    Raises:
        UserError: the file is missing or empty, or a line has no label.
    """
    images = []
    for number, line in enumerate(storage.read_bytes(path, "label file").decode(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        try:
            images.append((name.strip(), int(label)))
        except ValueError:
            raise UserError(f"{path}:{number}: a file name, a blank and a whole number are expected") from None
        if not name:
            raise UserError(f"{path}:{number}: a file name, a blank and a whole number are expected")
    if not images:
        raise UserError(f"label file {path} is empty")
    return images


def image_datum(content: bytes, label: int, origin: str, *, size: tuple[int, int] | None, gray: bool) -> Datum:
    """The uncompressed Datum of an image file.

    Args:
        content: the file's bytes.
        origin: its name, for errors.
        size: height and width to resize to; None: as it is.
        gray: one channel instead of three.
    """
    pixels = decode_image(content, 1 if gray else 3, origin)
    return from_array(resize(pixels[None], *size)[0] if size else pixels, label)


def encoded_datum(content: bytes, label: int, origin: str, *, size: tuple[int, int] | None, gray: bool) -> Datum:
    """The Datum of an image file that keeps it as a file: the same, or where it must change one of its format."""
    datum = image_datum(content, label, origin, size=size, gray=gray)
    shape = (datum.channels, datum.height, datum.width)
    if size or gray:
        content = _encode(np.frombuffer(datum.data, np.uint8).reshape(shape), content)
    datum.data, datum.encoded = content, True
    return datum


def _encode(pixels: np.ndarray, original: bytes) -> bytes:
    """An image [C, H, W] (gray, or blue, green, red) as a file: JPEG where the original is one, else PNG."""
    with Image.open(io.BytesIO(original)) as image:
        kind = "JPEG" if image.format == "JPEG" else "PNG"
    planes = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0))
    stream = io.BytesIO()
    Image.fromarray(planes).save(stream, kind, quality=95)
    return stream.getvalue()


def _work(args: argparse.Namespace) -> str:
    images = read_list(args.list)
    if args.shuffle:
        random.Random(args.seed).shuffle(images)  # noqa: S311 - the order of records is no secret
    make = encoded_datum if args.encoded else image_datum
    with LMDBWriter(args.output) as writer:
        for index, (name, label) in enumerate(images):
            path = posixpath.join(args.root, name)
            content = storage.read_bytes(path, "image")
            writer.put(f"{index:08d}_{name}", make(content, label, f"image {path}", size=args.resize, gray=args.gray))
    return f"{args.output}: {len(images)} records"


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give height x width, for example 256x256")
    return int(height), int(width)


if __name__ == "__main__":
    raise SystemExit(main())
