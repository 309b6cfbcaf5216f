"""Languages: chosen by RUNNER_LANGUAGE or LANG; texts, numbers and times are said in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from runner.clock import now
from runner.language.texts import table
from runner.words import GIB, duration, roughly

_NUMERAL = re.compile(r"(?<![\w.,])(?<!\w-)(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+)(?![.,-]?\w)")
"""A number with thousands apart or a decimal point; no version of two dots, no part of a name."""


class Language(StrEnum):
    """A language that the box speaks; the texts' table has a column for each."""

    ENGLISH = "en"
    GERMAN = "de"


def language_of(setting: str, environment: Mapping[str, str]) -> Language:
    """Choose the language: what the box's owner set, else that of the machine, else English.

    The order of the variables is POSIX's for messages.
    """
    asked = [setting, *(environment.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG"))]
    for value in asked:
        code = value.strip().lower()[:2]
        if code in list(Language):
            return Language(code)
        if value.strip():
            break  # a language that we do not speak, or "C": English
    return Language.ENGLISH


@dataclass(frozen=True)
class Speaker:
    """Says texts, numbers and times in one language."""

    language: Language = Language.ENGLISH

    def __call__(self, key: str, **values: Any) -> str:
        """Say a text of the table; where ``count`` is 1, ``KEY_one`` is said if there is one."""
        if values.get("count") == 1 and self.knows(f"{key}_one"):
            key = f"{key}_one"
        text = table()[key][self.language]
        said = {name: self._said(value) for name, value in values.items()}
        return text.format(**said)

    def _said(self, value: Any) -> Any:
        if isinstance(value, int):
            return self.whole(value)
        return self._points(str(value)) if isinstance(value, float) else value

    def numerals(self, text: str) -> str:
        """Say the numbers of an English text as this language writes them, and nothing else."""
        return _NUMERAL.sub(lambda found: self._points(found[0]), text)

    def knows(self, key: str) -> bool:
        """Whether the table has such a text."""
        return key in table()

    def whole(self, number: int) -> str:
        """Say a whole number with its thousands apart."""
        return self._points(f"{number:,}")

    def number(self, value: float | None, pattern: str = ".3f") -> str:
        """Say a measured number; ``–`` where there is none."""
        return "–" if value is None else self._points(format(value, pattern))

    def percent(self, share: float) -> str:
        """Say a share of 1 as percent."""
        return f"{share:.0%}" if self.language is Language.ENGLISH else f"{share * 100:.0f} %"

    def memory(self, size: float | None) -> str:
        """Say a number of bytes in GiB; ``–`` where there is none."""
        return "–" if not size else f"{self.number(size / GIB, '.1f')} GiB"

    def lasting(self, seconds: float | None, *, exactly: bool = False) -> str:
        """Say a length of time as people do: ``42 s``, ``10 min``, ``2 h 05 min``."""
        if exactly or seconds is None:
            return duration(seconds)
        return roughly(seconds)

    def time(self, moment: datetime, *, day: bool = False) -> str:
        """Say a time in the box's zone (TZ); its day where that is wanted or is not today."""
        here = moment.astimezone()
        zone = " UTC" if here.tzname() in ("UTC", "GMT", "Universal") else ""
        if not day and here.date() == now().astimezone(here.tzinfo).date():
            return f"{here:%H:%M}{zone}"
        date = "%d.%m.%Y" if self.language is Language.GERMAN else "%Y-%m-%d"
        return f"{here.strftime(date)} {here:%H:%M}{zone}"

    def _points(self, text: str) -> str:
        if self.language is Language.GERMAN:
            return text.translate(str.maketrans(",.", ".,"))
        return text


ENGLISH = Speaker()
"""What the log and the record are written in."""
