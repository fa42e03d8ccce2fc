"""The kit: all that a node installs, made on the laptop and brought to the stack's own bucket.

Nodes install wheels offline, so that a mirror that is slow or gone stops no boot, and all nodes of a cluster are alike.
A wheelhouse and not a packed environment: a wheel is uploaded once by its checksum, so that a changed line of ours
costs the upload of our own wheel and not of gigabytes; hashes are checked on the node too; and nothing is relocated.
Spark is PySpark's own distribution in there, which has the daemons as well: one Spark for daemons and applications.
"""

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bootstrap.errors import LaunchError
from bootstrap.node.seed import blob_key, digest

PROJECT = Path(__file__).resolve().parent.parent
EXTRAS = ("runtime", "node")
PYTHON = "3.12"  # Ubuntu 24.04's
JAVA = "17"

_GLIBC = range(39, 16, -1)  # Ubuntu 24.04 has 2.39; wheels name the oldest they run on
_BUILD_SECONDS = 3600.0
_NETWORK_SECONDS = 60.0
_JAVA_MACHINES = {"x86_64": "x64", "aarch64": "aarch64"}


class Kit(NamedTuple):
    """A kit on the laptop's disk.

    Attributes:
        directory: Its files, with manifest.json.
        checksum: The manifest's SHA-256, in hex, by which it is known in a bucket.
    """

    directory: Path
    checksum: str

    @property
    def manifest(self) -> Path:
        """The list of its files with their checksums."""
        return self.directory / "manifest.json"


def build(
    directory: Path,
    *,
    project: Path = PROJECT,
    python: str = PYTHON,
    machine: str = "x86_64",
    extras: Sequence[str] = EXTRAS,
    java: Path | None = None,
) -> Kit:
    """Make a kit in a directory; what is there already from the same lock is taken as it is.

    Args:
        directory: Where it goes.
        project: The project, with pyproject.toml and requirements.lock.
        python: The nodes' Python, as `3.12`.
        machine: The nodes' architecture, as `x86_64` or `aarch64`.
        extras: Extras of the project that the nodes need.
        java: An archive (tar.gz) of a Java runtime for the nodes; without one the image has to bring Java.

    Raises:
        LaunchError: A package cannot be had for the nodes' platform, or a tool is missing.
    """
    wheelhouse = directory / "wheelhouse"
    wheelhouse.mkdir(parents=True, exist_ok=True)
    _fill(wheelhouse, project, python, machine, extras)
    for stale in wheelhouse.glob("cos-*.whl"):
        stale.unlink()
    _run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheelhouse)], project)
    _write(directory / "requirements.lock", _requirements(wheelhouse))
    if java is not None and java.resolve() != (directory / "java.tar.gz").resolve():
        shutil.copyfile(java, directory / "java.tar.gz")
    manifest = {"python": python, "machine": machine, "files": _entries(directory)}
    text = json.dumps(manifest, indent=1)
    _write(directory / "manifest.json", text)
    return Kit(directory, hashlib.sha256(text.encode()).hexdigest())


def objects(directory: Path, root: str) -> list[tuple[str, Path]]:
    """What a kit is in a bucket: keys below the root and the files to store there, the manifest last."""
    text = (directory / "manifest.json").read_bytes()
    prefix = f"{root}/{hashlib.sha256(text).hexdigest()}"
    blobs = {blob_key(prefix, entry["sha256"]): directory / entry["name"] for entry in json.loads(text)["files"]}
    return [*blobs.items(), (f"{prefix}/manifest.json", directory / "manifest.json")]


def fetch_java(directory: Path, machine: str = "x86_64") -> Path:
    """The archive of a Java runtime for the nodes, fetched once.

    Raises:
        LaunchError: It cannot be had; the sentence names the way out.
    """
    path = directory / f"java-{JAVA}-{machine}.tar.gz"
    if path.is_file():
        return path
    way_out = f"put an archive of a Java {JAVA} runtime for Linux on {machine} there as {path}"
    try:
        # A development tool: an installed cos may lack it.
        from jdk import get_download_url  # noqa: PLC0415
    except ImportError:
        raise LaunchError(
            f"The nodes need Java, and install-jdk, which finds one, is not installed: {way_out}."
        ) from None
    url = get_download_url(JAVA, operating_system="linux", arch=_JAVA_MACHINES[machine], jre=True)
    directory.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=_NETWORK_SECONDS) as answer, beside.open("wb") as file:  # noqa: S310
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise LaunchError(f"The nodes need Java, and none could be fetched ({error}): {way_out}.") from None
    beside.replace(path)
    return path


