"""Image files to pixels, and pixels to another size, by OpenCV as Caffe has it."""

import io

import cv2
import numpy as np
from PIL import Image

from cos_runtime.errors import CorruptRecordError, UserError

# OpenCV would take all cores of the host, which a rank shares with others.
cv2.setNumThreads(1)

_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_CAFFES_KINDS = {"BMP", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "SUN", "TIFF", "WEBP"}
"""What Caffe's OpenCV read, by Pillow's names."""


def decode_image(content: bytes, channels: int | None, origin: str) -> np.ndarray:
    """The pixels of an image file (JPEG, PNG, and what else Pillow reads), as OpenCV's ``imdecode`` gives them.

    Pillow sees to it that the file is whole and of a size that can be. Its own pixels, gray or colour, are taken of
    what Caffe's OpenCV did not read: GIF, AVIF, ICO, TGA and others.

    Args:
        content: the file's bytes.
        channels: 1 for gray, 3 for colour, None for what the file has, which is 4 where some of it is transparent.
        origin: where the file comes from, for the error.

    Returns:
        uint8 array [C, H, W]; the planes of a colour image are blue, green, red.

    Raises:
        CorruptRecordError: the bytes are no image, or a damaged one.
        UserError: its pixels are not of 8 bits, and ``channels``, which is None, does not ask for such.
    """
    try:
        pixels = _pixels(content, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, cv2.error) as error:
        raise CorruptRecordError(f"{origin} cannot be decoded as an image: {error}") from None
    if pixels.dtype != np.uint8:
        raise UserError(
            f"{origin} has pixels of {pixels.dtype}, a net takes those of 8 bits: convert it, or have it decoded to "
            "them by force_color or force_gray in transform_param"
        )
    # A view: what comes next, a resize or a crop, copies less.
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _pixels(content: bytes, channels: int | None) -> np.ndarray:
    """The pixels [H, W] or [H, W, C], of the file's own type where ``channels`` is None."""
    # The header alone: Pillow knows the kind, and refuses an image that would fill the memory.
    with Image.open(io.BytesIO(content)) as image:
        # Of a PNG that is cut off OpenCV gives nothing; of other kinds it may make up what is missing.
        if image.format != "PNG" and not (image.format == "JPEG" and _has_end(content)):
            image.load()
        if image.format not in _CAFFES_KINDS:
            return _by_pillow(image, channels)
        kind = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR, None: cv2.IMREAD_UNCHANGED}[channels]
        # Caffe's OpenCV took pixels as they lie in the file, whatever a camera noted of how it was held.
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise ValueError(f"its {image.format} data are damaged, or of a form that OpenCV does not read")
        return pixels


def _has_end(content: bytes) -> bool:
    """Whether a JPEG's last scan ends, without which OpenCV makes up the missing pixels and says nothing."""
    return -1 < content.rfind(_SCAN) < content.rfind(_END)


def _by_pillow(image: Image.Image, channels: int | None) -> np.ndarray:
    """The pixels [H, W] or [H, W, 3] of a file that is not of Caffe's kinds."""
    if channels == 1 or (channels is None and image.mode in {"1", "L"}):
        return np.asarray(image.convert("L"))
    size = (image.height, image.width, 3)
    return np.frombuffer(image.convert("RGB").tobytes("raw", "BGR"), np.uint8).reshape(size)


def resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Images [B, C, H, W] resized to [B, C, height, width] as OpenCV does by default: bilinear, without smoothing.

    The type, uint8 or float32, stays.
    """
    if images.shape[2:] == (height, width):
        return images
    resized = [cv2.resize(image.transpose(1, 2, 0), (width, height)) for image in images]
    return np.stack(resized).reshape(len(images), height, width, -1).transpose(0, 3, 1, 2)
