"""Answers to held-out rows by base, adapter, base with examples and current adapter, and scores.

Rows are taken in turns of a few, each answered by all of them: when the time is over, what has been
answered is complete pairs. The same loaded model serves all; adapters are switched on and off.
"""

from __future__ import annotations

import contextlib
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from runner.contract.evaluation import ASKED, Difference, RowScore, ScoreSummary
from runner.contract.intervals import paired_difference
from runner.training.data.clusters import clusters_of
from runner.training.data.questions import EXAMPLE, Question
from runner.training.evaluate.answers import Conversation, prompt_ids
from runner.training.evaluate.generate import Prompt
from runner.training.evaluate.scores import Answer, Scorer

BASE, ADAPTER, EXAMPLES, CURRENT = "base", "adapter", "examples", "current"
_LONGEST_ANSWER = 4096  # tokens; who writes on after that does not stop by itself
_USUAL_ANSWER = 1024
"""Tokens. Rows whose answers need more room are answered after all others, in turns of their own:
one of them in a batch would take the time of all."""
_SPARE_TOKENS = 32  # beyond one and a half times the expected answer
_LEAST_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Who:
    """One of those that answer."""

    name: str
    switched_on: Callable[[], AbstractContextManager[Any]]
    """Switches its adapter on, or all off."""
    examples: Sequence[Question] = ()
    """Rows that stand in its prompt."""
    knows: frozenset[str] = frozenset()
    """Identities of rows that it was trained on: they say nothing of it."""


@dataclass(kw_only=True)
class Answered:
    """One held-out row with everybody's answer."""

    question: Question
    answers: dict[str, Answer] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """By who, then by score."""


class Writer(Protocol):
    """What answers prompts: `Generator`, or a server."""

    tokenizer: Any
    batch_size: int
    """Prompts that it is given at once."""

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""

    def answers(self, prompts: Sequence[Prompt]) -> Sequence[Answer | None]:
        """Answer them; None: there was no time left for it."""


def answer_all(
    generator: Writer, everybody: Sequence[Who], questions: Sequence[Question], room: Room
) -> list[Answered]:
    """Let everybody answer the questions, as many as the time allows.

    Args:
        generator: has the model, and the time at which it ends.
        everybody: who answers.
        questions: held-out rows, in the order in which they are answered.
        room: how long prompts and answers may be.
    """
    found: list[Answered] = []
    questions = sorted(questions, key=_is_long)  # stable
    while len(found) < len(questions) and not generator.is_late:
        here = questions[len(found) : len(found) + generator.batch_size]
        here = [one for one in here if _is_long(one) == _is_long(here[0])]
        turn = [Answered(question=question) for question in here]
        for who in everybody:
            asked = [one for one in turn if one.question.identity not in who.knows]
            prompts = [prompt_of(generator.tokenizer, one.question, who, room) for one in asked]
            with who.switched_on():
                written = generator.answers(prompts)
            for one, answer in zip(asked, written, strict=True):
                if answer is not None:
                    one.answers[who.name] = answer
        must = [who.name for who in everybody if not who.knows]
        found += [one for one in turn if all(name in one.answers for name in must)]
        if any(name not in one.answers for one in turn for name in must):
            break  # the time was over
    return found


@dataclass(frozen=True, kw_only=True)
class Room:
    """How long prompts and answers may be."""

    context: int
    """Tokens that the model reads at most, its answer included."""
    answer: int = _LONGEST_ANSWER
    """Tokens of the longest answer, whatever is expected."""


def prompt_of(tokenizer: Any, question: Question, who: Who, room: Room) -> Prompt:
    """Render a question, after as many examples as leave room for it."""
    limit, context = min(room.answer, longest_answer(question)), room.context
    examples = list(who.examples)
    while True:
        (ids,) = prompt_ids(tokenizer, [with_examples(question.messages, examples)])
        if not examples or len(ids) + limit <= context:
            return Prompt(ids=ids, limit=max(1, min(limit, context - len(ids))))
        examples.pop()


