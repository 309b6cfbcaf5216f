"""Paths and model names in a spec: why one cannot be right, and what to write instead.

These are the rules that the text alone decides; whether the file is there, and no link, is found
out when it is opened (files/beneath.py), and what lies there instead by files/similar.py.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from runner.contract.layout import RESERVED_FOLDERS
from runner.spec.file_kinds import ROWS, SAVE_AS, ending, looks_like_a_file

_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_MODEL_PART = re.compile(r"\w[\w .+-]*")
_LONGEST_PATH = 1024  # characters
_BLANK = " \t\u00a0\u202f\u3000\ufeff"
"""Blank characters that come along when a path is pasted; no file's name begins or ends so."""
_QUOTES = "\"'`´“”„‟‘’‚‛«»‹›"
_HUB = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?([^/?#\s]+/[^/?#\s]+)"
    r"(?:/(?:tree|blob|resolve)/[^?#\s]*|/)?(?:[?#]\S*)?",
    re.IGNORECASE,
)
_BETWEEN_PATHS = re.compile(
    rf"(?<=\w)(?P<end>{'|'.join(map(re.escape, ROWS))})"
    r"(?:\s*[,;|+&]\s*|\s+(?:and|und|et|e|y)\s+|\s+-\s+|\s+)(?=\S)",
    re.IGNORECASE,
)

_FORWARD = "a path that starts at the spec's folder, such as data/contracts.jsonl"
_COPY = "copy the file into the jobs folder of the share, then write {path}"
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


def unquoted(text: str) -> str:
    """Take away the blanks and quotes around a path or name."""
    return text.strip(_BLANK + _QUOTES)


def is_quoted(text: str) -> bool:
    """Whether quotes became a part of a value: the file's own, typographic or doubled ones."""
    bare = text.strip(_BLANK)
    return '"' in bare or (len(bare) > 1 and bare[0] in _QUOTES and bare[-1] in _QUOTES)


def paths_in_one(path: str) -> list[str]:
    """Give the paths that were written as one, separated by a comma, a blank or "and"."""
    parts = [unquoted(p) for p in _BETWEEN_PATHS.sub(r"\g<end>\n", path).split("\n")]
    parts = [part for part in parts if part]
    return parts if len(parts) > 1 and all(ending(part) in ROWS for part in parts) else []


def tidy_path(path: str) -> str:
    """Give a path without the blanks around it."""
    return path.strip(_BLANK)


def data_path_problem(path: str) -> tuple[str, str] | None:
    """Say what is wrong with a data path and how to fix it."""
    if not path.strip(_BLANK):
        return "the path is empty", f"write {_FORWARD}"
    if len(path) > _LONGEST_PATH:
        return "the path is too long", f"write {_FORWARD}"
    if several := paths_in_one(path.strip("[]() ")):
        listed = ", ".join(f'"{part}"' for part in several)
        return "these are several paths in one text", f"write them as a list: [{listed}]"
    if is_quoted(path):
        return "the quotes are part of the path", f"write {unquoted(path)} without these quotes"
    return _other_place(path) or _odd_path(path) or _kind_problem(path)


def _other_place(path: str) -> tuple[str, str] | None:
    """Recognise a path that starts elsewhere: a drive, a server, an address, the root."""
    is_address = re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path)
    if is_address and not path.lower().startswith(("file://", "smb://")):
        name = _own_name(path)
        return "data is not fetched from an address", _COPY.format(path=name)
    if is_address or path.startswith("\\\\") or re.match(r"[A-Za-z]:", path):
        return "this is a path of another computer", _from_elsewhere(path)
    if path.startswith(("/", "~")):
        return "the path does not start at the spec's folder", _from_elsewhere(path)
    if "\\" in path:
        return "the path has a backslash", f"write {path.replace(chr(92), '/')}"
    return None


def _odd_path(path: str) -> tuple[str, str] | None:
    parts = PurePosixPath(path).parts
    if any("*" in part or "?" in part for part in parts[:-1]) or "**" in path:
        return (
            "a pattern stands in a folder's name",
            "write it into the file's name only, such as data/2026-*.jsonl; several as a list",
        )
    if ".." in parts:
        return "the path leaves the shared folder", _COPY.format(path=_own_name(path))
    if not parts:
        return "this is the whole shared folder", "put the files into a folder of their own: data/"
    if parts[0].casefold() == "jobs" and len(parts) > 1:
        inside = "/".join(parts[1:])
        return "paths start inside the jobs folder", f"write {inside}"
    if parts[0].casefold() in RESERVED_FOLDERS:
        return (
            f"the folder {parts[0]}/ belongs to the runner",
            f"put the file into another folder: {_own_name(path)}",
        )
    return None


def _kind_problem(path: str) -> tuple[str, str] | None:
    if (advice := SAVE_AS.get(ending(path))) is not None:
        return f"{ending(path)} files are not read", advice
    return None


def _own_name(path: str) -> str:
    """Give where in the shared folder a file from elsewhere would lie."""
    name = re.split(r"[/\\]", re.split(r"[?#]", path)[0].rstrip("/\\"))[-1]
    return f"data/{name}" if name and name not in (".", "..", "~") else "data/contracts.jsonl"


def _from_elsewhere(path: str) -> str:
    """Say what a path of another computer is here: what follows jobs/ lies in the inbox already."""
    parts = [part for part in re.split(r"[/\\]", path) if part]
    for at, part in enumerate(parts[:-1]):
        if part.casefold() == "jobs":
            return f"write {'/'.join(parts[at + 1 :])} (paths start inside the jobs folder)"
    return _COPY.format(path=_own_name(path))


def tidy_model(model: str) -> str:
    """Give a model's name as it was meant: ``./models/NAME``, ``NAME/`` and a hub page are NAME."""
    name = unquoted(model)
    if match := _HUB.fullmatch(name):
        return match[1]
    if "\\" in name:
        return name  # a path of another computer, or a slip: the reader is told
    name = name.rstrip("/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    if name.startswith("models/") and len(name) > len("models/"):
        name = name[len("models/") :].lstrip("/")
    return name or model


def model_problem(model: str) -> tuple[str, str] | None:
    """Say what is wrong with a model's name and how to fix it."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", model):
        return "a model is not fetched from an address by a spec", f"write {_MODEL}"
    parts = [part for part in re.split(r"[/\\]", model) if part]
    under = [at for at, part in enumerate(parts[:-1]) if part.casefold() == "models"]
    if model.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:", model):
        if under and _is_name(tail := parts[under[-1] + 1 :]):
            return "this is a path, not a model's name", f"write {'/'.join(tail)}"
        return "this is a path, not a model's name", f"write {_MODEL}"
    if ".." in parts:
        return "the path leaves the models folder", f"write {_MODEL}"
    if "\\" in model:
        good = parts[under[-1] + 1 :] if under else [p for p in parts if p != "."]
        fix = "/".join(good) if _is_name(good) else _MODEL
        return "the name has a backslash", f"write {fix}"
    if looks_like_a_file(model) or ending(model) in (".gguf", ".safetensors", ".bin"):
        return "this is a file; a model is a whole folder", f"write {_MODEL}"
    if len(model) > 200 or not _is_name(model.split("/")):
        return "this is not the name of a model", f"write {_MODEL}"
    return None


def _is_name(parts: list[str]) -> bool:
    return 1 <= len(parts) <= 2 and all(_MODEL_PART.fullmatch(part) for part in parts)
