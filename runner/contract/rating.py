"""Rating: experts mark blind pairs of answers, the new adapter's and another's, in a table.

The table lies on the share and does not say whose answer is whose; the key to it lies in the run's
folder. Marks are counted when every pair has one: who looks earlier and stops when the figures
please would find differences that are not there.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import NormalDist
from typing import Literal

from pydantic import BaseModel, ConfigDict

from runner.contract.record_time import Time
from runner.language.speaker import ENGLISH, Speaker

PAIR, QUESTION, FIRST, SECOND, BETTER = "pair", "question", "answer 1", "answer 2", "better"
TABLE_BYTES = 16 * 1024 * 1024  # a thousand pairs of long answers have half of it
_TIES = frozenset({"=", "0", "tie", "same", "equal", "both", "none", "gleich", "beide", "keine"})
_CONFIDENCE = 0.95
_SHOWN = 10  # pairs named in a sentence
_DIFFER = 0.2
"""So large a share of rows may say something else than what was written: a spreadsheet turns some
answers into dates or numbers. In another run's table, or where one column was sorted alone, nearly
all do."""
_NUMBER = re.compile(r"[0-9]{1,6}(?:[.,]0+)?")
"""A pair's number or a mark, also as spreadsheets write whole numbers: ``1,00``."""
_HASHED = 1000  # letters of a cell: what is longer, a spreadsheet may have cut
_NO_LETTER = re.compile(r"[^a-z0-9]")
_SEPARATORS = ",;\t|"
_TITLES_WITHIN = 10  # rows from the top
_BOMS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
"""How Excel's "Unicode text" begins."""

