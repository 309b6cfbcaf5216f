"""Mojibake: letters that a wrong encoding has broken, such as Ã¼ where ü was meant.

ftfy's judgement takes a millisecond a row, so it sees only what looks like UTF-8 that was read in
another encoding: the sign of a first byte followed by that of a second one.
"""

from __future__ import annotations

import re

_SECOND = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"  # 0x80 to 0xBF in Latin-1 and Windows-1252
_SUSPECT = re.compile(f"[\xc2-\xf4][{_SECOND}]")
_SUSPECT_BYTES = re.compile(b"[\xc2-\xf4][\x80-\xbf]")
_CONTROL = re.compile("[\x80-\x84\x86-\x9f]")
"""Controls that nobody writes: “ and € of Windows-1252 that were read as Latin-1. (\x85 is a line
break on mainframes.)"""
_UTF7 = re.compile(r"\+A[I-P][A-Za-z0-9+/]{1,60}-")
"""A Latin letter beyond ASCII, or several, as UTF-7 writes them."""
_LOST = "\ufffd"  # what a decoder writes for a byte that it cannot read
_AROUND = 60  # characters on either side that ftfy is shown: enough for its heuristics
_LOOKS = 20  # places of one row that it is asked about


_NO_SECOND = bytes(range(0x80)) + bytes(range(0xC0, 0x100))
_NO_CONTROL = b"\x85" + bytes(range(0xA0, 0xC0))
"""In Latin-1: what is no sign of a second byte, and of those signs, what is no control."""


def _is_plainly_western(text: str) -> bool:
    """Tell text that holds no sign at all, ten times as fast as the patterns do."""
    try:
        plain = text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    seconds = plain.translate(None, _NO_SECOND)
    if not seconds:
        return True
    return not seconds.translate(None, _NO_CONTROL) and not _SUSPECT_BYTES.search(plain)


def _holds_utf7(text: str) -> bool:
    """Tell UTF-7 that nobody decoded: ``Gr+APYA3w-e`` where Größe was meant."""
    for match, _ in zip(_UTF7.finditer(text), range(_LOOKS), strict=False):
        try:
            meant = match[0].encode().decode("utf-7")
        except UnicodeDecodeError:
            continue
        if meant.isalpha() and not meant.isascii():
            return True
    return False


def is_broken(text: str) -> bool:
    """Tell whether letters in the text were broken by a wrong encoding."""
    if "\0" in text or ("+A" in text and _holds_utf7(text)):
        return True
    if text.isascii() or _is_plainly_western(text):
        return False
    if _LOST in text or _CONTROL.search(text):
        return True
    match = _SUSPECT.search(text)
    if match is None:
        return False
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    for _ in range(_LOOKS):
        part = text[max(0, match.start() - _AROUND) : match.end() + _AROUND]
        if is_bad(part) and fix_encoding(part) != part:
            return True
        match = _SUSPECT.search(text, match.end() + _AROUND)
        if match is None:
            return False
    return False
