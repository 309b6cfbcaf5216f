"""Scores of a GGUF file: llama.cpp answers held-out questions, the job's own scores say how.

The same questions, prompts, lengths and scores as for base and adapter in the evaluation, whose
answers to the same rows the file's are compared with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.contract.evaluation import Difference
from runner.contract.handed_over import Figures
from runner.contract.intervals import paired_difference
from runner.training.data.clusters import clusters_of
from runner.training.data.questions import Question, read_questions
from runner.training.evaluate.generate import Prompt
from runner.training.evaluate.held_out_answers import asked_in_full, itself, scorer_of
from runner.training.evaluate.measure_answers import (
    ADAPTER,
    Answered,
    Room,
    answer_all,
    prompt_of,
    score_all,
)
from runner.training.evaluate.scores import Answer
from runner.training.export.llama_server import Server
from runner.training.export.makers import Source

SHARE_OF_TIME = 0.5
"""Of the minutes that the job gives generated answers: for each form that is served."""
WORSE_BY = 0.05
"""Of a score, 0 to 1, beside being beyond chance: on six like rows a hundredth of likeness by
letters was, which nobody reads. As of the gate of promotion, whose axes may fall by so much."""


@dataclass(kw_only=True)
class Written:
    """What answers: a server in the place of `Generator`."""

    server: Server
    tokenizer: Any
    until: float
    """Monotonic time at which it ends."""
    batch_size: int = 1

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.until

    def answers(self, prompts: Sequence[Prompt]) -> list[Answer | None]:
        """Answer prompts, as many as the time allows."""
        return [None if self.is_late else self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Prompt) -> Answer:
        found = self.server.answer(prompt.ids, most=prompt.limit)
        text = self.tokenizer.decode(list(found.tokens), skip_special_tokens=True)
        return Answer(text=str(text).strip(), stopped=found.stopped)


def to_score(source: Source) -> list[Question]:
    """Give the held-out questions whose answers are scored; none: the job asks for no score."""
    if not source.spec.evaluation.asks:
        return []
    return asked_in_full(read_questions(source.run.prepared), source.spec.evaluation)


def longest_exchange(questions: Sequence[Question], tokenizer: Any, *, most: int) -> int:
    """Give the tokens of the longest prompt with its answer, of at most ``most``."""
    room = Room(context=most)
    prompts = [prompt_of(tokenizer, one, itself(), room) for one in questions]
    return max((len(one.ids) + one.limit for one in prompts), default=0)


def score(
    name: str, source: Source, server: Server, tokenizer: Any, *, room: Room, figures: Figures
) -> tuple[Figures, list[str]]:
    """Score a file's answers.

    Args:
        name: of the form.
        source: of it.
        server: has the file.
        tokenizer: of the adapter.
        room: how long prompts and answers may be.
        figures: what was measured before.

    Returns:
        The figures with the scores, and what is worse than the adapter by more than chance.
    """
    wish = source.spec.evaluation
    until = time.monotonic() + 60 * wish.most_minutes * SHARE_OF_TIME
    writer = Written(server=server, tokenizer=tokenizer, until=until)
    answered = answer_all(writer, [itself()], to_score(source), room)
    scorer = scorer_of(source.run, source.spec)
    score_all(answered, scorer)
    known = _of_adapter(source)
    both = [one for one in answered if one.question.row in known]
    if not both:
        return figures, []
    own = {key: _mean(one.scores[ADAPTER][key] for one in both) for key in scorer.deciding}
    theirs = {
        key: _mean(known[one.question.row].get(key, 0.0) for one in both) for key in scorer.deciding
    }
    more = {"scores": own, "score_rows": len(both), "reference_scores": theirs}
    against = {key: _against(known, both, key) for key in scorer.deciding}
    worse = [key for key, one in against.items() if one.is_worse and one.difference < -WORSE_BY]
    said = [
        f"{name}: its answers are worse than the adapter's by more than chance explains: "
        f"{key.removeprefix('field.')} {own[key]:.0%} instead of {theirs[key]:.0%}, "
        f"on {len(both)} held-out questions. Take a larger format."
        for key in worse[:1]
    ]
    return figures.model_copy(update=more), said


def _against(known: dict[int, dict[str, float]], both: Sequence[Answered], key: str) -> Difference:
    return paired_difference(
        [known[one.question.row].get(key, 0.0) for one in both],
        [one.scores[ADAPTER][key] for one in both],
        clusters_of([one.question.cluster for one in both], [one.question.file for one in both]),
    )


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)


def _of_adapter(source: Source) -> dict[int, dict[str, float]]:
    """Read what the evaluation says of the adapter's answers: scores by row."""
    try:
        text = (source.run.evaluation / "answers.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        return {
            int(line["row"]): {key: float(value) for key, value in line["scores"][ADAPTER].items()}
            for line in lines
            if ADAPTER in line["scores"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # not evaluated, or torn: then nothing is compared
