"""Scores of one generated answer, as the spec asks for them: each from 0 to 1, more is better."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runner.spec.evaluation import EvaluationWish, compiled, validator
from runner.training.evaluate.chrf import chrf
from runner.training.evaluate.rouge import rouge_l
from runner.training.evaluate.taxonomy import as_json, broken_fields, field_value, plain

IN_FORM = "in_form"
"""Whether an answer has all of the form that is asked for."""
FIELD = "field."
"""Before the name of a field of the taxonomy: whether it has the expected value."""
_MARKS = " \t#*_>-"  # before a section's name in Markdown and in lists


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model wrote."""

    text: str
    stopped: bool
    """It ended by itself, and not because it grew too long."""

    @property
    def shown(self) -> str:
        """The text as people read it: one that was cut off says so."""
        return self.text if self.stopped or not self.text else f"{self.text} …"


Rule = Callable[[Answer, str], bool | float]
"""Scores an answer against the expected one."""


class Scorer:
    """All scores that a spec asks for."""

    def __init__(self, wish: EvaluationWish, *, schema: dict[str, Any] | None) -> None:
        """Compile what there is to compile.

        Args:
            wish: the spec's.
            schema: the JSON Schema, read from wherever the spec has it.

        Raises:
            ValueError: the schema is none.
        """
        self.taxonomy = wish.taxonomy or {}
        self._form: dict[str, Rule] = {}
        asked = set(wish.scores or ())
        if "valid_json" in asked:
            self._form["valid_json"] = lambda answer, _: is_json(answer.text)
        if schema is not None:
            accepts = validator(schema)
            self._form["json_schema"] = lambda answer, _: fits(answer.text, accepts)
        if wish.pattern is not None:
            pattern = compiled(wish.pattern)
            self._form["pattern"] = lambda answer, _: matches(answer.text, pattern)
        if wish.sections is not None:
            sections = wish.sections
            self._form["sections"] = lambda answer, _: has_sections(answer.text, sections)
        if self.taxonomy:
            self._form["taxonomy"] = lambda answer, _: not broken_fields(answer.text, self.taxonomy)
        self._fields: dict[str, Rule] = {f"{FIELD}{f}": _is_right(f) for f in self.taxonomy}
        usual = () if wish.asks else ("chrf", "stops_by_itself")
        self._others: dict[str, Rule] = {
            name: rule for name, rule in _RULES.items() if name in (*asked, *usual)
        }
        self._asks = wish.asks

    @property
    def deciding(self) -> tuple[str, ...]:
        """The scores that the verdict goes by, the first one first; none: the loss decides."""
        if not self._asks:
            return ()
        form = (IN_FORM,) if self._form else ()
        usual = [name for name in ("exact_match", "chrf", "rouge_l") if name in self._others]
        found = (*form, *self._fields, *usual)
        return found or tuple(self._others)

    def form(self, text: str) -> dict[str, bool]:
        """Tell which parts of the form a text has: the data is held to it, too."""
        answer = Answer(text=text, stopped=True)
        return {name: bool(rule(answer, text)) for name, rule in self._form.items()}

    def score(self, answer: Answer, reference: str) -> dict[str, float]:
        """Score one answer against the expected one."""
        form = {name: float(rule(answer, reference)) for name, rule in self._form.items()}
        found = {IN_FORM: min(form.values())} if form else {}
        found |= {name: float(rule(answer, reference)) for name, rule in self._fields.items()}
        found |= {name: float(rule(answer, reference)) for name, rule in self._others.items()}
        return found | (form if len(form) > 1 else {})


def _is_right(field: str) -> Rule:
    def rule(answer: Answer, reference: str) -> bool:
        wanted = field_value(reference, field)
        return wanted is not None and field_value(answer.text, field) == wanted

    return rule


def same_text(answer: str, reference: str) -> bool:
    """Whether two texts say the same, whatever their blanks and Unicode forms."""
    said, wanted = (" ".join(unicodedata.normalize("NFC", t).split()) for t in (answer, reference))
    return said == wanted


def likeness_of_length(answer: str, reference: str) -> float:
    """Give the shorter text's length as a share of the longer one's."""
    short, long = sorted((len(answer.strip()), len(reference.strip())))
    return short / long if long else 1.0


def is_json(text: str) -> bool:
    """Whether a text is JSON and nothing else."""
    return as_json(text) is not None or text.strip() == "null"


def fits(text: str, accepts: Any) -> bool:
    """Whether a text is JSON of a schema."""
    if not is_json(text):
        return False
    try:
        return bool(accepts.is_valid(json.loads(text)))
    except (ValueError, RecursionError):  # numbers that no machine holds, nesting without end
        return False


def matches(text: str, pattern: Any) -> bool:
    """Whether a text matches a compiled pattern as a whole."""
    # Half of a surrogate pair, which JSON can hold and UTF-8 cannot, would raise in the engine.
    held = text.encode(errors="replace").decode()
    return pattern.fullmatch(_written_alike(held)) is not None


def has_sections(text: str, sections: list[str]) -> bool:
    """Whether a text has lines that begin with these, in this order."""
    left = [_section(name) for name in sections]
    for line in text.splitlines():
        if left and _section(line).startswith(left[0]):
            left.pop(0)
    return not left


def _section(line: str) -> str:
    return plain(line.lstrip(_MARKS)).casefold()


def _written_alike(text: str) -> str:
    """Write a text as a pattern sees it: ü as one letter, a line end as one, none at its end.

    Answers are cut so; the rows' own may come from Windows or from a Mac.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return unicodedata.normalize("NFC", lines)


_RULES: dict[str, Rule] = {
    "exact_match": lambda answer, wanted: same_text(answer.text, wanted),
    "chrf": lambda answer, wanted: chrf(answer.text, wanted),
    "rouge_l": lambda answer, wanted: rouge_l(answer.text, wanted),
    "stops_by_itself": lambda answer, _: answer.stopped,
    "length": lambda answer, wanted: likeness_of_length(answer.text, wanted),
}
