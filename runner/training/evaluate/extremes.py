"""Best and worst held-out rows: the texts of those whose answers became most and least likely.

They lie in `evaluation/extremes.json`, for the report: what got worse is read there, not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.training.data.template import IGNORED

EACH = 3  # at each end; a person reads no more
_TOKENS = 600  # of a question, its end; of an answer, its beginning


def extremes(
    held: Any,
    tokenizer: Any,
    *,
    rows: Sequence[int],
    before: Sequence[float],
    after: Sequence[float],
    tokens: Sequence[int],
) -> list[dict[str, Any]]:
    """Give the rows with the largest fall of their loss per token, then those with the least.

    Args:
        held: the held-out examples, with their ``row``.
        tokenizer: theirs.
        rows: the rows that were measured.
        before: each row's summed loss without the adapter.
        after: each row's summed loss with it.
        tokens: each row's learned tokens.
    """
    changes = sorted(
        ((a - b) / n, row) for row, b, a, n in zip(rows, before, after, tokens, strict=True) if n
    )
    each = min(EACH, (len(changes) + 1) // 2)
    chosen = dict.fromkeys([*changes[:each], *changes[max(each, len(changes) - each) :]])
    wanted = {row for _, row in chosen}
    place_of: dict[int, int] = {}
    for place, row in enumerate(held["row"]):
        if row in wanted:
            place_of.setdefault(row, place)
    return [
        {"row": row, **_texts(held[place_of[row]], tokenizer)}
        for _, row in chosen
        if row in place_of
    ]


def _texts(example: dict[str, Any], tokenizer: Any) -> dict[str, str]:
    """Part an example into what is read and what is learned, control tokens left out."""
    ids, labels = example["input_ids"], example["labels"]
    learned = [label != IGNORED for label in labels]
    start = learned.index(True) if True in learned else len(ids)
    answer = [id_ for id_, is_learned in zip(ids, learned, strict=True) if is_learned]
    parts = {"question": ids[:start][-_TOKENS:], "answer": answer[:_TOKENS]}
    return {
        name: str(tokenizer.decode(part, skip_special_tokens=True)).strip()
        for name, part in parts.items()
    }
