"""Files elsewhere: whole or not at all, and a sentence where they are out of reach."""

import errno
import os
from pathlib import Path

import fsspec
import pyarrow.fs
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper

from cos_runtime import storage
from cos_runtime.errors import UserError


class LikeHdfs(ArrowFSWrapper):
    """As fsspec reaches HDFS, over local files: it renames to no name that is taken, and its disks may be full."""

    is_full = False

    def __init__(self, **options: object) -> None:
        super().__init__(pyarrow.fs.LocalFileSystem(), **options)

    def mv(self, path1, path2, **kwargs):
        if self.exists(path2):
            raise FileExistsError(path2)
        super().mv(path1, path2, **kwargs)

    def _open(self, path, mode="rb", **kwargs):
        file = super()._open(path, mode, **kwargs)
        if mode == "wb" and LikeHdfs.is_full:
            file.close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return file


fsspec.register_implementation("likehdfs", LikeHdfs, clobber=True)


def test_a_filesystem_that_writes_under_the_final_name_shows_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, local = f"likehdfs://{tmp_path}/new/model", tmp_path / "new" / "model"
    storage.write_bytes(path, b"old")
    storage.write_bytes(path, b"second")
    monkeypatch.setattr(LikeHdfs, "is_full", True)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(path, b"third")
    assert [each.name for each in local.parent.iterdir()] == ["model"]
    assert local.read_bytes() == b"second"


@pytest.mark.parametrize(
    ("path", "base", "found"),
    [
        ("../n.prototxt", "s3://b/conf", "s3://b/n.prototxt"),
        ("./a/../n.prototxt", "hdfs:///conf/", "hdfs:///conf/n.prototxt"),
        ("../../../n.prototxt", "s3://b/conf", "s3://b/n.prototxt"),
        ("n.prototxt", "s3://b", "s3://b/n.prototxt"),
    ],
)
def test_dots_lead_to_another_folder_of_a_store(path: str, base: str, found: str):
    assert storage.resolve(path, base) == found


@pytest.mark.parametrize("read", [storage.exists, storage.is_folder, storage.names, storage.read_bytes])
def test_what_hdfs_needs_is_said(read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HADOOP_HOME", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError, match="hdfs:///data is out of reach: .*HADOOP_HOME and CLASSPATH") as told:
        read("hdfs:///data")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("read", [storage.exists, storage.is_folder, storage.names, storage.read_bytes])
def test_s3_without_credentials_is_refused(read, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(UserError, match="s3://no-such-bucket/x .*: Unable to locate credentials"):
        read("s3://no-such-bucket/x")
    fsspec.filesystem("s3").clear_instance_cache()


def test_a_file_below_a_file(tmp_path: Path):
    (tmp_path / "file").touch()
    path = f"{tmp_path}/file/solver"
    with pytest.raises(UserError, match=f"solver {path} cannot be read: Not a directory"):
        storage.read_bytes(path, "solver")
