"""Turns the pages' claims about tests into tests that are there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from runner.contract.model_kind import LANGUAGE_PARTS
from runner.training.data import columns
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


def _columns(title: str) -> dict[str, str]:
    """Read a table of the data page: each name with what becomes of it."""
    page = (REPOSITORY / "docs" / "data.md").read_text()
    table = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE)
    return {name: use for use, names in lines for name in re.findall(r"`([^`]+)`", names)}


@pytest.mark.parametrize(
    ("title", "table"), [("Columns", columns.ROW), ("Keys of a message", columns.MESSAGE)]
)
def test_the_data_page_has_every_column_and_key_with_its_use(title, table) -> None:
    """What the page says is honoured, passed over or refused is what the table does."""
    told = _columns(title)
    assert set(told) == set(table)
    for name, key in table.items():
        if key.use is columns.Use.REFUSED:
            assert told[name] == f"refused: {key.reason}", name
        elif key.use is columns.Use.HARMLESS:
            assert told[name] == "says nothing to learn; passed over in silence", name
        else:
            assert told[name].startswith(f"{key.meaning.value}:"), name


def test_the_models_page_has_every_picture_reader_that_is_trained() -> None:
    """And no other: the table in the code decides."""
    trained, _ = (REPOSITORY / "docs" / "models.md").read_text().split("| Refused |")
    assert set(re.findall(r"`(\w+ForConditionalGeneration)`", trained)) == set(LANGUAGE_PARTS)
