"""Texts: the table of every sentence that people read, in English and German, from texts.toml.

Every daemon and nearly every command reads it. `tomllib`, which goes letter by letter, takes 36 ms
for it, a tenth of such a process's start; the lines below, which know only what the table is made
of, take 6. A test holds that both read the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("texts.toml")
_LINE = re.compile(r"""^(?:\[(\w+)\]|(\w+) = (".*"|'.*'))$""", re.MULTILINE)
"""A key, or a language and its sentence; between '…' a backslash is a letter like any other."""


@cache
def table() -> Mapping[str, Mapping[str, str]]:
    """Read the table: key → language → sentence."""
    found: dict[str, dict[str, str]] = {}
    here: dict[str, str] = {}
    for key, language, said in _LINE.findall(FILE.read_text(encoding="utf-8")):
        if key:
            here = found[key] = {}
        else:
            escaped = said[0] == '"' and "\\" in said
            here[language] = json.loads(said) if escaped else said[1:-1]
    return found
