"""Jobs: what runs and how far it is, what waits and since when, what ended, and what is in use."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from runner.commands.health import health
from runner.commands.status import Overview, Standing, overview_of
from runner.contract.ended import newest_ended, stamp_of
from runner.contract.layout import Outputs
from runner.contract.progress import Progress
from runner.contract.record_head import RecordHead, VerdictHead
from runner.contract.states import State
from runner.daemon.inbox.answer import waiting_sentence
from runner.language.speaker import Speaker
from runner.language.translate import in_words_of
from runner.office.box import Box
from runner.office.live import Live, Part
from runner.office.render import Reader, page, reader_of, render_for
from runner.office.runs import box_of, newest_metrics, way_to
from runner.report.index import TONE
from runner.words import visible

LATEST = 25  # ended runs on a page
_PAGES = 400  # of them: ten thousand runs
_QUEUE_SHOWN = 100
_JOBS_SHOWN = 200


def routes(box: Box) -> list[BaseRoute]:  # noqa: ARG001 - each part is given it
    """Give the routes."""
    return [Route("/", _jobs), Route("/live", _live)]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One run in a list, in words."""

    job: str
    run_id: str
    way: str
    state: str
    said: str = ""
    tone: str = ""
    ended: str = ""
    in_use: bool = False
    share: float | None = None
    """How much of the training is done, 0 to 1."""
    figures: tuple[str, ...] = ()


def _jobs(request: Request) -> Response:
    """Show all jobs; ``?page=2`` shows the results before the latest."""
    box, reader = box_of(request), reader_of(request)
    number = request.query_params.get("page", "1")
    is_one = number.isascii() and number.isdigit() and len(number) < 10
    number_ = min(_PAGES, max(1, int(number))) if is_one else 1
    newest = newest_ended(box.outputs, LATEST * number_ + 1)
    shown = newest.newest[LATEST * (number_ - 1) : LATEST * number_]
    overview = overview_of(box.outputs, [*shown, *newest.to_read], latest=LATEST)
    has_older = len(newest.newest) > LATEST * number_
    return page(
        request,
        "jobs.html.j2",
        now=live_part(reader, box, overview) if number_ == 1 else "",
        finished=[ended_line(one, reader.speak) for one in overview.finished],
        damaged=overview.damaged,
        jobs=_all_jobs(box.outputs, overview),
        number=number_,
        dropped=_dropped(request, box),
        has_older=has_older,
    )


def _dropped(request: Request, box: Box) -> str:
    """Say that a job was handed in a moment ago; empty: none was."""
    job = request.query_params.get("dropped", "")[:200]
    key = "office_dropped" if health(box.outputs).well else "office_dropped_later"
    return reader_of(request).speak(key, job=visible(job)) if job else ""


def _all_jobs(outputs: Outputs, overview: Overview) -> list[tuple[str, str, str]]:
    names = sorted(folder.name for folder in outputs.job_folders())[:_JOBS_SHOWN]
    in_use = {job: use.current or "" for job, use in overview.in_use.items()}
    return [(visible(name), way_to(name), in_use.get(name, "")) for name in names]


def live_part(reader: Reader, box: Box, overview: Overview) -> str:
    """Render what changes by itself: what runs, what waits, and whether the box works at all."""
    speak = reader.speak
    found = health(box.outputs)
    starts = starts_in(overview)
    return render_for(
        reader,
        "jobs_live.html.j2",
        unwell="" if found.well else in_words_of(found.reason, speak),
        running=[running_line(one, speak) for one in overview.running],
        queue=[
            (_waiting_line(one, speak), _start(seconds, speak))
            for one, seconds in zip(overview.queue[:_QUEUE_SHOWN], starts, strict=False)
        ],
        more=max(0, len(overview.queue) - _QUEUE_SHOWN),
    )


def starts_in(overview: Overview) -> list[float | None]:
    """Forecast in how many seconds each waiting run starts; None: what is before it has no end.

    Each takes the card that is free first, or as many as it trains on.
    """
    cards = sum(not card.problem for card in overview.cards)
    free_in = [0.0] * max(1, cards)
    for one in overview.running:
        _take(free_in, one.record, one.progress.eta_seconds or _forecast(one.record))
    starts = [_take(free_in, one.record, _forecast(one.record)) for one in overview.queue]
    return [start if math.isfinite(start) else None for start in starts]


