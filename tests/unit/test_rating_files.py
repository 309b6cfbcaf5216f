"""Tables of pairs that LibreOffice Calc itself opened, took marks into and saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.clock import now
from runner.contract.rating import Key, count_marks, foreign_rows, missing_pairs, read_marks
from runner.daemon.promotion.sheet_marks import SHEETS, read_sheet_marks

FOLDER = Path(__file__).parent.parent / "data/ratings"
"""`runner rate` wrote each table (of the rows in written.json) as .xlsx or CSV; LibreOffice 7.4
read it, as a German one where the name says so, with every quoted field open to be a number or a
date; marks 2, = and 1 were typed in by turns, and it was saved as the name ends."""
FILES = sorted(one for one in FOLDER.iterdir() if one.suffix != ".json")


@pytest.mark.parametrize("file", FILES, ids=[one.name for one in FILES])
def test_what_a_spreadsheet_saved_is_read_back(file: Path) -> None:
    """Every mark, whatever the program made of dates, signs and quotes in the answers."""
    key = Key.model_validate(json.loads((FOLDER / "written.json").read_text())["key"])
    content = file.read_bytes()
    marks = read_sheet_marks(content) if file.name.endswith(SHEETS) else read_marks(content)
    assert marks.problem == foreign_rows(key, marks) == ""
    assert missing_pairs(key, marks) == []
    assert marks.given == {pair: (1, 2, 0)[pair % 3] for pair in range(1, 9)}
    rating = count_marks(key, marks, now())
    assert (rating.better + rating.worse, rating.ties) == (5, 3)
