"""Evaluation, as a spec asks for it: which held-out answers are generated and how they are scored.

All of it is optional. What a person asks for here decides the verdict; without it, the loss does.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Score = Literal["exact_match", "chrf", "rouge_l", "valid_json", "stops_by_itself", "length"]
SCORES: tuple[Score, ...] = get_args(Score)

_MINUTES_ASKED = 10.0  # 300 answers of 200 tokens by an 8B on a card take about half of it
_MINUTES = 3.0  # that nobody asked for: little beside a training of hours
_MOST_SECTIONS = 50
_MOST_FIELDS = 50
_MOST_VALUES = 200  # of one field; a list that people agree on is shorter
_MOST_TASKS = 20
_LONGEST_NAME = 200  # characters
_LONGEST_PATTERN = 2000  # characters
_PATTERN_BYTES = 8 * 1024 * 1024
"""Memory that a compiled pattern may take: RE2's own default; a larger one is refused."""

Name = Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME)]
Names = Annotated[list[Name], Field(min_length=1, max_length=_MOST_VALUES)]


class EvaluationWish(BaseModel):
    """How the adapter is measured on the held-out rows after training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: Annotated[int, Field(ge=0, le=10_000)] | Literal["auto"] = Field(
        "auto",
        description="Held-out rows whose answers are generated, within the time below; auto: up to "
        "100 on a card, or where a score is asked for; otherwise 3. 0 generates none.",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        le=1440,
        description="Time for generated answers and for what was forgotten (default: 10 where a "
        "score is asked for, else 3).",
    )
    scores: list[Score] | None = Field(
        None,
        min_length=1,
        description="How answers are scored: exact_match, chrf (likeness to the expected answer, "
        "0 to 1, by letters), rouge_l (by words in their order), valid_json, stops_by_itself, "
        "length (how near to the expected length).",
    )
    pattern: str | None = Field(
        None,
        max_length=_LONGEST_PATTERN,
        description="Every answer has to match this regular expression (RE2) as a whole.",
    )
    json_schema: str | None = Field(
        None,
        max_length=32_768,
        description="Every answer has to be JSON of this JSON Schema: a .json file, or its text.",
    )
    sections: Annotated[list[Name], Field(max_length=_MOST_SECTIONS)] | None = Field(
        None,
        min_length=1,
        description="Every answer has to have lines that begin with these, in this order.",
    )
    taxonomy: Annotated[dict[Name, Names], Field(max_length=_MOST_FIELDS)] | None = Field(
        None,
        min_length=1,
        description="Fields of an answer with the values that each may have. A field is a key "
        "where the answer is JSON, else a line 'Field: value'.",
    )
    general: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="A file of questions with answers that the model has to go on knowing: how "
        "likely it finds them is measured before and after. The first 500 rows count.",
    )
    tasks: Annotated[list[Name], Field(max_length=_MOST_TASKS)] | None = Field(
        None,
        min_length=1,
        description="Tasks of lm-evaluation-harness that the box's owner allows, by name: measured "
        "before and after, within the time.",
    )
    served: Literal["as_trained", "original"] = Field(
        "as_trained",
        description="The base that the adapter will be used with: as it was trained on (4 bits "
        "for qlora), or the original in 16 bits. The verdict goes by it.",
    )
    examples: int = Field(
        3, ge=0, le=10, description="Rows in the prompt of the base that the adapter has to beat."
    )
    forgetting: bool | Literal["auto"] = Field(
        "auto",
        description="Measure what was forgotten, on questions of the runner's own; auto: on a "
        "card.",
    )
    recital: bool | Literal["auto"] = Field(
        "auto",
        description="Measure how many learned rows are repeated word for word; auto: on a card.",
    )
    seed: int = Field(42, ge=0, le=2**32 - 1, description="Which rows are answered.")

    @property
    def asks_for_form(self) -> bool:
        """Whether a form is asked for that an answer has or has not."""
        wanted = (self.pattern, self.json_schema, self.sections, self.taxonomy)
        return any(wish is not None for wish in wanted) or "valid_json" in (self.scores or ())

    @property
    def asks(self) -> bool:
        """Whether any score is asked for."""
        return self.asks_for_form or bool(self.scores)

    @property
    def most_minutes(self) -> float:
        """The time for generated answers and for what was forgotten."""
        return self.minutes or (_MINUTES_ASKED if self.asks else _MINUTES)

    @property
    def schema_file(self) -> str | None:
        """The file that holds the JSON Schema; None: it stands in the spec, or there is none."""
        text = (self.json_schema or "").strip()
        return text if text and not text.startswith(("{", "[")) else None


def evaluation_problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Find what is wrong with fields that are each of the right kind: field, what, how to fix it.

    Args:
        values: the fields of the spec's ``evaluation``.
    """
    if (pattern := values.get("pattern")) is not None and (wrong := pattern_problem(pattern)):
        hint = "the pattern has the syntax of RE2: no look-ahead and no back-references"
        yield "pattern", f"the pattern cannot be read: {wrong}", hint
    text = str(values.get("json_schema") or "").strip()
    if text.startswith(("{", "[")) and (wrong := _json_problem(text)):
        yield "json_schema", wrong, "write the schema into a .json file, and name the file here"
    elif text and not text.startswith(("{", "[")) and not text.lower().endswith(".json"):
        yield "json_schema", "this is neither a .json file nor a schema", "name a .json file"
    yield from _taxonomy_problems(values.get("taxonomy") or {})
    if twice := _twice(values.get("sections") or []):
        yield "sections", f"{twice!r} stands there twice", "keep one of the two"
    if twice := _twice(values.get("scores") or []):
        yield "scores", f"{twice} stands there twice", "keep one of the two"
    if twice := _twice(values.get("tasks") or []):
        yield "tasks", f"{twice} stands there twice", "keep one of the two"
    for name in ("general", "tasks"):
        if values.get(name) and values.get("forgetting") is False:
            what = f"forgetting is false, and {name} is measured with it"
            yield name, what, f"leave forgetting out, or leave {name} out"
    if values.get("samples") == 0:
        asked = next((name for name in _NEED_ANSWERS if values.get(name)), None)
        if asked:
            what = f"samples is 0, and {asked} needs answers"
            yield "samples", what, "leave samples out, or leave the scores out"


