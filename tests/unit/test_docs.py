"""Turns the pages' claims about tests into tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def test_every_test_that_the_reliability_page_names_exists() -> None:
    """A promise whose test was renamed or removed is no promise."""
    named = _NAMED.findall((REPOSITORY / "docs" / "reliability.md").read_text())
    assert len(named) > 30
    files = {path.name: path for path in (REPOSITORY / "tests").rglob("test_*.py")}
    missing = [
        f"{file}::{test}"
        for file, test in named
        if file not in files or f"def {test}(" not in files[file].read_text()
    ]
    assert missing == []
