"""Findings and previews: written once by prepare, read by whoever shows them, never trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from runner.contract.findings import DataFinding, Level, Place, read_findings, write_findings
from runner.contract.preview import Preview, PreviewRow, Token, Why, read_preview, write_preview


def finding(level: Level, **more: object) -> DataFinding:
    """Make a finding of three rows."""
    fields = {"check": "empty", "level": level, "count": 3, "message": "m", **more}
    return DataFinding.model_validate(fields)


def test_findings_come_back_the_most_serious_first(tmp_path: Path) -> None:
    """What stops the job is read first; findings of one level keep their order."""
    path = tmp_path / "findings.json"
    given = [
        finding(Level.INFORM, check="a"),
        finding(Level.ADVISE, check="b", places=(Place(file="d.jsonl", line=3),)),
        finding(Level.STOP, check="c"),
        finding(Level.ADVISE, check="d", values={"share": 0.5}),
    ]
    write_findings(path, given)
    assert read_findings(path) == (given[2], given[1], given[3], given[0])


def test_a_finding_names_three_examples_at_most() -> None:
    """A finding is a sentence with examples, not a list of a million lines."""
    with pytest.raises(ValidationError):
        finding(Level.STOP, places=tuple(Place(file="d", line=n) for n in range(4)))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"findings": 1, "rows": 1}', b"[" * 99_999, b"\xff"]
)
def test_files_that_are_not_ours_hold_nothing(tmp_path: Path, content: bytes) -> None:
    """A damaged file is as good as none: the report is written without it."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert read_findings(path) == ()
    assert read_preview(path) is None
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert read_findings(path) == ()
    assert read_preview(path) is None


def test_a_preview_comes_back_as_it_was(tmp_path: Path) -> None:
    """Every token keeps its text and kind, control characters included."""
    tokens = (
        Token(text="<|im_start|>", special=True),
        Token(text="a\x00\u202e\n", count=2),
        Token(text="<|im_end|>", special=True, learned=True),
    )
    row = PreviewRow(row=7, why=(Why.FIRST, Why.LONGEST), tokens=4, learned_tokens=1, shown=tokens)
    preview = Preview(rows=(row,), of=9, end_tokens=("<|im_end|>",))
    write_preview(tmp_path / "preview.json", preview)
    assert read_preview(tmp_path / "preview.json") == preview
