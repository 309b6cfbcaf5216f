"""Rows that a person should read: best and worst held-out ones, and those of the base's losses.

`evaluation/extremes.json` has the held-out rows whose answers became most and least likely,
`evaluation/measured_rows.json` the learned rows that the base found hardest and easiest. Both are
for the report: what got worse, or may be mislabelled, is read there, not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.contract.layout import RunFolder
from runner.contract.row_losses import ends_of, read_row_losses
from runner.files.durable import write_json
from runner.training.data.mark_answers import IGNORED

EACH = 3  # at each end; a person reads no more
_TOKENS = 600  # of a question, its end; of an answer, its beginning
_CUT = "…"


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
    return _texts_of(held, tokenizer, [row for _, row in chosen])


def write_measured_rows(run: RunFolder, tokenizer: Any, path: Path) -> None:
    """Write the texts of the learned rows that the base found hardest and easiest.

    Args:
        run: its train stage has measured them; where it has not, nothing is written.
        tokenizer: the adapter's.
        path: the file.
    """
    from datasets import load_from_disk

    hardest, easiest = ends_of(read_row_losses(run).rows)
    wanted = [one.row for one in (*hardest, *easiest) if one.row is not None]
    if wanted and (run.prepared / "train" / "state.json").is_file():
        train = load_from_disk(str(run.prepared / "train"))
        write_json(path, _texts_of(train, tokenizer, wanted))


def _texts_of(examples: Any, tokenizer: Any, wanted: Sequence[int]) -> list[dict[str, Any]]:
    """Give question and answer of each row, in this order; a row that is not there is left out."""
    numbers = examples.data.column("row").to_numpy()
    places = np.flatnonzero(np.isin(numbers, list(wanted)))
    place_of = {int(numbers[place]): int(place) for place in places[::-1]}  # the first one stays
    return [
        {"row": row, **_texts(examples[place_of[row]], tokenizer)}
        for row in wanted
        if row in place_of
    ]


def _texts(example: dict[str, Any], tokenizer: Any) -> dict[str, str]:
    """Part an example into its last question and what is learned, without control tokens."""
    ids, labels = example["input_ids"], example["labels"]
    learned = [label != IGNORED for label in labels]
    start = learned.index(True) if True in learned else len(ids)
    answer = [id_ for id_, is_learned in zip(ids, learned, strict=True) if is_learned]
    text = str(tokenizer.decode(answer[:_TOKENS], skip_special_tokens=True)).strip()
    cut = f" {_CUT}" if len(answer) > _TOKENS else ""
    return {"question": _question(ids[:start], tokenizer), "answer": text + cut}


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
    texts = [
        (f"{_CUT} " if len(piece) > _TOKENS else "")
        + str(tokenizer.decode(piece[-_TOKENS:])).strip()
        for piece in pieces
    ]
    last = [text for text in texts if text][-2:]
    return max(last, key=len, default="").removeprefix("user\n").strip()
