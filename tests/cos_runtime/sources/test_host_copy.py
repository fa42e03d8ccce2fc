"""Remote files fetched once a host."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cos_runtime.errors import UserError
from cos_runtime.sources.host_copy import host_copy

URL = "memory://host_copy/data.mdb"


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/host_copy/data.mdb", b"content")
    yield tmp_path
    filesystem.rm("/host_copy", recursive=True)


def test_processes_that_ask_at_once_fetch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def slow(self: MemoryFileSystem, name: str, target: str) -> None:
        fetched.append(name)
        Path(target).write_bytes(b"con")
        time.sleep(0.2)
        Path(target).write_bytes(b"content")

    monkeypatch.setattr(MemoryFileSystem, "get_file", slow)
    with ThreadPoolExecutor(4) as pool:
        copies = list(pool.map(lambda _: Path(host_copy(URL, "LMDB")).read_bytes(), range(4)))
    assert copies == [b"content"] * 4
    assert len(fetched) == 1


def test_a_fetch_that_was_cut_off_is_made_again(monkeypatch: pytest.MonkeyPatch, host: Path) -> None:
    def cut_off(self: MemoryFileSystem, name: str, target: str) -> None:
        Path(target).write_bytes(b"con")
        raise ConnectionResetError("the line is down")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", cut_off)
        with pytest.raises(UserError, match=f"LMDB {URL} cannot be fetched: the line is down"):
            host_copy(URL, "LMDB")
    assert Path(host_copy(URL, "LMDB")).read_bytes() == b"content"
    assert not list(host.rglob("*.part"))


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="LMDB memory://host_copy/gone does not exist"):
        host_copy("memory://host_copy/gone", "LMDB")


def test_another_users_folder_is_not_trusted(monkeypatch: pytest.MonkeyPatch, host: Path) -> None:
    user = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: user)
    with pytest.raises(UserError, match=f"{host}/cos-{user} belongs to another user"):
        host_copy(URL, "LMDB")
