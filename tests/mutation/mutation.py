"""Mutation: one fault to plant, and the tests that should notice it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One fault, and the tests that should notice it."""

    what: str
    file: str
    """Under runner/."""
    old: str
    new: str
    tests: tuple[str, ...]
