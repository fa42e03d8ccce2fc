import threading
from pathlib import Path

from bootstrap.follow import follow
from bootstrap.local_host import LocalHost
from bootstrap.ssh.connection import Connection
from bootstrap.ssh.host import SshHost
from tests.fixtures.sshd import Server, Wire


def test_a_file_is_read_to_its_end_from_an_offset(tmp_path: Path) -> None:
    log = tmp_path / "log"
    written = iter([b"one\ntwo\n", b"three\n", b""])

    def write_more(_: float) -> None:
        with log.open("ab") as file:
            file.write(next(written))

    looks = iter([False, False, False, True])  # it is missing at the first look
    assert b"".join(follow(LocalHost(), str(log), lambda: next(looks), offset=4, wait=write_more)) == b"two\nthree\n"


def test_a_stream_outlives_its_connection(sshd: Server, wire: Wire, tmp_path: Path) -> None:
    log, done = tmp_path / "log", threading.Event()
    lines = [f"line {number}\n".encode() for number in range(300)]

    def write() -> None:
        for number, line in enumerate(lines):
            with log.open("ab") as file:
                file.write(line)
            if number % 100 == 50:
                wire.cut()
        done.set()

    with Connection(sshd.address(port=wire.port)) as connection:
        writer = threading.Thread(target=write)
        writer.start()
        got = b"".join(follow(SshHost(connection), str(log), done.is_set, wait=lambda _: None))
        writer.join()
    assert wire.cuts == 3
    assert got == b"".join(lines)
