"""Contradictions: fields of a spec that are each right, and wrong together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from runner.contract.pick_rate import FEWEST_SECONDS, TIME_SHARE, seconds_each
from runner.spec.evaluation import known_scores
from runner.spec.spec import DEFAULT_EFFECTIVE_BATCH_SIZE
from runner.words import counted

_BATCH = ("batch_size", "gradient_accumulation", "effective_batch_size")


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Fields that say different things of the same."""

    field: str
    """The one that the message is shown at."""
    message: str
    hint: str = "leave one of them out"


def contradictions(values: Mapping[str, Any], broken: Set[str]) -> Iterator[Contradiction]:
    """Find them all; fields that are ``broken`` on their own are not spoken of again."""
    training = values.get("training", {})
    if "epochs" in training and "max_steps" in training:
        what = "epochs and max_steps both say when to end"
        yield Contradiction(field="training.max_steps", message=what)
    if "eval_data" in values and values.get("eval_split"):
        what = "eval_data and eval_split both say what is held out"
        yield Contradiction(field="eval_split", message=what)
    if values.get("speed") == "fp8" and values.get("method") == "lora":
        yield Contradiction(
            field="speed",
            message="fp8 is for method: qlora; method: lora computes in 16 bits",
            hint="write method: qlora, or leave speed out",
        )
    yield from _columns(values.get("columns") or {})
    yield from _promote(values)
    yield from _replay(values, broken)
    if "schedule" not in values and "schedule" not in broken:
        for name in ("when_missed", "when_data_changed"):
            if values.get(name) not in (None, False):
                yield Contradiction(
                    field=name,
                    message="there is no schedule that it could be about",
                    hint='give a schedule, such as schedule: "0 2 * * sun", or leave it out',
                )
    yield from _evaluation(values)
    yield from _rates(values, broken)
    holds_out = "eval_data" in values or values.get("eval_split") != 0
    if "eval_steps" in training and not holds_out:
        yield Contradiction(
            field="training.eval_steps",
            message="nothing is held out, so there is nothing to measure",
            hint="leave it out, or give eval_data or an eval_split above 0",
        )
    if not broken & {f"training.{name}" for name in _BATCH}:
        yield from _batch(*(training.get(name) for name in _BATCH))
        if "resources.gpus" not in broken:
            yield from _gpus(values.get("resources") or {}, training)


def _gpus(resources: Mapping[str, Any], training: Mapping[str, Any]) -> Iterator[Contradiction]:
    cards, rows = resources.get("gpus"), training.get("effective_batch_size")
    if training.get("batch_size") and training.get("gradient_accumulation"):
        rows = training["batch_size"] * training["gradient_accumulation"]
    if rows and isinstance(cards, int) and cards > rows:
        fewer = f"write gpus: {rows} or less" if rows > 1 else "leave resources out"
        yield Contradiction(
            field="resources.gpus",
            message=f"a step has {counted(rows, 'row')}, fewer than {cards} cards: some would have "
            "none",
            hint=f"{fewer}, or write a larger effective_batch_size",
        )


def _replay(values: Mapping[str, Any], broken: Set[str]) -> Iterator[Contradiction]:
    if values.get("replay") is None or {"replay", "start_from"} & broken:
        return
    if values.get("start_from") != "current":
        yield Contradiction(
            field="replay",
            message="a fresh adapter has learned no rows that could be learned again",
            hint="write start_from: current, or leave replay out: all rows are learned again",
        )


def _rates(values: Mapping[str, Any], broken: Set[str]) -> Iterator[Contradiction]:
    if values.get("try") is None or "try" in broken:
        return
    asked = values["try"]
    rates, hours = asked.get("learning_rate"), asked.get("hours")
    limit = (values.get("limits") or {}).get("hours")
    if "try.learning_rate" in broken:
        return
    if not rates:
        yield Contradiction(
            field="try",
            message="it does not say which learning rates are tried",
            hint="write learning_rate: [1e-4, 2e-4, 4e-4] below it, or leave try out",
        )
        return
    if len(rates) == 1:
        yield Contradiction(
            field="try.learning_rate",
            message="one learning rate alone cannot be compared",
            hint=f"name two or more, or write training: {{learning_rate: {rates[0]:g}}} instead of "
            "try",
        )
    elif len(set(rates)) < len(rates):
        yield Contradiction(
            field="try.learning_rate",
            message="the same learning rate stands there twice",
            hint="keep one of the two",
        )
    if not _holds_out(values):
        yield Contradiction(
            field="try.learning_rate",
            message="nothing is held out, so nothing shows which rate is better",
            hint="give eval_data or an eval_split above 0, or leave try out",
        )
    if hours and limit:
        yield Contradiction(
            field="try.hours", message="try.hours and limits.hours both say when training ends"
        )
    is_known = not broken & {"try.hours", "limits.hours"}
    each = seconds_each(hours or limit, len(rates)) if is_known else None
    if each is not None and each < FEWEST_SECONDS:
        enough = math.ceil(FEWEST_SECONDS * len(rates) / TIME_SHARE / 60)
        yield Contradiction(
            field="try.hours" if hours else "limits.hours",
            message=f"each of the {len(rates)} rates would get {each:.0f} s of a third of this "
            "time, which is no training",
            hint=f"give at least {enough}min, or fewer rates",
        )


