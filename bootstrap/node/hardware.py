"""Whether a node has what its instance type promises: driver, GPUs, EFA interfaces, NVMe, memory.

A node that falls short is replaced, not repaired, and must say so before a job runs on it: training over what is left
works, slowly and without a word.
"""

import json
import logging
import os
import re
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bootstrap.node.plan import NodeHardware

# The check of p5en: its EFA devices appear late (awslabs' health check asks again after 5 s, three times).
EFA_TRIES = 4
EFA_PAUSE_SECONDS = 5.0
MEMLOCK_BYTES = 16 << 30  # what libfabric's EFA provider asks for
INSTANCE_STORE = "Amazon EC2 NVMe Instance Storage"
_MEMORY_SHARE = 0.9  # the kernel, its crash dump and the firmware take the rest
_DISK_SHARE = 0.9  # GB and GiB are mixed up often enough
_ANSWER_SECONDS = 60.0  # nvidia-smi without its persistence daemon wakes every GPU
# Types whose GPUs talk over NVSwitch, which the fabric manager sets up; CUDA refuses to start without it.
_NVSWITCH = re.compile(r"(p4d|p4de|p5|p5e|p5en|p6-b200|p6-b300)\.(24|48)xlarge")


class Shortage(NamedTuple):
    """Something a node lacks."""

    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.what}: {self.expected} expected, {self.found} found"


class Disk(NamedTuple):
    """A block device of the instance store."""

    path: str
    size: int


def shortages(expected: NodeHardware, memory_info: Path = Path("/proc/meminfo")) -> list[Shortage]:
    """All that a node lacks of what its type promises; nothing where all is well."""
    checks: tuple[Callable[[], list[Shortage]], ...] = (
        lambda: _processors(expected.vcpus),
        lambda: _memory(expected.memory_mib, memory_info),
        lambda: _gpus(expected.gpus, expected.gpu_name),
        lambda: _fabric_manager(expected.instance_type),
        lambda: _efa(expected.efa_interfaces),
        lambda: _memlock(expected.efa_interfaces),
        lambda: _nvme(expected.nvme_gb),
    )
    return [shortage for check in checks for shortage in check()]


def instance_store() -> list[Disk]:
    """The NVMe devices of the instance store, by name; EBS volumes are NVMe devices too, of another model."""
    listed = _ask(["lsblk", "--json", "--bytes", "--nodeps", "--output", "PATH,SIZE,MODEL"])
    devices = json.loads(listed)["blockdevices"] if listed else []
    found = [Disk(entry["path"], int(entry["size"])) for entry in devices if INSTANCE_STORE in (entry["model"] or "")]
    return sorted(found)


def _processors(expected: int) -> list[Shortage]:
    found = os.cpu_count() or 0
    return [Shortage("vCPUs", str(expected), str(found))] if found < expected else []


def _memory(expected_mib: int, info: Path) -> list[Shortage]:
    found_mib = memory_mib(info)
    if found_mib >= expected_mib * _MEMORY_SHARE:
        return []
    return [Shortage("memory", f"{expected_mib} MiB", f"{found_mib} MiB")]


def memory_mib(info: Path = Path("/proc/meminfo")) -> int:
    """The memory that Linux has, in MiB."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", info.read_text(), re.MULTILINE)
    return int(total[1]) // 1024 if total else 0


def _gpus(expected: int, name: str) -> list[Shortage]:
    if not expected:
        return []
    listed = _ask(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    if listed is None:
        return [Shortage("NVIDIA driver", "one that answers", "nvidia-smi is not there or fails")]
    models = [line.strip() for line in listed.splitlines() if line.strip()]
    found = [model for model in models if name.lower() in model.lower()]
    if len(found) >= expected:
        return []
    return [Shortage("GPUs", f"{expected} {name}".strip(), _listing(models))]


def _listing(models: list[str]) -> str:
    """Models with their numbers, as `7 NVIDIA A100-SXM4-40GB`."""
    return ", ".join(f"{models.count(model)} {model}" for model in sorted(set(models))) or "none"


def _fabric_manager(instance_type: str) -> list[Shortage]:
    if not _NVSWITCH.fullmatch(instance_type):
        return []
    state = _ask(["systemctl", "show", "--value", "--property", "ActiveState", "nvidia-fabricmanager"]) or "unknown"
    if state.strip() == "active":
        return []
    return [Shortage("nvidia-fabricmanager", "active", state.strip())]


def _efa(expected: int) -> list[Shortage]:
    if not expected:
        return []
    found = efa_interfaces()
    for _ in range(EFA_TRIES - 1):
        if found >= expected:
            return []
        time.sleep(EFA_PAUSE_SECONDS)
        found = efa_interfaces()
    return [] if found >= expected else [Shortage("EFA interfaces", str(expected), str(found))]


def efa_interfaces() -> int:
    """EFA interfaces that libfabric can use; the devices on the bus where its tool is missing."""
    providers = _ask(["fi_info", "-p", "efa", "-t", "FI_EP_RDM"])
    if providers is not None:
        return len(set(re.findall(r"^\s*domain:\s*(\S+)", providers, re.MULTILINE)))
    devices = _ask(["lspci"]) or ""
    return len(re.findall(r"Elastic Fabric Adapter", devices))


def _memlock(efa: int) -> list[Shortage]:
    """EFA registers memory for RDMA, which has to stay where it is; as root we may raise our own limit and see."""
    if not efa:
        return []
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        if hard < MEMLOCK_BYTES:
            return [Shortage("memlock limit", f"{MEMLOCK_BYTES} bytes", f"{hard} bytes")]
    return []


def _nvme(expected_gb: int) -> list[Shortage]:
    if not expected_gb:
        return []
    disks = instance_store()
    if sum(disk.size for disk in disks) >= expected_gb * 1e9 * _DISK_SHARE:
        return []
    found = f"{sum(disk.size for disk in disks) / 1e9:.0f} GB on {len(disks)} devices"
    return [Shortage("NVMe instance store", f"{expected_gb} GB", found)]


def _ask(command: list[str]) -> str | None:
    """What a program says, None where it is missing, fails or does not answer."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True, errors="replace"
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        logging.getLogger("hardware").info("%s: %s", command[0], error)
        return None
