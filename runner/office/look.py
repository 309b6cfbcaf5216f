"""Look before a start: what the checks find in a job's data, what is learned, what it will take.

It runs the real prepare stage in a child, as `runner check`, `preview` and `plan` do, so what is
shown is what a run would train on. One at a time: a stage takes the memory of its libraries.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.card.known_card import read_card
from runner.card.memory import read_gpu
from runner.commands.plan import Asked, Planned, planned
from runner.commands.prepare_aside import Bounds, prepared_from
from runner.commands.validate import read_file
from runner.contract.card_shown import read_cards
from runner.contract.findings import DataFinding, in_order, read_findings
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.preview import Preview, read_preview
from runner.contract.stage_io import PrepareResult, read_message
from runner.errors import BusyError, RunnerError
from runner.office.box import Box

_KEPT = 20  # looks, the newest: each holds a few rows
_KEPT_SECONDS = 3600.0
_WAITING = 5  # looks at once that have not ended; more are told to wait
_LONGEST_SECONDS = 20 * 60.0  # a look; the others wait meanwhile


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was found out about a job that nobody has started yet."""

    is_usable: bool = False
    """Whether it can be run as it stands."""
    message: str = ""
    """Why it cannot."""
    advice: str = ""
    findings: tuple[DataFinding, ...] = ()
    notes: tuple[str, ...] = ()
    preview: Preview | None = None
    result: PrepareResult | None = None
    planned: Planned | None = None
    no_plan: str = ""
    """Why nothing can be forecast."""


@dataclass(kw_only=True)
class Look:
    """One look: the spec as it would be dropped, and, once it has ended, what was seen."""

    id: str
    file_name: str
    spec: bytes
    began: float = field(default_factory=time.monotonic)
    seen: Seen | None = None
    dropped: Path | None = None
    """Where its spec was dropped; whoever presses twice drops one."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is dropped."""


class Looks:
    """The looks of this box, made one after the other."""

    def __init__(self) -> None:
        """Nobody has looked yet."""
        self._looks: OrderedDict[str, Look] = OrderedDict()
        self._one_at_a_time = threading.Lock()
        self._lock = threading.Lock()  # held while the list is looked through or changed

    def begin(self, box: Box, file_name: str, spec: bytes) -> Look:
        """Begin to look, in a thread.

        Raises:
            BusyError: too many looks have not ended yet.
        """
        look = Look(id=secrets.token_urlsafe(16), file_name=file_name, spec=spec)
        with self._lock:
            self._forget()
            if sum(one.seen is None for one in self._looks.values()) >= _WAITING:
                raise BusyError(
                    "the box looks at too many jobs just now",
                    advice="Wait a minute, then try again.",
                )
            self._looks[look.id] = look
        threading.Thread(target=self._work, args=(box, look), name="look", daemon=True).start()
        return look

    def get(self, look_id: str) -> Look | None:
        """Find a look; None: there is none, or it was long ago."""
        with self._lock:
            self._forget()
            return self._looks.get(look_id)

    def _forget(self) -> None:
        end = time.monotonic() - _KEPT_SECONDS
        for look in list(self._looks.values()):
            if look.seen is not None and (look.began < end or len(self._looks) > _KEPT):
                del self._looks[look.id]

    def _work(self, box: Box, look: Look) -> None:
        with self._one_at_a_time:
            try:
                seen = look_at_rows(box, look.file_name, look.spec)
            except RunnerError as error:
                seen = Seen(message=error.message, advice=error.advice or "")
            except OSError as error:
                seen = Seen(message=error.strerror or type(error).__name__)
            except Exception as error:  # whoever waits must be told, whatever it is
                seen = Seen(message=type(error).__name__)
            if not seen.is_usable and not seen.message:
                seen = replace(seen, message="the rows could not be prepared")
            look.seen = seen


def look_at_rows(box: Box, file_name: str, content: bytes) -> Seen:
    """Prepare a spec's rows aside and gather what is to be seen of them.

    Raises:
        RunnerError: the spec or data cannot be used, and no findings say why.
    """
    with tempfile.TemporaryDirectory(prefix="runner-look-") as aside:
        path = Path(aside, file_name)
        path.write_bytes(content)
        spec = read_file(path, box.jobs_dir)
        with prepared_from(
            path,
            box.models_dir,
            box.jobs_dir,
            try_model=True,
            refused_too=True,
            outputs=box.outputs,
            source=box.jobs_dir,
            bounds=Bounds(seconds=_LONGEST_SECONDS, min_free_bytes=box.min_free_bytes),
        ) as run:
            findings = in_order(read_findings(run.findings))
            result = _result(run)
            if result is None or result.error is not None:
                error = result.error if result else None
                message, advice = (error.message, error.advice) if error else ("", "")
                return Seen(message=message, advice=advice or "", findings=tuple(findings))
            found, why = None, ""
            try:
                cards = len(read_cards(box.outputs)) or 1
                asked = Asked(models_dir=box.models_dir, jobs_dir=box.jobs_dir, cards=cards)
                gpu = read_gpu() or read_card(box.outputs)
                found = planned(spec, run, box.outputs, asked, gpu=gpu)
            except RunnerError as error:
                why = error.message
            return Seen(
                is_usable=True,
                findings=tuple(findings),
                notes=result.shortfalls,
                preview=read_preview(run.preview),
                result=result,
                planned=found,
                no_plan=why,
            )


def _result(run: RunFolder) -> PrepareResult | None:
    path = StageFolder(run.prepared).result
    return read_message(path, PrepareResult) if path.exists() else None
