"""Index: index.html, every job and run of the box on one page, from the index of ended runs.

Ten thousand runs are listed in under a second, so their records are not read: only those of the
newest, for their verdicts, and of those not known to have ended.
"""

from __future__ import annotations

import contextlib
import html
from collections import defaultdict
from collections.abc import Sequence, Set
from datetime import datetime
from urllib.parse import quote

from markupsafe import Markup

from runner.contract.ended import EndedRun, sort_out
from runner.contract.in_use import Use, jobs_in_use
from runner.contract.layout import Outputs
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.contract.verdict import Outcome
from runner.errors import RunnerError
from runner.language.speaker import Speaker
from runner.report.page import render
from runner.words import visible

NEWEST = 50  # with their verdicts: as many records are read
_UNDER_WAY = 200  # more runs at once than a person follows
TONE = {
    Outcome.BETTER: "good",
    Outcome.WORSE: "bad",
    Outcome.NO_DIFFERENCE: "careful",
    Outcome.CANNOT_TELL: "careful",
}


def index_page(outputs: Outputs, speak: Speaker, *, now: datetime) -> str:
    """Write the index from what lies in the outputs folder.

    Raises:
        OSError: the folder cannot be listed.
    """
    found, uses = sort_out(outputs), jobs_in_use(outputs)
    used = {(job, use.current) for job, use in uses.items()}
    ended = list(found.ended.values())
    under_way: list[RunRecord] = []
    for run in found.to_read:
        with contextlib.suppress(OSError, RunnerError):
            record = read_record(run.record)
            if record.state.is_final:
                ended.append(EndedRun.of(record, (0, 0)))
            elif len(under_way) < _UNDER_WAY:
                under_way.append(record)
    ended.sort(key=lambda one: one.ended_at, reverse=True)
    jobs: dict[str, list[EndedRun]] = defaultdict(list)
    for one in ended:
        jobs[one.job].append(one)
    return render(
        "index.html.j2",
        t=speak,
        as_of=speak.time(now, day=True),
        count=len(ended) + len(under_way),
        job_count=len(jobs.keys() | {record.job for record in under_way}),
        under_way=[_line(record, speak) for record in under_way],
        in_use=[_used(job, use, speak) for job, use in sorted(uses.items())],
        newest=[_newest(outputs, one, speak, used=used) for one in ended[:NEWEST]],
        jobs=[
            (visible(job), len(runs), _rows(runs, speak, used=used))
            for job, runs in sorted(jobs.items())
        ],
    )


def link(job: str, run_id: str) -> str:
    """Give the way from the index to a run's report."""
    return f"{quote(job)}/{quote(run_id)}/report.html"


def _line(record: RunRecord, speak: Speaker) -> dict[str, str]:
    return {
        "job": visible(record.job),
        "run": record.run_id,
        "link": link(record.job, record.run_id),
        "state": speak(f"state_{record.state}"),
    }


def _used(job: str, use: Use, speak: Speaker) -> dict[str, str]:
    run_id = use.current or ""
    return {
        "job": visible(job),
        "run": visible(run_id),
        "link": link(job, run_id),
        "since": speak.time(use.since, day=True) if use.since else "–",
    }


def _state(one: EndedRun, speak: Speaker, used: Set[tuple[str, str | None]]) -> str:
    """Say how a run ended, and whether its adapter is in use."""
    state = speak(f"state_{one.state}")
    return f"{state} · {speak('index_in_use')}" if (one.job, one.run_id) in used else state


def _newest(
    outputs: Outputs, one: EndedRun, speak: Speaker, *, used: Set[tuple[str, str | None]]
) -> dict[str, str]:
    verdict = None
    with contextlib.suppress(OSError, RunnerError):
        verdict = read_record(outputs.run(one.job, one.run_id).record).verdict
    tone, said = ("bad" if one.state == State.FAILED else "", "–")
    if verdict is not None:
        unchanged = verdict.changed is False
        tone = TONE[verdict.outcome]
        said = speak("unchanged_short" if unchanged else f"{verdict.outcome}_short")
    return {
        "job": visible(one.job),
        "run": one.run_id,
        "link": link(one.job, one.run_id),
        "state": _state(one, speak, used),
        "verdict": said,
        "tone": tone,
        "ended": _day(one.ended_at, speak),
    }


def _day(text: str, speak: Speaker) -> str:
    try:
        return speak.time(datetime.fromisoformat(text), day=True)
    except (ValueError, OverflowError):
        return "–"


def _rows(runs: Sequence[EndedRun], speak: Speaker, *, used: Set[tuple[str, str | None]]) -> Markup:
    """Write one job's rows by hand: thousands of them are a second in a template."""
    states = {state.value: html.escape(speak(f"state_{state}")) for state in State}
    rows = (
        _row(one, html.escape(_state(one, speak, used)), speak)
        if (one.job, one.run_id) in used
        else _row(one, states[one.state], speak)
        for one in runs
    )
    return Markup("".join(rows))  # noqa: S704


def _row(one: EndedRun, state: str, speak: Speaker) -> str:
    way = html.escape(link(one.job, one.run_id))
    return (
        f'<tr><th scope="row"><a href="{way}">{html.escape(one.run_id)}</a></th>'
        f"<td>{state}</td><td>{html.escape(_day(one.ended_at, speak))}</td></tr>\n"
    )