Other = Literal["base", "current"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Key(_Part):
    """Whose answer is whose."""

    against: Other
    against_run: str | None = None
    """The run whose adapter is the other; None: the base model."""
    new_first: tuple[bool, ...]
    """For each pair, in the table's order: the first answer is the new adapter's."""
    rows: tuple[str, ...] = ()
    """For each pair, a hash of its question and answers; empty in an older key."""
    same: int = 0
    """Questions that both answered word for word alike: they are in no pair, and count as ties."""


class Rating(_Part):
    """What the experts' marks say."""

    better: int
    """Pairs in which the new adapter's answer is the better one."""
    worse: int
    ties: int
    low: float | None = None
    """Where the new one's share of the pairs that are no ties lies, with 95% confidence."""
    high: float | None = None
    against: Other
    against_run: str | None = None
    at: Time

    @property
    def is_better(self) -> bool:
        """Whether the whole interval is above one half."""
        return self.low is not None and self.low > 0.5

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval is below one half."""
        return self.high is not None and self.high < 0.5


class Marks(_Part):
    """What stands in a table that came back."""

    given: Mapping[int, int]
    """Pair → 1 or 2 for the better answer, 0 for a tie."""
    unreadable: tuple[int, ...] = ()
    """Pairs whose mark is none of these."""
    twice: tuple[int, ...] = ()
    """Pairs that stand there twice, with different marks."""
    rows: Mapping[int, str] = {}
    """Pair → a hash of its question and answers, as they stand there."""
    problem: str = ""
    """Why the table cannot be read at all."""


def row_hash(question: str, first: str, second: str) -> str:
    """Hash what a row says; accents, signs and spaces are left out: programs change them."""
    texts = (_NO_LETTER.sub("", text.lower())[:_HASHED] for text in (question, first, second))
    said = "|".join(texts)
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def read_marks(content: bytes) -> Marks:
    """Read the marks of a table as spreadsheets save it: any separator, any usual encoding."""
    if len(content) > TABLE_BYTES:
        return Marks(given={}, problem=f"it is larger than {TABLE_BYTES // 1024**2} MiB")
    text = _text(content)
    named = text[4:5] if text.lower().startswith("sep=") else ""  # Excel's own line
    for separator in (*named, *_SEPARATORS):
        rows = _rows(text, separator)
        if _titles_at(rows) is not None:
            return marks_in(rows)
    return marks_in([])


def _rows(text: str, separator: str) -> list[list[str]]:
    """Split a text into rows, all of them where one of the first has the titles.

    Lines end as Windows, Unix or an old Mac ends them.
    """
    before = csv.field_size_limit(TABLE_BYTES)  # an answer may be longer than the 128 KiB of old
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        rows = list(islice(lines, _TITLES_WITHIN))
        return rows if _titles_at(rows) is None else [*rows, *lines]
    except (csv.Error, TypeError, ValueError):  # no separator, or no table
        return []
    finally:
        csv.field_size_limit(before)


def _titles_at(rows: Sequence[Sequence[str]]) -> int | None:
    """Find the row with the titles: an expert's name or an empty row may stand above it."""
    for at, row in enumerate(rows[:_TITLES_WITHIN]):
        if {PAIR, BETTER} <= {_title(cell) for cell in row}:
            return at
    return None


def _title(cell: str) -> str:
    return cell.strip().casefold()


def _text(content: bytes) -> str:
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def marks_in(rows: Sequence[Sequence[str]]) -> Marks:
    """Read the marks of a table's rows below its titles; columns and rows may be in any order."""
    at = _titles_at(rows)
    if at is None:
        return Marks(given={}, problem=f"it lacks the column {PAIR!r} or {BETTER!r}")
    titles = [_title(cell) for cell in rows[at]]
    for title in (PAIR, BETTER):
        if titles.count(title) > 1:
            return Marks(given={}, problem=f"it has the column {title!r} twice")
    given: dict[int, int] = {}
    unreadable: dict[int, None] = {}
    twice: dict[int, None] = {}
    hashes: dict[int, str] = {}
    for row in rows[at + 1 :]:
        cells = {title: cell.strip() for title, cell in zip(titles, row, strict=False)}
        pair = _number(cells.get(PAIR, ""))
        if pair is None:
            continue
        hashes[pair] = row_hash(*(cells.get(title, "") for title in (QUESTION, FIRST, SECOND)))
        written = cells.get(BETTER, "").lstrip("'")
        mark = _mark(written)
        if mark is None:
            unreadable |= {pair: None} if written else {}
        elif given.setdefault(pair, mark) != mark:
            twice[pair] = None
    return Marks(given=given, unreadable=tuple(unreadable), twice=tuple(twice), rows=hashes)


def _number(text: str) -> int | None:
    return int(re.split("[.,]", text)[0]) if _NUMBER.fullmatch(text) else None


def _mark(text: str) -> int | None:
    number = _number(text)
    if number in (0, 1, 2):
        return number
    return 0 if text.casefold() in _TIES else None


def foreign_rows(key: Key, marks: Marks) -> str:
    """Say why a table is not the one that belongs to a key; empty: it is, as far as can be told."""
    whole = len(key.new_first)
    unknown = sorted(pair for pair in marks.rows if not 1 <= pair <= whole)
    if unknown:
        return f"it has rows that were not in it ({named(unknown)})"
    if not key.rows:
        return ""
    differ = [pair for pair, found in marks.rows.items() if key.rows[pair - 1] != found]
    if len(differ) > _DIFFER * whole:
        return (
            "its questions and answers are not those that were written: it is another run's, one "
            "column of it was sorted without the others, or a spreadsheet took its answers for "
            "numbers or dates (a table written with `runner rate --excel` keeps them)"
        )
    return ""


def missing_pairs(key: Key, marks: Marks) -> list[int]:
    """List the pairs of a key that have no mark yet."""
    return [pair for pair in range(1, len(key.new_first) + 1) if pair not in marks.given]


def count_marks(key: Key, marks: Marks, at: Time) -> Rating:
    """Count the marks of all pairs, and give the interval of Wilson's score.

    Ties say nothing of which is better, so the share is of the pairs that are none (the paired
    sign test's).
    """
    better = worse = 0
    for pair, new_first in enumerate(key.new_first, start=1):
        mark = marks.given.get(pair, 0)
        if mark:
            is_new = (mark == 1) is new_first
            better, worse = better + is_new, worse + (not is_new)
    interval = wilson(better, better + worse)
    return Rating(
        better=better,
        worse=worse,
        ties=len(key.new_first) - better - worse + key.same,
        low=interval and interval[0],
        high=interval and interval[1],
        against=key.against,
        against_run=key.against_run,
        at=at,
    )


def wilson(successes: int, of: int) -> tuple[float, float] | None:
    """Give where a share lies with 95% confidence (Wilson, JASA 22, 1927); None: of nothing."""
    if of < 1:
        return None
    z, share = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2), successes / of
    middle = share + z * z / (2 * of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    whole = 1 + z * z / of
    return (middle - half) / whole, (middle + half) / whole


def rating_in(rating: Rating, speak: Speaker = ENGLISH) -> str:
    """Say in a language what the experts found."""
    key = "better" if rating.is_better else "worse" if rating.is_worse else "open"
    other = rating.against_run or speak("rating_base")
    better, worse, ties = (
        speak("times_count", count=count) for count in (rating.better, rating.worse, rating.ties)
    )
    said = speak("rating_counts", better=better, worse=worse, ties=ties, other=other)
    if rating.low is None or rating.high is None:
        return f"{said} {speak('rating_all_ties')}"
    low, high = speak.percent(rating.low), speak.percent(rating.high)
    return f"{said} {speak(f'rating_{key}', low=low, high=high)}"


def named(pairs: Sequence[int]) -> str:
    """Name a few pairs."""
    shown = ", ".join(str(pair) for pair in pairs[:_SHOWN])
    return shown + (", …" if len(pairs) > _SHOWN else "")
