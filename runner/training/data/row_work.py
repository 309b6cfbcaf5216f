"""Row work: a batch of rows becomes conversations, tokens and what is to be said of them.

The same work in the main process, for small data, and in workers. Nothing of one batch is needed
for another.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.training.checks.checks import Checks
from runner.training.checks.row import seen
from runner.training.data.arrow_arrays import to_arrow, to_arrow_lists, to_numpy
from runner.training.data.conversation import Conversation, UnlearnableRowError
from runner.training.data.findings import Findings
from runner.training.data.formats import Rules, convert
from runner.training.data.mark_answers import IGNORED, Example
from runner.training.data.row import Row
from runner.training.data.split import normalised_prompt, position
from runner.training.data.template import Noted, Template
from runner.training.data.token_table import rows_schema, tokens_schema
from runner.training.data.tokenizer_folder import load_tokenizer

_JSON = json.JSONEncoder(ensure_ascii=False, default=str)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done to every row; it travels to the workers once."""

    rules: Rules
    model: Path | None
    """The base model's folder; None: it cannot be used, and rows are only read."""
    model_name: str
    embedding_rows: int | None
    trust_remote_code: bool
    use_words: bool = True
    """Much data may be read by known words."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows that follow each other in one file."""

    file: int
    """The file's place among the files of the record."""
    first: int
    """The first row's place in the data."""
    rows: list[Row]
    numbered: bool
    """The file has no lines of text, so rows are said by number."""
    only_read: bool = False
    """Something is wrong already: the rest is read for what else is wrong, and not tokenised."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A batch after the work."""

    read: int
    """Rows that are conversations to learn from."""
    findings: Findings
    """What is wrong with rows as they are written."""
    unlearnable: Findings
    """What this model's template cannot render exactly."""
    noted: Noted = field(default_factory=Noted)
    tokens: Any = None
    """A record batch of examples, and one of their rows; None: there are none."""
    rows: Any = None
    highest: int = 0
    """Token id."""
    checks: Checks = field(default_factory=Checks)
    """What the checks of the data keep of these rows."""


class Worker:
    """Does the work, batch by batch."""

    def __init__(self, work: Work, template: Template | None = None) -> None:
        """Make the tokenizer and its template ready, where none is given."""
        self._work = work
        if template is None and work.model is not None:
            tokenizer = load_tokenizer(work.model, trust_remote_code=work.trust_remote_code)
            template = Template(
                tokenizer,
                name=work.model_name,
                embedding_rows=work.embedding_rows,
                use_words=work.use_words,
            )
        self._template = template

    def set_work(self, work: Work) -> None:
        """Take another work on rows, with the same model."""
        self._work = work

    def do(self, batch: Batch) -> Done:
        """Convert, render and tokenise a batch."""
        findings, unlearnable = Findings(), Findings()
        if batch.numbered:
            findings.row_numbered.add(batch.rows[0].file)
            unlearnable.row_numbered.add(batch.rows[0].file)
        found = [
            conversation
            for number, row in enumerate(batch.rows, start=batch.first)
            if (conversation := convert(row, number, self._work.rules, findings)) is not None
        ]
        if self._template is None or batch.only_read or findings.count:
            return Done(read=len(found), findings=findings, unlearnable=unlearnable)
        checks = Checks()
        kept: list[tuple[Conversation, list[Example]]] = []
        for conversation, made in zip(found, self._template.encode_all(found), strict=True):
            if isinstance(made, UnlearnableRowError):
                unlearnable.add(conversation.file, conversation.line, str(made), hint=made.hint)
            else:
                kept.append((conversation, made))
                checks.see(seen(conversation, made))
        checks.flush()
        tokens = _tokens(kept)
        return Done(
            read=len(found),
            findings=findings,
            unlearnable=unlearnable,
            noted=self._template.give_noted(),
            tokens=tokens,
            rows=_rows(kept, batch.file),
            highest=_highest(tokens),
            checks=checks,
        )


def _tokens(kept: Sequence[tuple[Conversation, list[Example]]]) -> Any:
    import numpy as np
    import pyarrow as pa

    examples = [(c.row, example) for c, made in kept for example in made]
    offsets: Any = np.zeros(len(examples) + 1, "int32")
    np.cumsum([len(example.input_ids) for _, example in examples], out=offsets[1:])
    ids = np.fromiter(
        itertools.chain.from_iterable(example.input_ids for _, example in examples),
        "int32",
        count=offsets[-1],
    )
    labels = np.full(offsets[-1], IGNORED, "int32")
    for begin, (_, example) in zip(offsets.tolist(), examples, strict=False):
        for start, stop in example.learned:
            labels[begin + start : begin + stop] = ids[begin + start : begin + stop]
    columns = [
        to_arrow_lists(offsets, ids),
        to_arrow_lists(offsets, labels),
        to_arrow([row for row, _ in examples], pa.int64()),
    ]
    return pa.record_batch(columns, schema=tokens_schema())


def _highest(tokens: Any) -> int:
    ids = to_numpy(tokens.column("input_ids").values)
    return int(ids.max()) if len(ids) else 0


def _rows(kept: Sequence[tuple[Conversation, list[Example]]], file: int) -> Any:
    import pyarrow as pa

    lines = [_row(conversation, made, file) for conversation, made in kept]
    schema = rows_schema(parted=False)
    columns = [[line[n] for line in lines] for n in range(len(schema.names))]
    arrays = [to_arrow(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.record_batch(arrays, schema=schema)


def _row(conversation: Conversation, made: Sequence[Example], file: int) -> tuple[Any, ...]:
    lengths = [len(example.input_ids) for example in made]
    return (
        conversation.row,
        file,
        conversation.line,
        sum(lengths),
        sum(example.learned_tokens for example in made),
        max(lengths),
        position(normalised_prompt(conversation)),
        content_hash(conversation),
        conversation.askable,
    )


def content_hash(conversation: Conversation) -> int:
    """Hash all that a row says, so that a changed row is told from the same one."""
    said = [
        conversation.text,
        conversation.messages,
        conversation.tools,
        sorted(conversation.unlearned),
    ]
    text = _JSON.encode(said)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())
