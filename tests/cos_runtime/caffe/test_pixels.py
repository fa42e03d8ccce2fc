"""Image files are decoded and resized as OpenCV does it for Caffe."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cos_runtime.caffe.pixels import decode_image, resize
from cos_runtime.errors import CorruptRecordError, UserError

IMAGES = np.random.default_rng(0).permuted(np.tile(np.arange(2 * 5 * 7), (40, 1)), axis=1).astype(np.uint8)
IMAGES = IMAGES.reshape(40, 2, 5, 7)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file of pixels [H, W], [H, W, RGB] or [H, W, RGBA]; of type uint16 too where the kind has it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_colours_come_as_planes_of_blue_green_and_red() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 1] = (10, 20, 30)
    decoded = decode_image(file_of(pixels), None, "it")
    assert decoded.shape == (3, 2, 3)
    assert decoded[:, 0, 1].tolist() == [30, 20, 10]


@pytest.mark.parametrize(("channels", "shape"), [(None, (1, 2, 3)), (1, (1, 2, 3)), (3, (3, 2, 3))])
def test_a_gray_file_is_decoded_to_the_channels_that_are_asked_for(
    channels: int | None, shape: tuple[int, ...]
) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    decoded = decode_image(file_of(pixels), channels, "it")
    assert decoded.shape == shape
    assert (decoded == pixels).all()


def test_a_colour_file_turns_gray_by_luma() -> None:
    decoded = decode_image(file_of(np.full((1, 1, 3), (200, 100, 50), np.uint8)), 1, "it")
    assert decoded.shape == (1, 1, 1)
    assert abs(int(decoded[0, 0, 0]) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)) < 1


def test_a_colour_png_turns_gray_as_libpng_does_it() -> None:
    red, green, blue = NOISE.astype(int).transpose(2, 0, 1)
    # In parts of 32,768, 0.299 and 0.587 rounded down; what is after the point of the sum is left out.
    expected = (9797 * red + 19234 * green + 3737 * blue) >> 15
    np.testing.assert_array_equal(decode_image(file_of(NOISE), 1, "it")[0], expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_of_16_bits_the_upper_8_are_taken(kind: str) -> None:
    content = file_of(np.array([[0x0012, 0x1234, 0xFEDC]], np.uint16), kind)
    assert decode_image(content, 1, "it").tolist() == [[[0x00, 0x12, 0xFE]]]
    assert decode_image(content, 3, "it").tolist() == [[[0x00, 0x12, 0xFE]]] * 3
    with pytest.raises(UserError, match="record 5 has pixels of uint16, .* by force_color or force_gray") as caught:
        decode_image(content, None, "record 5")
    # There is nothing wrong with the record: no share of damaged ones lets it pass.
    assert not isinstance(caught.value, CorruptRecordError)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_a_fourth_plane_unless_channels_are_asked_for(kind: str) -> None:
    pixels = np.full((2, 3, 4), (10, 20, 30, 40), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    content = stream.getvalue()
    assert decode_image(content, None, "it")[:, 0, 0].tolist() == [30, 20, 10, 40]
    assert decode_image(content, 3, "it")[:, 0, 0].tolist() == [30, 20, 10]


def test_gray_with_transparency_has_four_planes_too() -> None:
    stream = io.BytesIO()
    Image.new("LA", (3, 2), (9, 40)).save(stream, "PNG")
    assert decode_image(stream.getvalue(), None, "it")[:, 0, 0].tolist() == [9, 9, 9, 40]
    assert decode_image(stream.getvalue(), 1, "it")[:, 0, 0].tolist() == [9]


def test_what_caffes_opencv_did_not_read_is_read_all_the_same() -> None:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (3, 2), (value, 20, 30)) for value in (10, 11)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    for channels in (None, 3):
        assert decode_image(stream.getvalue(), channels, "it")[:, 0, 0].tolist() == [30, 20, 10]
    assert decode_image(stream.getvalue(), 1, "it").tolist() == [[[18] * 3] * 2]


def test_a_gray_jpeg_has_the_luma_that_the_file_holds() -> None:
    content = file_of(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8), "JPEG")
    with Image.open(io.BytesIO(content)) as image:
        luma = np.asarray(image.convert("YCbCr"))[..., 0]
    difference = np.abs(decode_image(content, 1, "it")[0].astype(int) - luma)
    # What the file holds is out of the colours' range here and there, so only most of the pixels can agree.
    assert np.median(difference) <= 1


def test_a_colour_jpeg_has_the_planes_that_pillow_finds() -> None:
    content = file_of(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8), "JPEG")
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image)[..., ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(content, 3, "it"), expected)
    np.testing.assert_array_equal(decode_image(content, None, "it"), expected)


def test_a_gray_jpeg_with_more_behind_its_end_has_the_same_luma() -> None:
    content = file_of(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8), "JPEG")
    longer = content + b"\xff\xda"  # which looks like a scan that was cut off
    np.testing.assert_array_equal(decode_image(longer, 1, "it"), decode_image(content, 1, "it"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3, None])
def test_pixels_come_as_they_lie_in_the_file(kind: str, channels: int | None) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # how the camera was held: a viewer would turn the image
    stream = io.BytesIO()
    Image.new("RGB", (16, 8)).save(stream, kind, exif=turned)
    assert decode_image(stream.getvalue(), channels, "it").shape == (channels or 3, 8, 16)


def test_an_image_that_would_fill_the_memory_is_refused() -> None:
    content = bytearray(file_of(np.zeros((8, 8, 3), np.uint8), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = b"\xff\xdc" * 2  # its height and width
    with pytest.raises(UserError, match="record 5 cannot be decoded as an image: Image size"):
        decode_image(bytes(content), 3, "record 5")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("rest", [0, 3, 60])
def test_a_damaged_file_is_refused(kind: str, rest: int) -> None:
    content = file_of(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)[:rest]
    with pytest.raises(UserError, match="record 5 cannot be decoded as an image"):
        decode_image(content, 3, "record 5")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("channels", [1, 3, None])
def test_a_file_that_ends_too_early_is_refused(kind: str, share: float, channels: int | None) -> None:
    content = file_of(NOISE, kind)
    with pytest.raises(CorruptRecordError, match="record 5 cannot be decoded as an image: "):
        decode_image(content[: int(len(content) * share)], channels, "record 5")


def test_a_png_whose_pixels_end_too_early_is_refused() -> None:
    content = file_of(NOISE)
    at = content.index(b"IDAT")
    header, packed = content[: at - 4], content[at + 4 : content.index(b"IEND") - 8]
    # Its chunks are whole, and what is in them is not.
    for data in (packed[: len(packed) // 2], zlib.compress(zlib.decompress(packed)[:6000])):
        checksum = zlib.crc32(b"IDAT" + data)
        chunk = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", checksum)
        with pytest.raises(CorruptRecordError, match="its PNG data are damaged"):
            decode_image(header + chunk + content[-12:], 3, "record 5")


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [(10, 14), (3, 4), (5, 1)])
def test_resizing_is_bilinear_between_pixel_centres(kind: type, size: tuple[int, int]) -> None:
    images = IMAGES[:2].astype(kind)
    expected = np.zeros((2, 2, *size))
    for row in range(size[0]):
        for column in range(size[1]):
            y = np.clip((row + 0.5) * 5 / size[0] - 0.5, 0, 4)
            x = np.clip((column + 0.5) * 7 / size[1] - 0.5, 0, 6)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, 4), min(left + 1, 6)
            upper = images[..., top, left] * (1 - (x - left)) + images[..., top, right] * (x - left)
            lower = images[..., bottom, left] * (1 - (x - left)) + images[..., bottom, right] * (x - left)
            expected[..., row, column] = upper * (1 - (y - top)) + lower * (y - top)
    resized = resize(images, *size)
    assert resized.dtype == kind
    # OpenCV counts bytes with 4 bits after the point in between, so that not all are rounded to the nearest.
    np.testing.assert_allclose(resized, expected, atol=0.75 if kind is np.uint8 else 1e-4)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    assert resize(IMAGES, 5, 7) is IMAGES
