"""Checks of the data, as a spec names them: each can be turned off or be made more serious."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Wish = Literal["ignore", "inform", "advise", "stop"]
FactWish = Literal["ignore", "inform"]
"""For what only describes the data: there is nothing that a job could be stopped for."""


def _check(says: str) -> Wish | None:
    return Field(None, description=says)


def _fact(says: str) -> FactWish | None:
    return Field(None, description=says)


class Checks(BaseModel):
    """How serious a finding of each check is; left out: as the table in docs/checks.md says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    few_rows: Wish | None = _check("There are so few rows that little can be learned.")
    many_epochs: Wish | None = _check("Many rows are read so often that they are learned by heart.")
    end_of_turn: Wish | None = _check("An answer's end is not learned: the model would run on.")
    learned_share: Wish | None = _check("Hardly any of the text is learned.")
    exact_duplicates: Wish | None = _check("A row stands in the data more than once.")
    near_duplicates: Wish | None = _check("A row repeats another one nearly word for word.")
    leak: Wish | None = _check("A question is both learned and held out.")
    near_leak: Wish | None = _check("A held-out row nearly repeats a row that is learned.")
    contradictions: Wish | None = _check("The same question has different answers.")
    placeholder_answers: Wish | None = _check("An answer is a placeholder (TODO, n/a, …).")
    short_answers: Wish | None = _check("An answer is very short where most are long.")
    boilerplate_answers: Wish | None = _check("Many questions have the same long answer.")
    assistant_phrases: Wish | None = _check("An answer speaks of being a language model.")
    repeated_questions: Wish | None = _check("An answer begins with its whole question.")
    wrong_encoding: Wish | None = _check("Letters were broken by a wrong encoding (Ã¼ for ü).")
    unusual_text: Wish | None = _check("The model reads a text in far more pieces than the rest.")
    languages: Wish | None = _check("A few rows are in another language than the rest.")
    personal_data: Wish | None = _check("A text holds an e-mail address, an IBAN, a number.")
    known_answers: Wish | None = _check("The base model gives the answer already.")
    surprising_answers: Wish | None = _check(
        "The base model finds an answer far less likely than the others."
    )
    hardest_answers: FactWish | None = _fact("The rows that the base model finds hardest.")
    too_long: FactWish | None = _fact("A row is longer than the limit and left out.")
    language_mix: FactWish | None = _fact("Which languages the rows are in, if several.")
    row_kinds: FactWish | None = _fact("How many rows are questions, conversations or texts.")
    token_lengths: FactWish | None = _fact("How long the rows are, in tokens.")
