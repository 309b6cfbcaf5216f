"""Blind pairs: made without a hint of whose answer is whose, and counted against known figures."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from typing import Any

import pytest

from runner.clock import now
from runner.commands.rate import as_table, as_workbook, make_pairs
from runner.commands.starters import excel_file
from runner.contract.gate import Decision, approved_by_marks
from runner.contract.rating import (
    TABLE_BYTES,
    Key,
    Rating,
    count_marks,
    foreign_rows,
    missing_pairs,
    named,
    rating_in,
    read_marks,
    row_hash,
    wilson,
)
from runner.daemon.promotion.sheet_marks import read_sheet_marks
from runner.language.speaker import Language, Speaker
from runner.language.translate import translated


def answers(count: int, against: str = "base") -> list[dict[str, Any]]:
    """Make what evaluate leaves: the new adapter's answers are known by their first letter."""
    return [
        {"row": n, "question": f"Q{n}", "adapter": f"A{n}", against: f"B{n}"} for n in range(count)
    ]


def filled(table: bytes, marks: dict[int, str], *, separator: str = ",") -> bytes:
    """Fill marks in, as an expert does."""
    rows = list(csv.reader(io.StringIO(table.decode("utf-8-sig"), newline="")))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(rows[0])
    writer.writerows([*row[:-1], marks.get(int(row[0]), "")] for row in rows[1:])
    return out.getvalue().encode("cp1252", errors="replace")


def test_the_table_hides_whose_answer_is_whose_and_the_key_knows() -> None:
    """Both orders occur, each question is whole, and marks for the A answers are found to be so."""
    rows, key = make_pairs(answers(200), 60, None)
    assert len(rows) == len(key.new_first) == 60
    assert {row[2][0] for row in rows} == {"A", "B"}
    assert [row[2][0] == "A" for row in rows] == list(key.new_first)
    assert all(row[2][1:] == row[3][1:] == row[1][1:] for row in rows)
    marks = {int(row[0]): "1" if row[2].startswith("A") else "2" for row in rows}
    table = filled(as_table(rows, separator=","), marks, separator=";")
    rating = count_marks(key, read_marks(table), now())
    assert (rating.better, rating.worse, rating.ties) == (60, 0, 0)
    assert rating.is_better


def test_the_adapter_in_use_is_preferred_and_equal_answers_are_ties() -> None:
    """What both say word for word alike needs no expert."""
    found = [*answers(5, "current"), {"question": "Q", "adapter": "same", "current": "same "}]
    _, key = make_pairs(found, 40, "20261121T020000Z-aaa1")
    assert (key.against, key.against_run, key.same) == ("current", "20261121T020000Z-aaa1", 1)


def test_what_a_spreadsheet_would_take_for_a_formula_is_text() -> None:
    """An answer that begins with = must not be carried out on the expert's machine."""
    rows, _ = make_pairs([{"question": "=1+1", "adapter": "@x", "base": "-y"}], 1, None)
    assert all(cell.startswith("'") for cell in rows[0][1:])


def test_marks_as_people_write_them() -> None:
    """Ties in words, blanks, and what is no mark; only pair numbers are spoken of."""
    rows, key = make_pairs(answers(5), 5, None)
    marks = read_marks(filled(as_table(rows, separator=","), {1: " 1 ", 2: "Gleich", 3: "maybe"}))
    assert (dict(marks.given), marks.unreadable) == ({1: 1, 2: 0}, (3,))
    assert missing_pairs(key, marks) == [3, 4, 5]
    assert "lacks the column" in read_marks(b"a,b\n1,2\n").problem


@pytest.mark.parametrize(
    ("successes", "of", "low", "high"),
    # R: prop.test(21, 30, correct=FALSE), prop.test(5, 10, correct=FALSE), (0, 10)
    [(21, 30, 0.5212, 0.8334), (5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775)],
)
def test_the_interval_is_wilsons(successes: int, of: int, low: float, high: float) -> None:
    """As published tables and R's prop.test without correction have it."""
    found = wilson(successes, of)
    assert found == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))
    assert wilson(0, 0) is None


def test_experts_let_pass_only_what_is_surely_better_than_what_is_in_use() -> None:
    """21 of 30 is, 18 of 30 may be chance, and marks against another adapter say nothing."""
    key = Key(against="base", new_first=(True,) * 30)

    def decided(better: int, *, against_current: bool = True) -> Decision:
        marks = "pair,better\n" + "".join(f"{n},{1 if n <= better else 2}\n" for n in range(1, 31))
        rating = count_marks(key, read_marks(marks.encode()), now())
        return approved_by_marks(rating, is_against_current=against_current).decision

    assert decided(21) is Decision.PROMOTED
    assert decided(18) is Decision.AWAITS
    assert decided(30, against_current=False) is Decision.AWAITS


