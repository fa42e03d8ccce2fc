"""A report that keeps what it is told."""

from cos_runtime.engine.report.events import Event


class Listener:
    """Keeps the events, and how often it was closed."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = 0

    def emit(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    def close(self) -> None:
        """Count it."""
        self.closed += 1
