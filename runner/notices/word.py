"""Word a notice: its title and text, in the language of the box."""

from __future__ import annotations

from runner.contract.states import State
from runner.language.speaker import Speaker
from runner.notices.notice import Kind, Notice
from runner.words import visible


def title_of(notice: Notice, speak: Speaker) -> str:
    """Give the line that a mail's subject shows."""
    return f"{visible(notice.job)}: {speak(f'head_{_head(notice)}')}"


def text_of(notice: Notice, speak: Speaker) -> str:
    """Give the sentences below it."""
    lines = []
    if notice.promotion is not None:
        lines.append(speak(f"notice_{notice.promotion.name.lower()}", run=notice.run_id))
    if notice.kind is Kind.NEEDS_PERSON:
        lines.append(speak("notice_needs_person"))
    folder = f"outputs/{visible(notice.job)}/{notice.run_id}"
    if notice.kind is Kind.FAILED:
        lines.append(speak("notice_why", folder=folder))
    else:
        lines.append(speak("notice_report", folder=folder))
    return "\n".join(lines)


def _head(notice: Notice) -> str:
    """Choose the headline that the report has, too."""
    if notice.state is not State.SUCCEEDED:
        return notice.state.value
    if notice.changed is False:
        return "unchanged"
    return notice.verdict.value if notice.verdict else "no_verdict"
