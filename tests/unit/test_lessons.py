"""Past runs correct later forecasts: carefully, and only those of their own kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.forecast.lessons import (
    KEPT,
    Lesson,
    add_lesson,
    context_of,
    memory_factors,
    read_lessons,
    time_factor,
    too_large,
)

KEY = "qlora, checkpointing off"
CARD = "NVIDIA GeForce RTX 4090"


def lesson(measured: int, *, key: str = KEY, gpu: str = CARD, **more: float) -> Lesson:
    """Note a run: 100 were forecast, 20 of them weights and context."""
    return Lesson(
        key=key, gpu=gpu, forecast_bytes=100, steady_bytes=20, measured_bytes=measured, **more
    )


@pytest.mark.parametrize(
    ("measured", "factor"),
    [
        ([], None),
        ([100], 1.0),
        ([116], 1.1),  # one lesson counts half
        ([116, 116, 116], 1.15),  # three count three quarters
        ([116] * 9 + [60], 1.2 - 0.2 / 11),  # one that is off changes little
        ([500] * 9, 1.5 - 0.5 / 10),  # another program, or another version: not beyond half
        ([500] * 50 + [100] * 10, 1.0),  # the newest ten count: drivers and libraries change
    ],
)
def test_what_memory_lessons_give(measured: list[int], factor: float | None) -> None:
    """The median of what was off, approached as lessons come in, within bounds."""
    found = memory_factors([lesson(one) for one in measured], gpu=CARD)
    assert found.get(KEY) == (None if factor is None else pytest.approx(factor))


def test_other_cards_and_kinds_teach_nothing() -> None:
    """A lesson of an H100, or of runs with checkpointing, leaves this kind alone."""
    other = [lesson(180, gpu="NVIDIA H100"), lesson(180, key="lora, checkpointing on")]
    assert KEY not in memory_factors(other, gpu=CARD)
    assert (
        time_factor(
            [lesson(1, gpu="x", forecast_seconds=1, measured_seconds=9)], gpu=CARD, fast=False
        )
        == 1
    )


def test_what_time_and_context_lessons_give() -> None:
    """Time is corrected by the median; the context is what CUDA took the last time."""
    times = [lesson(1, forecast_seconds=10, measured_seconds=s) for s in (12, 15, 90)]
    assert time_factor(times, gpu=CARD, fast=False) == 1.5
    assert time_factor(times, gpu=CARD, fast=True) == 1  # the other path's say nothing of it
    assert context_of([lesson(1, context_bytes=c) for c in (7, 9)], gpu=CARD) == 9
    assert context_of(times, gpu=CARD) is None


def test_lessons_survive_a_damaged_file(tmp_path: Path) -> None:
    """A line that was cut is left out, a newer version's is read, and old ones count no more."""
    path = tmp_path / "forecasts.jsonl"
    assert read_lessons(path) == []
    add_lesson(path, lesson(116))
    with path.open("a") as file:
        file.write(
            '{"key": "half a li\n[]\n' + lesson(120).model_dump_json()[:-1] + ', "new": 1}\n'
        )
    assert [one.measured_bytes for one in read_lessons(path)] == [116, 120]
    for _ in range(KEPT):
        add_lesson(path, lesson(130))
    assert {one.measured_bytes for one in read_lessons(path)} == {130}


def test_memory_that_ran_out_is_a_bound_and_no_sample() -> None:
    """It corrects no forecast; it is known until a plan that wants as much has fit on this card."""
    spent = lesson(150).model_copy(update={"ran_out": True})
    assert memory_factors([spent], gpu=CARD) == {}
    assert too_large([lesson(90), spent], gpu=CARD) == (spent,)
    assert too_large([spent], gpu="NVIDIA H100") == ()
    others = [
        lesson(90).model_copy(update={"forecast_bytes": 99}),
        lesson(90).model_copy(update={"steady_bytes": 19}),
        lesson(90, key="lora, checkpointing on"),
        lesson(90, gpu="NVIDIA H100"),
    ]
    assert too_large([spent, *others], gpu=CARD) == (spent,)
    assert too_large([spent, lesson(90)], gpu=CARD) == ()
