"""Words: bytes, times, paths and untrusted text as a person reads them."""

from __future__ import annotations

import unicodedata
from datetime import datetime

from runner.clock import now

GIB = 1024**3  # bytes


def visible(text: object) -> str:
    """Show control, bidirectional and other invisible characters escaped; a terminal obeys none."""
    shown = str(text)
    if shown.isprintable():  # nearly always, and it knows of more that is to be escaped
        return shown
    return "".join(
        character
        if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
        or (character in _JOINERS and _joins(shown[max(0, at - 1) : at]))
        else character.encode("unicode_escape").decode()
        for at, character in enumerate(shown)
    )


_JOINERS = "\u200c\u200d"
"""Persian and the scripts of India are spelled with them, and a family is one emoji by them."""


def _joins(before: str) -> bool:
    """Tell the end of what a joiner may join: letters of such scripts, pictures, their signs."""
    return before > "\u05ff" and unicodedata.category(before) in {"Lo", "Mn", "Mc", "So", "Sk"}


def visible_lines(text: object) -> str:
    """Do the same to text of several lines, keeping the line breaks."""
    return "\n".join(visible(line.removesuffix("\r")) for line in str(text).split("\n"))


def duration(seconds: float | None) -> str:
    """Say a duration: ``42 s``, ``3 min 20 s``, ``2 h 05 min``; ``?`` when it is not known."""
    if seconds is None:
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def roughly(seconds: float) -> str:
    """Say a length of time as people do: ``42 s``, ``10 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory(size: int | None) -> str:
    """Say a number of bytes in GiB; ``–`` when there is none."""
    return "–" if not size else f"{size / GIB:.1f} GiB"


def counted(count: int, noun: str) -> str:
    """Say how many there are of something: ``1 row``, ``2,000 rows``; English, for commands."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def number(value: object, pattern: str = ".4f") -> str:
    """Say a measured number; ``–`` when there is none."""
    return format(value, pattern) if isinstance(value, int | float) else "–"


def local_time(moment: datetime, *, day: bool = False) -> str:
    """Say a time in the box's zone (TZ): ``14:30``; UTC is named, for nobody's clock shows it.

    Args:
        moment: with a zone.
        day: say the day, too; it is said anyway where it is not today's.
    """
    here = moment.astimezone()
    zone = " UTC" if here.tzname() in ("UTC", "GMT", "Universal") else ""
    today = now().astimezone(here.tzinfo).date()
    if not day and here.date() == today:
        return f"{here:%H:%M}{zone}"
    return f"{here:%Y-%m-%d %H:%M}{zone}"


def share_path(path: str, share_name: str) -> str:
    r"""Show a path of the box as the share's users see it.

    >>> share_path("jobs/data/x.jsonl", r"\\server")
    '\\\\server\\jobs\\data\\x.jsonl'
    """
    separator = "\\" if "\\" in share_name else "/"
    whole = f"{share_name.rstrip(chr(92) + '/')}/{path}"
    return whole.replace("/", "\\") if separator == "\\" else whole
