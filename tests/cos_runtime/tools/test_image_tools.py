"""The tools that write LMDBs and mean images, as they are called from the command line."""

import gzip
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cos_runtime.caffe.datum import from_array, to_array
from cos_runtime.caffe.schema.caffe_pb2 import Datum
from cos_runtime.caffe.transform import read_mean
from cos_runtime.sources import lmdb_file
from cos_runtime.tools import compute_mean, images_to_lmdb, mnist_to_lmdb
from tests.fixtures.mnist import MNIST_FILES, SmallLMDB

DIGITS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.astype(np.uint8).tobytes()


def records(path: Path) -> dict[str, Datum]:
    return dict(lmdb_file.datums(str(path), lmdb_file.ranges(str(path), 1)[0]))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_become_an_lmdb(tmp_path: Path, pack: type, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").write_bytes(pack(idx(DIGITS)))
    (tmp_path / "labels").write_bytes(pack(idx(np.array([7, 0, 255]))))
    assert mnist_to_lmdb.main([str(tmp_path / name) for name in ("images", "labels", "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 3 records\n"
    found = records(tmp_path / "out")
    assert list(found) == ["00000000", "00000001", "00000002"]
    assert [record.label for record in found.values()] == [7, 0, 255]
    for record, digit in zip(found.values(), DIGITS, strict=True):
        np.testing.assert_array_equal(to_array(record, None, "it"), digit[None])


def test_the_whole_of_mnist_is_there(mnist_lmdbs: Path) -> None:
    assert lmdb_file.count(str(mnist_lmdbs / "mnist_train_lmdb")) == 60_000
    found = records(mnist_lmdbs / "mnist_test_lmdb")
    assert len(found) == 10_000
    labels = mnist_to_lmdb.read_idx(str(MNIST_FILES / "t10k-labels-idx1-ubyte.gz"), axes=1)
    assert [record.label for record in found.values()] == labels.tolist()
    assert {(record.channels, record.height, record.width) for record in found.values()} == {(1, 28, 28)}


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (None, idx(np.zeros(3)), "IDX file .*images does not exist"),
        (b"no numbers", idx(np.zeros(3)), "images is no IDX file of bytes with 3 axes"),
        (idx(np.zeros(3)), idx(np.zeros(3)), "images is no IDX file of bytes with 3 axes"),
        (idx(DIGITS)[:10], idx(np.zeros(3)), "images is no IDX file"),
        (idx(DIGITS)[:-1], idx(np.zeros(3)), r"images is damaged: it holds 59 values for its shape \(3, 4, 5\)"),
        (gzip.compress(idx(DIGITS), mtime=0)[:-9], idx(np.zeros(3)), "images is damaged"),
        (idx(DIGITS), idx(np.zeros(2)), "has 3 images and .*labels 2 labels"),
    ],
)
def test_other_idx_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], images: bytes | None, labels: bytes, reason: str
) -> None:
    if images is not None:
        (tmp_path / "images").write_bytes(images)
    (tmp_path / "labels").write_bytes(labels)
    assert mnist_to_lmdb.main([str(tmp_path / name) for name in ("images", "labels", "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(reason, said)
    assert not (tmp_path / "out").exists()


def test_a_tool_is_a_program() -> None:
    command = [sys.executable, "-m", "cos_runtime.tools.mnist_to_lmdb", "a", "b", "c"]
    folder = MNIST_FILES.parents[2]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mnist_to_lmdb: IDX file a does not exist\n"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a colour PNG, a gray PNG and a JPEG, and their list."""
    root = tmp_path / "pictures"
    (root / "some folder").mkdir(parents=True)
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(root / "colour.png")
    Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / "some folder" / "gray.png")
    Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8)).save(root / "photo.jpg")
    (tmp_path / "list.txt").write_text("colour.png 1\nsome folder/gray.png  2\n\nphoto.jpg -3\n")
    return root


def convert(pictures: Path, *options: str) -> dict[str, Datum]:
    out = pictures.parent / "out"
    assert images_to_lmdb.main([str(pictures), str(pictures.parent / "list.txt"), str(out), *options]) == 0
    return records(out)


