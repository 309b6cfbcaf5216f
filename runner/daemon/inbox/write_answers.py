"""STATUS.txt and the answers beside the specs are written here, when something in them changes."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from runner.contract.models import fetch_command, models_on_box
from runner.contract.progress import read_progress
from runner.contract.record import RunRecord
from runner.contract.states import Stage, State
from runner.contract.verdict import reason_in
from runner.daemon.book import ENDED_SHOWN, Live
from runner.daemon.daemon import Daemon
from runner.daemon.inbox import answer, view
from runner.daemon.inbox.status_txt import status_txt
from runner.daemon.inbox.unresolved import Unresolved
from runner.daemon.queue import in_order
from runner.files.beneath import Folder
from runner.language.translate import in_words_of

_ANSWER_SECONDS = 5.0  # progress in answers is renewed so often
_MODELS_SECONDS = 10.0  # the models folder is listed this often: fetching one takes minutes
_WRITE_SECONDS = 0.05
"""Answers are written for so long before the loop looks at everything else: rounds.py says why."""


def answer_of(record: RunRecord) -> str:
    """Name what a note about a run's answer is about."""
    return f"answer {record.run_id}"


def card_at_work(daemon: Daemon, live: Live) -> str:
    """Name the cards that a run's stage works on; empty where they need not be told."""
    if not daemon.cards.are_several or live.stage is Stage.PREPARE:
        return ""
    return ", ".join(card.title for card in live.cards)


class Answers:
    """Remembers what was written, so that nothing is written twice."""

    def __init__(self, daemon: Daemon) -> None:
        """Begin with nothing written."""
        self.daemon = daemon
        self.unresolved = Unresolved()
        self._status_text = ""
        """What STATUS.txt says."""
        self._status_words = ""
        """What it should say."""
        self._status_shown: tuple[Sequence[object], ...] = ()
        """What that was made from."""
        self._has_model = True
        self._models_seen_at = -_MODELS_SECONDS
        self._renewed_at = 0.0

    def write(
        self,
        inbox: Folder,
        at: float,
        *,
        where: Mapping[str, tuple[str, str]],
        unclaimable: Collection[str],
        strays: Collection[str],
        scheduled: Sequence[str] = (),
        hours: str = "",
    ) -> None:
        """Write what has changed; a run that has ended leaves the book with its last answer."""
        daemon = self.daemon
        renew = at - self._renewed_at >= _ANSWER_SECONDS
        if renew:
            self._renewed_at = at
        ordered = in_order(live.record for live in daemon.book.runs.values())
        place = 0
        until = time.monotonic() + _WRITE_SECONDS
        for record in ordered:
            if time.monotonic() >= until:
                daemon.next_look = at  # the rest in the next round, at once
                break
            live = daemon.book.runs[record.run_id]
            about = answer_of(record)
            if record.state.is_final:
                if renew or about not in daemon.notes or daemon.settings.once:
                    with daemon.noting(about, f"{record.job} ({record.run_id}): its answer"):
                        view.conclude(
                            inbox,
                            record,
                            live.run,
                            where.get(record.run_id),
                            says=daemon.says,
                        )
                        daemon.reports.want(record, at)
                        del daemon.book.runs[record.run_id]
                        daemon.to_tidy.add(record.job)
                        daemon.wakeup.set()
                        daemon.book.ended = [*daemon.book.ended, record][-ENDED_SHOWN:]
                continue
            daemon.reports.want(record, at)
            place += record.state is State.QUEUED
            key = live.answered[0]
            if not renew and key == f"{record.state}{record.waiting}":
                continue
            training = record.state is State.TRAINING
            progress = read_progress(live.run, record) if training else None
            text = answer.answer(
                record,
                place=place,
                progress=progress,
                beside=answer.Beside(
                    share_name=daemon.settings.share_name, card=card_at_work(daemon, live)
                ),
                speak=daemon.says.speak,
            )
            key = f"{record.state}{record.waiting}"
            with daemon.noting(about, f"{record.job} ({record.run_id}): its answer"):
                if text != live.answered[1]:
                    live.answered = (key, live.answered[1])  # where it fails: not in each round
                    view.write_answer(inbox, record, text)
                live.answered = (key, text)
        self._write_status(inbox, at, unclaimable, strays, scheduled, hours, renew=renew)

    def _write_status(
        self,
        inbox: Folder,
        at: float,
        unclaimable: Collection[str],
        strays: Collection[str],
        scheduled: Sequence[str],
        hours: str,
        *,
        renew: bool,
    ) -> None:
        daemon = self.daemon
        with daemon.noting("the answers", "The state folders in jobs/"):
            asked = frozenset(record.run_id for record in daemon.book.ended)
            self.unresolved.read(inbox, asked=asked)
        if at - self._models_seen_at >= _MODELS_SECONDS:
            with daemon.noting("models/", "models/"):
                self._has_model = bool(models_on_box(daemon.settings.models_dir))
            self._models_seen_at = at
        needs_person = self._needs_person(unclaimable, strays)
        live = in_order(live.record for live in daemon.book.runs.values())
        shown = (needs_person, live, list(daemon.book.ended), scheduled, hours)
        if renew or shown != self._status_shown:  # renewed: tomorrow a time reads another way
            self._status_shown = shown
            self._status_words = status_txt(
                needs_person=needs_person,
                live=live,
                ended=list(reversed(daemon.book.ended)),
                scheduled=scheduled,
                hours=hours,
                share_name=daemon.settings.share_name,
                speak=daemon.says.speak,
            )
        text = self._status_words
        name = daemon.settings.inbox.status.name
        if text != self._status_text and (renew or name not in daemon.notes):
            with daemon.noting(name, f"jobs/{name}"):
                inbox.write_text(name, text)
                self._status_text = text

    def _needs_person(self, unclaimable: Collection[str], strays: Collection[str]) -> list[str]:
        """Say what somebody must do, the most important first, always in the same order."""
        daemon, speak = self.daemon, self.daemon.says.speak
        lines = []
        if daemon.hold is not None:
            lines.append(speak("status_held", why=in_words_of(daemon.hold[1], speak)))
        if daemon.cards.problem:
            lines.append(speak("status_held", why=in_words_of(daemon.cards.problem, speak)))
        else:
            for card, why in daemon.cards.problems().items():
                lines.append(speak("status_card_held", card=card, why=in_words_of(why, speak)))
        troubles = sorted(daemon.troubles | daemon.last_troubles)
        lines += [in_words_of(trouble, speak) for trouble in troubles]
        lines += [daemon.notes[about] for about in sorted(daemon.notes)]
        if not self._has_model:
            how = fetch_command("ORGANISATION/MODEL")
            lines.append(speak("status_no_model", command=how))
        lines += daemon.book.damaged
        lines += sorted(unclaimable)
        ended = daemon.book.ended
        ends = daemon.book.ends
        jobs = self.unresolved.lines(ends, said="\n".join(daemon.book.damaged))
        jobs += [
            f"{record.job} ({record.run_id}): {reason_in(record.verdict, speak)}"
            for record in reversed(ended)
            if record.verdict is not None
            and answer.needs_a_look(record)
            and record.run_id in self.unresolved.answered_done
            and not ends.succeeded_after(record.job, record.run_id, record.sequence)
        ]
        return [*lines, *jobs, *sorted(strays), *([speak("status_cleared")] if jobs else [])]
