"""Scratch space: which commands make it, and that another boot makes nothing anew."""

import os
import subprocess
from pathlib import Path

import pytest

from bootstrap.node import scratch
from bootstrap.node.layout import Layout
from tests.bootstrap.node.stand_ins import Programs

STORE = '{"path": "/dev/nvme%dn1", "size": 900000000000, "model": "Amazon EC2 NVMe Instance Storage"}'
LVM = ("vgcreate", "lvcreate", "vgchange", "mkfs.ext4", "mount")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "root")


def disks(programs: Programs, count: int) -> None:
    listed = ", ".join(STORE % (n + 1) for n in range(count))
    programs.add("lsblk", f"""echo '{{"blockdevices": [{listed}]}}'""")
    for name in LVM:
        programs.add(name)
    programs.add("lvs", "exit 5")


def test_a_node_without_nvme_uses_its_root(programs: Programs, layout: Layout, tmp_path: Path) -> None:
    disks(programs, 0)
    found = scratch.prepare(layout, tmp_path / "dlami")
    assert found == layout.scratch
    assert found.resolve().is_dir()
    assert not any(programs.calls(name) for name in LVM)


def test_blank_devices_are_striped(programs: Programs, layout: Layout, tmp_path: Path) -> None:
    disks(programs, 2)
    found = scratch.prepare(layout, tmp_path / "dlami")
    assert found.resolve() == layout.nvme
    assert programs.calls("vgcreate") == ["--yes cos /dev/nvme1n1 /dev/nvme2n1"]
    assert "--extents 100%FREE --stripes 2 --stripesize 256k" in programs.calls("lvcreate")[0]
    assert programs.calls("mkfs.ext4")[0].endswith("/dev/cos/scratch")
    assert programs.calls("mount") == [f"--options noatime,discard /dev/cos/scratch {layout.nvme}"]


def test_a_reboot_keeps_what_is_there(programs: Programs, layout: Layout, tmp_path: Path) -> None:
    disks(programs, 2)
    programs.add("lvs")
    scratch.prepare(layout, tmp_path / "dlami")
    assert programs.calls("vgchange") == ["--activate y cos"]
    assert programs.calls("mkfs.ext4") == []
    assert len(programs.calls("mount")) == 1


def test_the_images_own_mount_is_taken(
    programs: Programs, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks(programs, 2)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "dlami")
    assert scratch.prepare(layout, tmp_path / "dlami").resolve() == tmp_path / "dlami/cos"
    assert programs.calls("vgcreate") == []


def test_what_lvm_says_is_logged(
    programs: Programs, layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disks(programs, 1)
    programs.add("vgcreate", "echo 'Cannot use device /dev/nvme1n1' >&2; exit 5")
    with pytest.raises(subprocess.CalledProcessError):
        scratch.prepare(layout, tmp_path / "dlami")
    assert "vgcreate --yes cos /dev/nvme1n1: Cannot use device" in caplog.text
