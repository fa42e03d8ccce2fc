"""Image files to pixels, and pixels to another size, by OpenCV as Caffe has it."""

import io

import cv2
import numpy as np
from PIL import Image

from cos_runtime.errors import CorruptRecordError

# OpenCV would take all cores of the host, which a rank shares with others.
cv2.setNumThreads(1)

_SCAN, _END = b"\xff\xda", b"\xff\xd9"


def decode_image(content: bytes, channels: int | None, origin: str) -> np.ndarray:
    """The pixels of an image file (JPEG, PNG, and what else Pillow reads), as OpenCV gives them.

    Args:
        content: the file's bytes.
        channels: 1 for gray, 3 for colour, None for what the file has.
        origin: where the file comes from, for the error.

    Returns:
        uint8 array [C, H, W]; the planes of a colour image are blue, green, red.

    Raises:
        CorruptRecordError: the bytes are no image, or a damaged one.
    """
    try:
        # The header alone: Pillow knows the kind, and refuses an image that would fill the memory.
        with Image.open(io.BytesIO(content)) as image:
            is_whole = image.format == "JPEG" and _has_end(content)
            pixels = _by_opencv(content, channels) if is_whole else _by_pillow(image, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, cv2.error) as error:
        raise CorruptRecordError(f"{origin} cannot be decoded as an image: {error}") from None
    # A view: what comes next, a resize or a crop, copies less.
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _has_end(content: bytes) -> bool:
    """Whether a JPEG's last scan ends, without which OpenCV makes up the missing pixels and says nothing."""
    return -1 < content.rfind(_SCAN) < content.rfind(_END)


def _by_opencv(content: bytes, channels: int | None) -> np.ndarray:
    """The pixels [H, W] or [H, W, 3] of a JPEG, for which OpenCV takes three quarters of Pillow's time."""
    kind = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR, None: cv2.IMREAD_ANYCOLOR}[channels]
    # Caffe's OpenCV took pixels as they lie in the file, whatever a camera noted of how it was held.
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError("its JPEG data are damaged")
    return pixels


def _by_pillow(image: Image.Image, channels: int | None) -> np.ndarray:
    """The pixels [H, W] or [H, W, 3] of any other file; Pillow refuses what is cut off."""
    if channels == 1 or (channels is None and image.mode in {"1", "L"}):
        # A JPEG holds the luma itself: taken as stored, as OpenCV does, not computed back from colours.
        image.draft("L", image.size)
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
