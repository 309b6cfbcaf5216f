"""End tokens: does an answer of a GGUF file end where training taught the model to end it?

The file says by itself at which tokens llama.cpp stops. Each end token that was learned is tried:
the server is made to say it, and has to stop. And where the trained model itself ends a held-out
answer, the file is asked to go on, and has to end there, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from runner.contract.handed_over import Figures
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import PrepareResult, read_message
from runner.errors import RunnerError
from runner.training.export.llama_server import Server
from runner.words import visible

ENDED = 0.75
"""Share of the held-out answers which the trained model ends that have to end in the file: of
eight, two may be close calls, which a smaller format decides otherwise."""
_LEAD = 1.0
"""Nats by which the end token leads where the trained model is said to end an answer. After a short
training it led by less at all three places where it was the likeliest, and the file in 16 bits, off
by 0.001 nats in the mean, went on at one of them (docs/measurements.md): that is no fault of it."""


class EndPlace(Protocol):
    """What is asked of a place within a held-out answer."""

    @property
    def before(self) -> tuple[int, ...]:
        """The tokens before it."""

    @property
    def token(self) -> int:
        """The learned one."""

    @property
    def trained(self) -> Any:
        """Log-probabilities of the trained model."""


def learned_ends(run: RunFolder, usual: str | None) -> tuple[str, ...]:
    """Give the end tokens that a run learned, and the tokenizer's own, as they are spelled.

    Args:
        run: its prepare stage noted them; a run of an older version has no note.
        usual: the tokenizer's own end token.
    """
    try:
        noted = read_message(StageFolder(run.prepared).result, PrepareResult).end_tokens
    except (OSError, RunnerError):
        noted = ()
    return tuple(dict.fromkeys((*noted, *([usual] if usual else []))))


def end_ids(run: RunFolder, tokenizer: Any) -> frozenset[int]:
    """Give the end tokens that a run learned; where that is not noted, the tokenizer's own."""
    spelled = learned_ends(run, None) or learned_ends(run, tokenizer.eos_token)
    return frozenset(tokenizer.convert_tokens_to_ids(list(spelled)))


def prove_ends(
    places: Iterable[EndPlace], server: Server, ends: frozenset[int], figures: Figures
) -> Figures:
    """Add to a file's figures whether its answers end.

    Args:
        places: of held-out answers; those count at which the trained model clearly ends the answer.
        server: has the file.
        ends: the end tokens that were learned.
        figures: what was measured before.
    """
    asked = [place for place in places if place.token in ends and _lead(place) >= _LEAD]
    ended = 0
    for place in asked:
        found = server.answer(place.before, most=2)
        ended += found.stopped and found.tokens == (place.token,)
    return figures.model_copy(
        update={
            "stops": all(server.stops_at(token) for token in sorted(ends)) if ends else None,
            "ends": ended / len(asked) if asked else None,
            "end_places": len(asked),
        }
    )


def _lead(place: EndPlace) -> float:
    """Give by how much the learned token is likelier than any other, in nats."""
    likeliest, second = place.trained.topk(2).values.tolist()
    own = float(place.trained[place.token])
    return own - (second if own == likeliest else likeliest)


def judge_end(name: str, figures: Figures, ends: Sequence[str]) -> str | None:
    """Say in words that answers of a file do not end; None: they do, or it was not asked."""
    if figures.stops is False:
        spelled = " or ".join(visible(end) for end in ends)
        return (
            f"{name}: answers do not end: llama.cpp does not stop at {spelled}, with which the "
            "model learned to end them. Serve adapter/ or merged/ with transformers or vLLM, which "
            "read the end token from generation_config.json."
        )
    if figures.ends is not None and figures.ends < ENDED:
        return (
            f"{name}: answers run on: of {figures.end_places} held-out answers that the trained "
            f"model ends, llama.cpp ends {round(figures.ends * figures.end_places)} at the same "
            "place. Take a larger format."
        )
    return None
