"""Answers of base and adapter to the held-out rows that gained most and lost most.

Which rows these are is known once the losses are, so they are asked here and not with the others;
no score counts them. `evaluation/extremes.json` takes the answers, for the report.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from runner.files.durable import write_json
from runner.training.data.mark_answers import IGNORED
from runner.training.evaluate.adapted import Adapted
from runner.training.evaluate.answers import unpack_for_answers
from runner.training.evaluate.generate import Generator, Prompt

_ON_CPU, _ON_CARD = 96, 512  # tokens of an answer: what is read in a report
_SPARE = 32  # tokens beyond one and a half times the expected answer


def answer_extremes(adapted: Adapted, held: Any, path: Path, *, until: float) -> None:
    """Answer the rows in extremes.json, and write the answers there.

    Args:
        adapted: the loaded model.
        held: the held-out examples, with their ``row``.
        path: extremes.json.
        until: monotonic time at which it ends; what is not answered by then stays out.
    """
    try:
        shown = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    if not shown:
        return
    unpack_for_answers(adapted.model, adapted.machine)
    most = _ON_CARD if adapted.machine.on_gpu else _ON_CPU
    generator = Generator(adapted.model, adapted.tokenizer, adapted.machine, until=until)
    prompts = [_prompt(held, one["row"], adapted.context, most) for one in shown]
    with adapted.base():
        before = generator.answers(prompts)
    after = generator.answers(prompts)
    for one, old, new in zip(shown, before, after, strict=True):
        if old is not None and new is not None:
            one["before"], one["after"] = old.shown, new.shown
    write_json(path, shown)


def _prompt(held: Any, row: int, context: int, most: int) -> Prompt:
    """Take what stands before a row's last answer: the very tokens that training saw."""
    example = held[len(held["row"]) - 1 - list(held["row"])[::-1].index(row)]
    ids, labels = example["input_ids"], example["labels"]
    stop = max((at for at, label in enumerate(labels) if label != IGNORED), default=0)
    start = stop
    while start > 0 and labels[start - 1] != IGNORED:
        start -= 1
    wanted = math.ceil(1.5 * (stop - start)) + _SPARE
    return Prompt(ids=ids[: max(1, start)], limit=max(1, min(most, wanted, context - start)))
