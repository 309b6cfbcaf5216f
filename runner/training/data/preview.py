"""Preview: some prepared rows as the model sees them, token by token, learned or only read.

The first one, the longest, the shortest and a few at random; the prepare stage leaves them in
`prepared/preview.json`, and `runner preview` and the report show the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.contract.preview import Preview, PreviewRow, Token, Why, write_preview
from runner.training.data.mark_answers import IGNORED
from runner.training.data.token_table import DATA_FILE, read_examples

RANDOM_ROWS = 3
SHOWN_TOKENS = 4000  # of one row: some ten pages; of a longer one its beginning and its end
_HEAD_SHARE = 3 / 4
_SEED = 20261126  # the same rows each time: a page that changes by itself is not trusted
_SPLIT = "\ufffd"
"""What a decoder gives for a part of a character."""


def choose(lengths: Sequence[int], *, random_rows: int = RANDOM_ROWS) -> dict[int, tuple[Why, ...]]:
    """Choose examples by their places: the first, longest and shortest one, and random ones."""
    if not len(lengths):
        return {}
    chosen = [
        (0, Why.FIRST),
        (int(np.argmax(lengths)), Why.LONGEST),  # the first of several, as argmin does
        (int(np.argmin(lengths)), Why.SHORTEST),
    ]
    taken = {place for place, _ in chosen}
    left = len(lengths) - len(taken)
    dice = random.Random(_SEED)  # noqa: S311  nothing secret depends on it
    more: set[int] = set()
    while len(more) < min(random_rows, left):
        place = dice.randrange(len(lengths))
        if place not in taken:
            more.add(place)
    chosen += [(place, Why.RANDOM) for place in sorted(more)]
    return {place: tuple(w for p, w in chosen if p == place) for place, _ in chosen}


def tokens_of(tokenizer: Any, input_ids: Sequence[int], labels: Sequence[int]) -> list[Token]:
    """Give each token's text; those that make one character together are one entry.

    A token alone may be half a character, and some tokenizers leave out a blank before the first
    word of what they decode. So each text is what a token adds to those before it, of which as many
    are decoded again as the last whole character took.
    """
    special = set(tokenizer.all_special_ids) | {
        id_ for id_, added in tokenizer.added_tokens_decoder.items() if added.special
    }
    found: list[Token] = []
    context = start = 0  # the first token decoded again, and the first one not yet shown
    for end in range(1, len(input_ids) + 1):
        learned, is_special = labels[end - 1] != IGNORED, input_ids[end - 1] in special
        known = _decode(tokenizer, input_ids[context:start])
        text = _decode(tokenizer, input_ids[context:end])[len(known) :]
        follows = labels[end] != IGNORED if end < len(input_ids) else not learned
        whole = not text.endswith(_SPLIT) or follows != learned or is_special
        if not whole and end - start < 8:  # no character takes more
            continue
        found.append(Token(text=text, learned=learned, special=is_special, count=end - start))
        context, start = start, end
    if start < len(input_ids):
        text = _decode(tokenizer, input_ids[start:])
        found.append(Token(text=text, learned=labels[-1] != IGNORED, count=len(input_ids) - start))
    return found


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    if not ids:
        return ""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)


def row_of(
    tokenizer: Any, example: dict[str, Any], why: tuple[Why, ...], *, most: int = SHOWN_TOKENS
) -> PreviewRow:
    """Show one example; of a very long one its beginning and its end."""
    ids, labels = example["input_ids"], example["labels"]
    head = len(ids) if len(ids) <= most else int(most * _HEAD_SHARE)
    tail = max(head, len(ids) - (most - head))
    shown = tokens_of(tokenizer, ids[:head], labels[:head])
    after = len(shown)
    if tail < len(ids):
        shown += tokens_of(tokenizer, ids[tail:], labels[tail:])
    row = example.get("row")
    return PreviewRow(
        row=row if isinstance(row, int) else 0,
        why=why,
        tokens=len(ids),
        learned_tokens=sum(label != IGNORED for label in labels),
        shown=tuple(shown),
        left_out=tail - head,
        left_out_after=after if tail > head else 0,
    )


def leave_preview(
    prepared: Path, target: Path, tokenizer: Any, lengths: Sequence[int], ends: Sequence[int]
) -> None:
    """Write preview.json from the prepared rows.

    Args:
        prepared: the prepare stage's folder; ``train`` in it is written.
        target: where to write.
        tokenizer: the rows'.
        lengths: of the training examples, in their order.
        ends: token ids that end an answer.
    """
    names = tuple(map(str, tokenizer.convert_ids_to_tokens(list(ends))))
    rows = read_rows(prepared, tokenizer, choose(lengths))
    write_preview(target, Preview(rows=tuple(rows), of=len(lengths), end_tokens=names))


def read_rows(
    prepared: Path, tokenizer: Any, chosen: dict[int, tuple[Why, ...]]
) -> list[PreviewRow]:
    """Read some training examples of a prepared run."""
    if not chosen:
        return []
    rows = read_examples(prepared / "train" / DATA_FILE, set(chosen))
    return [row_of(tokenizer, rows[place], why) for place, why in chosen.items() if place in rows]
