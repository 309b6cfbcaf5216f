"""Turns what a spec says about a data file or a model into why it cannot be one.

These are the rules that can be told from the text alone; whether the file is there, and no link, is
found out when it is opened (contract/beneath.py).
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from runner.contract.layout import RESERVED_FOLDERS

_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_MODEL_PART = re.compile(r"\w[\w .+-]*")
_LONGEST_PATH = 1024  # characters

_FORWARD = "a path relative to the spec's folder, such as data/contracts.jsonl"
_MODEL = "a hub id such as org/name, or a folder's name under models/"


def control_character(text: str, *, multiline: bool) -> str | None:
    """Find a character that no setting holds; ``multiline`` says that line ends are fine."""
    for c in text:
        if multiline and c in "\n\t":
            continue
        if unicodedata.category(c) in ("Cc", "Cs") or c in "\u2028\u2029":
            return c
        if not multiline and c in _BIDIRECTIONAL:  # right-to-left prose needs them; a path does not
            return c
    return None


def data_path_problem(path: str) -> tuple[str, str] | None:
    """Say what is wrong with a data path and how to mend it."""
    if not path.strip():
        return "the path is empty", f"write {_FORWARD}"
    if len(path) > _LONGEST_PATH:
        return "the path is too long", f"write {_FORWARD}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        return "data is not fetched from an address", "copy the file into the shared folder"
    if path.startswith("\\\\") or re.match(r"[A-Za-z]:", path):
        return (
            "a drive or server of another computer cannot be reached from here",
            f"copy the file into the shared folder and write {_FORWARD}",
        )
    if path.startswith(("/", "~")):
        return "the path is absolute", f"copy the file into the shared folder and write {_FORWARD}"
    if "\\" in path:
        return "the path has a backslash", f"write {path.replace(chr(92), '/')}"
    if "*" in path or "?" in path:
        return "patterns are not read", "list the files, each on a line of its own with a dash"
    parts = PurePosixPath(path).parts
    if ".." in parts:
        return "the path leaves the shared folder", "copy the file into the shared folder"
    if not parts:
        return "this is a folder, not a file", f"write {_FORWARD}"
    if parts[0].casefold() in RESERVED_FOLDERS:
        return (
            f"the folder {parts[0]}/ belongs to the runner",
            "put the data into another folder, such as data/",
        )
    return None


def model_problem(model: str) -> tuple[str, str] | None:
    """Say what is wrong with a model's name and how to mend it."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", model):
        return "a model is not fetched from an address by a spec", f"write {_MODEL}"
    if model.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:", model):
        return "the path is absolute", f"write {_MODEL}"
    if "\\" in model:
        return "the name has a backslash", f"write {model.replace(chr(92), '/')}"
    parts = model.split("/")
    if ".." in parts:
        return "the path leaves the models folder", f"write {_MODEL}"
    if parts[0] in ("models", ".") and len(parts) > 1:
        return "only what comes after models/ is the name", f"write {'/'.join(parts[1:])}"
    if len(model) > 200 or len(parts) > 2 or not all(_MODEL_PART.fullmatch(p) for p in parts):
        return "this is no name of a model", f"write {_MODEL}"
    return None
