"""STATUS.txt: the whole inbox in words, opening with what needs a person."""

from __future__ import annotations

from collections.abc import Sequence

from runner.contract.record import RunRecord
from runner.daemon.inbox.answer import headline, shown_paths, waiting_sentence
from runner.language.speaker import ENGLISH, Speaker
from runner.words import visible_lines

_RUNS_SHOWN = 100  # in STATUS.txt: a person reads no more
_NEEDS_SHOWN = 30


def status_txt(
    *,
    needs_person: Sequence[str],
    live: Sequence[RunRecord],
    ended: Sequence[RunRecord],
    scheduled: Sequence[str] = (),
    hours: str = "",
    share_name: str = "",
    speak: Speaker = ENGLISH,
) -> str:
    """Write the whole inbox in words, opening with what needs a person."""
    lines = [speak("status_needs"), *(f"  {line}" for line in needs_person[:_NEEDS_SHOWN])]
    if len(needs_person) > _NEEDS_SHOWN:
        lines.append(speak("status_more", count=len(needs_person) - _NEEDS_SHOWN))
    if not needs_person:
        lines = [speak("status_nothing_needs")]
    lines += ["", *([hours] if hours else [])]
    lines.append(speak("status_now" if live else "status_idle"))
    for record in live[:_RUNS_SHOWN]:
        line = f"  {record.job} ({record.run_id}): {speak(f'state_{record.state}')}"
        if record.waiting is not None:
            line += f". {waiting_sentence(record.waiting, speak)}"
        lines.append(line)
    if len(live) > _RUNS_SHOWN:
        lines.append(speak("status_more", count=len(live) - _RUNS_SHOWN))
    if scheduled:
        lines += ["", speak("status_scheduled")]
        lines += [f"  {line}" for line in scheduled[:_NEEDS_SHOWN]]
        if len(scheduled) > _NEEDS_SHOWN:
            lines.append(speak("status_more", count=len(scheduled) - _NEEDS_SHOWN))
    if ended:
        lines += ["", speak("status_finished")]
        lines += [
            f"  {record.job} ({record.run_id}): {headline(record, speak)}"
            + (f", {speak.time(record.ended_at, day=True)}" if record.ended_at else "")
            for record in ended
        ]
    return visible_lines(shown_paths("\n".join(lines), share_name)) + "\n"
