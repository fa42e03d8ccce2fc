"""Scratch space for Spark: the instance store's NVMe devices as one striped volume.

Instance store is empty after a stop, and keeps what it had after a reboot; both end in the same mount here.
"""

import logging
import os
import subprocess
from pathlib import Path

from bootstrap.node.hardware import Disk, instance_store
from bootstrap.node.layout import Layout

DLAMI_MOUNT = Path("/opt/dlami/nvme")  # where Deep Learning AMIs mount the same devices themselves
_GROUP = "cos"
_VOLUME = "scratch"
_STRIPE_KIB = 256
_SECONDS = 300.0

_log = logging.getLogger("scratch")


def prepare(layout: Layout, dlami: Path = DLAMI_MOUNT) -> Path:
    """The directory for scratch, a link to the NVMe where the node has some.

    Raises:
        subprocess.SubprocessError: LVM or mkfs refuses; the log has what they said.
    """
    if os.path.ismount(dlami):
        return _link(layout.scratch, dlami / "cos")
    disks = instance_store()
    if not disks:
        return _link(layout.scratch, layout.state / "scratch-on-root")
    if not os.path.ismount(layout.nvme):
        _mount(_volume(disks), layout.nvme)
    return _link(layout.scratch, layout.nvme)


def _volume(disks: list[Disk]) -> str:
    """The striped volume's device; made anew where the devices are blank."""
    device = f"/dev/{_GROUP}/{_VOLUME}"
    if subprocess.run(["lvs", f"{_GROUP}/{_VOLUME}"], capture_output=True, check=False, timeout=_SECONDS).returncode:
        paths = [disk.path for disk in disks]
        _run(["vgcreate", "--yes", _GROUP, *paths])
        striped = ["--stripes", str(len(paths)), "--stripesize", f"{_STRIPE_KIB}k"]
        _run(
            ["lvcreate", "--yes", "--wipesignatures", "y", "--extents", "100%FREE", *striped, "--name", _VOLUME, _GROUP]
        )
        # Without discard and with the tables written later: 30 TB are formatted in seconds.
        _run(["mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard,lazy_itable_init=1", device])
    else:
        _run(["vgchange", "--activate", "y", _GROUP])
    return device


def _mount(device: str, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    _run(["mount", "--options", "noatime,discard", device, str(directory)])


def _link(link: Path, directory: Path) -> Path:
    """Point the link to the directory, which is made where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    beside = link.with_name(f".{link.name}.part")
    beside.unlink(missing_ok=True)
    beside.symlink_to(directory)
    beside.replace(link)
    return link


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
    except subprocess.CalledProcessError as error:
        _log.error("%s: %s", " ".join(command), error.stderr.strip())
        raise
