"""Gives the kill tests their time budget, the neighbours' helpers and figures at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

FULL_SECONDS = 1800.0
_FIGURES = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the budget."""
    parser.addoption(
        "--budget",
        type=float,
        default=FULL_SECONDS,
        help="seconds for the whole harness; less than the default makes every part smaller",
    )
    parser.addoption("--figures", default=None, help="write the figures to this JSON file")


def pytest_configure(config: pytest.Config) -> None:
    """Begin without figures."""
    config.stash[_FIGURES] = {}


@pytest.fixture
def share(request: pytest.FixtureRequest) -> float:
    """How much of the full harness fits into the budget, at most 1."""
    return min(1.0, float(request.config.getoption("--budget")) / FULL_SECONDS)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, str]:
    """Collect what docs/reliability.md tells of the last run."""
    return request.config.stash[_FIGURES]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures."""
    config = terminalreporter.config
    found = config.stash[_FIGURES]
    if found:
        terminalreporter.section("figures")
        for name, value in found.items():
            terminalreporter.line(f"{name}: {value}")
    where = config.getoption("--figures")
    if where:
        Path(where).write_text(json.dumps(found, indent=2) + "\n")
