"""YAML and JSON: the text of a spec as a tree that knows the line of every value.

The tree keeps each scalar as it was written: what ``1e-4`` or ``yes`` means depends on the field it
stands in, which spec/read_spec.py knows. Nothing is constructed from tags, and anchors and
aliases are refused, so that a small file cannot become a large tree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from runner.errors import Problem

DEEPEST = 10
"""Levels of nesting; a spec needs three."""
MOST_VALUES = 1200
"""Keys and values; a spec has some tens. The daemon's loop reads specs, and no round of it is to
take over 0.2 s: 64 KiB of short values took 1.3 s."""
_OPENED_AT_ONCE = re.compile(r"(?:[\[{]\s*){200}")
"""ruamel looks 1,024 characters ahead for a key, and at each bracket again: that took 0.3 s."""
_SHOWN = 60  # characters of a value that a message repeats
_HASH = re.compile(r"\[[^\]]*\s#")
"""A list in brackets that a remark cuts off."""
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


class UnreadableError(Exception):
    """The text is no YAML that a spec may be; carries the problem and whether more bytes help."""

    def __init__(self, problem: Problem, *, may_be_incomplete: bool) -> None:
        """Take the one problem that ended the reading."""
        self.problem = problem
        self.may_be_incomplete = may_be_incomplete
        super().__init__(problem.message)


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """A value as it was written."""

    text: str
    line: int
    is_null: bool = False
    remark: str = ""
    """The rest of its line from the blank before a #: YAML reads none of it."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True, kw_only=True)
class Block:
    """A mapping."""

    values: dict[str, Node]
    key_lines: dict[str, int]
    line: int


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A value whose problem has been reported already."""

    line: int


Node = Scalar | Items | Block | Unusable


def shown(text: str) -> str:
    """Clip a value and escape what a terminal or editor would not show as it is."""
    clipped = text if len(text) <= _SHOWN else text[: _SHOWN - 1]
    safe = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in clipped
    )
    return safe if clipped is text or clipped == text else safe + "…"


def _too_deep(line: int) -> UnreadableError:
    problem = Problem(
        line=line,
        message="the spec is nested too deeply",
        allowed=f"at most {DEEPEST} levels; a spec needs three",
    )
    return UnreadableError(problem, may_be_incomplete=False)


def _too_many(line: int) -> UnreadableError:
    problem = Problem(
        line=line,
        message="the spec holds too many values",
        allowed=f"at most {MOST_VALUES:,} keys and values",
        hint="rows to learn from go into a data file, which the spec names",
    )
    return UnreadableError(problem, may_be_incomplete=False)


@dataclass
class _Reader:
    events: Iterator[Any]
    lines: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    values: int = 0

    def node(self, event: Any, depth: int) -> Node:
        line = event.start_mark.line + 1
        self.values += 1
        if depth > DEEPEST:
            raise _too_deep(line)
        if self.values > MOST_VALUES:
            raise _too_many(line)
        if isinstance(event, AliasEvent):
            self._refuse(
                line,
                "a spec cannot hold an alias (*name)",
                found=f"*{shown(str(event.anchor))}",
                hint='write the value itself; a pattern such as "*.jsonl" needs quotes',
            )
            return Unusable(line=line)
        usable = True
        if event.anchor is not None:
            self._refuse(
                line,
                "a spec cannot hold an anchor (&name)",
                found=f"&{shown(str(event.anchor))}",
                hint="leave it out; text that begins with & goes in quotes",
            )
            usable = False
        if event.tag is not None:
            self._refuse(
                line,
                "a spec cannot hold a tag (!name)",
                found=shown(str(event.tag)),
                hint="leave it out; text that begins with ! goes in quotes",
            )
            usable = False
        node: Node
        if isinstance(event, ScalarEvent):
            node = self._scalar(event, line)
        elif isinstance(event, SequenceStartEvent):
            items = []
            while not isinstance(event := next(self.events), SequenceEndEvent):
                items.append(self.node(event, depth + 1))
            node = Items(items=tuple(items), line=line)
        else:
            assert isinstance(event, MappingStartEvent)
            node = self._block(line, depth)
        return node if usable else Unusable(line=line)

    def _scalar(self, event: Any, line: int) -> Scalar:
        text = str(event.value)
        if any("\ud800" <= c <= "\udfff" for c in text):  # JSON writes 😀 as two escapes
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        plain = event.style in (None, "")
        remark = self._remark(event.end_mark) if plain else ""
        return Scalar(text=text, line=line, is_null=plain and text in _NULLS, remark=remark)

    def _remark(self, mark: Any) -> str:
        rest = self.lines[mark.line][mark.column :] if mark.line < len(self.lines) else ""
        match = re.match(r":?(\s*#.*)", rest)
        return match[1].rstrip() if match else ""

    def _block(self, line: int, depth: int) -> Block:
        values: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            key, after_key = self.node(event, depth + 1), event.end_mark
            value = self.node(next(self.events), depth + 1)
            if isinstance(value, Scalar) and value.is_null:
                # The mark of a value that is not there lies on some later line.
                value = replace(value, remark=self._remark(after_key))
            if isinstance(key, Unusable):
                continue
            if not isinstance(key, Scalar):
                self._refuse(key.line, "a field's name must be a word")
            elif key.text in values:
                first = lines[key.text]
                where = f"on line {first}" + (
                    f" and on line {key.line}" if key.line != first else ""
                )
                twice = f"{shown(key.text)} stands here twice: {where}"
                self._refuse(key.line, twice, hint="keep one of the two")
            else:
                values[key.text] = value
                lines[key.text] = key.line
        return Block(values=values, key_lines=lines, line=line)

    def _refuse(
        self, line: int, message: str, *, found: str | None = None, hint: str | None = None
    ) -> None:
        self.problems.append(Problem(line=line, message=message, found=found, hint=hint))


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def _check_json(text: str) -> None:
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        message, line = error.msg, error.lineno
    except (ValueError, RecursionError):
        return  # too deep, which the tree's own limit says better
    else:
        return
    raise UnreadableError(
        Problem(
            line=line,
            message=f"this is not JSON: {message}",
            hint="mind the commas and the quotes before this place; or write it as YAML, in a file "
            "that ends in .yaml",
        ),
        may_be_incomplete=True,
    )


def _context(error: YAMLError) -> str:
    """Say in the parser's words what it was reading."""
    return str(getattr(error, "context", ""))


