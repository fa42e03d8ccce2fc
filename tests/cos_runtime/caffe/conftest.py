"""What the tests of the Caffe language have in common."""

from __future__ import annotations

import pytest

FAILURES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FAILURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List every reference case of a layer that fails, with its largest error."""
    failures = config.stash.get(FAILURES, [])
    if failures:
        terminalreporter.section("reference cases that differ")
        for line in failures:
            terminalreporter.write_line(line)


@pytest.fixture
def differing(request: pytest.FixtureRequest) -> list[str]:
    """The lines of the summary, to add to."""
    return request.config.stash[FAILURES]
