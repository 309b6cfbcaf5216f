"""Word a notice: its title and text, in the language of the box."""

from __future__ import annotations

from runner.contract.states import State
from runner.language.speaker import Speaker
from runner.notices.notice import Kind, Notice
from runner.words import visible


def title_of(notice: Notice, speak: Speaker) -> str:
    """Give the line that a mail's subject shows."""
    if notice.kind is Kind.CARD_LOST:
        return speak("notice_card_lost")
    head = f"notice_use_{notice.how.name.lower()}" if notice.how else f"head_{_head(notice)}"
    return f"{visible(notice.job or '')}: {speak(head)}"


def text_of(notice: Notice, speak: Speaker) -> str:
    """Give the sentences below it."""
    if notice.kind is Kind.CARD_LOST:
        return speak("notice_card_lost_means")
    lines = []
    if notice.how is not None:
        lines.append(speak("notice_use_by_hand", run=notice.run_id))
    if notice.promotion is not None:
        lines.append(speak(f"notice_{notice.promotion.name.lower()}", run=notice.run_id))
    if notice.kind is Kind.NEEDS_PERSON:
        lines.append(speak("notice_needs_person"))
    folder = f"outputs/{visible(notice.job or '')}/{notice.run_id}"
    if notice.kind is Kind.FAILED:
        lines.append(speak("notice_why", folder=folder))
    else:
        lines.append(speak("notice_report", folder=folder))
    return "\n".join(lines)


def _head(notice: Notice) -> str:
    """Choose the headline that the report has, too."""
    if notice.state is not None and notice.state is not State.SUCCEEDED:
        return notice.state.value
    if notice.changed is False:
        return "unchanged"
    return notice.verdict.value if notice.verdict else "no_verdict"
