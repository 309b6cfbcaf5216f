"""Gives the kill tests their time budget, the neighbours' helpers and figures at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from figures import Figures

FULL_SECONDS = 1800.0
_FIGURES = pytest.StashKey[Figures]()


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
    config.stash[_FIGURES] = Figures()


@pytest.fixture
def share(request: pytest.FixtureRequest) -> float:
    """How much of the full harness fits into the budget, at most 1."""
    return min(1.0, float(request.config.getoption("--budget")) / FULL_SECONDS)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Collect what docs/reliability.md tells of the last run."""
    return request.config.stash[_FIGURES]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the figures of a process of pytest-xdist to the one that prints."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["figures"] = session.config.stash[_FIGURES].as_json()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take them over."""
    node.config.stash[_FIGURES].add_all(getattr(node, "workeroutput", {}).get("figures", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures, and what they come to in one line."""
    config = terminalreporter.config
    found = config.stash[_FIGURES]
    if found.as_json():
        terminalreporter.section("figures")
        for line in found.lines():
            terminalreporter.line(line)
        failed = len(terminalreporter.stats.get("failed", []))
        skipped = len(terminalreporter.stats.get("skipped", []))
        terminalreporter.line(found.summary(failed=failed, skipped=skipped))
    where = config.getoption("--figures")
    if where and not hasattr(config, "workerinput"):
        Path(where).write_text(json.dumps(found.as_json(), indent=2) + "\n")
