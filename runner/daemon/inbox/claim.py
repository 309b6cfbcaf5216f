"""Claim: a settled spec becomes a run; it is renamed first, then read, then recorded.

The rename comes first, so that whatever is read afterwards is what was claimed; a crash in between
leaves a file in queued/ without a record, which the next start adopts.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from runner.clock import now
from runner.contract.layout import RUN_ID, Outputs, RunFolder, claimed_name
from runner.contract.record import RunRecord, write_record
from runner.contract.states import Stage, State
from runner.daemon.inbox.answer import rejection
from runner.daemon.inbox.view import SPEC_BYTES
from runner.errors import Problem, SpecError, UnsafePathError
from runner.files.beneath import Folder
from runner.files.crash_points import reached
from runner.files.durable import sync_folder, write_bytes
from runner.language.speaker import ENGLISH, Speaker
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec

_CLAIMED = re.compile(rf"--{RUN_ID.pattern}(?=\.[^.]*$|$)")


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A run that has just begun to exist."""

    record: RunRecord
    spec: JobSpec
    run: RunFolder


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A spec that went to rejected/ with its reasons beside it."""

    file_name: str
    message: str


def dropped_name(name: str) -> str:
    """Give the name a file was first dropped under; one dragged back keeps its job's name."""
    return _CLAIMED.sub("", name)


def peek(inbox: Folder, name: str, *, cards: int | None = None) -> JobSpec | SpecError | None:
    """Read a spec where it lies, to learn whether it may still be incomplete.

    None: it cannot be read for a reason that claiming it tells.

    Raises:
        OSError: it is gone, or may not be read: then it is left where it is.
    """
    try:
        content = inbox.read_file(name, limit_bytes=SPEC_BYTES)
        return read_spec(content, file_name=dropped_name(name), cards=cards)
    except SpecError as error:
        return error
    except UnsafePathError:
        return None


def claim(
    inbox: Folder,
    outputs: Outputs,
    name: str,
    *,
    run_id: str,
    sequence: int,
    cards: int | None = None,
    speak: Speaker = ENGLISH,
) -> Claimed | Refused:
    """Take a spec out of the inbox; ``cards``: those that the box trains on.

    Raises:
        FileNotFoundError: it is gone.
    """
    claimed = claimed_name(dropped_name(name), run_id)
    with inbox.open_folder("queued") as queued:
        inbox.move(name, queued, claimed)
    reached("spec moved")
    return adopt(
        inbox,
        outputs,
        claimed,
        file_name=dropped_name(name),
        run_id=run_id,
        sequence=sequence,
        cards=cards,
        speak=speak,
    )


def adopt(  # noqa: PLR0913  (all that a run begins with)
    inbox: Folder,
    outputs: Outputs,
    claimed: str,
    *,
    file_name: str,
    run_id: str,
    sequence: int,
    trigger: str = "drop",
    cards: int | None = None,
    speak: Speaker = ENGLISH,
) -> Claimed | Refused:
    """Make the run of a spec that lies in queued/; ``cards``: those that the box trains on."""
    with inbox.open_folder("queued") as queued:
        try:
            content = queued.read_file(claimed, limit_bytes=SPEC_BYTES)
            spec = read_spec(
                content,
                file_name=file_name,
                exists=lambda path: _lies_in(inbox, path),
                cards=cards,
            )
        except SpecError as error:
            why = error.message
            return refuse(inbox, "queued", claimed, file_name=file_name, message=why, speak=speak)
        except UnsafePathError as error:
            problem = Problem(file=file_name, message=error.what, hint=error.advice)
            why = str(problem)
            return refuse(inbox, "queued", claimed, file_name=file_name, message=why, speak=speak)
    run = outputs.run(spec.name, run_id)
    run.root.mkdir(parents=True, exist_ok=True)
    sync_folder(outputs.root)
    sync_folder(run.root.parent)
    reached("run folder made")
    write_bytes(run.spec, content)
    record = RunRecord(
        job=spec.name,
        run_id=run_id,
        state=State.QUEUED,
        next_stage=Stage.PREPARE,
        trigger=trigger,
        file_name=file_name,
        priority=spec.priority,
        sequence=sequence,
        created_at=now(),
        spec_sha256=hashlib.sha256(content).hexdigest(),
        effective_batch_size=spec.named_batch,
    )
    write_record(run.record, record)
    reached("claim recorded")
    return Claimed(record=record, spec=spec, run=run)


def _lies_in(inbox: Folder, path: str) -> bool:
    try:
        inbox.stat(path)
    except (OSError, UnsafePathError):
        return False
    return True


def refuse(
    inbox: Folder,
    folder: str,
    name: str,
    *,
    file_name: str,
    message: str,
    speak: Speaker = ENGLISH,
) -> Refused:
    """Move a file to rejected/ and say why beside it."""
    with inbox.open_folder(folder) as source, inbox.open_folder("rejected") as rejected:
        # The reasons first: whoever sees the file in rejected/ finds them there.
        rejected.write_text(f"{name}.txt", rejection(file_name, message, speak))
        reached("refusal written")
        source.move(name, rejected, name)
    return Refused(file_name=file_name, message=message)


def refuse_name(
    inbox: Folder, name: str, problem: Problem, *, run_id: str, speak: Speaker = ENGLISH
) -> Refused:
    """Reject a file in the inbox's root for its name alone."""
    new_name = claimed_name(name, run_id)
    with inbox.open_folder("rejected") as rejected:
        rejected.write_text(f"{new_name}.txt", rejection(name, str(problem), speak))
        reached("refusal written")
        inbox.move(name, rejected, new_name)
    return Refused(file_name=name, message=str(problem))
