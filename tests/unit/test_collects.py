"""`pytest tests` collects every test of every folder at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_two_test_modules_have_the_same_name() -> None:
    """Pytest imports a module by its bare name, so a second one of that name cannot be collected.

    `make collect` collects them all; this says in no time what most likely stands in its way.
    """
    names = Counter(path.name for path in TESTS.rglob("*.py") if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []
