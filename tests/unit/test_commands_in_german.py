"""What validate and check print where the box speaks German: all but names of fields and files."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from runner import cli
from runner.commands.check import render
from runner.contract.findings import DataFinding, Level, Place
from runner.language.speaker import Language, Speaker
from runner.language.translate import translated

GERMAN = Speaker(Language.GERMAN)
FINDINGS = (
    DataFinding(
        check="contradictions",
        level=Level.ADVISE,
        count=12,
        of=503,
        message="The same question with different answers: 12 of 503 rows.",
        advice="Look at the rows named and keep the right answer.",
        places=tuple(Place(file="c.jsonl", line=line) for line in (2, 5, 9)),
        values={},
    ),
    DataFinding(
        check="token_lengths",
        level=Level.INFORM,
        count=503,
        message="Half of the rows have 98 tokens or fewer, 95 of 100 have at most 140, the longest "
        "has 169.",
        values={"median": 98, "most": 140, "longest": 169, "to_64": 4, "to_128": 1431, "longer": 1},
    ),
)
NOTE = (
    "learning_rate 0.02 is very high: it most likely spoils the model; adapters are trained with "
    "1e-5 to 1e-3"
)


@pytest.fixture(autouse=True)
def _german(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_LANGUAGE", "de")


def shown(*findings: DataFinding, speak: Speaker = GERMAN) -> str:
    """Print what `runner check` does, in one long line each."""
    console = Console(width=300, file=io.StringIO())
    with console.capture() as captured:
        console.print(render(findings, (NOTE,), speak))
    return captured.get()


def test_check_is_german() -> None:
    """Marks, places, the bars, notes and the last sentence; a field keeps its name."""
    said = shown(*FINDINGS)
    assert "Rat  " in said
    assert "c.jsonl, Zeilen 2, 5 und 9 und 9 weitere" in said
    assert "bis 128 Token" in said
    assert "länger" in said
    assert " 1.431" in said
    assert "learning_rate 0.02 ist sehr hoch" in said
    assert "Der Auftrag kann laufen. Eines würde das Ergebnis besser machen (!)." in said
    for english in ("advice", "good to know", "lines", "more", "tokens", "very high", "The job"):
        assert english not in said.replace("c.jsonl", "")
    stopped = FINDINGS[0].model_copy(update={"level": Level.STOP})
    assert "Der Auftrag würde abgelehnt: Eines steht ihm im Weg (✗)." in shown(stopped)
    assert "2 Dinge stehen ihm im Weg" in shown(stopped, stopped)


def test_a_field_keeps_its_name_at_the_beginning_of_a_note() -> None:
    """The spec has learning_rate, and nothing that is called Learning_rate."""
    assert " learning_rate 0.02 is very high" in shown(*FINDINGS, speak=Speaker())


def test_validate_is_german(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The word for a good one, its note, and a refusal with its place and how to fix it."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("model: m\ndata: c.jsonl\ntraining: {learning_rate: 0.02}\n")
    bad.write_text("model: m\ndata: c.jsonl\nepochs: nine\n")
    with pytest.raises(SystemExit):
        cli.main(["validate", str(good), str(bad), str(tmp_path / "goot.yaml"), "--spec-only"])
    said = capsys.readouterr().out
    assert f"{good}: in Ordnung\n  Hinweis: learning_rate 0.02 ist sehr hoch" in said
    assert f"{bad}: nicht brauchbar\n" in said
    assert "bad.yaml, Zeile 3: epochs: ist kein Feld einer Auftragsdatei" in said
    assert "Abhilfe: es gehört unter training:" in said
    assert f"Abhilfe: meinten Sie {good}?" in said
    for english in ("How to fix", "cannot be used", "note:", "line 3"):
        assert english not in said


def test_an_error_of_any_command_is_german_and_its_json_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script compares what it reads."""
    (tmp_path / "job").mkdir()
    with pytest.raises(SystemExit):
        cli.main(["show", "nope", "--json", "--outputs-dir", os.fspath(tmp_path)])
    said = capsys.readouterr()
    assert said.err.startswith("runner: kein Auftrag oder Lauf heißt 'nope'\nHier gibt es noch ")
    assert '"no job or run is called' in said.out


@pytest.mark.parametrize("count", [1, 4])
def test_a_figure_in_a_second_sentence_takes_no_sentence_along(count: int) -> None:
    """The doctor said "A job could run. 4 Dinge …", half in one language."""
    things = "One thing" if count == 1 else f"{count} things"
    said = translated(f"A job could run. {things} would make it better (!).", GERMAN)
    assert said is not None
    assert said.startswith("Ein Auftrag könnte laufen. ")
