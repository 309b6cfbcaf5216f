"""General questions: the user's own file of what the model has to go on knowing (`general:`).

Its rows are read as those of the data are, and put down for the evaluate stage.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.errors import DataError, Problem
from runner.files.durable import write_bytes
from runner.spec.spec import Columns, JobSpec
from runner.training.data.conversation import Conversation
from runner.training.data.findings import Findings
from runner.training.data.flow import Source, first_rules
from runner.training.data.formats import convert
from runner.training.data.snapshot import Copied
from runner.training.data.template_facts import TemplateFacts

FILE = "general.jsonl"
"""In the prepare stage's folder: one question a line, as it is asked, with its answer."""
MOST = 500
"""Rows: they are measured twice, and more of them would hardly narrow the interval."""


def read_general(copies: Sequence[Copied], spec: JobSpec, findings: Findings) -> list[Conversation]:
    """Read the rows; what is wrong with them is told with what is wrong with the data.

    Raises:
        DataError: none of them is a question with its answer.
    """
    # The spec's columns are those of the data; here each row has to speak for itself.
    plain = {"format": "auto", "columns": Columns(), "sheet": None, "system_prompt": None}
    source = Source(copies=copies, spec=spec.model_copy(update=plain))
    rules, numbers = first_rules(source), itertools.count()
    found: list[Conversation] = []
    for _, row in itertools.islice(source.rows(findings, []), MOST):
        read = convert(row, next(numbers), rules, findings)
        if read is not None and read.askable:
            found.append(read)
        elif read is not None:
            what = "a row of evaluation.general has to be a question with its answer"
            hint = "Write it with prompt and completion, or with messages that end in an answer."
            findings.add(read.file, read.line, what, hint=hint)
    if not found and not findings.problems:
        what = "no row of it is a question with its answer"
        hint = "Write rows with prompt and completion, or with messages that end in an answer."
        named = copies[0].named if copies else None
        raise DataError([Problem(file=named, field="evaluation.general", message=what, hint=hint)])
    return found


def write_general(target: Path, rows: Sequence[Conversation], template: TemplateFacts) -> None:
    """Write the questions down as the model is asked them."""
    lines = [
        json.dumps([template.prompt_messages(row), row.messages[-1]["content"]]) + "\n"
        for row in rows
    ]
    write_bytes(target, "".join(lines).encode(errors="replace"))


def general_questions(prepared: Path) -> list[tuple[list[dict[str, Any]], str]]:
    """Give the questions that were put down, each with its answer; none: there is no such file."""
    try:
        lines = (prepared / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [(messages, answer) for messages, answer in map(json.loads, lines)]
