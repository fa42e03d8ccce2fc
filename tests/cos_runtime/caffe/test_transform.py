"""Caffe's data transformations against their definition, pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cos_runtime.caffe import prototxt
from cos_runtime.caffe.schema.caffe_pb2 import BlobProto, TransformationParameter
from cos_runtime.caffe.transform import Transformer, read_mean, write_mean
from cos_runtime.errors import UserError

# Every pixel differs from every other of its image, so that a crop tells where it was cut.
IMAGES = np.random.default_rng(0).permuted(np.tile(np.arange(2 * 5 * 7), (40, 1)), axis=1).astype(np.uint8)
IMAGES = IMAGES.reshape(40, 2, 5, 7)
MEAN = np.random.default_rng(1).random((2, 5, 7), dtype=np.float32) * 50


def transformer(text: str, *, is_train: bool = False, mean: np.ndarray | None = None) -> Transformer:
    return Transformer(prototxt.parse(text, TransformationParameter(), "it"), is_train, mean)


def apply(transform: Transformer, images: np.ndarray = IMAGES, seed: int = 0) -> np.ndarray:
    values = transform(images, np.random.default_rng(seed))
    assert values.dtype == torch.float32
    assert values.shape[1:] == transform.out_shape(*images.shape[1:])
    return values.numpy()


def by_definition(
    image: np.ndarray, mean: np.ndarray, scale: float, *, crop: int, top: int, left: int, mirrored: bool
) -> np.ndarray:
    """One image by Caffe's loops."""
    channels = len(image)
    out = np.zeros((channels, crop, crop), np.float32)
    for channel in range(channels):
        for row in range(crop):
            for column in range(crop):
                source = (channel, top + row, left + column)
                target = (channel, row, crop - 1 - column if mirrored else column)
                out[target] = (np.float32(image[source]) - np.float32(mean[source])) * np.float32(scale)
    return out


def test_by_default_pixels_become_floats() -> None:
    np.testing.assert_array_equal(apply(transformer("")), IMAGES.astype(np.float32))


def test_the_images_are_left_as_they_are() -> None:
    images = IMAGES.astype(np.float32)
    apply(transformer("scale: 2 mirror: true mean_value: 3"), images)
    np.testing.assert_array_equal(images, IMAGES)


def test_a_read_only_view_is_taken() -> None:
    images = np.frombuffer(IMAGES.tobytes(), np.uint8).reshape(IMAGES.shape)
    np.testing.assert_array_equal(apply(transformer("")), apply(transformer(""), images))


def test_scale_multiplies_in_single_precision() -> None:
    np.testing.assert_array_equal(apply(transformer("scale: 0.00390625")), IMAGES.astype(np.float32) / 256)
    np.testing.assert_array_equal(apply(transformer("scale: 0.1")), IMAGES.astype(np.float32) * np.float32(0.1))


def test_one_mean_value_serves_all_channels() -> None:
    np.testing.assert_array_equal(apply(transformer("mean_value: 4 scale: 0.5")), (IMAGES.astype(np.float32) - 4) / 2)


def test_each_channel_has_its_mean_value() -> None:
    values = apply(transformer("mean_value: 4 mean_value: 10"))
    np.testing.assert_array_equal(values[:, 0], IMAGES[:, 0] - np.float32(4))
    np.testing.assert_array_equal(values[:, 1], IMAGES[:, 1] - np.float32(10))


def test_a_test_crop_is_centred_and_takes_the_mean_beneath_it() -> None:
    # Half of the pixels too many go before the crop, rounded down.
    for crop, top, left in ((3, 1, 2), (2, 1, 2), (4, 0, 1)):
        values = apply(transformer(f"crop_size: {crop} scale: 0.25", mean=MEAN))
        for image, value in zip(IMAGES, values, strict=True):
            expected = by_definition(image, MEAN, 0.25, crop=crop, top=top, left=left, mirrored=False)
            np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("is_train", [True, False])
def test_crops_and_mirrors_are_drawn_for_each_image(is_train: bool) -> None:
    values = apply(transformer("crop_size: 3 mirror: true scale: 0.25", is_train=is_train, mean=MEAN))
    places = [(top, left) for top in range(3) for left in range(5)] if is_train else [(1, 2)]
    drawn = []
    for image, value in zip(IMAGES, values, strict=True):
        candidates = {
            (top, left, mirrored): by_definition(
                image, MEAN, 0.25, crop=3, top=top, left=left, mirrored=mirrored
            ).tobytes()
            for top, left in places
            for mirrored in (False, True)
        }
        drawn += [key for key, content in candidates.items() if content == value.tobytes()]
    assert len(drawn) == len(IMAGES)
    assert {mirrored for _, _, mirrored in drawn} == {False, True}
    if is_train:
        assert {top for top, _, _ in drawn} == {0, 1, 2}
        assert {left for _, left, _ in drawn} == {0, 1, 2, 3, 4}


