"""Ask the driver: its cards or its error, from a new process each time, within a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from runner.card.answer import NO_ANSWER, Answer

_ANSWER_SECONDS = 20.0  # a driver that wakes a sleeping card takes some
EVERY = "every card"
"""Asked for: all of them, whatever this process was told to see."""


def expects_gpu(environment: Mapping[str, str]) -> bool:
    """Whether the container toolkit says that it gave this process a card."""
    return environment.get("NVIDIA_VISIBLE_DEVICES", "") not in ("", "void", "none")


def signs_of_a_card(environment: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Whether anything here is NVIDIA's; otherwise there is nobody to ask."""
    signs = ("dev/nvidiactl", "dev/nvidia0", "dev/dxg", "proc/driver/nvidia")
    return (
        expects_gpu(environment)
        or any((root / sign).exists() for sign in signs)
        or cards_on_bus(root) > 0
    )


def cards_on_bus(root: Path = Path("/")) -> int:
    """Count NVIDIA's cards on the PCI bus; a container sees the machine's bus, too."""
    count = 0
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:
            continue
        # 0x03….: a display controller; a data centre's card without a screen is 0x0302..
        count += vendor == "0x10de" and kind.startswith("0x03")
    return count


def environment_of(card: str | None) -> dict[str, str] | None:
    """Make the environment of a process that sees one card alone.

    Args:
        card: its UUID or number; `EVERY`; None: what this process sees.
    """
    if card is None:
        return None
    others = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    return others if card == EVERY else {**others, "CUDA_VISIBLE_DEVICES": card}


def ask_driver(card: str | None = None) -> Answer | None:
    """Ask in a new process; None: there was none to be had, which says nothing about the card."""
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "runner.card.probe"],
            env=environment_of(card),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        out, _ = child.communicate(timeout=_ANSWER_SECONDS)
        return Answer.from_json(json.loads(out))
    except subprocess.TimeoutExpired:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=1.0)  # what hangs within the driver cannot even be killed
        return Answer(code=NO_ANSWER)
    except (OSError, ValueError, TypeError, KeyError):
        return None