def marked(count: int, **other: Any) -> tuple[list[list[str]], Key]:
    """Give a table of pairs as it was written, every pair marked with 1."""
    rows, key = make_pairs(answers(count), count, None)
    titles = ["pair", "question", "answer 1", "answer 2", "better"]
    return [titles, *([*row, other.get("mark", "1")] for row in rows)], key


def saved(rows: list[list[str]], separator: str = ",", encoding: str = "utf-8") -> bytes:
    """Save a table as a spreadsheet does."""
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator).writerows(rows)
    return out.getvalue().encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_usual_separator_and_encoding(separator: str, encoding: str) -> None:
    """Also "Unicode text" of Excel, and its own first line that names the separator."""
    rows, key = marked(5)
    rows[1][1] = "Größe?"
    marks = read_marks(saved(rows, separator, encoding))
    assert (missing_pairs(key, marks), marks.problem) == ([], "")
    head = f"sep={separator}\r\n".encode(encoding)
    tail = saved(rows, separator, encoding)
    tail = tail[2:] if encoding == "utf-16" else tail[3:] if encoding == "utf-8-sig" else tail
    assert missing_pairs(key, read_marks(head + tail)) == []


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"], ids=["old Mac", "Unix", "Windows"])
@pytest.mark.parametrize("separator", ["sep=;\n", ";", ",", "\t", "|"])
@pytest.mark.parametrize("above", ["", "Marked by: Dr. Who, 28 November\n", "\n\n"])
def test_whatever_stands_above_the_titles(separator: str, end: str, above: str) -> None:
    """Excel for Mac ends lines its own way, and commas in answers do not pass for separators."""
    sign = separator[-2] if separator.startswith("sep=") else separator
    titles = ["pair", "question", "answer 1", "answer 2", "better"]
    rows = [[str(n), "a, b, c; d, e | f", "x,\ty", f"{n}, {n}", "2"] for n in range(1, 31)]
    text = "".join(
        sign.join(f'"{cell}"' if cell not in titles else cell for cell in row) + "\n"
        for row in [titles, *rows]
    )
    whole = (separator if separator.startswith("sep=") else "") + above + text
    marks = read_marks(whole.replace("\n", end).encode())
    assert marks.problem == ""
    assert marks.given == dict.fromkeys(range(1, 31), 2)
    assert marks.rows[7] == row_hash(*rows[6][1:4])


def test_rows_and_columns_may_be_in_any_order() -> None:
    """A mark belongs to its pair's number, wherever it stands."""
    rows, key = marked(6)
    for number, row in enumerate(rows[1:]):
        row[4] = "1" if key.new_first[number] else "2"
    moved = [[row[n] for n in (4, 2, 0, 3, 1)] for row in (rows[0], *reversed(rows[1:]))]
    marks = read_marks(saved(moved))
    assert foreign_rows(key, marks) == ""
    assert count_marks(key, marks, now()).better == 6


@pytest.mark.parametrize(
    ("pair", "mark"),
    [("²", "1"), ("9" * 5000, "1"), ("1e3", "1"), ("-1", "1"), ("", "1"), ("\x00", "1")],
)
def test_what_is_no_pair_is_passed_over(pair: str, mark: str) -> None:
    """Whatever somebody wrote below the table: it is no mark, and nothing falls over."""
    rows, key = marked(3, mark="")
    marks = read_marks(saved([*rows, [pair, "q", "a", "b", mark]]))
    assert missing_pairs(key, marks) == [1, 2, 3] or marks.problem


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1,00", 1),
        ("2.0", 2),
        ("'=", 0),
        ("=", 0),
        ("0,00", 0),
        ("Beide", 0),
        ("=1+1", None),
        ("3", None),
    ],
)
def test_a_mark_as_a_spreadsheet_writes_it(written: str, meant: int | None) -> None:
    """A formula is no mark, whatever comes out of it."""
    rows, _ = marked(1, mark=written)
    marks = read_marks(saved(rows))
    assert marks.given.get(1) == meant
    assert marks.unreadable == (() if meant is not None else (1,))


def test_two_marks_for_one_pair_are_not_chosen_between() -> None:
    """Two files pasted together: where both say the same it counts, else the pair is named."""
    rows, _ = marked(4)
    assert read_marks(saved([*rows, rows[1]])).twice == ()
    other = [*rows[2][:4], "2"]
    assert read_marks(saved([*rows, other])).twice == (2,)
    tie = [*rows[2][:4], "="]
    assert read_marks(saved([*rows, tie])).twice == (2,)
    assert read_marks(saved([rows[0], tie, *rows[1:]])).twice == (2,)
    again = [[*row, "better" if n == 0 else ""] for n, row in enumerate(rows)]
    assert "'better' twice" in read_marks(saved(again)).problem


