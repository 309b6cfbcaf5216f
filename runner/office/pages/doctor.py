"""This box: whether it works, its card and disks, and what the daemon's doctor found at its start.

The page has no card and may not write: it would find other things than the daemon does. So it tells
what the daemon's log has of them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from runner import __version__
from runner.card.known_card import read_card
from runner.commands.health import health
from runner.contract.card_shown import CardShown, read_cards
from runner.contract.progress import read_tail
from runner.language.speaker import Speaker
from runner.language.translate import in_words_of
from runner.office.box import Box
from runner.office.render import page, reader_of, size
from runner.office.runs import box_of
from runner.words import visible

_LOG_BYTES = 512 * 1024  # of the daemon's log: its newest start, unless it has run for months
_SHOWN = 30
_SIGN = "doctor: "


def routes(box: Box) -> list[BaseRoute]:  # noqa: ARG001 - each part is given it
    """Give the routes."""
    return [Route("/doctor", _doctor)]


def _doctor(request: Request) -> Response:
    box, speak = box_of(request), reader_of(request).speak
    found, card = health(box.outputs), read_card(box.outputs)
    return page(
        request,
        "doctor.html.j2",
        well=found.well,
        reason=in_words_of(found.reason, speak),
        card=f"{visible(card.name)}, {speak.memory(card.total_bytes)}"
        if card
        else speak("office_card_unknown"),
        cards=[_shown(one, speak) for one in read_cards(box.outputs)],
        disks=disks_of(box, speak),
        findings=[
            {
                "level": "stop" if one.get("level") == "warning" else "advise",
                "said": in_words_of(visible(str(one["event"]).removeprefix(_SIGN)), speak),
                "fix": visible(str(one.get("fix") or "")),
            }
            for one in at_last_start(read_tail(box.outputs.daemon_log, _LOG_BYTES))
        ],
        version=__version__,
    )


def _shown(card: CardShown, speak: Speaker) -> tuple[str, str]:
    """Say of one of several cards what it does: its name, and the job or what is wrong."""
    said = [speak("office_card_job", job=visible(card.job))] if card.job else []
    said += [in_words_of(visible(card.problem), speak)] if card.problem else []
    return visible(card.title), "; ".join(said) or speak("office_card_free")


def at_last_start(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give what the doctor found at the daemon's newest start, from its log."""
    found: list[dict[str, Any]] = []
    before: list[dict[str, Any]] = []
    for one in events:
        event = str(one.get("event", ""))
        if event == "ended":
            found, before = [], []
        elif event == "watching":
            found, before = [], found
        elif event.startswith(_SIGN):
            found.append(one)
    return (found or before)[:_SHOWN]


def disks_of(box: Box, speak: Speaker) -> list[tuple[str, str, float]]:
    """Say what is free under each folder: its names, how much, and the share that is used."""
    disks: dict[int, tuple[os.statvfs_result, list[str]]] = {}
    for path in (box.jobs_dir, box.outputs_dir, box.models_dir):
        with contextlib.suppress(OSError):  # one that is not there has no disk
            disks.setdefault(_device(path), (os.statvfs(path), []))[1].append(path.name)
    found = []
    for disk, together in disks.values():
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        said = speak("office_disk_free", free=size(speak, free), total=size(speak, total))
        found.append((", ".join(together), said, 1 - free / total if total else 0.0))
    return found


def _device(path: Path) -> int:
    return path.stat().st_dev
