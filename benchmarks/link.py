"""A host at the other end of a link: a network namespace with an OpenSSH server. It needs root."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from benchmarks.mnist import scratch
from bootstrap.ssh.address import Address
from bootstrap.ssh.host_keys import HostKey

_HERE, _THERE, _PORT = "10.213.7.1", "10.213.7.2", 2222
_START_SECONDS = 10.0
_CONFIG = """
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/id_ed25519.pub
PasswordAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class FarHost:
    """The host.

    Attributes:
        folder: Its files; the two hosts share the disk.
        address: As the launcher knows nodes.
    """

    folder: Path
    address: Address

    def scp(self, source: str, target: str) -> None:
        """Copy by OpenSSH's own program; a path there begins with ``far:``."""
        options = ["-q", "-P", str(_PORT), "-i", str(self.address.key_file), "-o", "BatchMode=yes"]
        options += ["-o", f"UserKnownHostsFile={self.folder}/known_hosts", "-o", "GlobalKnownHostsFile=/dev/null"]
        ends = [end.replace("far:", f"{self.address.user}@{_THERE}:", 1) for end in (source, target)]
        subprocess.run(["scp", *options, *ends], check=True, timeout=600, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def far_host(megabits: int) -> Iterator[FarHost]:
    """One behind a link of this many Mbit/s each way, shaped by tc's token bucket."""
    folder = scratch() / uuid4().hex
    folder.mkdir()
    for name in ("host_key", "id_ed25519"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", str(folder / name))
    (folder / "config").write_text(_CONFIG.format(port=_PORT, address=_THERE, folder=folder))
    host_key = HostKey.parse((folder / "host_key.pub").read_text())
    (folder / "known_hosts").write_text(f"[{_THERE}]:{_PORT} {' '.join(host_key)}\n")
    address = Address("far", _THERE, getpass.getuser(), (host_key,), port=_PORT, key_file=folder / "id_ed25519")
    with _link(megabits) as space, _sshd(space, folder / "config"), _on_a_core_of_ones_own():
        yield FarHost(folder, address)


@contextlib.contextmanager
def _link(megabits: int) -> Iterator[str]:
    space = f"cos-bench-{os.getpid()}"
    near, far = f"cosb{os.getpid() % 100000}", "far0"
    _run("ip", "netns", "add", space)
    try:
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        _run("ip", "address", "add", f"{_HERE}/30", "dev", near)
        _run("ip", "link", "set", near, "up")
        inside = ("ip", "netns", "exec", space)
        _run(*inside, "ip", "address", "add", f"{_THERE}/30", "dev", far)
        _run(*inside, "ip", "link", "set", far, "up")
        # What laptops and nodes use by default. BBR takes the bucket's first packets for the link's own speed.
        _run(*inside, "ip", "route", "replace", f"{_HERE}/32", "dev", far, "congctl", "cubic")
        _run("ip", "route", "replace", f"{_THERE}/32", "dev", near, "congctl", "cubic")
        shape = ("root", "tbf", "rate", f"{megabits}mbit", "burst", "256kb", "latency", "50ms")
        _run("tc", "qdisc", "add", "dev", near, *shape)
        _run(*inside, "tc", "qdisc", "add", "dev", far, *shape)
        yield space
    finally:
        # A namespace lets go of its links some time after it is deleted: the name would be taken meanwhile.
        _run("ip", "netns", "exec", space, "ip", "link", "delete", far)
        _run("ip", "netns", "delete", space)


@contextlib.contextmanager
def _on_a_core_of_ones_own() -> Iterator[None]:
    """Keep this side off the last core, which is the other host's: a real one takes none of ours."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - {max(before)} or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _sshd(space: str, config: Path) -> Iterator[None]:
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise SystemExit("there is no sshd on this machine: install OpenSSH's server")
    core = str(max(os.sched_getaffinity(0)))
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd separates its privileges
    process = subprocess.Popen(
        ["ip", "netns", "exec", space, "taskset", "--cpu-list", core, program, "-D", "-f", str(config)]
    )
    try:
        _wait_for_port(process)
        yield
    finally:
        process.terminate()
        process.wait(_START_SECONDS)


def _wait_for_port(process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((_THERE, _PORT), 1.0):
            return
        time.sleep(0.05)
    raise SystemExit("the server at the other end of the link did not start")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=30)
