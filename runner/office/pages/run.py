"""Run: where one run stands, or what came out of it, with its report and its files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Hashable
from dataclasses import dataclass

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from runner.clock import now
from runner.commands.cancel import cancel
from runner.commands.health import health
from runner.contract.ended import stamp_of
from runner.contract.layout import RunFolder
from runner.contract.promotions import check_promotable, current_run
from runner.contract.record import RunRecord
from runner.contract.requests import leave_request
from runner.contract.states import State
from runner.errors import RunnerError
from runner.office.box import Box
from runner.office.files import FileAnswer, files_of, open_file
from runner.office.language import speaker_of
from runner.office.live import Live, Part
from runner.office.pages.jobs import figures_of
from runner.office.render import Reader, page, reader_of, render_for
from runner.office.runs import box_of, newest_metrics, record_of, run_of, way_to
from runner.office.who import client_of
from runner.report.gather import gather, gather_result
from runner.report.page import attempts, charts
from runner.report.page import page as report_page
from runner.report.phrase import TEXT_CHARACTERS, shortened
from runner.report.story import story
from runner.report.verdict_card import card
from runner.report.write import INDEX_FROM_RUN
from runner.words import visible

_SAMPLES = 3
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""Of a report within the page: it runs no script and asks for nothing; its own policy, which names
its style sheet, holds beside this one."""
_REPORT_BYTES = 4 * 1024 * 1024
_HEAD_BYTES = 200  # of it, in which its language stands
_INDEX_LINK = re.compile(rf' <a href="{re.escape(INDEX_FROM_RUN)}">[^<]*</a>'.encode())
_ASKED = ("cancel", "promote", "rollback")


def routes(box: Box) -> list[BaseRoute]:  # noqa: ARG001 - each part is given it
    """Give the routes."""
    run = "/runs/{job}/{run}"
    return [
        Route(run, _run),
        Route(f"{run}/live", _live),
        Route(f"{run}/report.html", _report),
        Route(f"{run}/files/{{path:path}}", _file),
        Route(f"{run}/cancel", _cancel, methods=["POST"]),
        Route(f"{run}/promote", _promote, methods=["POST"]),
    ]


@dataclass(frozen=True, kw_only=True)
class MayDo:
    """What can be asked for about a run."""

    cancel: bool
    promote: bool


def may_do(run: RunFolder, record: RunRecord, current: str | None) -> MayDo:
    """Decide what can be asked for now."""
    may_promote = False
    if record.state is State.SUCCEEDED and current != record.run_id:
        with contextlib.suppress(RunnerError, OSError):
            check_promotable(run)
            may_promote = True
    return MayDo(cancel=not record.state.is_final, promote=may_promote)


def _run(request: Request) -> Response:
    run = run_of(request)
    record = record_of(run)
    return page(
        request,
        "run.html.j2",
        job=visible(record.job),
        job_way=way_to(run.job),
        run_id=run.run_id,
        way=way_to(run.job, run.run_id),
        now=live_part(reader_of(request), run),
        over=record.state.is_final,
        asked=asked_words(request),
        has_report=run.report.is_file(),
        files=files_of(run),
    )


def live_part(reader: Reader, run: RunFolder) -> str:
    """Render what changes while a run is under way, and what came out of it then."""
    record = record_of(run)
    found = gather_result(run, record)
    speak = reader.speak
    progress = found.progress
    current = found.use.current if found.use else None
    return render_for(
        reader,
        "run_live.html.j2",
        card=card(found, speak),
        over=record.state.is_final,
        way=way_to(run.job, run.run_id),
        share=progress.share if progress and record.total_steps else None,
        figures=figures_of(progress, record, speak) if progress else (),
        story=story(record, speak),
        charts=[one for one in charts(found.curve, speak) if one.name != "rate"],
        attempts=attempts(record, speak) if len(record.attempts) > 1 else [],
        samples=found.samples[:_SAMPLES],
        cut=lambda text: shortened(text, speak, TEXT_CHARACTERS),
        may=may_do(run, record, current),
        current=visible(current or ""),
    )


def run_part(run: RunFolder) -> Part:
    """Give what changes by itself on a run's page."""

    def look() -> Hashable:
        outputs_root = run.root.parent
        return (
            stamp_of(run.record),
            stamp_of(newest_metrics(run)),
            stamp_of(outputs_root / "promotions.jsonl"),
        )

    return Part(key=(run.job, run.run_id), look=look, render=lambda reader: live_part(reader, run))


async def _live(request: Request) -> Response:
    run = await to_thread.run_sync(run_of, request)
    live: Live = request.app.state.live
    return live.follow(request, run_part(run))


def _report(request: Request) -> Response:
    """Give a run's report, to be shown in a frame without scripts.

    It is report.html as it lies in the run's folder, where that is in the reader's language; else
    it is written anew from the same files.
    """
    box, run, speak = box_of(request), run_of(request), speaker_of(request.scope)
    with open(open_file(box, run, "report.html"), "rb") as file:
        content = file.read(_REPORT_BYTES)
    if f'<html lang="{speak.language}"'.encode() not in content[:_HEAD_BYTES]:
        with contextlib.suppress(RunnerError, OSError):  # then in the box's language
            text = report_page(gather(run), speak, now=now(), share_name=box.share_name)
            content = text.encode(errors="replace")
    content = _INDEX_LINK.sub(b"", content)  # in a frame it would lead nowhere
    headers = {"content-security-policy": REPORT_POLICY, "x-frame-options": "SAMEORIGIN"}
    return Response(content, media_type="text/html", headers=headers)


def _file(request: Request) -> Response:
    """Give a file of a run to keep; a part of it, where only that is asked for."""
    run, path = run_of(request), request.path_params["path"]
    return FileAnswer(open_file(box_of(request), run, path), f"{run.job}-{path.replace('/', '-')}")


def _cancel(request: Request) -> Response:
    """Ask the daemon to cancel a run, as `runner cancel` does."""
    run = run_of(request)
    cancel(box_of(request).outputs, run)
    return RedirectResponse(f"{way_to(run.job, run.run_id)}?asked=cancel", 303)


def _promote(request: Request) -> Response:
    """Ask the daemon to put a run's adapter into use, as `runner promote` does."""
    run, outputs = run_of(request), box_of(request).outputs
    check_promotable(run)
    if current_run(outputs, run.job) != run.run_id:
        by = asked_by(request)
        leave_request(outputs, "promote", job=run.job, run_id=run.run_id, by=by)
    return RedirectResponse(f"{way_to(run.job, run.run_id)}?asked=promote", 303)


def asked_by(request: Request) -> str:
    """Name who asks, for the history: all share one key, so it is where they sit."""
    return f"the page, from {visible(client_of(request.scope) or 'this machine')}"


def asked_words(request: Request) -> str:
    """Say what was asked for a moment ago, and who does it; empty: nothing was."""
    asked = request.query_params.get("asked", "")
    if asked not in _ASKED:
        return ""
    speak = speaker_of(request.scope)
    works = health(box_of(request).outputs).well
    return (
        f"{speak(f'office_asked_{asked}')} {speak('office_at_once' if works else 'office_later')}"
    )
