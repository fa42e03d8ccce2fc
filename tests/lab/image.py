"""The machine image of the lab: this machine's own files, and over them what makes an Ubuntu of EC2 of them.

Python's environment is this run's own with our wheel in it, as the kit would make it: a kit with torch in it is
gigabytes to copy for each node.
"""

import compileall
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bootstrap.java import find_java
from tests.fixtures import quick_java
from tests.lab.network import run

USER = "ubuntu"
VENV = "/opt/cos/venv"
PROGRAMS = "usr/local/lib/lab"
# Folders of a disk: what is written to it, what the overlay needs beside, and where it is mounted.
DISK = ("upper", "work", "root")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HERE = Path(__file__).resolve().parent
_FIXTURES = _HERE.parent / "fixtures"
_SSHD = """
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM no
Subsystem sftp internal-sftp
"""
# The last argument says when: `now`, `+MINUTES`, or `-c` for never.
_SHUTDOWN = """#!/bin/sh
for when; do :; done
[ -f /run/shutdown ] && kill "$(cat /run/shutdown)" 2> /dev/null
rm -f /run/shutdown
case $when in
    now) kill -TERM 1 ;;
    +*) setsid sh -c 'echo $$ > /run/shutdown; sleep "$(($0 * 60))"; kill -TERM 1' "${when#+}" \\
        < /dev/null > /dev/null 2>&1 & ;;
esac
exit 0
"""
# Spark's, as a JVM has parsed them: one a node takes turns on this machine's cores.
_CLASSES = "/opt/cos/classes.jsa"
# In a mount namespace of its own.
_INSIDE = """
set -e
mount --make-rprivate /
mount -t overlay overlay -o lowerdir={image}:/,upperdir={disk}/upper,workdir={disk}/work {disk}/root
mount --rbind /dev {disk}/root/dev
mount -t tmpfs tmpfs {disk}/root/tmp
mount -t proc proc {disk}/root/proc
mount -t overlay overlay -o lowerdir={venv}:{prefix} {disk}/root{target}
{more}
exec chroot {disk}/root /usr/bin/env -i {environment} {command}
"""
_WALL = """#!/bin/sh
echo "$*" >> /var/log/wall
"""


class Image(NamedTuple):
    """Folders of which an instance's root is laid.

    Attributes:
        root: Lies over this machine's `/`.
        venv: Lies over this run's Python environment.
    """

    root: Path
    venv: Path


def inside(image: Image, disk: Path, environment: Mapping[str, str], command: Sequence[str], more: str = "") -> str:
    """A shell script that does a command where an instance is, for a mount namespace of its own.

    Args:
        image: What the instance boots from.
        disk: Has the folders :data:`DISK`; its root is `disk/root`.
        environment: Of the command.
        command: In the instance's own paths.
        more: What is to be done before.
    """
    return _INSIDE.format(
        image=image.root,
        venv=image.venv,
        prefix=sys.prefix,
        target=VENV,
        disk=disk,
        more=more,
        environment=" ".join(shlex.quote(f"{name}={value}") for name, value in environment.items()),
        command=shlex.join(command),
    )


def build(folder: Path, wheel: Path) -> Image:
    """Make the image in an empty folder.

    Args:
        folder: Where.
        wheel: Ours, as the kit has it.
    """
    image = Image(folder / "root", folder / "venv")
    _user(folder, image.root)
    _write(image.root / "etc/sudoers.d/90-ubuntu", f"{USER} ALL=(ALL) NOPASSWD:ALL\n", 0o440)
    _write(image.root / "etc/ssh/sshd_config", _SSHD)
    _write(image.root / "etc/resolv.conf", "")
    _write(image.root / "usr/local/sbin/shutdown", _SHUTDOWN, 0o755)
    _write(image.root / "usr/local/bin/wall", _WALL, 0o755)
    programs = image.root / PROGRAMS
    programs.mkdir(parents=True)
    for source in (_HERE / "init.py", _FIXTURES / "systemctl.py", _FIXTURES / "cloud_init.py"):
        shutil.copy(source, programs)
    (programs / "systemctl.py").chmod(0o755)
    (image.root / "usr/bin").mkdir(parents=True)
    (image.root / "usr/bin/systemctl").symlink_to(f"/{PROGRAMS}/systemctl.py")  # over this machine's
    _environment(image.venv, wheel)
    (image.root / VENV.lstrip("/")).mkdir(parents=True)
    _java(folder / "java", image)
    return image


def _user(folder: Path, upper: Path) -> None:
    """The user that Ubuntu's images have, made by the system's own tool; and no host keys of this machine's."""
    root, work = folder / "mounted", folder / "work"
    for path in (root, work, upper):
        path.mkdir()
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", str(root))
    try:
        for key in (root / "etc/ssh").glob("ssh_host_*"):
            key.unlink()
        subprocess.run(["chroot", root, "userdel", USER], capture_output=True, check=False, timeout=60)
        run("chroot", str(root), "useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", USER)
        _python(root)
    finally:
        run("umount", str(root))


def _python(root: Path) -> None:
    """This run's Python as the image's, for everybody: it may lie in the home of a developer."""
    python = Path(sys.executable).resolve()
    for folder in python.parents:
        below = root / folder.relative_to("/")
        below.chmod(below.stat().st_mode | 0o011)
    link = root / "usr/local/bin/python3"
    link.unlink(missing_ok=True)
    link.symlink_to(python)


def _java(folder: Path, image: Image) -> None:
    """The launcher in place of this machine's, which programs find by more ways than `PATH`."""
    home = find_java()
    java = (home / "bin/java").resolve()
    classes = image.root / _CLASSES.lstrip("/")
    classes.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(quick_java.kept(home, Path(VENV), partial(_parse, folder, image, home)), classes)
    place = image.root / java.relative_to("/")
    _write(place, quick_java.launcher(f"{java}.real", Path(_CLASSES)), 0o755)
    shutil.copy(java, f"{place}.real")
    (image.root / "usr/local/bin/java").symlink_to(java)


def _parse(folder: Path, image: Image, home: Path, archive: Path) -> None:
    """Make the archive as an instance would, whose Spark lies elsewhere than this run's."""
    for name in DISK:
        (folder / name).mkdir(parents=True)
    python = f"{VENV}/bin/python"
    environment = {"PATH": PATH, "JAVA_HOME": str(home), "PYSPARK_PYTHON": python, "SPARK_LOCAL_IP": "127.0.0.1"}
    script = inside(image, folder, environment, quick_java.archive_command(python, Path(_CLASSES)))
    subprocess.run(["unshare", "--mount", "sh", "-c", script], check=True, capture_output=True, timeout=300)
    shutil.move(folder / "upper" / _CLASSES.lstrip("/"), archive)


def _environment(folder: Path, wheel: Path) -> None:
    """Our wheel, and nothing that leads to this checkout."""
    here = Path(sys.prefix)
    packages = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    packages.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # Who runs there may not write here, and would compile each time: our wheel, and what this machine has not used yet.
    compileall.compile_dir(packages, quiet=1)
    used = "import cos_runtime.main, cos_runtime.engine.train"
    subprocess.run(
        [sys.executable, "-c", used], env={**os.environ, "PYTHONPATH": str(packages)}, check=True, timeout=120
    )
    for path in (here / packages.relative_to(folder)).glob("_*cos*.pth"):
        (packages / path.name).touch()


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.chmod(path, mode)