def _evaluation(values: Mapping[str, Any]) -> Iterator[Contradiction]:
    asked = [name for name in _NEED_HELD_OUT if (values.get("evaluation") or {}).get(name)]
    holds_out = "eval_data" in values or values.get("eval_split") != 0
    is_text = values.get("format") == "text" or "text" in (values.get("columns") or {})
    if asked and not holds_out:
        yield Contradiction(
            field=f"evaluation.{asked[0]}",
            message="nothing is held out, so no answer can be scored",
            hint="leave it out, or give eval_data or an eval_split above 0",
        )
    elif asked and is_text:
        yield Contradiction(
            field=f"evaluation.{asked[0]}",
            message="texts are learned whole, so there is no answer that could be scored",
            hint="leave it out: the loss is measured all the same",
        )


_NEED_HELD_OUT = ("scores", "pattern", "json_schema", "sections", "taxonomy")


def _promote(values: Mapping[str, Any]) -> Iterator[Contradiction]:
    promote = values.get("promote") or {}
    if promote.get("when") in ("always", "never", "approved"):
        for name in ("metric", "margin"):
            if name in promote:
                yield Contradiction(
                    field=f"promote.{name}",
                    message=f"nothing is compared with when: {promote['when']}",
                    hint="leave it out, or write when: better",
                )
        return
    metric, known = promote.get("metric"), known_scores(values.get("evaluation") or {})
    if metric is not None and metric not in known:
        yield Contradiction(
            field="promote.metric",
            message=f"this score is not measured; measured are {', '.join(known)}",
            hint="name one of these, or ask for it in the spec's evaluation",
        )
    if promote.get("when") == "better" and not _holds_out(values):
        yield Contradiction(
            field="promote.when",
            message="nothing is held out, so nothing shows what is better",
            hint="give eval_data or an eval_split above 0, or write when: always or approved",
        )


def _holds_out(values: Mapping[str, Any]) -> bool:
    return "eval_data" in values or values.get("eval_split") != 0


def _columns(columns: Mapping[str, Any]) -> Iterator[Contradiction]:
    sides = [name for name in ("prompt", "completion") if name in columns]
    whole = [name for name in ("messages", "text") if name in columns]
    if len(whole) > 1 or (whole and sides):
        both = [*whole, *sides]
        what = f"{both[0]} and {both[1]} both say what a row is learned from"
        yield Contradiction(field=f"columns.{both[1]}", message=what)
    elif len(sides) == 1:
        other = "completion" if sides == ["prompt"] else "prompt"
        yield Contradiction(
            field=f"columns.{sides[0]}",
            message=f"{other} is missing beside it",
            hint=f"name the column of the {'answer' if other == 'completion' else 'question'}: "
            f"{other}: …",
        )
    elif columns and not (whole or sides):
        yield Contradiction(
            field="columns",
            message="neither a question nor a conversation is named",
            hint="name prompt and completion, or messages, or text",
        )


def _batch(size: int | None, passes: int | None, given: int | None) -> Iterator[Contradiction]:
    if size and passes:
        if given and size * passes != given:
            yield Contradiction(
                field="training.effective_batch_size",
                message=f"batch_size {size} × gradient_accumulation {passes} is {size * passes}, "
                f"not {given}",
            )
        return
    effective = given or DEFAULT_EFFECTIVE_BATCH_SIZE
    for name, other, part in (
        ("batch_size", "gradient_accumulation", size),
        ("gradient_accumulation", "batch_size", passes),
    ):
        if part and effective % part:
            whole = effective + -effective % part
            default = "" if given else " (the default)"
            yield Contradiction(
                field=f"training.{name}",
                message=f"effective_batch_size {effective}{default} cannot be cut by {name} {part}",
                hint=f"give {other} instead of effective_batch_size, "
                f"or write effective_batch_size: {whole}",
            )
