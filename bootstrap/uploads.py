"""What a job reads from this machine, for another one: by content, so that nothing is sent twice.

A file goes to ``ROOT/CHECKSUM/NAME``. Prototxt files are sent with their paths changed to those places, so that it does
not matter where the files lie here.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from bootstrap.errors import LaunchError

LARGEST = 4 * 1024**3

# Comments and other strings are matched so that nothing inside of them is taken for a field.
_PATH_FIELD = re.compile(
    r"""#[^\n]*|\b(?P<field>net|train_net|test_net|weights|source|mean_file|root_folder)\s*:\s*"""
    r"""(?P<quote>["'])(?P<value>(?:\\.|(?!(?P=quote)).)*)(?P=quote)|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
)
_NETS = ("net", "train_net", "test_net")
# LMDB's table of readers: it differs with every use, and the reader there makes its own.
_LEFT_OUT = ("lock.mdb",)
_ADDRESS = 32
_ANY_BYTES = "surrogateescape"


class Uploads:
    """Collects files and tells their places on the other machine.

    Args:
        root: The directory for uploads there.
        scratch: A directory here for the changed prototxt files.

    Attributes:
        files: what is to be sent, and where each goes.
    """

    def __init__(self, root: str, scratch: Path) -> None:
        self.files: dict[str, str] = {}
        self._root = root
        self._scratch = scratch

    def add(self, path: Path, what: str) -> str:
        """A file or folder; returns its place there.

        Args:
            path: The file here.
            what: Its role, for errors.

        Raises:
            LaunchError: It is missing, or too large to send along.
        """
        if not path.exists():
            raise LaunchError(f"{what} {path} is not there: check the path.")
        members = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        members = [file for file in members if file.name not in _LEFT_OUT]
        size = sum(file.stat().st_size for file in members)
        if size > LARGEST:
            raise LaunchError(
                f"{what} {path} has {size / 1024**3:.1f} GiB, and up to {LARGEST / 1024**3:.0f} are sent along with a "
                "job: put it into the cluster's bucket and name its s3:// URL."
            )
        relative = {file.relative_to(path.parent).as_posix(): file for file in members}
        folder = f"{self._root}/{_address(relative)}"
        self.files |= {str(file): f"{folder}/{name}" for name, file in relative.items()}
        return f"{folder}/{path.name}"

    def add_solver(self, path: Path) -> str:
        """A solver with the nets, data and weights that it names; returns its place there."""
        if not path.is_file():
            raise LaunchError(f"The solver {path} is not there: check the path.")
        return self._add_prototxt(path.absolute(), path.absolute().parent)

    def size(self) -> int:
        """The bytes of all files."""
        return sum(Path(path).stat().st_size for path in self.files)

    def _add_prototxt(self, path: Path, folder: Path) -> str:
        """A prototxt file whose paths count from a folder."""
        text = _read(path)

        def place(found: re.Match[str]) -> str:
            value = found["value"]
            if not found["field"] or not value or ("://" in value and found["field"] != "weights"):
                return found[0]
            where = f"{path}:{text.count(chr(10), 0, found.start()) + 1}:"
            # Of weights there may be several.
            names = listed(value) if found["field"] == "weights" else [value]
            places = [name if "://" in name else self._add_named(name, found["field"], where, folder) for name in names]
            return f'{found["field"]}: "{",".join(places)}"'

        changed = _PATH_FIELD.sub(place, text)
        if changed == text:
            return self.add(path, "The file")
        address = hashlib.sha256(changed.encode(errors=_ANY_BYTES)).hexdigest()[:_ADDRESS]
        copy = self._scratch / address / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(changed, errors=_ANY_BYTES)
        self.files[str(copy)] = f"{self._root}/{address}/{path.name}"
        return self.files[str(copy)]

    def _add_named(self, name: str, field: str, where: str, folder: Path) -> str:
        """The file that a field of a prototxt file names."""
        path = Path(os.path.normpath(folder / name.removeprefix("file:")))
        if field in _NETS and path.is_file():
            return self._add_prototxt(path, folder)
        return self.add(path, f"{where} {field}")


def listed(names: str) -> list[str]:
    """The names between the commas of a list."""
    return [name.strip() for name in names.split(",") if name.strip()]


def _read(path: Path) -> str:
    """A prototxt file's text, of which comments may be in any encoding."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LaunchError(f"{path} cannot be read ({error.strerror}): name a prototxt file.") from None
    if b"\0" in content:
        raise LaunchError(f"{path} cannot be read as text: name a prototxt file.")
    return content.decode(errors=_ANY_BYTES)


def _address(files: Mapping[str, Path]) -> str:
    """The checksum of files under their names."""
    whole = hashlib.sha256()
    for name, path in files.items():
        with path.open("rb") as file:
            whole.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:_ADDRESS]