def _taxonomy_problems(taxonomy: Mapping[str, list[str]]) -> Iterator[tuple[str, str, str]]:
    """Find fields and values that no answer could have, or that are the same twice."""
    seen: dict[str, str] = {}
    for field, allowed in taxonomy.items():
        name = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", field)).strip().casefold()
        if not name:
            hint = "name it as it stands in the answers"
            yield "taxonomy", f"{field!r} cannot be the name of a field", hint
        if (other := seen.setdefault(name, field)) != field:
            hint = "in a field's name, case, blanks and underscores do not count: keep one"
            yield "taxonomy", f"{other!r} and {field!r} are the same field", hint
        if any(not value.strip() for value in allowed):
            yield "taxonomy", f"{field} has an empty value", "take it out, or write what it means"
        elif twice := _twice(allowed):
            yield "taxonomy", f"{field} has the value {twice!r} twice", "keep one of the two"


def known_scores(values: Mapping[str, Any]) -> list[str]:
    """List the scores that a spec's ``evaluation`` brings, the loss first."""
    form = [name for name in ("json_schema", "pattern", "sections", "taxonomy") if values.get(name)]
    asked = [str(name) for name in values.get("scores") or ()]
    fields = [f"field.{name}" for name in values.get("taxonomy") or {}]
    in_form = ["in_form"] if form or "valid_json" in asked else []
    usual = [] if form or asked else ["chrf", "stops_by_itself"]
    return ["loss", *in_form, *fields, *asked, *form, *usual]


_OUTSIDE = re.compile("Resource '([^']*)' is not present in a registry")
"""How the library begins what it says of a reference to another document."""
_NEED_ANSWERS = ("scores", "pattern", "json_schema", "sections", "taxonomy")


def pattern_problem(pattern: str) -> str | None:
    """Say why a pattern does not compile; None: it does."""
    import re2  # noqa: PLC0415  (only where a spec has a pattern)

    try:
        compiled(pattern)
    except re2.error as error:
        said = error.args[0] if error.args else "it is none"
        return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return None


def compiled(pattern: str) -> Any:
    """Compile a pattern for an engine whose time grows with the text alone."""
    import re2  # noqa: PLC0415  (only where a spec has a pattern)

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_BYTES
    options.dot_nl = True
    return re2.compile(unicodedata.normalize("NFC", pattern), options)


def _json_problem(text: str) -> str | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "its start"
        return f"the schema is not JSON, from {where} on"
    return schema_problem(found)


def schema_problem(schema: object) -> str | None:
    """Say why something is no JSON Schema; None: it is one, and needs nothing outside itself."""
    if not isinstance(schema, dict):
        return "a JSON Schema is an object"
    try:
        validator(schema)
    except ValueError as error:
        said = " ".join(str(error).split("\n", 1)[0].split())
        if outside := _OUTSIDE.match(said):
            return (
                f"this is not a JSON Schema by itself: it refers to {outside[1][:200]}, and "
                "nothing outside it is read"
            )
        place = "/".join(str(part) for part in getattr(error, "instance_path", ()))
        at = f", at {place[:200]}" if place else ""
        return f"this is not a JSON Schema: {said[:200]}{at}"
    return None


def validator(schema: dict[str, Any]) -> Any:
    """Compile a JSON Schema: nothing outside it is read, its patterns take linear time.

    Raises:
        ValueError: it is none.
    """
    import jsonschema_rs  # noqa: PLC0415  (only where a spec has a schema)

    options = jsonschema_rs.RegexOptions()
    # The newest drafts leave open whether `format: date` is checked: who writes it means it.
    return jsonschema_rs.validator_for(
        schema, offline=True, pattern_options=options, validate_formats=True
    )


def _twice(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        # As answers are compared: files from a Mac hold ü as two characters.
        plain = " ".join(unicodedata.normalize("NFC", name).split())
        if plain in seen:
            return name
        seen.add(plain)
    return None
