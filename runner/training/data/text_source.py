"""Text of a data file, piece by piece: decoded, its lines numbered, none longer than a row may be.

A file of 10 GB takes no more memory than one of 1 MB: nobody who reads text holds more than one
piece of it, or the one row that is just being put together.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Collection, Iterator
from typing import BinaryIO

from runner.training.data.findings import Findings

BLOCK = 1024 * 1024  # bytes read at a time
ROW_CHARS = 8 * 1024 * 1024
"""One row. The longest context that a spec can ask for (1,048,576 tokens) holds 4 to 6 million
letters of English; and the tokenizer needs up to 100 bytes for each letter of a row."""
TOO_LONG = f"the line is longer than {ROW_CHARS // 1024**2} MiB"
TOO_LONG_HINT = "Make the row shorter, or cut it into several."
_START = 64  # bytes: column names, or the beginning of a row, in letters without accents
_FOREIGN_SHARE = 0.6  # of a line's letters: with accents alone, no European language has so many
_LETTERS = 8  # with a zero on the same side: column names, or a row's beginning, are ASCII
_ZEROS = "The file was not written to its end, or is no text: copy or export it again."
_UTF8 = "Save it as UTF-8 (in Excel: 'CSV UTF-8')."


class TextSource:
    """The text of one file."""

    def __init__(
        self,
        file: BinaryIO,
        shown_as: str,
        findings: Findings,
        *,
        only: Collection[int] | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            file: its bytes, unpacked.
            shown_as: the file as the spec names it.
            findings: takes the lines that are not UTF-8.
            only: numbers of the lines that are wanted; no others are given.
        """
        self._only, self._wanted = only, sorted(only or ())
        self._bad_line = 0
        self._file, self._name, self._findings = file, shown_as, findings
        self._pieces = self._decoded()
        self._ahead: deque[str] = deque()  # read to look at, and not given out yet

    def pieces(self) -> Iterator[str]:
        """Give the text in pieces; each ends with a line, but where a line is longer than one."""
        while True:
            if self._ahead:
                yield self._ahead.popleft()
            elif (piece := next(self._pieces, None)) is not None:
                yield piece
            else:
                return

    def lines(self, end: str = "\n") -> Iterator[tuple[int, str]]:
        """Give each line with its number, without its end; one that is too long is a finding."""
        number, parts, held = 1, [""], 0
        for piece in self.pieces():
            first, *others = piece.split(end)
            parts.append(first)
            held += len(first)
            for other in others:
                if self._only is None or number in self._only:
                    yield number, self._joined(parts, held, number)
                number, parts, held = number + 1, [other], len(other)
            if held > ROW_CHARS:  # its rest is not kept; its length is
                parts = [""]
        if held and (self._only is None or number in self._only):
            yield number, self._joined(parts, held, number)

    def _joined(self, parts: list[str], held: int, number: int) -> str:
        if held <= ROW_CHARS:
            return "".join(parts)
        self._findings.add(self._name, number, TOO_LONG, hint=TOO_LONG_HINT)
        return ""

    def peek(self, chars: int) -> str:
        """Give at least so much of the beginning, or all that is left; nothing counts as read."""
        held = sum(map(len, self._ahead))
        while held < chars and (piece := next(self._pieces, None)) is not None:
            self._ahead.append(piece)
            held += len(piece)
        return "".join(self._ahead)

    def first_line(self) -> str:
        """Give the first line that holds something, or as much of it as a row may have."""
        chars = BLOCK
        while True:
            seen = self.peek(chars).lstrip()
            line, end, _ = seen.partition("\n")
            if end or len(seen) > ROW_CHARS or chars > 2 * ROW_CHARS:
                return line
            chars += BLOCK

    def has_less_than(self, chars: int) -> bool:
        """Tell whether the whole text is shorter."""
        return len(self.peek(chars)) < chars

    # -- bytes -----------------------------------------------------------------------------------

    def _decoded(self) -> Iterator[str]:
        line, first, starts_line = 1, True, True
        for block in self._blocks():
            if first and (wide := _wide(block)):
                self._findings.add(self._name, 1, f"the file is {wide}, not UTF-8", hint=_UTF8)
                return
            ends = block.count(b"\n")
            # The first block says of what kind the file is.
            text = self._decode(block, line) if first or self._wants(line, ends) else "\n" * ends
            if starts_line:
                text = text.lstrip("\ufeff")
            # Files that were joined keep their marks, each at the beginning of a line.
            yield text.replace("\n\ufeff", "\n")
            first, starts_line = False, block.endswith(b"\n")
            line += ends

    def _wants(self, first: int, ends: int) -> bool:
        """Whether one of the lines that a block holds, or begins or ends, is wanted."""
        if self._only is None:
            return True
        at = bisect.bisect_left(self._wanted, first)
        return at < len(self._wanted) and self._wanted[at] <= first + ends

    def _blocks(self) -> Iterator[bytes]:
        """Cut the file after ends of lines; a line longer than a block between two characters."""
        rest = b""
        while block := self._file.read(BLOCK):
            block = rest + block
            cut = block.rfind(b"\n") + 1 or _between_characters(block)
            rest = block[cut:]
            if cut:
                yield block[:cut]
        if rest:
            yield rest

    def _decode(self, block: bytes, line: int) -> str:
        """Decode UTF-8, noting every line that is something else."""
        try:
            if b"\0" not in block:
                return block.decode()
        except UnicodeDecodeError:
            pass
        lines = block.split(b"\n")
        for at, content in enumerate(lines):
            try:
                content.decode()
                if b"\0" not in content:
                    continue
                what, hint = "the line holds zero bytes, which no text has", _ZEROS
            except UnicodeDecodeError:
                what, hint = "the line is not UTF-8", _advice(content)
            if line + at != self._bad_line:  # a long line comes in several pieces
                self._findings.add(self._name, line + at, what, hint=hint)
            self._bad_line = line + at
            # Emptied, so that the other problems of the file are still found in this pass.
            lines[at] = b""
        return b"\n".join(lines).decode()


def _between_characters(block: bytes) -> int:
    """Find the last place of a block where no character is cut."""
    at = len(block)
    while at > len(block) - 4 and at > 0 and block[at - 1] & 0xC0 == 0x80:
        at -= 1
    return at - 1 if at > 0 and block[at - 1] >= 0xC0 else len(block)


def _wide(start: bytes) -> str:
    """Tell UTF-16 and UTF-32 by their mark, or by letters with zeros on one side; else empty."""
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    start = start[:_START]
    zeros = sorted(start[n::4].count(0) for n in range(4))
    if len(start) >= _LETTERS and zeros[1] >= len(start) // 4 - 1:
        return "UTF-32"
    few, many = sorted((start[0::2].count(0), start[1::2].count(0)))
    return "UTF-16" if few == 0 and many >= min(_LETTERS, len(start) // 2) > 1 else ""


def _advice(line: bytes) -> str:
    """Say what an undecodable line seems to be written in, and how to save the file."""
    letters = [byte for byte in line if byte > 0x20 and not 0x30 <= byte < 0x40]
    if sum(byte >= 0x80 for byte in letters) > _FOREIGN_SHARE * len(letters):
        return f"It is perhaps in an old encoding of another script, such as GB 18030. {_UTF8}"
    if any(0x80 <= byte < 0xA0 for byte in line):
        return f"It is perhaps Windows-1252 or Mac Roman. {_UTF8}"
    return f"It is perhaps Latin-1 or Windows-1252, what Excel saves as plain CSV. {_UTF8}"
