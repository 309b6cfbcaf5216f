"""Texts: the table of every sentence that people read, in English and German, from texts.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("texts.toml")


@cache
def table() -> Mapping[str, Mapping[str, str]]:
    """Read the table: key → language → sentence."""
    with FILE.open("rb") as file:
        return tomllib.load(file)
