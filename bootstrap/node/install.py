"""Python's environment and Java out of the kit, with no network."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from bootstrap.node.layout import Layout
from bootstrap.node.seed import Manifest, SeedError, digest

_SECONDS = 900.0


def python_of(manifest: Manifest, layout: Layout) -> Path:
    """The interpreter for jobs: COS_PYTHON's, for images that bring all packages, else one made of the kit."""
    named = os.environ.get("COS_PYTHON")
    return Path(named) if named else install(manifest, layout)


def install(manifest: Manifest, layout: Layout) -> Path:
    """Make the Python environment of the kit, offline, and return its interpreter.

    uv comes with the kit: images lack pip and venv, and it links what it unpacked instead of copying it.

    Raises:
        SeedError: The kit was made for another Python or machine, or does not install.
    """
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if (manifest.python, manifest.machine) != (here, os.uname().machine):
        kit = f"Python {manifest.python} on {manifest.machine}"
        raise SeedError(f"The kit is for {kit}, and this image has Python {here} on {os.uname().machine}.")
    python = layout.venv / "bin/python"
    lock = layout.kit / "requirements.lock"
    done = layout.venv / ".lock-sha256"
    if done.is_file() and done.read_text() == digest(lock, "sha256"):
        return python
    uv = _unpack_uv(layout.kit)
    _run([str(uv), "venv", "--quiet", "--clear", "--offline", "--python", sys.executable, str(layout.venv)], layout)
    sync = [str(uv), "pip", "sync", "--quiet", "--offline", "--no-index", "--require-hashes", "--compile-bytecode"]
    _run([*sync, "--find-links", str(layout.kit / "wheelhouse"), "--python", str(python), str(lock)], layout)
    done.write_text(digest(lock, "sha256"))
    return python


def java_home(layout: Layout) -> Path:
    """JAVA_HOME: the kit's Java, else the one that the image names or has on PATH.

    Raises:
        SeedError: There is none.
    """
    archive = layout.kit / "java.tar.gz"
    if archive.is_file():
        return _unpack_java(archive, layout.java)
    if "JAVA_HOME" in os.environ:
        return Path(os.environ["JAVA_HOME"])
    for folder in os.environ.get("PATH", "").split(":"):
        program = Path(folder, "java")
        if program.is_file():
            return program.resolve().parent.parent
    raise SeedError("There is no Java: neither in the kit nor as JAVA_HOME nor on PATH.")


def _unpack_java(archive: Path, directory: Path) -> Path:
    """Unpack a Java once; the archive has one directory at its top."""
    done = directory / ".sha256"
    if not (done.is_file() and done.read_text() == digest(archive, "sha256")):
        directory.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as packed:
            # Python before 3.11.4 knows no filters; the archive is the kit's own, by its checksum.
            packed.extraction_filter = getattr(tarfile, "data_filter", None)
            packed.extractall(directory)  # noqa: S202 - see above
        done.write_text(digest(archive, "sha256"))
    found = sorted(directory.glob("*/bin/java"))
    if not found:
        raise SeedError(f"The kit's {archive.name} has no bin/java.")
    return found[-1].parent.parent


def _unpack_uv(kit: Path) -> Path:
    """The uv binary out of its wheel."""
    wheel = next((kit / "wheelhouse").glob("uv-*.whl"), None)
    if wheel is None:
        raise SeedError("The kit has no uv to install it with: build the kit anew.")
    path = kit / "uv"
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        path.write_bytes(archive.read(member))
    path.chmod(0o755)
    return path


def _run(command: list[str], layout: Layout) -> None:
    """Run uv with its cache beside the environment, where it can link from one to the other."""
    environment = {**os.environ, "UV_CACHE_DIR": str(layout.venv.parent / "uv-cache"), "UV_NO_CONFIG": "1"}
    step = " ".join(command[1:3])
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.CalledProcessError as error:
        raise SeedError(f"uv {step} failed: {error.stderr.strip()}") from None
    except subprocess.TimeoutExpired:
        raise SeedError(f"uv {step} took longer than {_SECONDS:g} s.") from None