def test_image_files_become_pixels(pictures: Path) -> None:
    found = convert(pictures)
    assert list(found) == ["00000000_colour.png", "00000001_some folder/gray.png", "00000002_photo.jpg"]
    assert [record.label for record in found.values()] == [1, 2, -3]
    assert [(record.channels, record.height, record.width) for record in found.values()] == [
        (3, 4, 6),
        (3, 8, 8),
        (3, 8, 8),
    ]
    colour = np.asarray(Image.open(pictures / "colour.png"))
    stored = to_array(found["00000000_colour.png"], None, "it")
    np.testing.assert_array_equal(stored, colour[..., ::-1].transpose(2, 0, 1))


def test_image_files_may_be_resized_and_made_gray(pictures: Path) -> None:
    found = convert(pictures, "--resize", "5x7", "--gray")
    assert {(record.channels, record.height, record.width) for record in found.values()} == {(1, 5, 7)}


def test_image_files_may_stay_files(pictures: Path) -> None:
    found = convert(pictures, "--encoded")
    assert all(record.encoded for record in found.values())
    assert found["00000002_photo.jpg"].data == (pictures / "photo.jpg").read_bytes()


def test_files_that_must_change_keep_their_format(pictures: Path) -> None:
    found = convert(pictures, "--encoded", "--resize", "4x4")
    images = [Image.open(io.BytesIO(record.data)) for record in found.values()]
    assert [(image.format, image.size) for image in images] == [("PNG", (4, 4)), ("PNG", (4, 4)), ("JPEG", (4, 4))]
    blue, green, red = to_array(found["00000002_photo.jpg"], 3, "it").mean(axis=(1, 2))
    assert (abs(blue - 50), abs(green - 100), abs(red - 200)) < (4, 4, 4)


def test_a_shuffle_is_the_same_each_time(pictures: Path) -> None:
    (pictures.parent / "list.txt").write_text("".join(f"colour.png {label}\n" for label in range(20)))
    labels = [record.label for record in convert(pictures, "--shuffle", "--seed", "5").values()]
    assert sorted(labels) == list(range(20)) != labels
    (pictures.parent / "out" / "data.mdb").unlink()
    (pictures.parent / "out").rmdir()
    assert [record.label for record in convert(pictures, "--shuffle", "--seed", "5").values()] == labels


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("", "list.txt is empty"),
        ("colour.png\n", "list.txt:1: a file name, a blank and a whole number are expected"),
        ("colour.png 1\ncolour.png x\n", "list.txt:2: a file name"),
        ("7\n", "list.txt:1: a file name"),
        ("gone.png 1\n", "gone.png does not exist"),
        ("../list.txt 1\n", "cannot be decoded as an image"),
    ],
)
def test_a_list_that_is_wrong_is_refused(
    pictures: Path, capsys: pytest.CaptureFixture[str], listed: str, reason: str
) -> None:
    (pictures.parent / "list.txt").write_text(listed)
    out = pictures.parent / "out"
    assert images_to_lmdb.main([str(pictures), str(pictures.parent / "list.txt"), str(out)]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in pictures.parent.iterdir()) == ["list.txt", "pictures"]


@pytest.mark.parametrize("size", ["5", "x", "0x4", "5x-1"])
def test_a_size_must_be_two_numbers(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        images_to_lmdb.main(["root", "list", "out", "--resize", size])
    assert caught.value.code == 2
    assert "is no size: give height x width" in capsys.readouterr().err


def test_the_mean_image_is_written(small_lmdb: SmallLMDB, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), dtype=np.uint8)
    out = tmp_path / "mean.binaryproto"
    assert compute_mean.main([str(small_lmdb(images)), str(out)]) == 0
    np.testing.assert_array_equal(read_mean(str(out)), images.mean(axis=0, dtype=np.float64).astype(np.float32))
    assert "mean image of 3 x 4 x 5; mean_value of each channel: " in capsys.readouterr().out


def test_images_of_several_shapes_have_no_mean(
    small_lmdb: SmallLMDB, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_lmdb([from_array(np.zeros(shape, np.uint8), 0) for shape in ((1, 2, 2), (1, 2, 3))])
    assert compute_mean.main([str(path), str(tmp_path / "mean")]) == 2
    assert "record 00000001 of LMDB" in capsys.readouterr().err
    assert compute_mean.main([str(tmp_path / "gone"), str(tmp_path / "mean")]) == 2
    assert "does not exist" in capsys.readouterr().err