def test_the_table_of_another_run_does_not_count() -> None:
    """Nor one with pairs that were not in it, or with one column sorted alone."""
    rows, key = marked(10)
    assert foreign_rows(key, read_marks(saved(rows))) == ""
    others = [[row[0], f"Other {row[1]}", *row[2:]] for row in rows[1:]]
    assert "another run's" in foreign_rows(key, read_marks(saved([rows[0], *others])))
    turned = [[row[0], *last[1:]] for row, last in zip(rows[1:], rows[:0:-1], strict=True)]
    assert "sorted without the others" in foreign_rows(key, read_marks(saved([rows[0], *turned])))
    swapped = [[*row[:2], row[3], row[2], row[4]] for row in rows[1:]]
    assert foreign_rows(key, read_marks(saved([rows[0], *swapped])))
    more = [*rows, ["11", "Q", "A", "B", "1"]]
    assert "not in it (11)" in foreign_rows(key, read_marks(saved(more)))
    dates = [[*row[:2], "01.05.2024", *row[3:]] if row[0] in "12" else row for row in rows]
    assert foreign_rows(key, read_marks(saved(dates))) == ""
    old = key.model_copy(update={"rows": ()})
    assert foreign_rows(old, read_marks(saved([rows[0], *others]))) == ""


def test_spreadsheets_are_read_too() -> None:
    """Excel offers its own form when it saves; broken and hostile ones are a sentence."""
    rows, key = marked(5)
    marks = read_sheet_marks(excel_file(rows))
    assert (missing_pairs(key, marks), foreign_rows(key, marks)) == ([], "")
    whole = excel_file(rows)
    for content in (b"", b"PK\x03\x04SECRET", whole[: len(whole) // 2], b"<html>"):
        assert read_sheet_marks(content).problem == "it is no spreadsheet that can be read"
    assert "lacks the column" in read_sheet_marks(excel_file([["a"], ["1"]])).problem


def test_a_workbook_holds_text_alone() -> None:
    """Formulas, signs that XML cannot hold, very long answers: what is read back fits the key."""
    found = answers(3)
    found[0] |= {"adapter": "=HYPERLINK(1)\x00\x0b", "base": "<b>&amp;\ud800" + "x" * 40_000}
    rows, key = make_pairs(found, 3, None)
    content = as_workbook(rows)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    assert "<f>" not in sheet
    assert "&lt;b&gt;" in sheet
    assert max(map(len, re.findall("<t>([^<]*)</t>", sheet))) <= 32_767 + 100
    marks = read_sheet_marks(content)
    assert (missing_pairs(key, marks), foreign_rows(key, marks)) == ([1, 2, 3], "")


def rated(low: float | None, high: float | None, run: str | None = None) -> Rating:
    """Give what marks say, with this interval."""
    return Rating(
        better=7,
        worse=3,
        ties=2,
        low=low,
        high=high,
        against="current" if run else "base",
        against_run=run,
        at=now(),
    )


@pytest.mark.parametrize(
    ("low", "high", "better", "worse"),
    [
        (0.51, 0.9, True, False),
        (0.5, 0.9, False, False),  # one half itself is no difference
        (0.1, 0.49, False, True),
        (0.1, 0.5, False, False),
        (0.1, 0.55, False, False),
        (None, None, False, False),
    ],
)
def test_better_and_worse_need_the_whole_interval(
    low: float | None,
    high: float | None,
    better: bool,  # noqa: FBT001 - a row of the table
    worse: bool,  # noqa: FBT001
) -> None:
    """On one side of one half."""
    found = rated(low, high)
    assert (found.is_better, found.is_worse) == (better, worse)


def test_what_experts_found_is_said_in_words() -> None:
    """The counts, the other's name, the interval from its low end to its high one, and which."""
    said = [rating_in(rated(*ends)) for ends in ((0.6, 0.9), (0.1, 0.4), (0.4, 0.6), (None, None))]
    assert len(set(said)) == 4
    for one, ends in zip(said, (("60", "90"), ("10", "40"), ("40", "60")), strict=False):
        assert one.index(ends[0]) < one.index(ends[1])
    speak = Speaker(Language.ENGLISH)
    for one, key in zip(said, ("better", "worse", "open"), strict=False):
        low, high = re.findall(r"[\d.]+\s?%", one)[:2]
        assert one.endswith(speak(f"rating_{key}", low=low, high=high))
    assert said[3].endswith(speak("rating_all_ties"))
    assert "20261121T020000Z-aaa1" in rating_in(rated(0.6, 0.9, "20261121T020000Z-aaa1"))
    assert speak("rating_base") in said[0]


def test_what_was_compared_is_kept_with_the_count() -> None:
    """Against whom, by which run; questions that both answered alike are ties."""
    rows, key = make_pairs(
        [*answers(3, "current"), {"question": "Q", "adapter": "same", "current": "same"}], 9, "run"
    )
    marks = {int(row[0]): "=" for row in rows}
    found = count_marks(key, read_marks(filled(as_table(rows, separator=","), marks)), now())
    assert (found.against, found.against_run) == ("current", "run")
    assert (found.better, found.worse, found.ties) == (0, 0, 4)
    assert (found.low, found.high) == (None, None)


def test_a_table_that_is_too_large_is_not_read() -> None:
    """By one byte; one as large as allowed is, and so is an answer of more than 128 KiB."""
    rows, key = marked(2)
    rows[1][2] += "x" * 200_000
    whole = saved(rows)
    before = csv.field_size_limit(1000)
    assert missing_pairs(key, read_marks(whole)) == []
    assert csv.field_size_limit(before) == 1000  # other readers' limit stands
    longest = b"pair,better,answer 1\n1,1,"
    longest += b"x" * (TABLE_BYTES - len(longest))
    assert dict(read_marks(longest).given) == {1: 1}
    assert "larger than 16 MiB" in read_marks(longest + b"x").problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"sep=|\npair,other\n1,1\n", "lacks the column"),
        (b"\n" * 12 + b"pair,better\n1,1\n", "lacks the column"),
        (b"pair,question\n1,Q\n", "lacks the column"),
        (b"better,question\n1,Q\n", "lacks the column"),
        (b"pair,pair,better\n1,1,1\n", "'pair' twice"),
        (b"", "lacks the column"),
    ],
)
def test_what_is_no_table_of_marks_is_said(content: bytes, problem: str) -> None:
    """And nothing in it counts."""
    found = read_marks(content)
    assert problem in found.problem
    assert found.given == {}


