"""Form of the answers: whether the data itself has the form that the spec's evaluation asks for.

Rows that break the taxonomy are refused, all of them named: the adapter would learn what the job
forbids. Of the other parts of a form it is enough that some rows have it; the rest is told.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.errors import DataError, Problem
from runner.spec.evaluation import EvaluationWish, schema_problem
from runner.training.data.conversation import Conversation
from runner.training.data.findings import Findings
from runner.training.data.flow import Flowed, Source
from runner.training.data.formats import convert
from runner.training.evaluate.scores import Scorer
from runner.training.evaluate.taxonomy import field_value, is_allowed, meant

SCHEMA_FILE = "schema.json"
"""In the prepare stage's folder: the JSON Schema that answers are held to."""
_SCHEMA_BYTES = 1024 * 1024
_MEANS = {
    "pattern": "The whole answer has to match the pattern; .* before and after it allows more.",
    "sections": "Lines of the answer have to begin with these words, in this order.",
    "json_schema": "The whole answer has to be JSON, with nothing before or after it.",
    "valid_json": "The whole answer has to be JSON, with nothing before or after it.",
}
"""What is most often meant otherwise, where no row has a part of the form."""


def read_schema(text: str | None, file: Path | None, *, named: str | None) -> dict[str, Any] | None:
    """Read the schema from the spec's text or from the copy of its file.

    Raises:
        DataError: it is none.
    """
    if text is None:
        return None
    wrong = None
    found: Any = None
    try:
        content = text.encode() if file is None else file.read_bytes()[: _SCHEMA_BYTES + 1]
        if len(content) > _SCHEMA_BYTES:
            wrong = "the file is too large for a JSON Schema (1 MiB at most)"
        else:
            found = json.loads(content)  # also as Notepad saves it: UTF-16, or with a BOM
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        wrong = f"this is not JSON{line}"
        if isinstance(error, RecursionError):
            wrong = "this is nested too deeply for a JSON Schema"
    wrong = wrong or schema_problem(found)
    if wrong is None:
        return found
    hint = "Correct the schema, or take evaluation.json_schema out of the spec."
    raise DataError([Problem(file=named, field="evaluation.json_schema", message=wrong, hint=hint)])


def check_form(
    wish: EvaluationWish, scorer: Scorer, source: Source, flowed: Flowed, findings: Findings
) -> list[str]:
    """Hold every expected answer to the form; give what the job's owner should know of it.

    Raises:
        DataError: answers break the taxonomy, or none has a part of the form.
    """
    counted: Counter[str] = Counter()
    total = 0
    for conversation in conversations(source, flowed):
        if not conversation.askable:
            continue
        total += 1
        answer = conversation.messages[-1]["content"]
        for name, has in scorer.form(answer).items():
            counted[name] += has
        for name, allowed in (wish.taxonomy or {}).items():
            value = field_value(answer, name)
            if not is_allowed(value, allowed):
                what = f"the answer has a value in the field {name} that the taxonomy does not list"
                if value is None:
                    what = f"the answer lacks the field {name}"
                elif right := meant(value, allowed):
                    what = (
                        f"the answer has {right!r} in the field {name} in other upper and lower "
                        "case than the taxonomy"
                    )
                hint = (
                    "Correct these answers, or add their values to evaluation.taxonomy: "
                    f"{name} may be {_listed(allowed)}."
                )
                if value is None:
                    hint = (
                        f"Write it there as a JSON key or a line that begins with {name} and a "
                        "colon; or correct its name in evaluation.taxonomy, or take it out."
                    )
                findings.add(conversation.file, conversation.line, what, hint=hint)
    if findings.problems:
        raise DataError(findings.problems)
    if not total:
        rows = sum(flowed.counts)
        what = f"none of the {rows} rows is a question with an answer that could be scored"
        if rows == 1:
            what = "the only row is no question with an answer that could be scored"
        hint = "Take the scores out of the spec's evaluation."
        raise DataError([Problem(field="evaluation", message=what, hint=hint)])
    return list(_judge(counted, scorer, total))


def _judge(counted: Counter[str], scorer: Scorer, total: int) -> Iterator[str]:
    """Say which parts of the form the data has only in part.

    Raises:
        DataError: it has a part not at all.
    """
    lacking = [name for name in scorer.form("") if not counted[name]]
    if lacking:
        hint = "Correct it, or take it out of the spec: an adapter learns the form of its rows."
        raise DataError(
            [
                Problem(
                    field=f"evaluation.{'scores' if name == 'valid_json' else name}",
                    message=f"the only expected answer does not fulfil {name}"
                    if total == 1
                    else f"none of the {total} expected answers fulfils {name}",
                    hint=f"{_MEANS[name]} {hint}" if name in _MEANS else hint,
                )
                for name in lacking
            ]
        )
    for name, has in counted.items():
        if has < total:
            lack = f"{total - has} of {total} expected answers do not fulfil {name} themselves"
            if total - has == 1:
                lack = f"1 of {total} expected answers does not fulfil {name} itself"
            yield f"{lack}: no adapter can be expected to do so more often"


def _listed(allowed: list[str]) -> str:
    more = f" and {len(allowed) - 10} more" if len(allowed) > 10 else ""
    return ", ".join(allowed[:10]) + more


def conversations(source: Source, flowed: Flowed) -> Iterator[Conversation]:
    """Give every row once more as a conversation, without what is to be said of it."""
    numbers = itertools.count()
    for _, row in source.rows(Findings(), []):
        if found := convert(row, next(numbers), flowed.rules, Findings()):
            yield found