def longest_answer(question: Question) -> int:
    """Give the tokens after which an answer does not stop by itself any more."""
    wanted = math.ceil(1.5 * question.tokens) + _SPARE_TOKENS
    return min(_LONGEST_ANSWER, max(_LEAST_TOKENS, wanted))


def _is_long(question: Question) -> bool:
    return longest_answer(question) > _USUAL_ANSWER


def with_examples(messages: Conversation, examples: Sequence[Question]) -> Conversation:
    """Put learned rows before a question, as turns of the conversation that went before."""
    system = [one for one in messages[:1] if one["role"] == "system"]
    turns: Conversation = []
    for example in examples:
        turns += [one for one in example.messages if one["role"] != "system"]
        turns.append({"role": "assistant", "content": example.reference})
    return [*system, *turns, *messages[len(system) :]]


def examples_among(questions: Sequence[Question]) -> list[Question]:
    """Choose the learned rows that can stand in a prompt: those of one question and its answer."""
    return [
        one
        for one in questions
        if one.part == EXAMPLE
        and [m["role"] for m in one.messages if m["role"] != "system"] == ["user"]
    ]


def score_all(answered: Sequence[Answered], scorer: Scorer) -> None:
    """Score every answer in place, with the mean of the scores that decide."""
    deciding = scorer.deciding
    for one in answered:
        for who, answer in one.answers.items():
            scores = scorer.score(answer, one.question.reference)
            if len(deciding) > 1:
                scores[ASKED] = math.fsum(scores[name] for name in deciding) / len(deciding)
            one.scores[who] = scores


def summaries(answered: Sequence[Answered]) -> tuple[ScoreSummary, ...]:
    """Sum up each score over the rows, with paired differences and where they lie."""
    if not answered:
        return ()
    names = list(answered[0].scores.get(ADAPTER, {}))
    return tuple(_summary(name, answered) for name in names)


def _summary(name: str, answered: Sequence[Answered]) -> ScoreSummary:
    against_base = _against(BASE, name, answered)
    against_examples = _against(EXAMPLES, name, answered)
    against_current = _against(CURRENT, name, answered)
    return ScoreSummary(
        name=name,
        base=_mean(BASE, name, answered),
        adapter=_mean(ADAPTER, name, answered),
        examples=_mean(EXAMPLES, name, answered),
        current=_mean(CURRENT, name, answered),
        difference=against_base and against_base.difference,
        low=against_base and against_base.low,
        high=against_base and against_base.high,
        rows=len(answered),
        against_examples=against_examples,
        against_current=against_current,
    )


def _mean(who: str, name: str, answered: Sequence[Answered]) -> float | None:
    values = [one.scores[who][name] for one in answered if who in one.scores]
    return math.fsum(values) / len(values) if values else None


def _against(who: str, name: str, answered: Sequence[Answered]) -> Difference | None:
    both = [one for one in answered if who in one.scores and ADAPTER in one.scores]
    if not both:
        return None
    return paired_difference(
        [one.scores[who][name] for one in both],
        [one.scores[ADAPTER][name] for one in both],
        clusters_of([one.question.cluster for one in both], [one.question.file for one in both]),
    )


def most_alike(texts: Iterable[str]) -> int:
    """Count how often the most frequent text stands there, whatever its blanks."""
    counted = Counter(" ".join(unicodedata.normalize("NFC", text).split()) for text in texts)
    return max(counted.values(), default=0)


def row_scores(answered: Sequence[Answered]) -> Iterator[RowScore]:
    """Give each row's scores, without a word of it."""
    for one in answered:
        for name in one.scores.get(ADAPTER, {}):
            yield RowScore(
                row=one.question.identity,
                score=name,
                **{who: scores[name] for who, scores in one.scores.items()},
            )


@contextlib.contextmanager
def adapter_on(model: Any, name: str) -> Iterator[None]:
    """Switch to one of several adapters, and back to the first."""
    model.set_adapter(name)
    try:
        yield
    finally:
        model.set_adapter("default")