def test_tables_as_they_come_back() -> None:
    """Titles in capitals and with blanks, short rows, half a letter at the end."""
    found = read_marks(b" Pair , BETTER \n1,1\n2\n3,0\n4,1.5\n")
    assert dict(found.given) == {1: 1, 3: 0}
    assert found.unreadable == (4,)
    torn = "pair\tbetter\n1\t2\n".encode("utf-16") + b"\x31"
    assert dict(read_marks(torn).given) == {1: 2}


def test_how_many_rows_may_differ() -> None:
    """A fifth: two of ten, not three. A pair of number 0 was not in it; cells do not run over."""
    rows, key = marked(10)
    changed = [[*row[:2], "01.05.2024", *row[3:]] if row[0] in "123" else row for row in rows]
    assert foreign_rows(key, read_marks(saved(changed)))
    zero = [*rows, ["0", "Q", "A", "B", "1"]]
    assert "not in it (0)" in foreign_rows(key, read_marks(saved(zero)))
    assert row_hash("ab", "c", "d") != row_hash("a", "bc", "d")


def test_ten_pairs_are_named_and_more_are_hinted_at() -> None:
    """A sentence stays one."""
    assert named(range(1, 11)) == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
    assert named(range(1, 12)) == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …"


def test_one_mark_has_an_interval() -> None:
    """A wide one: Wilson's for 1 of 1 begins at 1 / (1 + z²)."""
    assert wilson(1, 1) == (pytest.approx(1 / (1 + 1.959964**2), abs=1e-6), pytest.approx(1.0))


def test_what_is_wrong_with_a_table_is_said_in_german_too() -> None:
    """Each problem that a table may have, as its answer on the share has it."""
    german = Speaker(language=Language.GERMAN)
    rows, key = marked(5)
    others = [[row[0], "Z", "Z", "Z", row[4]] for row in rows[1:]]
    more = [*rows, ["9", "Q", "A", "B", "1"]]
    said = [
        read_marks(b"x" * (TABLE_BYTES + 1)).problem,
        read_marks(b"a,b\n1,2\n").problem,
        read_marks(b"pair,pair,better\n1,1,1\n").problem,
        read_sheet_marks(b"<html>").problem,
        foreign_rows(key, read_marks(saved([rows[0], *others]))),
        foreign_rows(key, read_marks(saved(more))),
    ]
    assert all(said)
    assert len(set(said)) == len(said)
    assert [translated(one, german) for one in said if not translated(one, german)] == []
