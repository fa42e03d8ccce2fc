"""One instance of the lab: namespaces with a root, processes, a hostname and a network of their own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.instances import facts
from tests.fixtures.metadata import MetadataServer
from tests.lab import network
from tests.lab.image import DISK, PATH, PROGRAMS, VENV, Image, inside

IMDS = "169.254.169.254"
STOP_SECONDS = 12.0
_CREDENTIALS = {"AccessKeyId": "testing", "SecretAccessKey": "testing", "Token": "testing"}
# Before its first process: what firmware and kernel do.
_HARDWARE = """
mount --rbind /sys {disk}/root/sys
mount -t tmpfs tmpfs {disk}/root/dev/shm
mount -t tmpfs tmpfs {disk}/root/run
mount --bind {disk}/hardware/meminfo {disk}/root/proc/meminfo
mount --bind {disk}/hardware/cpus {disk}/root/sys/devices/system/cpu/online
mount --bind {disk}/console {disk}/root/dev/console
hostname {name}
"""


class Machine:
    """An instance that runs or is stopped; its disk stays until it is removed.

    Args:
        instance: EC2's description of it.
        folder: For its disk and its console.
        prefix: Of namespaces' names; the bridge is in that of this name.
        image: What it boots from.
        scale: The lab's bandwidth for each Gbit/s of the type's, in Mbit/s.
        lacking: What of its type's hardware is not there: `gpus` and `efa_interfaces` by number.
    """

    def __init__(
        self,
        instance: Mapping[str, Any],
        folder: Path,
        *,
        prefix: str,
        image: Image,
        scale: float,
        lacking: Mapping[str, int],
    ) -> None:
        self.id = str(instance["InstanceId"])
        self.folder = folder
        self.namespace = f"{prefix}-{self.id}"
        self.interface = f"v{self.id[-12:]}"
        self._image = image
        self._address = str(instance["PrivateIpAddress"])
        self._type = facts(str(instance["InstanceType"]))
        self._process: subprocess.Popen[bytes] | None = None
        self._addresses: set[str] = set()
        self._rules: tuple[network.Rule, ...] = ()
        for name in (*DISK, "hardware"):
            (folder / name).mkdir(parents=True)
        (folder / "console").touch()
        self._pretend(lacking)
        speed = self._type.network_gbps * scale
        network.attach(self.namespace, prefix, self.interface, [self._address], speed)
        network.run("ip", "-n", self.namespace, "address", "replace", f"{IMDS}/32", "dev", "lo")
        network.let_in(self.namespace, self._rules)  # nothing
        with network.entered(self.namespace):  # a socket stays where it was made
            self.metadata = MetadataServer((IMDS, 80))
        self.metadata.__enter__()

    @property
    def is_on(self) -> bool:
        """Whether its first process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its first process, as this machine numbers it."""
        if self._process is None or not self.is_on:
            return None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def power_on(self) -> None:
        """Boot."""
        environment = {"PATH": PATH, "COS_PYTHON": f"{VENV}/bin/python", "AWS_ENDPOINT_URL": f"http://{network.AWS}"}
        hardware = _HARDWARE.format(disk=self.folder, name=self.name)
        script = inside(self._image, self.folder, environment, ["python3", f"/{PROGRAMS}/init.py"], hardware)
        unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL"]
        with (self.folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *unshare, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def power_off(self, seconds: float = STOP_SECONDS) -> None:
        """Ask it to shut down, and pull the plug where it has not after the seconds."""
        deadline = time.monotonic() + seconds
        pid = self.pid
        if pid is not None and seconds:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            while self.is_on and time.monotonic() < deadline:
                time.sleep(0.05)
        if self._process is not None:
            if self.is_on:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
            self._process = None

    def remove(self) -> None:
        """End it for good, with its disk."""
        self.power_off(0.0)
        self.metadata.__exit__()
        network.remove(self.namespace)
        shutil.rmtree(self.folder / "upper", ignore_errors=True)
        shutil.rmtree(self.folder / "work", ignore_errors=True)

    def tell(self, instance: Mapping[str, Any], user_data: str, public_key: str) -> None:
        """Let its metadata be what EC2 knows of it now, beside a spot notice."""
        notice = {name: text for name, text in self.metadata.entries.items() if name.startswith("meta-data/spot/")}
        tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
        self.metadata.entries = {
            **notice,
            "user-data": user_data,
            "meta-data/instance-id": self.id,
            "meta-data/instance-type": self._type.name,
            "meta-data/local-ipv4": self._address,
            "meta-data/public-keys/0/openssh-key": public_key,
            "meta-data/iam/security-credentials/": "node",
            "meta-data/iam/security-credentials/node": json.dumps(_CREDENTIALS),
            **{f"meta-data/tags/instance/{name}": value for name, value in tags.items()},
        }

    def be_reached(self, public: set[str], rules: tuple[network.Rule, ...]) -> None:
        """Have these public addresses, and let in what these rules do."""
        for address in public ^ self._addresses:
            network.set_address(self.namespace, address, there=address in public)
        self._addresses = set(public)
        if rules != self._rules:
            network.let_in(self.namespace, rules)
            self._rules = rules

    @property
    def name(self) -> str:
        """Its hostname, as EC2 makes it of the address."""
        return f"ip-{self._address.replace('.', '-')}"

    def _pretend(self, lacking: Mapping[str, int]) -> None:
        """The hardware of its type, where this machine has other."""
        kind, upper, hardware = self._type, self.folder / "upper", self.folder / "hardware"
        (hardware / "cpus").write_text(f"0-{kind.vcpus - 1}\n")
        memory = f"MemTotal: {kind.memory_mib * 1024} kB\n"
        rest = Path("/proc/meminfo").read_text().splitlines(keepends=True)[1:]
        (hardware / "meminfo").write_text(memory + "".join(rest))
        (upper / "etc").mkdir(parents=True)
        (upper / "etc/hosts").write_text(f"127.0.0.1 localhost\n{self._address} {self.name}\n")
        gpus = kind.gpus - lacking.get("gpus", 0)
        efas = kind.efa_interfaces - lacking.get("efa_interfaces", 0)
        if kind.gpus:
            names = "\n".join([f"NVIDIA {kind.gpu_name}"] * gpus)
            numbers = "\n".join(map(str, range(gpus)))
            self._program("nvidia-smi", f'case "$*" in *index*) echo "{numbers}" ;; *) echo "{names}" ;; esac')
        if kind.efa_interfaces:
            domains = "\n".join(f"    domain: rdmap{number}s27-rdm" for number in range(efas))
            self._program("fi_info", f'echo "provider: efa\n{domains}"')

    def _program(self, name: str, script: str) -> None:
        path = self.folder / "upper/usr/local/bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
