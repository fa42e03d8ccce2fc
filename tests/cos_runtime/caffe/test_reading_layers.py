"""Layers that read files themselves: rows, images and windows in Caffe's order, and what they refuse."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from cos_runtime.caffe.net import Net
from cos_runtime.caffe.prototxt import parse
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN, NetParameter
from cos_runtime.caffe.transform import write_mean
from cos_runtime.errors import UserError
from tests.cos_runtime.caffe.layer_building import build, set_up


def write_rows(path: Path, start: int, count: int) -> Path:
    values = np.arange(start, start + count, dtype=np.float32)
    with h5py.File(path, "w") as file:
        file["x"] = np.stack([values, values + 0.5], 1)
        file["y"] = values
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A list of two files with the rows 0, 1, 2 and 3, 4."""
    files = [write_rows(tmp_path / "a.h5", 0, 3), write_rows(tmp_path / "b.h5", 3, 2)]
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{file}\n" for file in files))
    return source


def hdf5_data(source: Path, fields: str = "batch_size: 4", tops: str = 'top: "x" top: "y"') -> str:
    return f'type: "HDF5Data" {tops} hdf5_data_param {{ source: "{source}" {fields} }}'


def test_hdf5_data_goes_round_its_files(rows: Path) -> None:
    layer, tops = set_up(hdf5_data(rows))
    assert tops == [(4, 2), (4,)]
    x, y = layer()
    assert y.tolist() == [0, 1, 2, 3]
    assert x.tolist() == [[0, 0.5], [1, 1.5], [2, 2.5], [3, 3.5]]
    assert layer()[1].tolist() == [4, 0, 1, 2]


def test_hdf5_files_may_be_on_one_line(rows: Path) -> None:
    rows.write_text(" ".join(rows.read_text().split()) + "\n")
    assert build(hdf5_data(rows, "batch_size: 5"))()[1].tolist() == [0, 1, 2, 3, 4]