def _take(free_in: list[float], record: RecordHead, seconds: float) -> float:
    """Let a run take its cards for so long; give in how many seconds they are free."""
    attempts = record.attempts
    wanted = attempts[-1].ranks if attempts else record.forecast.get("ranks", 1)
    taken = [heapq.heappop(free_in) for _ in range(min(int(wanted), len(free_in)))]
    for _ in taken:
        heapq.heappush(free_in, taken[-1] + seconds)
    return taken[-1]


def _forecast(record: RecordHead) -> float:
    """Give how long a run takes, in seconds; without end where that is not known."""
    seconds = record.forecast.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else math.inf


def _start(seconds: float | None, speak: Speaker) -> str:
    if seconds is None:
        return speak("office_start_unknown")
    return (
        speak("office_start_next")
        if not seconds
        else speak("office_start_in", time=speak.lasting(seconds))
    )


def running_line(one: Standing, speak: Speaker) -> Line:
    """Say how far a run is."""
    record, progress = one.record, one.progress
    said = waiting_sentence(record.waiting, speak) if record.waiting else ""
    if not said and speak.knows(key := f"answer_takes_{record.state}"):
        said = speak(key)
    return Line(
        job=visible(record.job),
        run_id=record.run_id,
        way=way_to(record.job, record.run_id),
        state=speak(f"state_{record.state}"),
        said=said,
        share=progress.share if record.state is State.TRAINING and record.total_steps else None,
        figures=figures_of(progress, record, speak),
    )


def figures_of(progress: Progress, record: RecordHead, speak: Speaker) -> tuple[str, ...]:
    """Say the figures of a training: step, time left, loss, speed, memory."""
    if record.state is not State.TRAINING:
        return ()
    said = [speak("answer_step", step=progress.step, total=record.total_steps or "?")]
    if progress.loss is None:
        said.append(speak("answer_starting"))
    if progress.eta_seconds is not None:
        said.append(speak("office_left", time=speak.lasting(progress.eta_seconds)))
    if isinstance(progress.loss, int | float) and math.isfinite(progress.loss):
        said.append(speak("answer_loss", loss=speak.number(progress.loss)))
    if isinstance(progress.tokens_per_second, int | float):
        said.append(speak("office_speed", rate=speak.number(progress.tokens_per_second, ",.0f")))
    if progress.gpu_memory_bytes:
        said.append(speak("office_memory", memory=speak.memory(progress.gpu_memory_bytes)))
    return tuple(said)


def _waiting_line(one: Standing, speak: Speaker) -> Line:
    record = one.record
    return Line(
        job=visible(record.job),
        run_id=record.run_id,
        way=way_to(record.job, record.run_id),
        state=speak(f"state_{record.state}"),
        said=waiting_sentence(record.waiting, speak) if record.waiting else "",
    )


def ended_line(one: Standing, speak: Speaker) -> Line:
    """Say how a run ended."""
    record = one.record
    tone, said = verdict_words(record.verdict, speak)
    if record.error is not None:
        tone = "bad" if record.state is State.FAILED else "careful"
        said = in_words_of(visible(record.error.message.split("\n")[0])[:300], speak)
    return Line(
        job=visible(record.job),
        run_id=record.run_id,
        way=way_to(record.job, record.run_id),
        state=speak(f"state_{record.state}"),
        said=said,
        tone=tone,
        ended=speak.time(record.ended_at or record.created_at, day=True),
        in_use=one.in_use,
    )


def verdict_words(verdict: VerdictHead | None, speak: Speaker) -> tuple[str, str]:
    """Say a verdict in a word or two, with its tone."""
    if verdict is None:
        return "", ""
    unchanged = verdict.changed is False
    return TONE[verdict.outcome], speak(
        "office_unchanged" if unchanged else f"office_{verdict.outcome}"
    )


def jobs_part(box: Box) -> Part:
    """Give what changes by itself on the first page."""
    return Part(
        key="jobs",
        look=lambda: _look(box),
        render=lambda reader: live_part(
            reader, box, overview_of(box.outputs, newest_ended(box.outputs, 0).to_read, latest=0)
        ),
    )


def _look(box: Box) -> Hashable:
    """Tell whether something has begun, gone on or ended since the last look."""
    under_way = newest_ended(box.outputs, 0).to_read
    return (
        stamp_of(box.outputs.ended),
        health(box.outputs).well,
        tuple(
            (run.run_id, stamp_of(run.record), stamp_of(newest_metrics(run))) for run in under_way
        ),
    )


async def _live(request: Request) -> Response:
    live: Live = request.app.state.live
    return live.follow(request, jobs_part(box_of(request)))
