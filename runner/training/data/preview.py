"""Preview: prepared rows as text again, with where learning begins and ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from runner.training.data.tokenizer_folder import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Part:
    """Neighbouring tokens of one kind."""

    text: str
    learned: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row as the model sees it."""

    row: int
    """Index in the data."""
    tokens: int
    learned_tokens: int
    parts: tuple[Part, ...]


def parts_of(tokenizer: Any, input_ids: list[int], labels: list[int]) -> tuple[Part, ...]:
    """Decode runs of learned and unlearned tokens, special tokens shown."""
    pairs = zip(input_ids, labels, strict=True)
    return tuple(
        Part(
            text=tokenizer.decode([token for token, _ in group], skip_special_tokens=False),
            learned=learned,
        )
        for learned, group in groupby(pairs, key=lambda pair: pair[1] != -100)
    )


def read_rows(prepared: Path, count: int) -> Iterator[Row]:
    """Read the first ``count`` training rows of a prepared run."""
    from datasets import load_from_disk

    tokenizer = load_tokenizer(prepared / "tokenizer")
    rows = load_from_disk(str(prepared / "train"))
    for index in range(min(count, len(rows))):
        row = rows[index]
        number = row.get("row", index)
        yield Row(
            row=number if isinstance(number, int) else index,
            tokens=len(row["input_ids"]),
            learned_tokens=sum(label != -100 for label in row["labels"]),
            parts=parts_of(tokenizer, row["input_ids"], row["labels"]),
        )
