"""What shows or keeps a job's events."""

from typing import Protocol

from cos_runtime.engine.report.events import Event


class Reporter(Protocol):
    """One place where a job's events go. It runs on the driver, and takes events one at a time."""

    def emit(self, event: Event) -> None:
        """Show or keep one event; kinds it has no use for it passes over."""

    def close(self) -> None:
        """Finish writing and let go of files and terminal."""
