"""Doctor: the rights on jobs/, outputs/ and models/, tried out."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.doctor.finding import Finding, Level
from runner.files.durable import TEMPORARY_PREFIX
from runner.files.mounts import place_of

_WHY = {
    "jobs": "Specs are renamed and answered there.",
    "outputs": "Records, checkpoints and adapters are written there.",
    "models": "Base models are read from there.",
}


@dataclass(frozen=True, kw_only=True)
class FolderRights:
    """What this process may do in one folder, tried and not guessed."""

    name: str
    """jobs, outputs or models."""
    path: Path
    problem: str | None = None
    """What failed, as the system words it; None: nothing."""
    missing: bool = False
    read_only: bool = False
    """The mount is, whatever the rights say."""
    can_be_made: bool = False
    """It is missing, and the runner may make it."""
    owner: str = ""
    """uid:gid of the folder."""
    mode: int = 0
    me: str = ""
    """uid:gid of this process."""
    on_host: str = ""
    """Where it lies on the machine, also when asked in a container; empty: not known."""


def try_folder(path: Path, name: str, *, writes: bool, in_container: bool = False) -> FolderRights:
    """List the folder and, with ``writes``, make, rename and remove a file in it."""
    facts = _try_folder(path, name, writes=writes)
    return replace(facts, on_host=_on_host(path, in_container=in_container))


def _on_host(path: Path, *, in_container: bool) -> str:
    if not in_container:
        return str(path.absolute())
    try:
        return place_of(path).path
    except (OSError, IndexError):
        return ""


def _try_folder(path: Path, name: str, *, writes: bool) -> FolderRights:
    me = f"{os.geteuid()}:{os.getegid()}"
    try:
        found = path.stat()
    except FileNotFoundError:
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        able = writes and os.access(parent, os.W_OK | os.X_OK)
        return FolderRights(name=name, path=path, missing=True, can_be_made=able, me=me)
    except OSError as error:
        return FolderRights(name=name, path=path, problem=error.strerror, me=me)
    problem, read_only = None, False
    try:
        with os.scandir(path) as entries:
            next(entries, None)
        if writes:
            _try_to_write(path)
    except OSError as error:
        problem, read_only = error.strerror, error.errno == errno.EROFS
    return FolderRights(
        name=name,
        path=path,
        problem=problem,
        read_only=read_only,
        owner=f"{found.st_uid}:{found.st_gid}",
        mode=found.st_mode & 0o7777,
        me=me,
    )


def _try_to_write(folder: Path) -> None:
    # The prefix is the runner's own: what a power cut leaves of it is swept at the next start.
    beside = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    final = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    try:
        os.rename(beside, final)
    finally:
        beside.unlink(missing_ok=True)
        final.unlink(missing_ok=True)


def judge_folders(rights: Sequence[FolderRights]) -> list[Finding]:
    """Decide about all of them: one line where all is well."""
    found = [judge_folder(facts) for facts in rights]
    if any(finding.level is not Level.OK for finding in found) or any(r.missing for r in rights):
        return found
    what = "jobs/ and outputs/ can be written to, models/ can be read."
    places = [facts.on_host for facts in rights]
    if all(places):
        what += f" On this machine: {', '.join(places)}."
    why = "The runner moves specs, writes results and reads base models."
    return [Finding(check="Folders", level=Level.OK, what=what, why=why)]


def judge_folder(facts: FolderRights) -> Finding:
    """Decide whether the runner can do its work there."""
    where = f"{facts.name}/"
    if facts.missing:
        if facts.can_be_made:
            return _finding(facts, Level.OK, f"{where} is not there yet; the first start makes it.")
        return _finding(
            facts,
            Level.TROUBLE,
            f"{where} is missing: {facts.path}",
            f"sudo install -d -o {_uid(facts.me)} -g {_gid(facts.me)} {facts.path}",
        )
    if facts.problem is None:
        can = "can be read" if facts.name == "models" else "can be written to"
        return _finding(facts, Level.OK, f"{where} {can}.")
    if facts.read_only:
        return _finding(
            facts,
            Level.TROUBLE,
            f"{where} is mounted read-only: {facts.path}",
            f"findmnt -T {facts.path}    # then: sudo mount -o remount,rw …",
        )
    return _finding(
        facts,
        Level.TROUBLE,
        f"{where} cannot be used by user {facts.me}: {facts.problem} "
        f"(it belongs to {facts.owner or '?'}, mode {facts.mode:04o}).",
        f"sudo chown -R {facts.me} {facts.path} && sudo chmod u+rwX {facts.path}",
    )


def _uid(me: str) -> str:
    return me.partition(":")[0]


def _gid(me: str) -> str:
    return me.partition(":")[2]


def _finding(facts: FolderRights, level: Level, what: str, fix: str = "") -> Finding:
    return Finding(check="Folders", level=level, what=what, why=_WHY[facts.name], fix=fix)
