"""STATUS.txt: the whole inbox in words, opening with what needs a person."""

from __future__ import annotations

from collections.abc import Sequence

from runner.contract.record import RunRecord
from runner.daemon.inbox.answer import STATE_WORDS, headline, shown_paths, waiting_sentence
from runner.words import local_time, visible_lines

_RUNS_SHOWN = 100  # in STATUS.txt: a person reads no more
_NEEDS_SHOWN = 30
CLEARED = (
    "A line about a job goes away when the job succeeds later, or when you delete its spec or its "
    "answer (the .txt beside it) from rejected or failed."
)


def status_txt(
    *,
    needs_person: Sequence[str],
    live: Sequence[RunRecord],
    ended: Sequence[RunRecord],
    share_name: str = "",
) -> str:
    """Write the whole inbox in words, opening with what needs a person."""
    lines = ["Needs a person:", *(f"  {line}" for line in needs_person[:_NEEDS_SHOWN])]
    if len(needs_person) > _NEEDS_SHOWN:
        lines.append(f"  and {len(needs_person) - _NEEDS_SHOWN} more")
    if not needs_person:
        lines = ["Nothing needs a person."]
    lines += ["", "Now:" if live else "Nothing is running or waiting."]
    for record in live[:_RUNS_SHOWN]:
        line = f"  {record.job} ({record.run_id}): {STATE_WORDS[record.state]}"
        if record.waiting is not None:
            line += f". {waiting_sentence(record.waiting)}"
        lines.append(line)
    if len(live) > _RUNS_SHOWN:
        lines.append(f"  and {len(live) - _RUNS_SHOWN} more")
    if ended:
        lines += ["", "Recently finished:"]
        lines += [
            f"  {record.job} ({record.run_id}): {headline(record)}"
            + (f", {local_time(record.ended_at, day=True)}" if record.ended_at else "")
            for record in ended
        ]
    return visible_lines(shown_paths("\n".join(lines), share_name)) + "\n"
