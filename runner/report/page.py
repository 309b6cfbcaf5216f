"""Page: what was gathered of a run becomes one self-contained HTML page. Pure; nothing is read.

The policy in the page's head lets through nothing but its own style sheet, named by its hash: no
script, no picture from elsewhere, no request. User data reaches the page only through templates
that escape it.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from runner.contract.batch import BatchPlan, describe_change, plan_in
from runner.contract.gate import promotion_in
from runner.contract.handed_over import forms_in
from runner.contract.method_choice import method_in
from runner.contract.rates import RatesTried, in_words, rates_in, trial_in
from runner.contract.record import Attempt, RunRecord
from runner.language.speaker import Speaker
from runner.report.charts import Drawn, svg
from runner.report.curve import Curve, Series
from runner.report.findings import finding_of, losses_of
from runner.report.gather import Gathered
from runner.report.phrase import TEXT_CHARACTERS, Phrase, foreign, shortened
from runner.report.preview import row_of
from runner.report.scores import Line, axis_lines, improvement, other_form_lines, score_lines
from runner.report.story import outcome_in, story
from runner.report.verdict_card import card
from runner.words import GIB, share_path, visible

HERE = Path(__file__).parent
MOST_BYTES = 1_000_000
"""A page: what a mail server lets through and a phone opens at once."""
_SPEC_CHARACTERS = 20_000
_SAMPLES = 6
_NOTES = 40
_ATTEMPTS = 50  # shown: three without progress end a run, so more is rare
_FINDINGS = 100
_VERSIONS = 200
_SMALL = 1e-3
_WORDS = ("base", "adapter", "held_out", "loss", "token", "step")
"""Explained on each page that uses them."""
_PREVIEW_TOKENS = 2500  # of one row; some 60 KB of page


_BACKTICKS = re.compile(r"`([^`\n]{1,300})`")
_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that turn, hide or break text; each text is cleared of them, this misses none."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart with its numbers."""

    name: str
    title: str
    explained: str
    svg: Markup
    legend: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    """Step, and each series' number; empty where it has none."""
    thinned: str


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["with_code"] = with_code
    return made


