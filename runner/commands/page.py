"""Page: tables, colours and a bar on the terminal, for commands that must answer at once.

rich does more, but its import takes a tenth of a second, and scripts call `runner status`.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

_STYLES = {
    "bold": "1",
    "dim": "2",
    "italic": "3",
    "red": "31",
    "bold red": "1;31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}
"""Names as rich has them, as parameters of ECMA-48's SGR."""
_BAR = 30  # characters
_LEAST = 20  # characters that a table's last column has, however narrow the terminal is


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table; it holds nothing that a terminal would obey."""

    text: str
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What is printed on: how wide, and in colours or not."""

    width: int | None
    """In characters; None: no terminal, and nothing is wrapped."""
    colors: bool

    @classmethod
    def of_terminal(cls) -> Page:
        """Take it from where standard output goes."""
        if not sys.stdout.isatty():
            return cls(width=None, colors=False)
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") in ("dumb", "")
        return cls(width=shutil.get_terminal_size().columns, colors=not plain)

    def styled(self, text: str, style: str) -> str:
        """Colour a text, where there are colours."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style and self.colors else text

    def wrapped(self, text: str) -> list[str]:
        """Cut a text into lines."""
        return [text] if self.width is None else textwrap.wrap(text, self.width) or [""]

    def bar(self, share: float) -> str:
        """Draw how much of something is done."""
        done = round(_BAR * min(1.0, max(0.0, share)))
        rest = _BAR - done
        left = self.styled("━" * rest, "dim") if self.colors else " " * rest
        return self.styled("━" * done, "green") + left

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
        """Lay out rows below their title; the last column takes what is left, in several lines."""
        widths = [
            max(len(head), *(len(row[place].text) for row in rows))
            for place, head in enumerate(heads[:-1])
        ]
        before = sum(widths) + 2 * len(widths)
        room = None if self.width is None else max(_LEAST, self.width - before)
        head = "  ".join(
            self.styled(text.ljust(width), "bold")
            for text, width in zip(heads, [*widths, 0], strict=True)
        )
        lines = ["", self.styled(title, "italic"), head.rstrip()]
        for row in rows:
            cells = [
                self.styled(cell.text.ljust(width), cell.style)
                for cell, width in zip(row, widths, strict=False)
            ]
            last = [row[-1].text] if room is None else textwrap.wrap(row[-1].text, room) or [""]
            lines.append("  ".join([*cells, last[0]]).rstrip())
            lines += [" " * before + line for line in last[1:]]
        return lines

    def print(self, text: str) -> None:
        """Print; what the terminal's encoding lacks becomes a question mark."""
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding))