def test_hdf5_data_shuffles_by_torchs_seed(rows: Path) -> None:
    torch.manual_seed(0)
    drawn = build(hdf5_data(rows, "batch_size: 5 shuffle: true"))()[1]
    torch.manual_seed(0)
    again = build(hdf5_data(rows, "batch_size: 5 shuffle: true"))()[1]
    assert sorted(drawn.tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(drawn, again)


@pytest.mark.parametrize(
    ("fields", "tops", "message"),
    [
        ("", 'top: "x"', "it has no batch_size"),
        ("batch_size: 1", 'top: "z"', 'a.h5 has no data set "z": its tops are named after the data sets'),
    ],
)
def test_hdf5_data_refuses(rows: Path, fields: str, tops: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(hdf5_data(rows, fields, tops))


def test_hdf5_data_refuses_damaged_and_uneven_files(rows: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["y"]
        file["y"] = np.zeros(2, np.float32)
    with pytest.raises(UserError, match=re.escape("have {'x': 3, 'y': 2} rows: each must have the same number")):
        build(hdf5_data(rows))
    content = (tmp_path / "b.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"a\.h5 is no HDF5 file, or a damaged one"):
        build(hdf5_data(rows))
    rows.write_text("\n")
    with pytest.raises(UserError, match="list of HDF5 files .* is empty"):
        build(hdf5_data(rows))


def test_a_net_reads_hdf5_unless_it_is_given_the_blobs(rows: Path) -> None:
    text = f"""layer {{ name: "d" {hdf5_data(rows)} }}
        layer {{ name: "p" type: "Power" bottom: "y" top: "p" power_param {{ scale: 2 }} }}"""
    net = Net(parse(text, NetParameter(), "net"), TEST)
    assert net.inputs == []
    assert net({})["p"].tolist() == [0, 2, 4, 6]
    assert net({"x": torch.zeros(1, 2), "y": torch.tensor([9.0])})["p"].tolist() == [18]


def test_hdf5_output_writes_what_hdf5_data_reads(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    layer, tops = set_up(f'type: "HDF5Output" hdf5_output_param {{ file_name: "{path}" }}', (2, 3), (2,), tops=0)
    data = torch.rand(2, 3)
    assert (tops, layer(data, torch.tensor([1.0, 2.0]))) == ([], ())
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["data"], data[:, :, None, None].numpy())
        assert file["label"][()].flatten().tolist() == [1, 2]


def write_image(path: Path, blue: int, size: tuple[int, int] = (4, 3)) -> None:
    """An image of (width, height) whose blue is ``blue``, and whose red tells the column."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 2] = blue
    pixels[..., 0] = np.arange(size[0])
    Image.fromarray(pixels).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index in range(3):
        write_image(tmp_path / f"image {index}.png", 10 * index)
    source = tmp_path / "images.txt"
    source.write_text("".join(f"image {index}.png {index + 5}\n" for index in range(3)))
    return source


def image_data(source: Path, fields: str = "", transform: str = "") -> str:
    return (
        f'type: "ImageData" top: "x" top: "y" transform_param {{ {transform} }} '
        f'image_data_param {{ source: "{source}" root_folder: "{source.parent}/" {fields} }}'
    )


def test_image_data_in_order_and_round_again(images: Path) -> None:
    layer, tops = set_up(image_data(images, "batch_size: 2", "scale: 0.5"))
    assert tops == [(2, 3, 3, 4), (2,)]
    x, y = layer()
    assert y.tolist() == [5, 6]
    assert x[:, 0].mean((1, 2)).tolist() == [0, 5]
    assert x[0, 2, 0].tolist() == [0, 0.5, 1, 1.5]
    assert layer()[1].tolist() == [7, 5]


def test_image_data_resizes_crops_and_mirrors(images: Path) -> None:
    gray, tops = set_up(image_data(images, "new_height: 6 new_width: 8 is_color: false", "crop_size: 5"), phase=TEST)
    assert tops == [(1, 1, 5, 5), (1,)]
    assert gray()[0].shape == (1, 1, 5, 5)
    torch.manual_seed(0)
    layer = build(image_data(images, "batch_size: 20 shuffle: true", "mirror: true"))
    x, y = layer()
    assert {tuple(row) for row in x[:, 2, 0].tolist()} == {(0, 1, 2, 3), (3, 2, 1, 0)}
    assert set(y.tolist()) == {5, 6, 7}


def test_image_data_refuses(images: Path) -> None:
    with pytest.raises(UserError, match="one of new_height and new_width is given alone"):
        build(image_data(images, "new_height: 6"))
    write_image(images.parent / "image 1.png", 0, (5, 5))
    with pytest.raises(UserError, match="its images have different sizes"):
        build(image_data(images, "batch_size: 2"))()
    images.write_text("image 0.png five\n")
    with pytest.raises(UserError, match=r'line "image 0\.png five" of .* is not a path and a whole number'):
        build(image_data(images))
    images.write_text("gone.png 1\n")
    with pytest.raises(UserError, match=r"image .*gone\.png does not exist"):
        build(image_data(images))


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    write_image(tmp_path / "image.png", 100, (8, 8))
    source = tmp_path / "windows.txt"
    source.write_text("# 0\nimage.png\n3\n8\n8\n3\n4 0.9 2 2 5 5\n7 0.1 0 0 3 3\n9 0.6 4 4 7 7\n")
    return source


def window_data(source: Path, fields: str, transform: str = "crop_size: 4") -> str:
    return (
        f'type: "WindowData" top: "x" top: "y" transform_param {{ {transform} }} '
        f'window_data_param {{ source: "{source}" root_folder: "{source.parent}/" {fields} }}'
    )


def test_window_data_draws_background_then_foreground(windows: Path) -> None:
    text = window_data(windows, "batch_size: 8 fg_fraction: 0.25 fg_threshold: 0.7")
    layer, tops = set_up(text)
    assert tops == [(8, 3, 4, 4), (8,)]
    x, y = layer()
    # The one of overlap 0.6 is neither.
    assert y.tolist() == [0] * 6 + [4] * 2
    assert x[0, 2, 0].tolist() == [0, 1, 2, 3]
    assert x[7, 2, 0].tolist() == [2, 3, 4, 5]
    assert x[7, 0].unique().tolist() == [100]


def test_window_data_pads_with_context_and_takes_the_mean(windows: Path, tmp_path: Path) -> None:
    mean = np.full((3, 6, 6), 1, np.float32)
    write_mean(str(tmp_path / "mean.binaryproto"), mean)
    # The scale is window_data_param's, as in Caffe: what transform_param says of it has no effect.
    transform = f'crop_size: 4 scale: 3 mean_file: "{tmp_path}/mean.binaryproto"'
    layer = build(window_data(windows, "batch_size: 1 fg_fraction: 0 context_pad: 1 scale: 2", transform))
    x, y = layer()
    assert y.tolist() == [0]
    # The window of 4 x 4 at the corner stands for 2 x 2 of the crop: what is outside of the image stays 0.
    assert x[0, 0, 0].tolist() == [0, 0, 0, 0]
    assert x[0, :, :, 0].any().item() is False
    assert x[0, 0, 1:, 1:].unique().tolist() == [198]


def test_window_data_counts_in_single_precision(windows: Path) -> None:
    # In double precision the overlap would be below the threshold, and the share of 100 be 28.99999992.
    layer = build(window_data(windows, "batch_size: 100 fg_fraction: 0.29 fg_threshold: 0.6"))
    assert layer()[1].count_nonzero() == 29
    assert {window.label for window in layer.foreground} == {4, 9}


def test_window_data_places_windows_in_single_precision(windows: Path) -> None:
    layer = build(window_data(windows, "batch_size: 1 context_pad: 4", "crop_size: 64"))
    window = replace(layer.foreground[0], x1=30, y1=192, x2=78, y2=201)
    # 54.5 - 24.5 * 64 / 56, which is 26.5 in double precision.
    assert layer._place(window, 195, 354, False).start[0] == 26


def test_window_data_takes_a_window_that_its_context_leads_out_of_the_image(windows: Path) -> None:
    windows.write_text("# 0 image.png 1 8 8 0 # 1 image.png 3 8 8 1 1 1 6 6 9 9")
    fields = "batch_size: 1 fg_fraction: 1 context_pad: 1"
    x, _ = build(window_data(windows, fields))()
    assert x[0, 0].tolist() == [[100, 100, 0, 0], [100, 100, 0, 0], [0] * 4, [0] * 4]


def test_window_data_mirrors_and_squares(windows: Path) -> None:
    torch.manual_seed(0)
    fields = 'batch_size: 12 fg_fraction: 1 fg_threshold: 0.7 crop_mode: "square"'
    x, _ = build(window_data(windows, fields, "crop_size: 4 mirror: true"))()
    rows = {tuple(round(value) for value in row) for row in x[:, 2, 0].tolist()}
    assert len(rows) == 2
    assert {row[::-1] for row in rows} == rows


@pytest.mark.parametrize(
    ("fields", "transform", "message"),
    [
        ("batch_size: 2", "", "batch_size is 2 and crop_size 0: both must be 1 or more"),
        ("batch_size: 2 context_pad: 2", "crop_size: 4", "context_pad 2 on both sides leaves nothing of crop_size 4"),
        ('batch_size: 2 crop_mode: "fit"', "crop_size: 4", 'crop_mode is "fit": use "warp" or "square"'),
        ("batch_size: 4 fg_threshold: 2", "crop_size: 4", "has no foreground window"),
    ],
)
def test_window_data_refuses(windows: Path, fields: str, transform: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(window_data(windows, fields, transform))


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        (
            "1 1 0 0 8 7",
            "",
            "has the window 0 0 8 7 of image.png, which is no part of the image, of 8 x 8",
        ),
        ("1 1 -1 0 7 7", "", "has the window -1 0 7 7 of image.png"),
        ("1 1 5 2 4 3", "", "has the window 5 2 4 3 of image.png"),
        ("1 1 20 20 30 30", "context_pad: 1", "has the window 20 20 30 30 of image.png"),
        ("1 1 5 2 2 3", "context_pad: 1", "has the window 5 2 2 3 of image.png"),
        ("1 1 6 2 4 3", "context_pad: 1", "has the window 6 2 4 3 of image.png"),
    ],
)
def test_window_data_refuses_a_window_beyond_the_image(windows: Path, text: str, fields: str, message: str) -> None:
    windows.write_text(f"# 0 image.png 3 8 8 1 {text}")
    layer = build(window_data(windows, f"batch_size: 1 fg_fraction: 1 {fields}"))
    with pytest.raises(UserError, match=rf'layer "l" .WindowData.: window file .*windows\.txt {message}'):
        layer()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_window_data_refuses_other_images_than_colour(windows: Path, channels: int) -> None:
    windows.write_text(f"# 0 image.png {channels} 8 8 1 1 1 0 0 7 7")
    with pytest.raises(UserError, match=f"gives image.png, its last image, {channels} channels: .* give it 3"):
        build(window_data(windows, "batch_size: 1 fg_fraction: 1"))


@pytest.mark.parametrize("label", [0, -1])
def test_window_data_refuses_a_foreground_without_an_object(windows: Path, label: int) -> None:
    windows.write_text(f"# 0 image.png 3 8 8 1 {label} 0.5 0 0 7 7")
    message = f"has label {label} for the window 0 0 7 7 of image.png, .* overlap of 0.5: .* is 1 or more"
    with pytest.raises(UserError, match=message):
        build(window_data(windows, "batch_size: 1 fg_fraction: 1"))


@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 4, 8), (1, 6, 6)])
def test_window_data_refuses_a_mean_without_its_crop(
    windows: Path, tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    write_mean(str(tmp_path / "mean"), np.zeros(shape, np.float32))
    with pytest.raises(UserError, match=rf"is of an image of {' x '.join(map(str, shape))} .* 3 x 4 x 4 of the crop"):
        build(window_data(windows, "batch_size: 1", f'crop_size: 4 mean_file: "{tmp_path}/mean"'))
    with pytest.raises(UserError, match="both mean_file and mean_value"):
        build(window_data(windows, "batch_size: 1", 'crop_size: 4 mean_file: "mean" mean_value: 1'))


def test_window_data_refuses_a_file_cut_off(windows: Path) -> None:
    windows.write_text(windows.read_text()[:-6])
    with pytest.raises(UserError, match="is cut off or malformed"):
        build(window_data(windows, "batch_size: 2"))


def test_cos_data_has_the_shapes_of_its_description() -> None:
    text = """type: "CoSData" top: "image" top: "words" top: "label" cos_data_param { batch_size: 4
        top { name: "image" type: RAW_IMAGE channels: 3 height: 9 width: 8 transform_param { crop_size: 5 } }
        top { name: "words" type: INT_ARRAY channels: 7 sample_num_axes: 1 transpose: true }
        top { name: "label" type: INT sample_num_axes: 0 } }"""
    assert set_up(text, phase=TRAIN)[1] == [(4, 3, 5, 5), (7, 4), (4,)]
