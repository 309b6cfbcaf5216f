"""Answer beside a scheduled spec: when it comes next, and what its last time brought."""

from __future__ import annotations

from datetime import datetime

from runner.contract.record import RunRecord
from runner.contract.schedules import Last, Outcome, Schedule
from runner.contract.verdict import reason_in
from runner.daemon.inbox.answer import headline, shown_paths
from runner.language.speaker import ENGLISH, Speaker
from runner.words import visible_lines


def schedule_answer(
    known: Schedule,
    *,
    name: str,
    next_due: datetime | None,
    problem: str = "",
    last_run: RunRecord | None = None,
    speak: Speaker = ENGLISH,
    share_name: str = "",
) -> str:
    """Write what whoever put a spec into jobs/scheduled/ wants to know."""
    if problem:
        lines = [speak("schedule_paused", job=known.job), "", problem, ""]
        lines.append(speak("schedule_correct", name=name))
    else:
        lines = [speak("schedule_head", job=known.job, line=known.line)]
        if next_due is not None:
            lines.append(speak("schedule_next", time=_day_and_time(next_due, speak)))
    if known.last is not None:
        lines.append(last_time(known.last, speak))
    if last_run is not None:
        lines += _of_the_run(last_run, speak)
    elif not problem:
        lines.append(speak("schedule_no_run"))
    if not problem:
        lines += ["", speak("schedule_how", name=name)]
    return visible_lines(shown_paths("\n".join(lines), share_name)) + "\n"


def schedule_line(known: Schedule, next_due: datetime | None, speak: Speaker = ENGLISH) -> str:
    """Say in one line when a schedule comes next."""
    if known.problem or next_due is None:
        return speak("schedule_line_paused", job=known.job)
    line = speak("schedule_line", job=known.job, time=_day_and_time(next_due, speak))
    if known.last is not None and known.last.outcome not in (Outcome.STARTED, Outcome.LATE):
        line += f" {last_time(known.last, speak)}"
    return line


def last_time(last: Last, speak: Speaker = ENGLISH) -> str:
    """Say what was done at the last time, and why nothing was where nothing was."""
    return speak(
        f"schedule_{last.outcome}",
        time=speak.time(last.due, day=True),
        at=speak.time(last.at, day=True),
        run=last.run_id or "–",
    )


def _of_the_run(record: RunRecord, speak: Speaker) -> list[str]:
    said = speak("schedule_last_run", run=record.run_id, state=headline(record, speak))
    if record.verdict is not None:
        said += f" {reason_in(record.verdict, speak)}"
    elif record.error is not None:
        said += f" {record.error.message.partition(chr(10))[0]}"
    return [said]


def _day_and_time(moment: datetime, speak: Speaker) -> str:
    """Say a time with its day of the week and the zone's name."""
    here = moment.astimezone()
    day = speak(f"weekday_{here.weekday()}")
    said = speak.time(moment, day=True)
    zone = here.tzname() or ""
    return f"{day} {said}" + ("" if not zone or said.endswith(zone) else f" {zone}")
