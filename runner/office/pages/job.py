"""Job: all runs of one job, which of them is in use, how to go back, and two of them compared."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from runner.commands.status import overview_of
from runner.contract.promotions import How, read_promotions, target_of_rollback
from runner.contract.record import RunRecord
from runner.contract.requests import leave_request
from runner.errors import RunnerError
from runner.files.plain import read_plain
from runner.language.speaker import Speaker
from runner.office.box import Box
from runner.office.pages.jobs import ended_line, running_line
from runner.office.pages.run import asked_by, asked_words
from runner.office.render import page, reader_of
from runner.office.runs import box_of, job_of, record_of, run_named, way_to
from runner.report.gather import Gathered, gather_result
from runner.report.phrase import shortened
from runner.report.scores import score_lines
from runner.report.verdict_card import card
from runner.spec.read_spec import read_spec
from runner.words import visible

_RUNS = 50  # on a page, the newest
_CHANGES = 20  # of what is in use, the newest
_CHOICES = 200  # runs to choose from for a comparison
_SPEC_BYTES = 1024 * 1024
_SAMPLES = 10


def routes(box: Box) -> list[BaseRoute]:  # noqa: ARG001 - each part is given it
    """Give the routes."""
    return [
        Route("/jobs/{job}", _job),
        Route("/jobs/{job}/compare", _compare),
        Route("/jobs/{job}/rollback", _rollback, methods=["POST"]),
    ]


def _job(request: Request) -> Response:
    box, job, speak = box_of(request), job_of(request), reader_of(request).speak
    ids = box.outputs.run_ids(job)
    newest = [box.outputs.run(job, run_id) for run_id in ids[: -_RUNS - 1 : -1]]
    overview = overview_of(box.outputs, newest, latest=None)
    back_to = None
    with contextlib.suppress(RunnerError, OSError):
        back_to = target_of_rollback(box.outputs, job)
    return page(
        request,
        "job.html.j2",
        job=visible(job),
        way=way_to(job),
        under_way=[running_line(one, speak) for one in (*overview.running, *overview.queue)],
        finished=[ended_line(one, speak) for one in overview.finished],
        damaged=overview.damaged,
        more=max(0, len(ids) - _RUNS),
        choices=ids[: -_CHOICES - 1 : -1],
        changes=_changes(box, job, speak),
        back_to=back_to,
        asked=asked_words(request),
    )


def _changes(box: Box, job: str, speak: Speaker) -> list[dict[str, str]]:
    """Give what came into use and when, the newest first."""
    try:
        found = read_promotions(box.outputs, job)
    except OSError:
        return []
    said = {
        How.PROMOTED: "office_came_into_use",
        How.ROLLED_BACK: "office_back_in_use",
        How.WITHDRAWN: "office_withdrawn",
    }
    return [
        {
            "time": speak.time(one.time, day=True),
            "said": speak(said[one.how], run=visible(one.run_id)),
            "by": visible(one.by),
        }
        for one in found[: -_CHANGES - 1 : -1]
    ]


def _rollback(request: Request) -> Response:
    """Ask the daemon to make current what was so before, as `runner rollback` does."""
    outputs, job = box_of(request).outputs, job_of(request)
    target_of_rollback(outputs, job)
    leave_request(outputs, "rollback", job=job, by=asked_by(request))
    return RedirectResponse(f"{way_to(job)}?asked=rollback", 303)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing in which two runs are compared."""

    name: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        """Whether it is worth a look."""
        return self.first != self.second


def _compare(request: Request) -> Response:
    box, job, speak = box_of(request), job_of(request), reader_of(request).speak
    runs = [run_named(box, job, request.query_params.get(name, "")) for name in ("a", "b")]
    if runs[0] == runs[1]:
        raise HTTPException(404)
    records = [record_of(run) for run in runs]
    found = [gather_result(run, record) for run, record in zip(runs, records, strict=True)]
    specs = [_settings(box, run.job, run.run_id) for run in runs]
    return page(
        request,
        "compare.html.j2",
        job=visible(job),
        job_way=way_to(job),
        runs=[(run.run_id, way_to(job, run.run_id)) for run in runs],
        cards=[card(one, speak) for one in found],
        facts=compared_facts(records, speak),
        scores=compared_scores(records, speak),
        settings=compared_settings(specs[0], specs[1]),
        samples=compared_samples(found, speak),
    )


def compared_facts(records: list[RunRecord], speak: Speaker) -> list[Row]:
    """Give model, data and times of two runs side by side."""

    def facts(record: RunRecord) -> dict[str, str]:
        rows = record.metrics.get("train_rows")
        took = None
        if record.started_at and record.ended_at:
            took = (record.ended_at - record.started_at).total_seconds()
        return {
            speak("state"): speak(f"state_{record.state}"),
            speak("ended"): speak.time(record.ended_at, day=True) if record.ended_at else "–",
            speak("base_model"): visible(record.model.id) if record.model else "–",
            speak("data"): ", ".join(
                f"{visible(file.path)}: {speak('rows_count', count=file.rows)}"
                for file in record.data[:_SAMPLES]
            )
            or "–",
            speak("rows_trained"): speak.whole(rows) if isinstance(rows, int) else "–",
            speak("took"): speak.lasting(took) if took is not None else "–",
        }

    first, second = facts(records[0]), facts(records[1])
    return [Row(name=name, first=first[name], second=second[name]) for name in first]


def compared_scores(records: list[RunRecord], speak: Speaker) -> list[Row]:
    """Give the adapters' scores side by side: those that either has."""
    found = [
        {one.name: one.adapter or "–" for one in score_lines(record.evaluation, speak)}
        for record in records
    ]
    if not any(found):
        found = [
            {speak("loss_after"): speak.number(loss) if isinstance(loss, float) else "–"}
            for loss in (record.metrics.get("eval_loss_after") for record in records)
        ]
    names = dict.fromkeys([*found[0], *found[1]])
    return [
        Row(name=visible(name), first=found[0].get(name, "–"), second=found[1].get(name, "–"))
        for name in names
    ]


def _settings(box: Box, job: str, run_id: str) -> dict[str, str]:
    """Read a run's spec as its settings; empty where it cannot be read any more."""
    run = box.outputs.run(job, run_id)
    try:
        content = read_plain(run.spec, limit_bytes=_SPEC_BYTES)
        spec = read_spec(content, file_name=run.spec.name)
    except (OSError, RunnerError):
        return {}
    return flat(spec.model_dump(mode="json"))


def flat(fields: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Give nested settings by their dotted names, as texts."""
    found: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{name}.")
        elif value is not None:
            found[f"{before}{name}"] = visible(str(value))[:300]
    return found


def compared_settings(first: Mapping[str, str], second: Mapping[str, str]) -> list[Row]:
    """Give the settings in which two runs differ."""
    rows = [
        Row(name=name, first=first.get(name, "–"), second=second.get(name, "–"))
        for name in dict.fromkeys([*first, *second])
    ]
    return [row for row in rows if row.differs]


def compared_samples(found: list[Gathered], speak: Speaker) -> list[dict[str, str]]:
    """Give what both adapters answered to the same held-out question."""
    second = {one.question: one for one in found[1].samples}
    return [
        {
            "question": shortened(one.question, speak),
            "first": shortened(one.after, speak),
            "second": shortened(second[one.question].after, speak),
            "reference": shortened(one.reference, speak),
        }
        for one in found[0].samples[:_SAMPLES]
        if one.question in second
    ]
