"""Text of a data file, piece by piece: decoded, its lines numbered, none longer than a row may be.

A file of 10 GB takes no more memory than one of 1 MB: nobody who reads text holds more than one
piece of it, or the one row that is just being put together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from runner.training.data.findings import Findings

BLOCK = 1024 * 1024  # bytes read at a time
ROW_CHARS = 8 * 1024 * 1024
"""One row. The longest context that a spec can ask for (1,048,576 tokens) holds 4 to 6 million
letters of English; and the tokenizer needs up to 100 bytes for each letter of a row."""
TOO_LONG = f"the line is longer than {ROW_CHARS // 1024**2} MiB"
TOO_LONG_HINT = "Make the row shorter, or cut it into several."
_START = 64  # bytes: column names, or the beginning of a row, in letters without accents
_UTF8 = "Save it as UTF-8 (in Excel: 'CSV UTF-8')."
_MARK = b"\xef\xbb\xbf"


class TextSource:
    """The text of one file."""

    def __init__(self, file: BinaryIO, shown_as: str, findings: Findings) -> None:
        """Read nothing yet.

        Args:
            file: its bytes, unpacked.
            shown_as: the file as the spec names it.
            findings: takes the lines that are not UTF-8.
        """
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
        """Give each line with its number and without its end; one that is too long is a finding."""
        number, parts, held = 1, [""], 0
        for piece in self.pieces():
            first, *others = piece.split(end)
            parts.append(first)
            held += len(first)
            for other in others:
                yield number, self._joined(parts, held, number)
                number, parts, held = number + 1, [other], len(other)
            if held > ROW_CHARS:  # its rest is not kept; its length is
                parts = [""]
        if held:
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
        line, first = 1, True
        for block in self._blocks():
            if first and _is_utf_16(block):
                self._findings.add(self._name, 1, "the file is UTF-16, not UTF-8", hint=_UTF8)
                return
            yield self._decode(block.removeprefix(_MARK) if first else block, line)
            first = False
            line += block.count(b"\n")

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
            return block.decode()
        except UnicodeDecodeError:
            pass
        lines = block.split(b"\n")
        for at, content in enumerate(lines):
            try:
                content.decode()
            except UnicodeDecodeError:
                what = "the line is not UTF-8"
                self._findings.add(self._name, line + at, what, hint=_advice(content))
                # Emptied, so that the other problems of the file are still found in this pass.
                lines[at] = b""
        return b"\n".join(lines).decode()


def _between_characters(block: bytes) -> int:
    """Find the last place of a block where no character is cut."""
    at = len(block)
    while at > len(block) - 4 and at > 0 and block[at - 1] & 0xC0 == 0x80:
        at -= 1
    return at - 1 if at > 0 and block[at - 1] >= 0xC0 else len(block)


def _is_utf_16(start: bytes) -> bool:
    """Tell UTF-16 by its mark, or by letters of one byte and a zero, as in no other text."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    start = start[:_START]
    pairs = len(start) // 2
    return pairs > 1 and pairs in (start[0::2].count(0), start[1::2].count(0))


def _advice(line: bytes) -> str:
    """Say what an undecodable line seems to be written in, and how to save the file."""
    if any(0x80 <= byte < 0xA0 for byte in line):
        return f"It is perhaps Windows-1252 or Mac Roman. {_UTF8}"
    return f"It is perhaps Latin-1 or Windows-1252, what Excel saves as plain CSV. {_UTF8}"
