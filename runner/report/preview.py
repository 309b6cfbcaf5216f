"""Preview of a row as HTML: its tokens, what is learned, where control tokens stand."""

from __future__ import annotations

import html
from typing import Any

from markupsafe import Markup

from runner.contract.preview import PreviewRow
from runner.language.speaker import Speaker
from runner.words import visible


def row_of(row: PreviewRow, speak: Speaker, most: int) -> dict[str, Any]:
    """Show a row, of which at most so many tokens are written out."""
    why = ", ".join(speak(f"why_{one}") for one in row.why)
    return {
        "title": speak(
            "preview_row", row=row.row + 1, tokens=row.tokens, learned=row.learned_tokens
        ),
        "why": why,
        "tokens": _tokens(row, speak, most),
    }


def _tokens(row: PreviewRow, speak: Speaker, most: int) -> Markup:
    """Write the tokens of a row: every second one shaded, the learned ones in one mark together.

    Written by hand: a loop in the template takes ten times as long for thousands of tokens. Each
    text is escaped here, and nothing else of a user's is in it.
    """
    parts: list[str] = []
    learned = False
    head = most * 3 // 4 if len(row.shown) > most else len(row.shown)
    tail = len(row.shown) - (most - head) if len(row.shown) > most else len(row.shown)
    gap = row.left_out + sum(one.count for one in row.shown[head:tail])
    after = head if tail > head else (row.left_out_after if row.left_out else len(row.shown))
    kept = [*enumerate(row.shown[:head]), *list(enumerate(row.shown))[tail:]]
    for place, token in kept:
        if gap and place >= after:
            parts.append("</mark>" if learned else "")
            learned = False
            said = html.escape(speak("tokens_left_out", count=gap))
            parts.append(f'<em class="gap">{said}</em>')
            gap = 0
        if token.learned != learned:
            parts.append("<mark>" if token.learned else "</mark>")
            learned = token.learned
        text = _token_text(token.text)
        if token.special:
            parts.append(f"<b>{text}</b>")
        else:
            parts.append(f"<i>{text}</i>" if place % 2 else text)
    parts.append("</mark>" if learned else "")
    return Markup("".join(parts))  # noqa: S704  every text in it is escaped above


def _token_text(text: str) -> str:
    """Escape a token; line ends are shown as such and made, too."""
    shown = html.escape(visible(text.replace("\t", "⇥").replace("\n", "\uffff")))
    return shown.replace("\\uffff", "⏎\n").replace("\uffff", "⏎\n")
