import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from bootstrap.errors import LaunchError
from bootstrap.host import Host
from bootstrap.local_host import LocalFiles
from bootstrap.ssh.connection import Connection
from bootstrap.ssh.host import SshHost
from bootstrap.transfer import Copied, copy
from tests.fixtures.sshd import Server, Wire

LARGE = 8_000_000


def test_files_go_there_and_back_once(host: Host, tmp_path: Path) -> None:
    names = ["a", "of length zero", "ümlaut '\" $x"]
    here, there, back = (tmp_path / name for name in ("here", "there/new folder", "back"))
    here.mkdir()
    for name in names:
        (here / name).write_bytes(b"" if "zero" in name else name.encode() * 50_000)
    size = sum(file.stat().st_size for file in here.iterdir())
    forth = {str(here / name): str(there / name) for name in names}
    assert copy(LocalFiles(), host.files, forth) == Copied(3, 0, size)
    assert copy(LocalFiles(), host.files, forth) == Copied(0, 3, 0)
    assert host.files.tree(str(there)) == {name: (here / name).stat().st_size for name in names}
    assert host.files.tree(str(there / "a")) == {"": 50_000}
    copy(host.files, LocalFiles(), {str(there / name): str(back / name) for name in names})
    assert {file.name: file.read_bytes() for file in back.iterdir()} == {n: (here / n).read_bytes() for n in names}


def test_a_changed_file_takes_the_place_of_the_old_one(host: Host, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"old")
    copy(LocalFiles(), host.files, {str(source): str(target)})
    source.write_bytes(b"the new one")
    assert copy(LocalFiles(), host.files, {str(source): str(target)}).files == 1
    assert target.read_bytes() == b"the new one"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source", "target"]


def test_a_file_that_is_not_there(host: Host, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        copy(host.files, LocalFiles(), {str(tmp_path / "missing"): str(tmp_path / "x")})
    with pytest.raises(FileNotFoundError):
        host.files.read(str(tmp_path / "missing"), 0)
    with pytest.raises(FileNotFoundError):
        host.files.tree(str(tmp_path / "missing"))
    assert host.files.size(str(tmp_path / "missing")) is None
    host.files.remove(str(tmp_path / "missing"))


def test_what_lies_beside_is_gone_on_with_or_replaced(host: Host, tmp_path: Path) -> None:
    source, content = tmp_path / "source", os.urandom(100_000)
    source.write_bytes(content)
    checksum = LocalFiles().checksums([str(source)])[str(source)]
    for left in (content[:60_000], b"x" * 60_000, content + b"too long"):
        (tmp_path / f".target.{checksum[:16]}.part").write_bytes(left)
        (tmp_path / "target").unlink(missing_ok=True)
        copy(LocalFiles(), host.files, {str(source): str(tmp_path / "target")})
        assert (tmp_path / "target").read_bytes() == content


@pytest.mark.parametrize("size", [20, LARGE])
def test_several_copy_the_same_at_once(size: int, sshd: Server, tmp_path: Path) -> None:
    source, content = tmp_path / "source", os.urandom(size)
    source.write_bytes(content)
    with ExitStack() as open_, ThreadPoolExecutor(4) as threads:
        connections = [open_.enter_context(Connection(sshd.address())) for _ in range(4)]
        for attempt in range(20 if size < 100 else 3):
            target = tmp_path / f"target {attempt}" / "new" / "file"
            copies = [
                threads.submit(copy, LocalFiles(), SshHost(connection).files, {str(source): str(target)})
                for connection in connections
            ]
            assert {copied.result().files for copied in copies} <= {0, 1}
            assert target.read_bytes() == content
            assert [file.name for file in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_cut_connection_is_gone_on_with(direction: str, sshd: Server, wire: Wire, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(LARGE))
    told: list[int] = []
    with Connection(sshd.address(port=wire.port)) as connection:
        connection.transport()
        files = SshHost(connection).files
        wire.cut_after(LARGE // 2)
        ends = (LocalFiles(), files) if direction == "push" else (files, LocalFiles())
        # Patience counts from the cut: until then a transfer may have taken longer than that.
        copied = copy(*ends, {str(source): str(target)}, told=lambda _, count: told.append(count), seconds=0.001)
        wire.cut_after(LARGE // 4)
        assert copy(*ends, {str(source): str(target)}).skipped == 1
    assert wire.cuts == 1
    assert copied == Copied(1, 0, LARGE)
    assert target.read_bytes() == source.read_bytes()
    assert sum(told) == LARGE
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source", "target"]


def test_a_place_that_cannot_be_written(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "source").write_text("x")
    with pytest.raises(LaunchError, match="file"):
        copy(LocalFiles(), host.files, {str(tmp_path / "source"): str(tmp_path / "file" / "target")}, seconds=1.0)
