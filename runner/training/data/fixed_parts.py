"""Fixed parts: what a chat template puts around plain messages, rendered once for their roles.

Most templates only put texts between fixed words. That is read from the template itself: where the
content of a message is nothing but put out, trimmed, or asked whether there is any, all other words
follow from the roles, and are rendered once for each sequence of them. A template that looks into a
content (for `</think>`, say), or does anything that is not known here, is rendered for every row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import chain
from typing import Any

_MARK = re.compile("(\u2003?)\ufdd4([0-9]+)\ufdd5(\u2003?)")
"""A text's place in a rendering, between two blanks that a template trims or leaves. The marks are
noncharacters of Unicode, and no template puts out an em space of its own."""
_MOST_ROLES = 1000  # sequences of roles that are remembered; data has a handful


class _Kind(Enum):
    """What an expression of a template stands for."""

    OTHER = "nothing of a message but its role"
    MESSAGES = "a list of messages"
    MESSAGE = "a message"
    TEXT = "text with a message's content in it"


class _UnknownError(Exception):
    """The template does something with a content that is not known here."""


def follows_from_roles(source: str, environment: Any) -> bool:
    """Tell whether all that a template puts around contents follows from the messages' roles."""
    if "\u2003" in source or "\ufdd4" in source or "\ufdd5" in source:
        return False
    reader = _TemplateReader()
    try:
        tree = environment.parse(source)
        while True:  # until no name stands for more than it did: they may be set further down
            before = dict(reader.names)
            reader.statements(tree.body)
            if reader.names == before:
                return True
    except _UnknownError:
        return False


class _TemplateReader:
    """Goes through a template and keeps what each of its names stands for."""

    def __init__(self) -> None:
        self.names: dict[str, _Kind] = {"messages": _Kind.MESSAGES}

    # -- statements --------------------------------------------------------------------------------

    def statements(self, nodes: Iterable[Any]) -> None:
        for node in nodes:
            do = getattr(self, f"_do_{type(node).__name__.lower()}", None)
            if do is None:
                raise _UnknownError
            do(node)

    def _do_output(self, node: Any) -> None:
        for inner in node.nodes:
            self._among(inner, _Kind.OTHER, _Kind.TEXT)

    def _do_if(self, node: Any) -> None:
        self.kind(node.test)
        self.statements(chain(node.body, node.elif_, node.else_))

    def _do_for(self, node: Any) -> None:
        found = self._among(node.iter, _Kind.OTHER, _Kind.MESSAGES)
        if node.recursive:
            raise _UnknownError
        self._set(node.target, _Kind.MESSAGE if found is _Kind.MESSAGES else found)
        if node.test is not None:
            self.kind(node.test)
        self.statements(chain(node.body, node.else_))

    def _do_assign(self, node: Any) -> None:
        self._set(node.target, self.kind(node.node))

    def _do_callblock(self, node: Any) -> None:
        """Take {% generation %}, which puts out what stands in it."""
        if type(node.call.node).__name__ != "ExtensionAttribute":
            raise _UnknownError
        self.statements(node.body)

    def _do_break(self, node: Any) -> None:
        """Take {% break %}: whether it is met follows from the roles."""

    _do_continue = _do_break

    def _set(self, target: Any, kind: _Kind) -> None:
        what = type(target).__name__
        if what == "Tuple" and kind is _Kind.OTHER:
            for item in target.items:
                self._set(item, kind)
            return
        if what not in ("Name", "NSRef"):
            raise _UnknownError
        name = target.name if what == "Name" else f"{target.name}.{target.attr}"
        known = self.names.get(name, kind)
        if {known, kind} == {_Kind.OTHER, _Kind.TEXT}:
            kind = _Kind.TEXT
        elif known is not kind:
            raise _UnknownError
        self.names[name] = kind

    # -- expressions -------------------------------------------------------------------------------

    def kind(self, node: Any) -> _Kind:
        """Say what an expression stands for."""
        find = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        if find is not None:
            found: _Kind = find(node)
            return found
        # Arithmetic, lists, calls and the rest: of what holds no content alone.
        for inner in node.iter_child_nodes():
            self._among(inner, _Kind.OTHER)
        return _Kind.OTHER

    def _among(self, node: Any, *allowed: _Kind) -> _Kind:
        found = self.kind(node)
        if found not in allowed:
            raise _UnknownError
        return found

    def _of_name(self, node: Any) -> _Kind:
        if node.name == "strftime_now":  # midnight may pass between two rows
            raise _UnknownError
        return self.names.get(node.name, _Kind.OTHER)

    def _of_getitem(self, node: Any) -> _Kind:
        base = self.kind(node.node)
        if base is _Kind.MESSAGE and type(node.arg).__name__ == "Const":
            return _Kind.TEXT if node.arg.value == "content" else _Kind.OTHER
        if type(node.arg).__name__ == "Slice":
            for end in (node.arg.start, node.arg.stop, node.arg.step):
                if end is not None:
                    self._among(end, _Kind.OTHER)
            if base in (_Kind.MESSAGES, _Kind.OTHER):
                return base
        elif base in (_Kind.MESSAGES, _Kind.OTHER):
            self._among(node.arg, _Kind.OTHER)
            return _Kind.MESSAGE if base is _Kind.MESSAGES else base
        raise _UnknownError

    def _of_getattr(self, node: Any) -> _Kind:
        if type(node.node).__name__ == "Name" and f"{node.node.name}.{node.attr}" in self.names:
            return self.names[f"{node.node.name}.{node.attr}"]
        base = self.kind(node.node)
        if base is _Kind.MESSAGE and not hasattr(dict, node.attr):
            return _Kind.TEXT if node.attr == "content" else _Kind.OTHER
        if base is _Kind.OTHER and node.attr not in ("previtem", "nextitem", "changed"):
            return base
        raise _UnknownError

    def _of_filter(self, node: Any) -> _Kind:
        base = self.kind(node.node) if node.node is not None else None
        plain = not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
        if plain and base is _Kind.TEXT and node.name == "trim":
            return base
        if plain and base is _Kind.MESSAGES and node.name in ("length", "count"):
            return _Kind.OTHER
        if plain and base is _Kind.MESSAGES and node.name in ("first", "last", "list"):
            return base if node.name == "list" else _Kind.MESSAGE
        if base is not _Kind.OTHER or node.name == "random":
            raise _UnknownError
        for inner in node.iter_child_nodes():
            self._among(inner, _Kind.OTHER)
        return _Kind.OTHER

    def _of_test(self, node: Any) -> _Kind:
        if self.kind(node.node) is not _Kind.OTHER and (node.args or node.name not in _OF_TYPE):
            raise _UnknownError
        for inner in node.args or ():
            self._among(inner, _Kind.OTHER)
        return _Kind.OTHER

    def _of_compare(self, node: Any) -> _Kind:
        """Take comparisons of other things, and whether a message has a key."""
        if self.kind(node.expr) is not _Kind.OTHER:
            raise _UnknownError
        for one in node.ops:
            asked = self.kind(one.expr)
            has_key = one.op in ("in", "notin") and asked is _Kind.MESSAGE
            if asked is not _Kind.OTHER and not has_key:
                raise _UnknownError
        return _Kind.OTHER

    def _of_add(self, node: Any) -> _Kind:
        return self._joined([node.left, node.right])

    def _of_concat(self, node: Any) -> _Kind:
        return self._joined(node.nodes)

    def _of_and(self, node: Any) -> _Kind:
        """Take either side: which one it is follows from whether there is any text."""
        return self._joined([node.left, node.right])

    _of_or = _of_and

    def _joined(self, nodes: Iterable[Any]) -> _Kind:
        kinds = {self._among(inner, _Kind.OTHER, _Kind.TEXT) for inner in nodes}
        return _Kind.TEXT if _Kind.TEXT in kinds else _Kind.OTHER

    def _of_not(self, node: Any) -> _Kind:
        self.kind(node.node)
        return _Kind.OTHER

    def _of_condexpr(self, node: Any) -> _Kind:
        self.kind(node.test)
        return self._joined([node.expr1, *([node.expr2] if node.expr2 is not None else [])])


