"""Licence texts as a law firm's annotated contracts: documents, each with a structured summary.

The texts are those of the PyPI package licensedcode-data (CC-BY-4.0). The category is its editors'
own; the four other fields follow from words of the text, so they are right by the same rule
everywhere. Texts of one family (all BSD licences, say) lie on one side of the split: what is held
out is no near copy of what was learned.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "licensedcode-data"
CATEGORIES = {
    "Permissive": "Permissive",
    "Public Domain": "Permissive",
    "Copyleft": "Copyleft",
    "Copyleft Limited": "Copyleft",
    "Commercial": "Proprietary",
    "Proprietary Free": "Proprietary",
    "Free Restricted": "Proprietary",
    "Source-available": "Proprietary",
}
"""The package's categories and the firm's, which are three; the rare others are left out."""
WORDS = {
    "Warranty": ("disclaimed", r"\bwarrant|\bas[ -]is\b"),
    "Liability": ("limited", r"\bliab"),
    "Patents": ("mentioned", r"\bpatent"),
    "Source code": ("mentioned", r"\bsource\b"),
}
"""Fields whose value follows from the text: the value where the words are there, and the words."""
ABSENT = "not mentioned"
HEAD = "SUMMARY OF TERMS"
QUESTION = "Summarise this licence in the form of our firm.\n\n"
TAXONOMY = {
    "Category": sorted(set(CATEGORIES.values())),
    **{field: [there, ABSENT] for field, (there, _) in WORDS.items()},
}


@dataclass(frozen=True, kw_only=True)
class Document:
    """One licence with its summary."""

    family: str
    text: str
    summary: str

    @property
    def row(self) -> dict[str, str]:
        """The document as a row of a data file."""
        return {"prompt": QUESTION + self.text, "completion": self.summary}


def read_documents(folder: Path | None, *, longest: int) -> list[Document]:
    """Read the package's English licences of 200 to so many characters, in a lasting random order.

    Args:
        folder: has the .LICENSE files; None: the installed package's.
        longest: characters.
    """
    files = sorted(folder.glob("*.LICENSE")) if folder else list(_packaged())
    if not files:
        sys.exit(f"No licence texts: pip install {PACKAGE}, or name their folder.")
    found = [one for file in files if (one := _document(file, longest)) is not None]
    return sorted(found, key=lambda one: hashlib.sha256(one.text.encode()).digest())


def _packaged() -> Iterator[Path]:
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.suffix == ".LICENSE" and file.parent.name == "licenses":
            yield Path(os.fspath(file.locate()))


def _document(file: Path, longest: int) -> Document | None:
    _, head, text = file.read_text(encoding="utf-8").split("---", 2)
    fields = dict(re.findall(r"^(\w+): (.*)$", head, re.MULTILINE))
    text = text.strip()
    category = CATEGORIES.get(fields["category"])
    if category is None or "language" in fields or not 200 <= len(text) <= longest:
        return None
    values = {"Category": category} | {
        field: there if re.search(words, text, re.IGNORECASE) else ABSENT
        for field, (there, words) in WORDS.items()
    }
    lines = [HEAD, *(f"{field}: {value}" for field, value in values.items())]
    return Document(family=fields["key"].split("-")[0], text=text, summary="\n".join(lines))


def split(documents: list[Document], *, rows: int, held_out: int) -> tuple[list[Document], ...]:
    """Give so many learned and so many held-out documents, no family on both sides.

    A family with many texts is learned: half the held-out ones must not be BSD licences.
    """
    families: dict[str, list[Document]] = {}
    for one in documents:
        families.setdefault(one.family, []).append(one)
    names = sorted(families, key=lambda name: hashlib.sha256(name.encode()).digest())
    out: list[Document] = []
    for name in names:
        if len(families[name]) <= max(2, held_out // 20) and len(out) < held_out:
            out += families[name]
    apart = {one.family for one in out}
    kept = [one for one in documents if one.family not in apart]
    if len(kept) < rows or len(out) < held_out:
        sys.exit(f"There are {len(kept)} documents to learn and {len(out)} to hold out.")
    return kept[:rows], out[:held_out]


def write_rows(file: Path, documents: list[Document]) -> None:
    """Write a data file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(one.row) + "\n" for one in documents), encoding="utf-8")
