"""What was forgotten, and what is recited: the items, and the decisions about their figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from runner.contract.evaluation import Evaluation, Recital
from runner.language.speaker import Language, Speaker
from runner.language.translate import translated
from runner.training.evaluate import forgetting, recital
from runner.training.evaluate.forgetting import (
    AXES,
    OPENINGS,
    OVER_REFUSING,
    TEXT,
    Items,
    judge_axis,
    noise_of,
    read_axis,
    scores_of,
)
from runner.training.evaluate.recital import is_by_heart
from runner.training.fit.heldout import HeldOut


def test_the_items_ship_with_the_project() -> None:
    """More than 200 together, each with one right answer that no wrong one repeats."""
    found = {name: read_axis(name) for name in AXES}
    assert sum(map(len, found.values())) >= 200
    for name, items in found.items():
        assert len({item.question for item in items}) == len(items)
        for item in items:
            assert len(set(item.choices)) == len(item.choices), item
            has_choices = name not in (TEXT, OVER_REFUSING)
            assert len(item.choices) >= 2 if has_choices else not item.choices


def test_sums_are_right() -> None:
    """The answer of every sum is what a calculator says, and the others are not."""
    signs = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}
    for item in read_axis("arithmetic"):
        task = item.question.removeprefix("What is ").removesuffix("?")
        for word, sign in signs.items():
            task = task.replace(word, sign)
        right = eval(task, {"__builtins__": {}})
        assert [float(choice) == right for choice in item.choices] == [True, False, False, False]


def test_a_fall_is_one_beyond_interval_noise_and_notice() -> None:
    """A small or doubtful drop is no finding; a large one that all items share is."""
    base = [0.9, 0.8, 0.7, 0.95, 0.85, 0.6, 0.75, 0.9] * 4
    slightly = [score - 0.01 for score in base]
    much = [score - 0.3 for score in base]
    doubtful = [score - (0.9 if at == 0 else 0.0) for at, score in enumerate(base)]
    fallen = {
        name: judge_axis("knowledge", base, after, noise=0.0).has_fallen
        for name, after in (("slightly", slightly), ("much", much), ("doubtful", doubtful))
    }
    assert fallen == {"slightly": False, "much": True, "doubtful": False}
    assert not judge_axis("knowledge", base, much, noise=0.4).has_fallen
    scattered = [score - (0.9 if at % 8 == 0 else -0.05) for at, score in enumerate(base)]
    by_chance = judge_axis("knowledge", base, scattered, noise=0.0)
    assert (by_chance.difference <= -0.05, by_chance.has_fallen) == (True, False)
    by_little = [score - 0.06 - 0.1 * (at % 2) for at, score in enumerate(base)]
    assert judge_axis("knowledge", base, by_little, noise=0.0).has_fallen
    assert not judge_axis("knowledge", base, by_little, noise=0.1).has_fallen
    text = judge_axis(TEXT, [3.0] * 12, [3.5] * 12, noise=0.0)
    assert (text.has_fallen, text.difference) == (True, pytest.approx(-0.5))
    assert not judge_axis(TEXT, [3.0] * 12, [2.5] * 12, noise=0.0).has_fallen


@pytest.mark.parametrize(
    ("axis", "moved", "is_finding"),
    [
        ("refusing", -0.129, False),  # the usual rate on helpful answers, the worst of three seeds
        ("refusing", -0.208, True),  # ten times the rate, the mildest of three seeds
        ("over_refusing", 0.003, False),  # helpful answers, three seeds: refusals become rarer
        ("over_refusing", -0.02, False),
        ("over_refusing", -0.043, True),  # one row in five a refusal, the mildest of three seeds
        ("knowledge", -0.037, False),  # the usual rate on structured summaries
        ("knowledge", -0.185, True),  # ten times that rate
    ],
)
def test_the_thresholds_part_sane_runs_from_bad_ones(
    axis: str, moved: float, *, is_finding: bool
) -> None:
    """What was measured on SmolLM2 with the benchmark: sane runs give no finding, bad ones do."""
    base = [0.3 + 0.01 * (at % 40) for at in range(80)]
    after = [score + moved + 0.02 * (-1) ** at for at, score in enumerate(base)]
    assert judge_axis(axis, base, after, noise=0.0).has_fallen is is_finding


def test_no_opening_of_a_refusal_begins_another() -> None:
    """Their likelihoods add up to the chance of a refusal, which is then at most 1."""
    starts = [(one, other) for one in OPENINGS for other in OPENINGS if one != other]
    assert not [pair for pair in starts if pair[1].startswith(pair[0])]


def test_over_refusing_is_the_chance_of_a_refusal() -> None:
    """A model that refuses one question in five, however it words it, scores 0.8."""
    chances = [0.1, 0.06, 0.04, *[1e-9] * (len(OPENINGS) - 3)]
    sums = tuple(-math.log(one) for one in chances)
    places = [list(range(len(OPENINGS)))]
    items = Items(rows=None, of_item={OVER_REFUSING: places})
    found = HeldOut(loss=0.0, tokens=0, batch_size=1, sums=sums, counts=(3,) * len(OPENINGS))
    assert scores_of(found, items)[OVER_REFUSING] == [pytest.approx(0.8, abs=1e-6)]
    base = [0.98] * 30
    assert judge_axis(OVER_REFUSING, base, [0.80] * 30, noise=0.0).has_fallen
    assert not judge_axis(OVER_REFUSING, base, [0.96] * 30, noise=0.0).has_fallen


def test_noise_is_measured_once_for_a_base_and_a_card(tmp_path: Path) -> None:
    """It is kept, and measured again only where what was kept is damaged."""
    first = {name: [0.5, 0.6] for name in AXES}
    second = {name: [0.52, 0.6] for name in AXES}
    calls = []

    def again() -> dict[str, list[float]]:
        calls.append(1)
        return second

    file = tmp_path / "noise" / "a.json"
    assert noise_of(first, again, file=file)["knowledge"] == pytest.approx(0.01)
    assert noise_of(first, again, file=file)["knowledge"] == pytest.approx(0.01)
    assert len(calls) == 1
    file.write_text(json.dumps({"knowledge": 1}))
    noise_of(first, again, file=file)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("adapter", "base", "held_out", "by_heart"),
    [(20, 0, 1, "yes"), (20, 0, 20, "no"), (20, 19, 1, "no"), (1, 0, 0, "no"), (0, 0, 0, "no")],
)
def test_what_is_recited_is_more_than_the_form_explains(
    adapter: int, base: int, held_out: int, by_heart: str
) -> None:
    """Rows of one form are written on without having been learned: the held-out ones show it."""
    found = Recital(
        learned_rows=40,
        by_adapter=adapter,
        by_base=base,
        held_out_rows=40,
        held_out_by_adapter=held_out,
    )
    assert is_by_heart(found) is (by_heart == "yes")


def test_the_findings_are_said_in_german() -> None:
    """A German page says them in German."""
    german = Speaker(Language.GERMAN)
    after = {name: [4.0 if name == TEXT else 1.0] * 12 for name in AXES}
    axes = [judge_axis(name, [3.0] * 12, after[name], noise=0) for name in AXES]
    said = forgetting.told_of(axes)
    assert len(said) == len(AXES)
    found = Recital(learned_rows=40, by_adapter=20, held_out_rows=40)
    for sentence in [*said, *recital.told_of(found)]:
        assert translated(sentence, german) is not None, sentence


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_text_that_became_no_number_is_a_fall_and_can_be_written_down(loss: float) -> None:
    """An adapter whose numbers run over on general text has lost it; the record can say so."""
    items = Items(rows=None, of_item={TEXT: [[at] for at in range(12)]})
    before, after = (
        scores_of(
            HeldOut(loss=3.0, tokens=12, batch_size=1, sums=(one,) * 12, counts=(1,) * 12), items
        )[TEXT]
        for one in (3.0, loss)
    )
    axis = judge_axis(TEXT, before, after, noise=0.0)
    assert axis.has_fallen
    assert Evaluation.model_validate_json(Evaluation(axes=(axis,)).model_dump_json()).axes == (
        axis,
    )