def _syntax_problem(error: YAMLError, text: str) -> Problem:
    """Say where YAML's rules were broken, in words for people who do not know them."""
    mark = None
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
    lines = text.split("\n")
    if mark is None:
        bad = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]", text)
        return Problem(
            line=text.count("\n", 0, bad.start()) + 1 if bad else None,
            message="a character that no text file should hold",
            found=shown(bad[0]) if bad else None,
            hint="save the file as plain text (UTF-8)",
        )
    number = min(mark.line + 1, len(lines))
    for at in (number, number - 1):
        if at >= 1 and "\t" in re.match(r"\s*", lines[at - 1])[0]:  # type: ignore[index]
            return Problem(
                line=at,
                message="the line is indented with a tab",
                hint="indent with spaces; YAML does not read tabs",
            )
    if "\\t" in str(getattr(error, "problem", "")):
        return Problem(
            line=number,
            message="a tab stands where a space is needed",
            hint="write a space instead; YAML does not read tabs",
        )
    reason = error.problem if isinstance(error, MarkedYAMLError) and error.problem else "unclear"
    reason = re.sub(r"%?'([^']*)'", lambda m: f"'{shown(m[1])}'", str(reason).splitlines()[0])
    for at in (number, number - 1):
        if at >= 1 and re.match(r"\s*\w+:[^\s/\\]", lines[at - 1]):
            return Problem(
                line=at, message="a colon without a space after it", hint="leave a space"
            )
    if "unknown escape character" in reason:
        return Problem(
            line=number,
            message="a backslash means something else inside double quotes",
            hint="write / instead of \\ in paths: data/contracts.jsonl",
        )
    if "','" in reason and (cut := next((x for x in lines[:number] if _HASH.search(x)), None)):
        return Problem(
            line=lines.index(cut) + 1,
            message="what follows a # is a remark, so this list is never closed",
            hint='put each path that holds a # in quotes: ["data/akten #12.jsonl"]',
        )
    said = f"{reason} {_context(error)}"
    hint = next((hint for words, hint in _SYNTAX_HINTS if words in said), None)
    return Problem(line=number, message=f"this is not YAML: {reason[:160]}", found=None, hint=hint)


_SYNTAX_HINTS = (
    (
        "mapping values are not allowed",
        "put text that holds ': ' in quotes, and line up the fields of a block",
    ),
    (
        "cannot start any token",
        "put text that begins with a special character, such as *, in quotes",
    ),
    ("alias", "put text that begins with a special character, such as *, in quotes"),
    (
        "could not find expected ':'",
        "write NAME: VALUE on each line; a line that goes on with a text is indented",
    ),
    ("expected '<document start>'", "let all fields begin at the left margin, or line them up"),
    ("quoted scalar", "close the quotes that begin here, on the same line"),
)
"""Words of the parser, and what to do about it; the first that fit count."""


def read_tree(text: str, *, must_be_json: bool) -> tuple[Node | None, list[Problem]]:
    """Read a spec's text; the problems are those that did not end the reading.

    Raises:
        UnreadableError: it cannot be read to its end.
    """
    if text.startswith("{\\rtf"):
        message = "this is a formatted text (RTF), as WordPad and Word save it"
        hint = "save it as plain text (UTF-8), or write it in Notepad"
        problem = Problem(line=1, message=message, hint=hint)
        raise UnreadableError(problem, may_be_incomplete=False)
    if must_be_json:
        _check_json(text)
    if text.lstrip().startswith("{") and _is_json(text):
        text = text.replace("\t", " ")  # JSON may be indented with tabs; its strings hold none
    try:
        return _read(text)
    except UnreadableError:
        raise
    except YAMLError as error:
        problem = _syntax_problem(error, text)
    except Exception:  # a parser's own defect must not stop the daemon: the file is at fault
        problem = Problem(
            message="this cannot be read as YAML",
            hint="compare it with examples/first-job.yaml: one field a line, NAME: VALUE",
        )
    raise UnreadableError(problem, may_be_incomplete=True)


def _read(text: str) -> tuple[Node | None, list[Problem]]:
    if (opened := _OPENED_AT_ONCE.search(text)) is not None:
        raise _too_deep(text.count("\n", 0, opened.start()) + 1)
    events = iter(YAML(typ="safe", pure=True).parse(text))
    reader = _Reader(events, lines=text.split("\n"))
    root: Node | None = None
    documents = 0
    for event in reader.events:
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise UnreadableError(
                    Problem(
                        line=event.start_mark.line + 1,
                        message="a second document begins here (---)",
                        hint="one file holds one spec; put the other into a file of its own",
                    ),
                    may_be_incomplete=False,
                )
            root = reader.node(next(reader.events), 1)
        elif isinstance(event, (StreamEndEvent, DocumentEndEvent)):
            continue
    return root, reader.problems
