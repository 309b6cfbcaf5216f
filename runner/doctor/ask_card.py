"""Test on the card: takes the GPU, or says who holds it or how the test ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.card.find_cards import NamedCard
from runner.contract.layout import Outputs
from runner.contract.stage_environment import environment
from runner.doctor.finding import Finding, Level
from runner.doctor.judge_card import CardFacts
from runner.errors import BusyError, UnsafePathError
from runner.files.lock import Lock

_LIMIT_SECONDS = 300.0  # a cold disk needs a minute for torch alone
_TAIL_LINES = 1
_WHY = "What the driver says is a promise; only a computation shows that the card keeps it."


@dataclass(frozen=True, kw_only=True)
class NoCardFacts:
    """Why the test did not come to an end."""

    held: str | None = None
    """Who uses the GPU."""
    ended: str | None = None
    """How the child ended."""
    said: str = ""
    """The last that it said."""


def ask_card(
    outputs: Outputs,
    inherited: Mapping[str, str],
    *,
    device: str,
    needs_lease: bool,
    home: Path,
    card: NamedCard | None = None,
) -> CardFacts | NoCardFacts:
    """Run the test in a child that holds the GPU's lease as long as it lives.

    Args:
        outputs: where the lease lies.
        inherited: this process's environment, of which the child gets what a stage gets.
        device: ``auto`` or ``cpu``.
        needs_lease: whether the child will compute on a card.
        home: the child's HOME.
        card: the only one that it sees; None: what this process sees.
    """
    lease = None
    if needs_lease and outputs.root.is_dir():  # without outputs/ nobody else can hold it
        try:
            outputs.private.mkdir(exist_ok=True)
            lease = Lock.take(
                card.lease(outputs, card.uuid) if card else outputs.gpu_lease,
                what="the GPU",
                holder=f"`runner doctor`, process {os.getpid()}",
            )
        except (BusyError, UnsafePathError) as error:
            return NoCardFacts(held=error.message)
        except OSError as error:
            return NoCardFacts(held=f"the GPU's lease cannot be taken ({error.strerror})")
    try:
        return _ask(
            [sys.executable, "-m", "runner.doctor.card", device],
            {**environment(inherited, home=home, card=card.uuid if card else None)},
            keep=(lease.descriptor,) if lease else (),
        )
    finally:
        if lease:
            lease.release()


def _ask(
    command: list[str], given: dict[str, str], *, keep: tuple[int, ...]
) -> CardFacts | NoCardFacts:
    child = subprocess.Popen(
        command,
        env=given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=keep,
    )
    try:
        out, err = child.communicate(timeout=_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        return NoCardFacts(ended=f"gave no answer in {_LIMIT_SECONDS:.0f} s")
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)  # Ctrl-C: the card is not left busy
        raise
    said = " ".join(err.strip().splitlines()[-_TAIL_LINES:])
    if child.returncode < 0:
        return NoCardFacts(ended=f"was ended by {_name(-child.returncode)}", said=said)
    try:
        return CardFacts.from_json(json.loads(out.strip().splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return NoCardFacts(ended=f"ended with exit code {child.returncode}", said=said)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def judge_no_card_facts(facts: NoCardFacts) -> Finding:
    """Say why the card was not tested, and whether that is trouble."""
    if facts.held is not None:
        return Finding(
            check="Card",
            level=Level.UNKNOWN,
            what=f"It was not tested: {facts.held}.",
            why=_WHY,
            fix="runner doctor    # again, when that is done",
        )
    said = f": {facts.said}" if facts.said else ""
    return Finding(
        check="Card",
        level=Level.TROUBLE,
        what=f"The test on it {facts.ended}{said}",
        why=_WHY,
        fix=f"{sys.executable} -m runner.doctor.card    # to see all that it says",
    )
