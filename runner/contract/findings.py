"""Findings: what the checks say of a job's data: how many rows, where, how serious, what to do.

The prepare stage writes them to `prepared/findings.json`; the report, the answers and the commands
read them. Nothing that stands in a row stands here: files, lines and figures only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.files.durable import write_json
from runner.files.plain import read_plain
from runner.language.speaker import ENGLISH, Speaker

VERSION = 1
EXAMPLES = 3  # places named for each finding: enough to look, few enough to read
_BYTES = 8 * 1024 * 1024  # a list of some hundred findings has less than 1 MB


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Level(StrEnum):
    """How serious a finding is."""

    STOP = "stop"
    """The job is rejected."""
    ADVISE = "advise"
    """The job runs; somebody should do something about it."""
    INFORM = "inform"
    """Good to know; nothing has to be done."""


class Place(_Part):
    """Where one example of a finding stands."""

    file: str
    """As the spec names it."""
    line: int | None = None
    """1-based; None: the whole file."""
    unit: str = "line"
    """What ``line`` counts: ``row`` in files that have no lines of text, such as Parquet."""


class DataFinding(_Part):
    """One thing that a check found in the data."""

    check: str
    """The check's name as a spec writes it: ``near_duplicates``."""
    level: Level
    count: int
    """How many rows it is about."""
    of: int | None = None
    """Of how many rows; None: that says nothing here."""
    message: str
    """What was found, in a sentence, in English."""
    advice: str | None = None
    """What to do, in a sentence, in English; None: nothing has to be done."""
    places: tuple[Place, ...] = Field(default=(), max_length=EXAMPLES)
    """The first examples."""
    values: dict[str, str | int | float] = {}
    """Figures and names that the sentences contain, so that they can be said in another language:
    the table of texts holds ``finding_<check>`` and ``finding_<check>_advice`` for that."""


class DataFindings(_Part):
    """prepared/findings.json."""

    version: int = VERSION
    findings: tuple[DataFinding, ...] = ()


def in_order(findings: Sequence[DataFinding]) -> tuple[DataFinding, ...]:
    """Put what stops the job first, then advice, then information; else the order stays."""
    levels = list(Level)
    return tuple(sorted(findings, key=lambda one: levels.index(one.level)))


def in_short(findings: Sequence[DataFinding]) -> tuple[DataFinding, ...]:
    """Leave out the figures of what is only information, for the record."""
    bare: dict[str, dict[str, str | int | float]] = {"values": {}}
    return tuple(
        one.model_copy(update=bare) if one.level is Level.INFORM else one
        for one in in_order(findings)
    )


def name_places(finding: DataFinding, speak: Speaker = ENGLISH) -> str:
    """Name the examples: ``data.jsonl, lines 2, 6 and 10``; empty: there are none."""
    files: dict[tuple[str, str], list[str]] = {}
    for place in finding.places:
        files.setdefault((place.file, place.unit), [])
        if place.line is not None:
            files[place.file, place.unit].append(str(place.line))
    named = []
    for (file, unit), lines in files.items():
        *others, last = lines or [""]
        joined = f"{', '.join(others)} {speak('places_and')} {last}" if others else last
        key = f"places_{'row' if unit == 'row' else 'line'}{'s' * bool(others)}"
        named.append(f"{file}, {speak(key)} {joined}" if last else file)
    return "; ".join(named)


def said_in(finding: DataFinding, speak: Speaker, what: str = "") -> str | None:
    """Say a finding, or its ``advice``, in a language; None: the table has no such sentence."""
    key = f"finding_{finding.check}{'_' * bool(what)}{what}"
    if "sampled" in finding.values and speak.knows(f"{key}_sampled"):
        key = f"{key}_sampled"  # said of some rows alone
    if not speak.knows(key):
        return None
    values = {name: _list_in(name, value, speak) for name, value in finding.values.items()}
    try:
        return speak(key, **{**values, "count": finding.count})
    except (KeyError, IndexError, ValueError):
        return None  # another version's text wants other names


_LISTS = frozenset({"kinds", "named", "others", "main"})
"""Values that list names with numbers: ``IBAN: 3, phone number: 1,204``."""


def _list_in(name: str, value: str | float, speak: Speaker) -> str | float:
    """Say a list of names in a language; a name that the table lacks stays as it is."""
    if name not in _LISTS or not isinstance(value, str):
        return value
    said = []
    for one in value.split(", "):
        words, between, count = one.partition(": ")
        key = f"listed_{words.lower().replace(' ', '_').replace('-', '_')}"
        number = count.replace(",", "")
        count = speak.whole(int(number)) if number.isdecimal() else count
        said.append(f"{speak(key) if speak.knows(key) else words}{between}{count}")
    return ", ".join(said)


def write_findings(path: Path, findings: Sequence[DataFinding]) -> None:
    """Write them durably, the most serious first."""
    write_json(path, DataFindings(findings=in_order(findings)).model_dump(mode="json"))


def read_findings(path: Path) -> tuple[DataFinding, ...]:
    """Read them; a file that is missing, damaged or too large has none."""
    try:
        content = read_plain(path, limit_bytes=_BYTES)
        return in_order(DataFindings.model_validate(json.loads(content)).findings)
    except (OSError, ValueError, ValidationError, RecursionError):
        return ()
