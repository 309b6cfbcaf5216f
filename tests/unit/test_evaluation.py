"""Scores of an evaluation as the daemon, the gate and two runs share them."""

from __future__ import annotations

from pathlib import Path

from runner.contract.evaluation import (
    Difference,
    RowScore,
    read_row_scores,
    write_row_scores,
)


def test_row_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Two runs are compared by this file: it gives back what was put in."""
    scores = [
        RowScore(row="00ff", score="loss", base=2.5, adapter=1.25),
        RowScore(row="00ff", score="exact_match", base=0.0, adapter=1.0, current=0.0),
    ]
    write_row_scores(tmp_path / "scores.jsonl", scores)
    assert read_row_scores(tmp_path / "scores.jsonl") == scores


def test_damaged_row_scores_are_none(tmp_path: Path) -> None:
    """A torn or foreign file compares nothing, and raises nothing."""
    path = tmp_path / "scores.jsonl"
    assert read_row_scores(path) == []
    path.write_text('{"row": "00ff", "score": "loss", "base": 1}\n{"row":')
    assert read_row_scores(path) == []
    path.write_text('{"row": "00ff", "score": "loss", "base": NaN}\n')
    assert read_row_scores(path) == []


def test_an_interval_that_holds_zero_shows_nothing() -> None:
    """Never better inside its interval."""
    assert Difference(difference=0.1, low=0.01, high=0.2).is_better
    assert not Difference(difference=0.1, low=-0.01, high=0.2).is_better
    assert not Difference(difference=0.1).is_better
    assert Difference(difference=-0.1, low=-0.2, high=-0.01).is_worse
