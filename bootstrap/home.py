"""Where the launcher keeps what it knows: `~/.cos`, which COS_HOME moves."""

import os
from pathlib import Path


def home() -> Path:
    """The directory; it may be missing yet."""
    named = os.environ.get("COS_HOME")
    return Path(named) if named else Path.home() / ".cos"


def keep(path: Path, text: str) -> None:
    """Write a file below it, whose folder may be missing; a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def clusters() -> Path:
    """The directory with a file of facts for each cluster."""
    return home() / "clusters"


def local_jobs() -> Path:
    """The jobs of `--cluster local`."""
    return home() / "local" / "jobs"
