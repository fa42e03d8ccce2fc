"""Where Java is: on JAVA_HOME, on PATH, or fetched into the project's `.java` folder.

`python -m bootstrap.java` prints a JAVA_HOME, fetching a Java first where there is none; `find_java` never fetches.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bootstrap.errors import LaunchError

OLDEST = 17  # the oldest that Spark 4 starts on
FETCHED = Path(__file__).resolve().parent.parent / ".java"

_INSTALLERS = {
    "apt-get": f"run `apt-get install openjdk-{OLDEST}-jre-headless`",
    "dnf": f"run `dnf install java-{OLDEST}-openjdk-headless`",
}
_ANSWER_SECONDS = 60.0
_NETWORK_SECONDS = 30.0


class _Java(NamedTuple):
    home: Path
    version: int


def find_java() -> Path:
    """The JAVA_HOME of the first Java that is new enough: JAVA_HOME's, PATH's, the fetched one.

    Raises:
        LaunchError: There is none; the sentence names the command that installs one.
    """
    home, refused = _search()
    if home is None:
        raise LaunchError(_missing(refused))
    return home


def fetch_java() -> Path:
    """Fetch a Java runtime into `.java` and return its JAVA_HOME.

    Raises:
        LaunchError: It cannot be reached; the sentence names the command that installs one.
    """
    _, refused = _search()
    try:
        # A development tool: an installed cos may lack it.
        from jdk import JdkError, install  # noqa: PLC0415
    except ImportError:
        raise LaunchError(_missing(refused)) from None
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_SECONDS)  # its requests wait forever by themselves
    try:
        install(str(OLDEST), jre=True, path=str(FETCHED))
    except (JdkError, ValueError) as error:
        raise LaunchError(_missing(refused, f", nor could one be fetched ({error})")) from None
    finally:
        socket.setdefaulttimeout(before)
    return find_java()


def main() -> int:
    """Print a JAVA_HOME, fetching a Java first where none is new enough; the exit code."""
    try:
        print(_find_or_fetch())
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _find_or_fetch() -> Path:
    try:
        return find_java()
    except LaunchError:
        print(f"fetching a Java {OLDEST} runtime into {FETCHED}", file=sys.stderr)
        return fetch_java()


def _search() -> tuple[Path | None, list[str]]:
    """The home of the first Java that is new enough, and what was found wrong with those before it."""
    refused: list[str] = []
    for program, named in _candidates():
        java = _ask(program)
        if java is not None and java.version >= OLDEST:
            return named or java.home, refused
        refused.append(f"{program} is Java {java.version}" if java else f"{program} does not work")
    return None, refused


def _candidates() -> Iterator[tuple[Path, Path | None]]:
    """Programs that may do; with JAVA_HOME, which is kept as it is named, even where its `java` starts another."""
    named = os.environ.get("JAVA_HOME")
    if named:
        yield Path(named) / "bin" / "java", Path(named)
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path), None
    # The second is the layout of macOS.
    for program in sorted([*FETCHED.glob("*/bin/java"), *FETCHED.glob("*/Contents/Home/bin/java")]):
        yield program, None


def _ask(program: Path) -> _Java | None:
    """What a java says of itself: its path tells nothing where it is a shim or a stub."""
    try:
        said = subprocess.run(
            [program, "-XshowSettings:properties", "-version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    home = re.search(r"^\s*java\.home = (.+)$", said, re.MULTILINE)
    version = re.search(r"^\s*java\.specification\.version = (?:1\.)?(\d+)", said, re.MULTILINE)
    return _Java(Path(home[1].strip()), int(version[1])) if home and version else None


def _missing(refused: list[str], more: str = "") -> str:
    found = f" ({'; '.join(refused)})" if refused else ""
    way_out = next(
        (command for tool, command in _INSTALLERS.items() if shutil.which(tool)),
        f"install Java {OLDEST} by your system's package manager",
    )
    return f"Spark needs Java {OLDEST} or newer, and there is none on JAVA_HOME or PATH{found}{more}: {way_out}."


if __name__ == "__main__":
    sys.exit(main())
