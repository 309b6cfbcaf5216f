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
    """Part an example into its last question and what is learned, without control tokens."""
    ids, labels = example["input_ids"], example["labels"]
    learned = [label != IGNORED for label in labels]
    start = learned.index(True) if True in learned else len(ids)
    answer = [id_ for id_, is_learned in zip(ids, learned, strict=True) if is_learned]
    text = tokenizer.decode(answer[:_TOKENS], skip_special_tokens=True)
    return {"question": _question(ids[:start], tokenizer), "answer": str(text).strip()}


def _question(ids: Sequence[int], tokenizer: Any) -> str:
    """Find the last question: what stands between control tokens, but for the answer's head.

    Templates write a turn's role before or between them; the text is the longer of the last two.
    """
    special = set(tokenizer.all_special_ids)
    pieces: list[list[int]] = [[]]
    for id_ in ids:
        if id_ in special:
            pieces.append([])
        else:
            pieces[-1].append(id_)
    texts = [str(tokenizer.decode(piece[-_TOKENS:])).strip() for piece in pieces]
    last = [text for text in texts if text][-2:]
    return max(last, key=len, default="").removeprefix("user\n").strip()
