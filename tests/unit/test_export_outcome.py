"""What an export leaves in the record: its shortfalls stand until the form is made again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.contract.handed_over import Figures, HandedOver, ServedForm
from runner.contract.record import ErrorFacts, RunRecord, read_record
from runner.contract.stage_io import HandOverResult
from runner.daemon.stages.outcome import handed_over, not_handed_over
from runner.language.speaker import Language, Speaker
from runner.language.translate import translated
from runner.training.export.compare import Read, Row, differences
from runner.training.export.end_proof import judge_end
from runner.training.export.llama_proof import judge
from runner.training.export.merged import _left_out, _Measured, _Reference
from runner.training.export.modelfile import Modelfile, write_modelfile

RECORDS = Path(__file__).parents[1] / "data" / "records"
LEFT_OUT = "3 rows were longer than max_length and were left out."
NO_TOOLS = "q4_k_m was not made: llama.cpp's tools are not on this box."
NOT_THERE = (
    "llama.cpp's tools are not on this box; in a checkout `make llama` builds them (it needs g++), "
    "and RUNNER_LLAMA_CPP names their folder elsewhere"
)
FORM = ServedForm(name="q4_k_m", path="gguf/x", bytes=1)


@pytest.fixture
def record() -> RunRecord:
    """A run whose q4_k_m could not be made."""
    found = read_record(RECORDS / "v2-95-shortfalls-by-form.json")
    assert found.shortfalls == (LEFT_OUT, NO_TOOLS)
    return found


def exported(record: RunRecord, made: HandedOver) -> tuple[str, ...]:
    """Give the shortfalls after an export that made this."""
    changes = handed_over(record, HandOverResult(handed_over=made, shortfalls=made.sentences))
    assert changes["handed_over"] == made
    return record.but(**changes).shortfalls


def test_what_was_missing_and_is_made_now_is_no_shortfall_any_more(record: RunRecord) -> None:
    """`runner export` after `make llama`: the report must not say that the tools are missing."""
    assert exported(record, HandedOver(forms=(FORM,))) == (LEFT_OUT,)


def test_what_is_still_missing_stays_said(record: RunRecord) -> None:
    """Of a form that was not asked for this time, and once only."""
    made = HandedOver(forms=(FORM,), shortfalls={"q4_k_m": (NO_TOOLS,), "q8_0": ("q8_0 differs.",)})
    assert exported(record, made) == (LEFT_OUT, NO_TOOLS, "q8_0 differs.")


def test_a_failed_export_takes_nothing_away(record: RunRecord) -> None:
    """What stood before stands; the failure is said until the next one succeeds."""
    error = ErrorFacts(kind="failed", message="It was ended.")
    failed = record.but(**not_handed_over(record, error))
    assert failed.shortfalls[:2] == (LEFT_OUT, NO_TOOLS)
    assert failed.shortfalls[2].startswith("The export failed: It was ended.")
    again = failed.but(**not_handed_over(failed, error))
    assert again.shortfalls == failed.shortfalls
    assert exported(failed, HandedOver(forms=(FORM,))) == (LEFT_OUT,)


_READ = Read(loss=1.0, log_probs=None)
_REFERENCE = _Reference(
    rows=[Row(ids=[1, 2], places=[0])],
    words=4,
    adapter=_READ,
    base=_READ,
    scores={},
    score_rows=0,
)
SAID = (
    *(
        f"{name} was not made: {why}."
        for name, why in (
            (
                "merged/",
                "no space was left on the disk of outputs/. Make some room, then ask again",
            ),
            ("q8_0", "there are no merged weights that it could be made from"),
            ("q8_0", NOT_THERE),
        )
    ),
    *(
        f"merged/ does not do what the adapter does on the base that it was trained on: "
        f"{'; '.join(differences(Figures(loss=0.2), figures))}. It stands on the original base."
        for figures in (
            Figures(loss=0.4, kl=0.7, kl_from_base=0.8),
            Figures(loss=0.2, kl=0.3, kl_from_base=0.8),
            Figures(loss=0.4, kl=0.03),
        )
    ),
    *(
        sentence
        for forms in (("original",), ("as_trained",), ("original", "as_trained"))
        for sentence in _left_out(
            ("original", "as_trained"),
            _Measured(
                reference=_REFERENCE,
                figures=dict.fromkeys(forms),
                on_processor=True,  # type: ignore[arg-type]
            ),
        )
    ),
    judge("q8_0", Figures(kl=0.9, kl_from_base=0.8, kl_to_base=0.1)),
    judge("q8_0", Figures(kl=0.4, kl_from_base=0.8)),
    judge_end("q8_0", Figures(stops=False), ["<|im_end|>"]),
    judge_end("q8_0", Figures(ends=0.5, end_places=8), ["<|im_end|>"]),
    *(
        f"f16 with Ollama: {lost}."
        for lost in write_modelfile(
            Modelfile(model="x", template=None, system='say "no"', stops=())
        )[1]
    ),
)


@pytest.mark.parametrize("sentence", SAID)
def test_it_is_said_in_german_as_well(sentence: str | None) -> None:
    """No English is left in it but names of files, programs and settings."""
    assert sentence
    said = translated(sentence, Speaker(Language.GERMAN))
    assert said is not None
    assert not re.search(r"\b(the|is|are|not|with|its|and|of)\b", said)


def test_a_failed_export_is_said_in_german(record: RunRecord) -> None:
    """Whatever was in the way of it keeps its own words."""
    for advice in ("Make some room.", None):
        error = ErrorFacts(kind="failed", message="It was ended.", advice=advice)
        said = translated(
            not_handed_over(record, error)["shortfalls"][-1], Speaker(Language.GERMAN)
        )
        assert said is not None
        assert said.startswith("Der Export ist fehlgeschlagen: It was ended. Der Adapter")
        assert said.endswith(f"`runner export {record.run_id}` versucht es noch einmal.")
