"""Findings: one verdict from all checks: could a job run on this box?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    ADVICE = "advice"
    """Jobs run; this would make them faster or safer."""
    TROUBLE = "trouble"
    """No job could run."""
    UNKNOWN = "unknown"
    """It could not be looked at from here, and it may be trouble."""
    SKIPPED = "skipped"
    """It was not looked at, and need not be."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    """What was looked at, as a person calls it."""
    level: Level
    what: str
    """What is, in a sentence."""
    why: str
    """Why it matters."""
    fix: str = ""
    """The command, or commands, a line each; empty where nothing needs fixing."""

    def as_json(self) -> dict[str, Any]:
        """Give the same to a script."""
        return {
            "check": self.check,
            "level": self.level.value,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
        }


def could_run(findings: Iterable[Finding]) -> bool | None:
    """Decide whether a job could run; None: that cannot be judged from here."""
    levels = {finding.level for finding in findings}
    if Level.TROUBLE in levels:
        return False
    return None if Level.UNKNOWN in levels else True
