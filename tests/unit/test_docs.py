"""Turns the pages' claims about tests into tests that are there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from runner.words import roughly

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


def test_the_first_screen_shows_what_the_forecast_says(monkeypatch) -> None:
    """README's table of cards is what `benchmarks/cards.py` prints today."""
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    import cards

    page = (REPOSITORY / "README.md").read_text()
    for shape in cards.SHAPES:
        found = [cards.row(card, shape) for card in cards.CARDS]
        times = " | ".join(roughly(60 * one["minutes"]) for one in found)
        assert f"| {shape} | {found[0]['least']:.1f} GiB | {times} |" in page
    longest = [f"{cards.row(card, '8B')['longest']:,}" for card in cards.CARDS]
    assert f"{longest[0]}, {longest[1]} and {longest[2]} tokens" in page


def test_every_page_that_the_readme_names_exists() -> None:
    """No link of the first page leads nowhere."""
    links = re.findall(r"\]\((?!http)([^)#]+)", (REPOSITORY / "README.md").read_text())
    assert [link for link in links if not (REPOSITORY / link).exists()] == []
