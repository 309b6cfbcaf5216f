"""What was to be measured of the base's other abilities, and was not: the stage says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_answers import ROWS, measured, prepared, with_adapter

from runner.contract.evaluation import Evaluation
from runner.contract.layout import RunFolder
from runner.spec.evaluation import EvaluationWish
from runner.training.evaluate import forgetting, held_out_answers
from runner.training.evaluate.forgetting import AXES
from runner.training.evaluate.held_out_answers import wanted_axes

SPEC = "model: tiny\ndata: rows.jsonl\neval_split: 20%\nmethod: lora\nevaluation: "
ALONE = "{samples: 0, forgetting: true, recital: false}"
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),  # of the stack: its stage runs in this process
]


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that is prepared and exported."""
    found = prepared(tmp_path_factory.mktemp("box"), tiny_model.parent, SPEC + ALONE, ROWS)
    with_adapter(found, tiny_model, seed=1)
    return found


def evaluated(run: RunFolder, models: Path, wish: str) -> tuple[Evaluation, str]:
    """Run the evaluate stage with another wish; what it measured, and what fell short."""
    run.spec.write_text(SPEC + wish)
    result = measured(run, models)
    assert result.evaluation is not None
    return result.evaluation, " ".join(result.shortfalls)


def test_a_box_without_the_items_has_not_measured(
    run: RunFolder, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter stays; all that was to be measured is named as not known."""
    monkeypatch.setattr(forgetting, "_FOLDER", tmp_path)
    found, short = evaluated(run, tiny_model.parent, ALONE)
    assert found.unknown_axes == AXES
    assert "What was forgotten could not be measured" in short


def test_a_time_that_ran_out_has_not_measured(
    run: RunFolder, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that took all of it leave nothing known of the rest."""
    late = property(lambda _: True)
    monkeypatch.setattr(held_out_answers.Generator, "is_late", late)
    found, short = evaluated(run, tiny_model.parent, ALONE)
    assert found.unknown_axes == AXES
    assert "There was no time left to measure what was forgotten" in short


def test_a_stage_that_fails_before_it_has_not_measured(
    run: RunFolder, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss stands, and a verdict by it; what was asked for beside it is not forgotten."""

    def broken(*_: object, **__: object) -> None:
        raise ValueError

    monkeypatch.setattr(held_out_answers, "answer_all", broken)
    found, short = evaluated(run, tiny_model.parent, ALONE)
    assert found.unknown_axes == AXES
    assert found.scores
    assert "could not be answered" in short


def test_what_was_measured_is_known_and_comes_before_what_is_recited(
    run: RunFolder, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate goes by it: what a finding takes of the time may not keep an adapter out of use."""
    order: list[str] = []
    monkeypatch.setattr(held_out_answers, "_by_heart", lambda *_: order.append("recital"))
    whole = forgetting.read_axis
    monkeypatch.setattr(forgetting, "read_axis", lambda name: whole(name)[:2])
    real = held_out_answers.measure_axes
    monkeypatch.setattr(
        held_out_answers,
        "measure_axes",
        lambda *a, **k: order.append("axes") or real(*a, **k),
    )
    found, _ = evaluated(run, tiny_model.parent, ALONE.replace("false", "true"))
    assert (found.wanted_axes, found.unknown_axes) == (AXES, ())
    assert order == ["axes", "recital"]


@pytest.mark.parametrize("wish", ["{samples: 0, forgetting: false}", "{samples: 2}"])
def test_what_nobody_asked_for_is_not_missed(run: RunFolder, tiny_model: Path, wish: str) -> None:
    """Without a card `auto` means no; `false` does anywhere."""
    found, _ = evaluated(run, tiny_model.parent, wish)
    assert (found.wanted_axes, found.axes) == ((), ())


def test_what_is_wanted_follows_from_spec_and_machine() -> None:
    """Ours by itself on a card; the user's own questions and tasks on any machine."""
    auto, own = EvaluationWish(), EvaluationWish(general="g.jsonl", tasks=["law"])
    assert wanted_axes(auto, on_gpu=True) == AXES
    assert wanted_axes(auto, on_gpu=False) == ()
    assert wanted_axes(EvaluationWish(forgetting=False), on_gpu=True) == ()
    assert wanted_axes(own, on_gpu=False) == ("general", "task.law")
    assert wanted_axes(own, on_gpu=True) == (*AXES, "general", "task.law")
