"""Blind pairs: made without a hint of whose answer is whose, and counted against known figures."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from runner.clock import now
from runner.commands.rate import as_table, make_pairs
from runner.contract.gate import Decision, approved_by_marks
from runner.contract.rating import Key, count_marks, missing_pairs, read_marks, wilson


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
