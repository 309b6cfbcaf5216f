"""Scores of a file's answers beside the adapter's: what is told, and what is let pass.

The server is a stand-in, so that its answers can be as bad as a test needs them; the real one is
asked in tests/integration/test_gguf_of_a_real_run.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.contract.handed_over import Figures
from runner.contract.layout import RunFolder
from runner.spec.read_spec import read_spec
from runner.training.data.questions import ASKED, Question
from runner.training.evaluate.measure_answers import Room
from runner.training.export import llama_scores
from runner.training.export.llama_server import Answer as Served

SPEC = b"""\
model: m
data: d.jsonl
evaluation: {scores: [exact_match], seed: 3}
"""
ROWS = 12


class Letters:
    """A tokenizer whose tokens are letters."""

    chat_template = "x"

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose adapter answered every question right."""
    questions = [
        Question(
            part=ASKED,
            row=n,
            identity=f"{n}",
            cluster=f"c{n}",
            file="d.jsonl",
            tokens=4,
            messages=[{"role": "user", "content": f"q{n}"}],
            reference=f"a{n}",
        )
        for n in range(ROWS)
    ]
    monkeypatch.setattr(llama_scores, "read_questions", lambda _: questions)
    monkeypatch.setattr(
        "runner.training.evaluate.measure_answers.prompt_ids",
        lambda _, messages: [[ord(letter) for letter in one[-1]["content"]] for one in messages],
    )
    run = RunFolder(tmp_path / "job" / "20261127T000000Z-aaaa")
    run.evaluation.mkdir(parents=True)
    lines = [{"row": n, "scores": {"adapter": {"exact_match": 1.0}}} for n in range(ROWS)]
    (run.evaluation / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return SimpleNamespace(run=run, spec=read_spec(SPEC, file_name="job.yaml"))


def scored(source: Any, says: Callable[[int], str]) -> tuple[Figures, list[str]]:
    """Score the answers of a server that says something of each question's number."""

    class Server:
        def answer(self, prompt: Sequence[int], *, most: int) -> Served:
            text = says(int("".join(map(chr, prompt))[1:]))
            return Served(tokens=tuple(map(ord, text)), text=text, stopped=True)

    room = Room(context=100)
    return llama_scores.score(
        "q4_k_m",
        source,
        Server(),  # type: ignore[arg-type]
        Letters(),
        room=room,
        figures=Figures(loss=1.0),
    )


def test_the_same_answers_are_as_good(source: Any) -> None:
    """Nothing is told; the figures that were there stay."""
    figures, told = scored(source, lambda n: f"a{n}")
    assert told == []
    assert figures.loss == 1.0
    assert figures.scores == figures.reference_scores == {"exact_match": 1.0}
    assert figures.score_rows == ROWS


def test_one_other_answer_is_chance(source: Any) -> None:
    """It is counted, and nobody is warned."""
    figures, told = scored(source, lambda n: "?" if n == 3 else f"a{n}")
    assert told == []
    assert figures.scores["exact_match"] == pytest.approx(11 / 12)


def test_answers_that_are_worse_beyond_chance_are_told(source: Any) -> None:
    """With both figures, and how many questions they are of."""
    figures, (told,) = scored(source, lambda n: f"a{n}" if n < 6 else "?")
    assert figures.scores["exact_match"] == 0.5
    assert "exact_match 50% instead of 100%, on 12 held-out questions" in told
    assert told.startswith("q4_k_m: ")


def test_a_little_worse_in_every_answer_is_not_told(
    source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond chance, and nothing that anybody would notice."""
    path = source.run.evaluation / "answers.jsonl"
    lines = [{"row": n, "scores": {"adapter": {"chrf": 0.99}}} for n in range(ROWS)]
    path.write_text("\n".join(map(json.dumps, lines)))
    source.spec = read_spec(SPEC.replace(b"exact_match", b"chrf"), file_name="job.yaml")
    how_alike = {"now": 0.97}
    monkeypatch.setattr(
        "runner.training.evaluate.scores.chrf", lambda *_: how_alike["now"], raising=True
    )
    assert scored(source, lambda n: f"a{n}")[1] == []
    how_alike["now"] = 0.93
    (told,) = scored(source, lambda n: f"a{n}")[1]
    assert "chrf 93% instead of 99%" in told


def test_only_rows_that_the_adapter_answered_count(source: Any) -> None:
    """An evaluation that ran out of time answered fewer."""
    path = source.run.evaluation / "answers.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:5]))
    figures, _ = scored(source, lambda n: f"a{n}")
    assert figures.score_rows == 5


@pytest.mark.parametrize("content", [None, "", "{torn", '{"row": 1}', "[]", "\x00"])
def test_without_the_adapter_s_answers_nothing_is_compared(
    source: Any, content: str | None
) -> None:
    """Not evaluated, or torn: the proof by distributions stands alone."""
    path = source.run.evaluation / "answers.jsonl"
    path.unlink() if content is None else path.write_text(content)
    figures, told = scored(source, lambda _: "?")
    assert (figures.scores, figures.score_rows, told) == ({}, 0, [])


def test_time_that_is_over_ends_it(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered until then counts."""
    clock = iter(range(0, 10_000, 60))  # a minute passes between two looks
    monkeypatch.setattr(llama_scores.time, "monotonic", lambda: float(next(clock)))
    figures, _ = scored(source, lambda n: f"a{n}")
    assert 0 < figures.score_rows < ROWS


def test_a_job_that_asks_for_no_score_has_no_question_to_score(source: Any) -> None:
    """Its server is not asked for answers."""
    source.spec = read_spec(b"model: m\ndata: d.jsonl\n", file_name="job.yaml")
    assert llama_scores.to_score(source) == []