_OF_TYPE = ("string", "defined", "undefined", "none", "mapping", "iterable", "sequence", "number")
"""Tests that look at what kind of thing a value is, and not into it."""


class FixedParts:
    """Renderings by their fixed parts, for one template and its special tokens."""

    def __init__(self) -> None:
        """Know none yet."""
        self._known: dict[tuple[Any, ...], tuple[list[str], list[tuple[int, bool, bool]]]] = {}

    def render(
        self, messages: Sequence[dict[str, str]], template: Any, given: dict[str, Any]
    ) -> str | None:
        """Put the contents between the fixed parts; None: one of them is blank, or too many roles.

        Args:
            messages: each a role and a content.
            template: the compiled template.
            given: what it is given beside the messages.
        """
        contents = [message["content"] for message in messages]
        key = (given["add_generation_prompt"], *[message["role"] for message in messages])
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_ROLES:
                return None
            known = self._known[key] = _parts(messages, template, given)
        stripped = [content.strip() for content in contents]
        if not all(stripped):  # a template may ask whether there is any text
            return None
        fixed, places = known
        said = [fixed[0]]
        for (number, left, right), part in zip(places, fixed[1:], strict=True):
            if left and right:
                said.append(stripped[number])
            elif left or right:
                text = contents[number]
                said.append(text.lstrip() if left else text.rstrip())
            else:
                said.append(contents[number])
            said.append(part)
        return "".join(said)


def _parts(
    messages: Sequence[dict[str, str]], template: Any, given: dict[str, Any]
) -> tuple[list[str], list[tuple[int, bool, bool]]]:
    """Render marks in the place of contents; give what stands between them, and what each is."""
    marked = [
        {**message, "content": f"\u2003\ufdd4{number}\ufdd5\u2003"}
        for number, message in enumerate(messages)
    ]
    found = _MARK.split(template.render(messages=marked, **given))
    fixed = found[::4]
    places = [
        (int(number), not before, not after)
        for before, number, after in zip(found[1::4], found[2::4], found[3::4], strict=True)
    ]
    return fixed, places
