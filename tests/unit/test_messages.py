"""Every message of the product: each refusal says how to fix it, and none uses old or odd words.

The table is made from the code itself: each place that builds a Problem, an error or a finding.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "runner").rglob("*.py"))

BANNED = re.compile(
    r"\bmend(s|ed|ing)?\b|\btold\b|\btells\b|\bfor ever\b|\b(for|only) so long\b"
    r"|came of it|\bwhoever\b|\blately\b|\banew\b|\bto and fro\b|\bof one's own\b|\bmeanwhile\b"
    r"|what it was shown|\bthis kind of file is not read\b|\bbelong to no\b|\bIt waits: ",
    re.IGNORECASE,
)
"""Words that nobody says today, and the sentences that a lawyer could make nothing of."""

ADVICE = {"hint", "advice", "allowed"}
"""What tells the reader what to do: the fix, or what may stand there."""

_OF_DATA = {"add", "once", "tell", "BadRowError", "UnlearnableRowError", "_refusal", "_refuse"}
"""What notes or raises a refusal of a row, a data file or a model; each takes a hint."""

_OWN_WISH = "its reader wished it"
WITHOUT_ADVICE = {
    "runner/daemon/stages/outcome.py: Cancelled: …. Nothing was trained yet.": _OWN_WISH,
    "runner/daemon/stages/outcome.py: Cancelled: …. The adapter of its step … is kept: "
    "outputs/…/…/checkpoints/…/": _OWN_WISH,
    "runner/daemon/stages/outcome.py: Cancelled: …. What it had trained is kept, and could not be "
    "checked (…): outputs/…/…/checkpoints/": _OWN_WISH,
    "runner/training/fit/train.py: Stopped after step ….": "it goes on by itself",
}
"""``module: message`` → why it needs no advice."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One place in the code that builds a refusal."""

    module: str
    line: int
    kind: str
    text: str
    has_advice: bool

    @property
    def key(self) -> str:
        return f"{self.module}: {self.text}"


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def text_of(node: ast.AST | None) -> str:
    """Give the words of a string in the code; what is filled in shows as …."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.IfExp):
        return f"{text_of(node.body)} / {text_of(node.orelse)}"
    return ""


def errors_of(trees: dict[str, ast.Module]) -> set[str]:
    """Name every class that descends from RunnerError."""
    known = {"RunnerError"}
    while True:
        more = {
            node.name
            for tree in trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            and any(getattr(base, "id", getattr(base, "attr", "")) in known for base in node.bases)
        }
        if more <= known:
            return known
        known |= more


@cache
def parsed() -> dict[str, ast.Module]:
    """Parse every module, once."""
    return {p.relative_to(ROOT).as_posix(): ast.parse(p.read_text()) for p in MODULES}


def messages() -> Iterator[Message]:
    """Give every place that builds a refusal with words of its own."""
    trees = parsed()
    errors = errors_of(trees)
    carriers = {"InputError", "SpecError", "DataError", "ModelError"}  # their problems say it
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            kind = name_of(node)
            words = {keyword.arg: keyword.value for keyword in node.keywords}
            of_data = kind in _OF_DATA and "hint" in words
            known = kind in {"Problem", "ErrorFacts"} or (kind in errors and kind not in carriers)
            if not known and not of_data:
                continue
            first = words.get("message") or (node.args[-1 if of_data else 0] if node.args else None)
            text = text_of(first) or ("…" if of_data else "")  # of the data, most stand in ``what``
            if not text or kind == "UnsafePathError":  # its advice is a must of its signature
                continue
            yield Message(
                module=module,
                line=node.lineno,
                kind=kind,
                text=text,
                has_advice=any(
                    name in ADVICE and getattr(value, "value", "something") is not None
                    for name, value in words.items()
                ),
            )


def test_every_refusal_says_how_to_fix_it() -> None:
    """A message that only says what is wrong leaves its reader alone."""
    found = list(messages())
    assert len(found) > 200, "the table lost its rows"
    without = [m for m in found if not m.has_advice and m.key not in WITHOUT_ADVICE]
    assert not without, "\n".join(f"{m.module}:{m.line} {m.kind}: {m.text}" for m in without)


def test_the_exceptions_are_still_needed() -> None:
    """An exception whose message is gone, or has its advice now, goes too."""
    bare = {m.key for m in messages() if not m.has_advice}
    assert set(WITHOUT_ADVICE) <= bare


def spoken(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Give every string that a person may read: all but docstrings and single words."""
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in silent and " " in node.value.strip():
            yield node.lineno, node.value


def command_help(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Give the docstrings that typer shows as help, and those that errors show as messages."""
    for node in ast.walk(tree):
        named = getattr(node, "name", "")
        shown = isinstance(node, ast.FunctionDef) and named == "command"
        shown |= isinstance(node, ast.ClassDef) and named.endswith("Error")
        if shown and (text := ast.get_docstring(node)):
            yield node.lineno, text


@pytest.mark.parametrize("kind", [spoken, command_help])
def test_messages_are_plain_modern_english(kind) -> None:
    """Nobody has to look up a word to learn what went wrong."""
    found = [
        f"{module}:{line}: {text.strip()[:120]}"
        for module, tree in parsed().items()
        for line, text in kind(tree)
        if BANNED.search(text)
    ]
    assert not found, "\n".join(found)