def with_code(text: str) -> Markup:
    """Escape a text, and set what stands between backticks as code."""
    return Markup(_BACKTICKS.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704


@cache
def style() -> tuple[Markup, str]:
    """Give the style sheet, and its hash as the policy names it."""
    content = (HERE / "templates" / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    # Ours, from the package: nothing of a user's is in it.
    return Markup(content), f"sha256-{digest}"  # noqa: S704


def render(template: str, **values: Any) -> str:
    """Fill in one of the templates, with the style sheet and its hash."""
    css, css_hash = style()
    text = _environment().get_template(template).render(css=css, css_hash=css_hash, **values)
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def page(
    found: Gathered, speak: Speaker, *, now: datetime, share_name: str = "", index: str = ""
) -> str:
    """Write the report.

    Args:
        found: the run.
        speak: the language.
        now: when; a run that is over says when it ended instead.
        share_name: what the share's users put before jobs/ and outputs/.
        index: where index.html lies as seen from the page; empty: it cannot be reached from there.
    """
    for sparing in (1, 4, 16, 256):  # a page too large says less of each row, not less of the run
        text = _page(found, speak, now=now, share_name=share_name, index=index, sparing=sparing)
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


def _score_tables(record: RunRecord, speak: Speaker) -> list[tuple[str, str, list[Line]]]:
    """Give the tables of scores that have rows: each with its name and its caption."""
    found = record.evaluation
    elsewhere = found.form if found else "as_trained"
    tables = [
        ("scores_caption", "scores_caption", score_lines(found, speak)),
        ("other_form_caption", f"served_{elsewhere}_caption", other_form_lines(found, speak)),
        ("axes_caption", "axes_caption", axis_lines(found, speak)),
    ]
    return [(name, speak(caption), lines) for name, caption, lines in tables if lines]


def _page(
    found: Gathered, speak: Speaker, *, now: datetime, share_name: str, index: str, sparing: int
) -> str:
    record = found.record
    where = f"outputs/{record.job}/{record.run_id}/"

    def cut(text: str, most: int = TEXT_CHARACTERS) -> str:
        return shortened(text, speak, most // sparing)

    return render(
        "report.html.j2",
        t=speak,
        record=record,
        job=visible(record.job),
        card=card(found, speak),
        as_of=speak.time(record.ended_at or now, day=True),
        over=record.state.is_final,
        index=index,
        asked=asked(found, speak),
        spec=shortened(found.spec, speak, _SPEC_CHARACTERS // sparing),
        story=story(record, speak),
        came_of_it=came_of_it(record, speak),
        notes=[foreign(note, speak) for note in record.shortfalls[:_NOTES]],
        more_notes=max(0, len(record.shortfalls) - _NOTES),
        samples=found.samples[: max(1, _SAMPLES // sparing)],
        held_out=found.held_out,
        some_asked=found.held_out is not None and found.held_out.some_asked,
        words=[(speak(f"word_{one}"), speak(f"word_{one}_means")) for one in _WORDS],
        score_tables=_score_tables(record, speak),
        charts=charts(found.curve, speak),
        attempts=attempts(record, speak),
        findings=[finding_of(one, speak) for one in found.findings[:_FINDINGS]],
        row_losses=losses_of(found.row_losses, found.measured_rows, speak),
        preview=found.preview,
        preview_rows=[
            row_of(row, speak, _PREVIEW_TOKENS // sparing)
            for row in (found.preview.rows if found.preview else ())
        ],
        has_adapter=found.has_adapter,
        where=share_path(where, share_name) if share_name else where,
        snippet=shortened(found.snippet or "", speak, 8000),
        versions=versions(record, speak),
        cut=cut,
        change_of=lambda one: improvement(one.improvement, speak, ".3f"),
    )


def asked(found: Gathered, speak: Speaker) -> list[tuple[str, list[str]]]:
    """Say what was asked for: model, data, method."""
    record, metrics = found.record, found.record.metrics
    facts: list[tuple[str, list[str]]] = []
    if record.model is not None:
        facts.append((speak("base_model"), [visible(record.model.id)]))
    if record.data:
        files = [f"{visible(f.path)}: {speak('rows_count', count=f.rows)}" for f in record.data]
        facts.append((speak("data"), _few(files, speak)))
    name, time = visible(record.file_name), speak.time(record.created_at, day=True)
    facts.append((speak("dropped"), [speak("dropped_as", name=name, time=time)]))
    trigger = f"trigger_{record.trigger}"
    said = speak(trigger) if speak.knows(trigger) else visible(record.trigger)
    facts.append((speak("trigger"), [said]))
    for key, value in (
        ("effective_batch", record.effective_batch_size),
        ("total_steps", record.total_steps),
    ):
        if isinstance(value, int):
            facts.append((speak(key), [speak.whole(value)]))
    if isinstance(metrics.get("max_length"), int) and metrics["max_length"]:
        facts.append((speak("max_length"), [speak("tokens_count", count=metrics["max_length"])]))
    template = metrics.get("chat_template")
    if isinstance(template, str) and template:
        own = template == "model's own"
        facts.append(
            (speak("chat_template"), [speak("template_own") if own else visible(template)])
        )
    return facts


def came_of_it(record: RunRecord, speak: Speaker) -> list[tuple[str, list[str]]]:
    """Say what the box chose, what the run did with the data, what became of the adapter."""
    metrics = record.metrics
    facts: list[tuple[str, list[str]]] = []
    if record.method is not None:
        facts.append((speak("method_title"), [method_in(record.method, speak)]))
    if record.rates is not None:
        facts.append((speak("rates_title"), _rates(record.rates, speak)))
    if isinstance(left_out := metrics.get("left_out_rows"), int) and left_out:
        facts.append((speak("left_out"), [speak.whole(left_out)]))
    total, learned = metrics.get("train_tokens"), metrics.get("learned_tokens")
    if isinstance(total, int) and isinstance(learned, int) and total:
        facts.append((speak("learned_share"), [speak.percent(learned / total)]))
    if record.promotion is not None:
        facts.append((speak("promotion"), [visible(promotion_in(record.promotion, speak))]))
    if forms := forms_in(record.handed_over, speak):
        facts.append((speak("served_title"), [visible(one) for one in forms]))
    return facts


def _rates(rates: RatesTried, speak: Speaker) -> list[str]:
    """Say which learning rate was chosen and why, then what came out of each."""
    done = [one for one in rates.trials if one.outcome is not None]
    each = [f"{in_words(one.learning_rate, speak)}: {trial_in(rates, one, speak)}" for one in done]
    return [*filter(None, [rates_in(rates, speak)]), *each]


def _few(texts: Sequence[str], speak: Speaker, most: int = 20) -> list[str]:
    left = len(texts) - most
    return [*texts[:most], *([speak("more_entries", count=left)] if left > 0 else [])]


def attempts(record: RunRecord, speak: Speaker) -> list[dict[str, Any]]:
    """Give the rows of the attempts' table, the newest of very many."""
    return [
        {
            "number": attempt.number,
            "outcome": outcome_in(attempt.outcome, speak),
            "steps": speak(
                "steps_range", first=attempt.first_step or "–", last=attempt.last_step or "–"
            ),
            "batch": plan_in(attempt.batch_plan, speak),
            "took": speak.lasting(attempt.seconds) if attempt.seconds is not None else "–",
            "peak": speak.memory(attempt.peak_gpu_memory_bytes),
            "reason": _reason(attempt, after, speak),
        }
        for attempt, after in _with_next_plans(record)[-_ATTEMPTS:]
    ]


def _with_next_plans(record: RunRecord) -> list[tuple[Attempt, BatchPlan | None]]:
    """Give each attempt with the plan that was in force after it."""
    plans = [*(attempt.batch_plan for attempt in record.attempts[1:]), record.batch_plan]
    return list(zip(record.attempts, plans, strict=False))


def _reason(attempt: Attempt, after: BatchPlan | None, speak: Speaker) -> Phrase:
    """Say why an attempt ended; a change of the plan is said anew, from the plans themselves."""
    if not attempt.reason:
        return Phrase(text="–")
    if after is not None and attempt.reason == describe_change(attempt.batch_plan, after):
        return Phrase(text=describe_change(attempt.batch_plan, after, speak))
    return foreign(attempt.reason, speak)


def versions(record: RunRecord, speak: Speaker) -> list[tuple[str, str]]:
    """List every version and hash that the record knows."""
    found = [(speak("run"), f"{record.job}/{record.run_id}")]
    found.append((speak("sha_spec"), record.spec_sha256))
    if record.model is not None:
        found.append((speak("base_model"), record.model.id))
        found += [(speak("revision"), record.model.revision)] if record.model.revision else []
        found += [(speak("sha_model"), record.model.sha256)] if record.model.sha256 else []
    found += [(speak("sha_data", path=visible(f.path)), f.sha256) for f in record.data]
    files = record.metrics.get("adapter_files")
    for path, sha256 in files.items() if isinstance(files, dict) else ():
        found.append((speak("sha_adapter", path=visible(path)), str(sha256)))
    found += [(str(name), str(value)) for name, value in sorted(record.environment.items())]
    return [(visible(name), shortened(value, speak, 300)) for name, value in found[:_VERSIONS]]


_CHARTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("loss", ("train", "eval"), ".4f"),
    ("rate", ("rate",), ".3g"),
    ("speed", ("speed",), ".1f"),
    ("memory", ("memory",), ".2f"),
)
_AXIS = {"loss": ".3g", "rate": ".2g", "speed": ".0f", "memory": ".3g"}


def charts(curve: Curve, speak: Speaker) -> list[Chart]:
    """Draw what was measured; a chart without a single point is left out."""
    made = []
    for name, keys, pattern in _CHARTS:
        series = [curve.series[key] for key in keys if key in curve.series]
        if name == "memory":
            series = [_in_gib(one) for one in series]
        if not series or not any(one.points for one in series):
            continue
        made.append(_chart(name, series, pattern, speak))
    return made


def _in_gib(series: Series) -> Series:
    points = tuple((step, value / GIB) for step, value in series.points)
    return Series(name=series.name, points=points, count=series.count)


def _say(value: float, pattern: str, speak: Speaker) -> str:
    """Say a number of a chart: a small one with its zeros, for 7.5e-05 is no number to a reader."""
    if pattern.endswith("g") and 0 < abs(value) < _SMALL:
        digits = int(pattern[1:-1]) - 1 - math.floor(math.log10(abs(value)))
        return speak.number(value, f".{digits}f")
    return speak.number(value, pattern)


def _chart(name: str, series: Sequence[Series], pattern: str, speak: Speaker) -> Chart:
    says = [_describe(one, pattern, speak) for one in series]
    thinned = [
        speak("thinned", shown=len(one.points), count=one.count)
        for one in series
        if one.count > len(one.points)
    ]
    return Chart(
        name=name,
        title=speak(f"chart_{name}"),
        explained=speak(f"chart_{name}_explained"),
        # Drawn from numbers; titles and descriptions are texts of the tree, so escaped.
        svg=Markup(  # noqa: S704
            svg(
                f"chart-{name}",
                [Drawn(name=one.name, series=one) for one in series],
                title=speak(f"chart_{name}"),
                description=" ".join(says),
                say=_axis(name, speak),
            )
        ),
        legend=tuple(speak(f"series_{one.name}") for one in series),
        rows=_numbers(series, pattern, speak),
        thinned=" ".join(dict.fromkeys(thinned)),
    )


def _axis(name: str, speak: Speaker) -> Callable[[float], str]:
    return lambda value: "0" if value == 0 else _say(value, _AXIS[name], speak)


def _describe(series: Series, pattern: str, speak: Speaker) -> str:
    values = [value for _, value in series.points]
    (first_step, first), (last_step, last) = series.points[0], series.points[-1]
    return speak(
        "chart_says",
        name=speak(f"series_{series.name}"),
        first=_say(first, pattern, speak),
        first_step=first_step,
        last=_say(last, pattern, speak),
        last_step=last_step,
        low=_say(min(values), pattern, speak),
        high=_say(max(values), pattern, speak),
    )


def _numbers(
    series: Sequence[Series], pattern: str, speak: Speaker
) -> tuple[tuple[int, tuple[str, ...]], ...]:
    by_step = [dict(one.points) for one in series]
    steps = sorted(set().union(*by_step))
    return tuple(
        (
            step,
            tuple(
                _say(values[step], pattern, speak) if step in values else "" for values in by_step
            ),
        )
        for step in steps
    )