def test_a_random_crop_takes_mean_values_and_floats_too() -> None:
    transform = transformer("crop_size: 3 mean_value: 1 mean_value: 2", is_train=True)
    values = apply(transform, IMAGES.astype(np.float32))
    np.testing.assert_array_equal(values, apply(transform))
    assert set((values[0, 1] + 2).ravel()) <= set(IMAGES[0, 1].ravel())


def test_a_crop_of_the_images_own_size_changes_nothing() -> None:
    square = IMAGES[:, :, :, :5]
    np.testing.assert_array_equal(apply(transformer("crop_size: 5", is_train=True), square), square)


def test_the_same_seed_gives_the_same_batch() -> None:
    transform = transformer("crop_size: 3 mirror: true", is_train=True)
    np.testing.assert_array_equal(apply(transform, seed=3), apply(transform, seed=3))
    assert (apply(transform, seed=3) != apply(transform, seed=4)).any()


@pytest.mark.parametrize(
    ("text", "mean", "reason"),
    [
        ('mean_value: 1 mean_file: "m"', None, "both mean_file and mean_value"),
        ("mean_value: 1", MEAN, "both mean_file and mean_value"),
        ("force_color: true force_gray: true", None, "both force_color and force_gray"),
    ],
)
def test_contradictions_are_refused(text: str, mean: np.ndarray | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        transformer(text, mean=mean)


@pytest.mark.parametrize(
    ("text", "mean", "reason"),
    [
        ("mean_value: 1 mean_value: 2 mean_value: 3", None, "3 values of mean_value for 2 channels"),
        ("crop_size: 6", None, "crop_size 6 is larger than the image of 5 x 7 pixels"),
        ("crop_size: 3", MEAN[:, 1:4, 1:4], r"of 2 x 3 x 3 .* of 2 x 5 x 7"),
        ("", MEAN[:1], r"of 1 x 5 x 7 .* of 2 x 5 x 7"),
    ],
)
def test_images_that_do_not_fit_are_refused(text: str, mean: np.ndarray | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        transformer(text, mean=mean).out_shape(2, 5, 7)
    with pytest.raises(UserError, match=reason):
        transformer(text, mean=mean)(IMAGES, np.random.default_rng())


def test_a_mean_file_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "mean.binaryproto")
    write_mean(path, MEAN)
    np.testing.assert_array_equal(read_mean(path), MEAN)
    values = apply(transformer(f'mean_file: "{path}"'))
    np.testing.assert_array_equal(values, IMAGES - MEAN)


@pytest.mark.parametrize(
    "blob",
    [
        BlobProto(shape={"dim": [2, 5, 7]}, data=MEAN.ravel()),
        BlobProto(shape={"dim": [1, 2, 5, 7]}, data=MEAN.ravel()),
        BlobProto(shape={"dim": [2, 5, 7]}, double_data=MEAN.ravel()),
    ],
)
def test_a_mean_file_may_have_other_forms(tmp_path: Path, blob: BlobProto) -> None:
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(blob.SerializeToString())
    np.testing.assert_array_equal(read_mean(str(path)), MEAN)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "mean file .* does not exist"),
        (b"no blob", "mean file .* is no BlobProto"),
        (BlobProto(num=1, channels=2, height=5, width=7, data=MEAN.ravel()).SerializeToString()[:-9], "no BlobProto"),
        (BlobProto().SerializeToString(), "a blob of shape 0 x 0 x 0 x 0: one image is expected"),
        (BlobProto(shape={"dim": [5, 7]}, data=range(35)).SerializeToString(), "a blob of shape 5 x 7"),
        (BlobProto(num=2, channels=1, height=5, width=7, data=MEAN.ravel()).SerializeToString(), "shape 2 x 1 x 5 x 7"),
        (BlobProto(num=1, channels=2, height=5, width=7, data=[1]).SerializeToString(), "1 values, its shape .* 70"),
    ],
)
def test_other_mean_files_are_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "mean.binaryproto"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_mean(str(path))