def _locked(project: Path, python: str, machine: str, extras: Iterable[str]) -> str:
    """The part of the lock that the nodes need, with its hashes."""
    wanted = _run(
        [
            *(_uv(), "pip", "compile", "pyproject.toml", "--quiet", "--constraint", "requirements.lock"),
            *(option for extra in extras for option in ("--extra", extra)),
            *("--python-version", python, "--python-platform", f"{machine}-manylinux_2_{_GLIBC[0]}"),
            *("--no-header", "--no-annotate", "--no-emit-index-url"),
        ],
        project,
    )
    lock = (project / "requirements.lock").read_text()
    return "\n".join(_entry(lock, line) for line in wanted.splitlines() if line.strip()) + "\n"


def _entry(lock: str, pin: str) -> str:
    """The lock's hashes for a pin, as `name==version`."""
    found = re.search(rf"^{re.escape(pin.strip())}(?: ;.*)? \\\n((?:    --hash=\S+(?: \\)?\n)+)", lock, re.MULTILINE)
    if found is None:
        raise LaunchError(f"requirements.lock has no {pin.strip()}, which the nodes need: run `make lock`.")
    return " ".join([pin.strip(), *re.findall(r"--hash=\S+", found[1])])


def _fill(wheelhouse: Path, project: Path, python: str, machine: str, extras: Sequence[str]) -> None:
    """Have the wheelhouse hold what the lock says; nothing is done where it does since the last time."""
    files = [(project / name).read_text() for name in ("pyproject.toml", "requirements.lock")]
    made_of = hashlib.sha256(json.dumps([*files, python, machine, *extras]).encode()).hexdigest()
    done = wheelhouse / ".made-of"
    if done.is_file() and done.read_text() == made_of:
        return
    requirements = _locked(project, python, machine, extras)
    for stale in wheelhouse.iterdir():
        stale.unlink()
    _download(requirements, wheelhouse, python, machine)
    _write(done, made_of)


def _download(requirements: str, wheelhouse: Path, python: str, machine: str) -> None:
    """Fetch wheels by pip, which checks the hashes and knows other platforms than this one."""
    wanted = wheelhouse / ".requirements"
    wanted.write_text(requirements)
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC] + [f"manylinux2014_{machine}"]
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--disable-pip-version-check", "--quiet"]
    target = ["--python-version", python, "--implementation", "cp", "--abi", f"cp{python.replace('.', '')}"]
    target += [option for name in platforms for option in ("--platform", name)]
    download = [*pip, "download", *quiet, "--no-deps", "--require-hashes", "--dest", str(wheelhouse)]
    _run([*download, *target, "--requirement", str(wanted)])
    for source in sorted(wheelhouse.glob("*.tar.gz")):  # PySpark comes as a source only
        _run([*pip, "wheel", *quiet, "--no-deps", "--wheel-dir", str(wheelhouse), str(source)])
        source.unlink()
    foreign = [wheel.name for wheel in wheelhouse.glob(f"*-linux_{platform.machine()}.whl")]
    if foreign:
        raise LaunchError(f"{foreign[0]} was compiled on this machine: the lock has no wheel of it for the nodes.")


def _requirements(wheelhouse: Path) -> str:
    """A lock of just the wheelhouse's wheels; those from source have hashes that the project's lock cannot know."""
    lines = []
    for wheel in sorted(wheelhouse.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name.replace('_', '-')}=={version} --hash=sha256:{digest(wheel, 'sha256')}\n")
    return "".join(lines)


def _entries(directory: Path) -> list[dict[str, str | int]]:
    """The manifest's entry of each file."""
    found = [*sorted((directory / "wheelhouse").glob("*.whl")), directory / "requirements.lock"]
    found += [path for path in [directory / "java.tar.gz"] if path.is_file()]
    return [
        {
            "name": str(path.relative_to(directory)),
            "size": path.stat().st_size,
            "sha256": digest(path, "sha256"),
            "sha512": digest(path, "sha512"),
        }
        for path in found
    ]


def _uv() -> str:
    """The uv beside this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise LaunchError("uv is not there, which picks the nodes' packages: run `make venv`.")
    return found


def _run(command: Sequence[str], directory: Path | None = None) -> str:
    try:
        return subprocess.run(
            command, cwd=directory, check=True, capture_output=True, text=True, timeout=_BUILD_SECONDS
        ).stdout
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no word of why"]
        said = next((line.strip() for line in lines if line.strip().startswith("ERROR:")), lines[-1])
        raise LaunchError(f"The nodes' kit cannot be made: {Path(command[0]).name} said {said}") from None
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{' '.join(command[:4])} took longer than {_BUILD_SECONDS:g} s.") from None


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text)
    beside.replace(path)
