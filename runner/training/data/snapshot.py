"""Snapshot: private copies of the data files, in the run folder.

The share is untrusted: each file is opened beneath the inbox with no link followed, copied and
hashed from that one descriptor, and looked at again afterwards. Parsers see only the copy.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.contract.layout import RESERVED_FOLDERS, cut_to_bytes
from runner.errors import RunnerError, UnsafePathError
from runner.files.beneath import Folder, fresh_stat, split_relative
from runner.files.crash_points import reached
from runner.files.durable import TEMPORARY_PREFIX, sync_folder
from runner.spec.data_files import MOST_FILES, is_pattern, left_out, named_by
from runner.spec.file_kinds import TEXTS
from runner.spec.near_files import similar_file
from runner.training.data.findings import Findings
from runner.words import visible

_BLOCK = 1024 * 1024  # bytes read at a time
_TRIES = 3  # copies of a file that is written to meanwhile
_FAULTS_OF_THE_FILE = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR),
    *(errno.EINVAL, errno.ENXIO),
)
"""Whoever dropped it can mend these; all others (a share gone, a full disk) speak of the box."""
_NAME_BYTES = 200  # of the original name; the hash and a dash come before it


@dataclass(frozen=True, kw_only=True)
class Copied:
    """One file of the snapshot."""

    named: str
    """As the spec names it."""
    path: Path
    """The copy."""
    sha256: str
    size: int
    """Bytes."""


class _ChangedError(Exception):
    """The source was written to while it was copied."""


def path_in_inbox(named: str, spec_folder: str) -> str:
    """Give the inbox-relative path of a data file that a spec in ``spec_folder`` names.

    Raises:
        UnsafePathError: it leaves the inbox or lies in one of the runner's own folders.
    """
    joined = posixpath.normpath(posixpath.join(spec_folder, named))
    names = split_relative(joined)
    if len(names) == 1 and names[0].startswith("."):
        raise UnsafePathError(
            named,
            "begins with a dot, as the runner's own files do",
            advice="Rename it so that it begins with a letter or a digit.",
        )
    if not names or names[0].startswith(".") or names[0] in RESERVED_FOLDERS:
        raise UnsafePathError(
            named,
            "lies in a folder that the runner keeps for itself",
            advice="Put data into a folder of its own, such as data/.",
        )
    return "/".join(names)


def take_snapshot(
    named: Sequence[str],
    *,
    inbox: Path,
    spec_folder: str,
    target: Path,
    findings: Findings,
    known: Sequence[Path] = (),
) -> list[Copied]:
    """Copy every file; one that is missing, unreadable, unsafe or never still is a finding.

    Args:
        named: paths as the spec names them.
        inbox: the shared folder.
        spec_folder: where the spec was dropped, relative to the inbox.
        target: the run's data folder; made when missing.
        findings: takes what is wrong, so that the other files are still looked at.
        known: data folders of earlier runs; a file with the same content is linked from there.
    """
    target.mkdir(parents=True, exist_ok=True)
    copies: list[Copied] = []
    with Folder.open(inbox) as folder:
        files = _expanded(folder, named, spec_folder, findings)
        findings.files = tuple(files)
        for name in files:
            try:
                copies.append(_copy(folder, name, spec_folder, target, known))
            except UnsafePathError as error:
                findings.add(name, None, error.what, hint=error.advice)
            except _ChangedError:
                what = "the file was written to each time it was copied"
                hint = "Drop the spec again once the file is complete."
                findings.add(name, None, what, hint=hint)
            except OSError as error:
                if error.errno not in _FAULTS_OF_THE_FILE:
                    raise
                what, hint = _unreadable(error)
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    hint = _missing_hint(folder, name, spec_folder)
                findings.add(name, None, what, hint=hint)
    sync_folder(target)
    return copies


def _expanded(
    folder: Folder, named: Sequence[str], spec_folder: str, findings: Findings
) -> list[str]:
    """Give the files that paths, folders and patterns name, each once."""
    found: dict[str, None] = {}
    for name in named:
        try:
            path = path_in_inbox(name, spec_folder)
            files = named_by(folder, f"{path}/" if name.endswith("/") else path)
        except (UnsafePathError, OSError):
            files = None  # told where it is copied
        if files is None:
            found[name] = None
            continue
        start = "" if spec_folder in ("", ".") else f"{spec_folder}/"
        found.update(dict.fromkeys(file.removeprefix(start) for file in files))
        _note_left_out(folder, name, path, files, findings)
        if len(files) > MOST_FILES:
            what = f"these are {len(files)} files, and at most {MOST_FILES} are read"
            findings.add(name, None, what, hint="Join them into fewer files.")
            return []
    return list(found)


def _note_left_out(
    folder: Folder, name: str, path: str, files: Sequence[str], findings: Findings
) -> None:
    """Say what lies where a pattern or a folder looks and is not read: nobody trains on less."""
    try:
        others = left_out(folder, path, files)
    except (OSError, RunnerError):
        others = []
    named = ", ".join(visible(other) for other in others[:_OTHERS_NAMED])
    if len(others) > _OTHERS_NAMED:
        named += f" and {len(others) - _OTHERS_NAMED} more"
    if not files:
        hint = f"Its name must end in {', '.join(_ENDINGS)}."
        hint += f" There is only: {named}." if named else ""
        beside = _beside(folder, path)
        if beside and not named:
            hint = f"In the same folder lie: {beside}. Compare the pattern with these names."
        findings.add(name, None, "no file that can be read lies there", hint=hint)
    elif others:
        findings.of_files.append(f"not read of {visible(name)}: {named}")


def _beside(folder: Folder, path: str) -> str:
    """Name some files that can be read in the folder of a pattern; empty: there are none."""
    if not is_pattern(path):
        return ""
    try:
        found = named_by(folder, f"{posixpath.dirname(path) or '.'}/") or []
    except (OSError, RunnerError):
        return ""
    names = [visible(posixpath.basename(one)) for one in found]
    more = f" and {len(names) - _BESIDE} more" if len(names) > _BESIDE else ""
    return ", ".join(names[:_BESIDE]) + more


_BESIDE = 5
_OTHERS_NAMED = 10
_ENDINGS = (*TEXTS, ".parquet", ".arrow", ".xlsx", ".ods")
_START = "paths start at the jobs folder of the share: copy the file there and drop the spec again"


def _missing_hint(folder: Folder, named: str, spec_folder: str) -> str:
    """Say what lies there instead of a file that is not there."""
    similar = similar_file(folder, path_in_inbox(named, spec_folder))
    return similar.advice(named) if similar else _START


def _unreadable(error: OSError) -> tuple[str, str]:
    """Say why a file could not be read and what to do."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such file", _START
    if error.errno in (errno.EACCES, errno.EPERM):
        return "the runner may not read the file", "Let everyone who may drop jobs read it."
    return (
        f"the file could not be read ({error.strerror})",
        "Copy it and drop the spec again.",
    )


def _copy(
    inbox: Folder, named: str, spec_folder: str, target: Path, known: Sequence[Path]
) -> Copied:
    path = path_in_inbox(named, spec_folder)
    if (linked := _link_known(inbox, path, target, known)) is not None:
        return replace(linked, named=named)
    for attempt in range(1, _TRIES + 1):
        beside = target / f"{TEMPORARY_PREFIX}{os.urandom(6).hex()}"
        try:
            sha256, size = _copy_once(inbox, path, beside)
            name = _name_of(sha256, path)
            same = _known_copy(sha256, size, known)
            if same is not None:
                _link_instead(same, beside)
            reached("data copied")
            os.rename(beside, target / name)
            return Copied(named=named, path=target / name, sha256=sha256, size=size)
        except _ChangedError:
            if attempt == _TRIES:
                raise
        finally:
            beside.unlink(missing_ok=True)
    raise AssertionError("unreachable: the last attempt raises")


def _name_of(sha256: str, path: str) -> str:
    return f"{sha256[:16]}-{cut_to_bytes(posixpath.basename(path), _NAME_BYTES)}"


def _link_known(inbox: Folder, path: str, target: Path, known: Sequence[Path]) -> Copied | None:
    """Link the copy that an earlier run made of this very file; None: it is another file now.

    The two are read side by side, and nothing is written: a copy of what is there already would
    have to reach the disk first, which takes longer than all that is left to do.
    """
    ending = _name_of("", path)
    for earlier in (one for folder in known for one in folder.glob("*-*")):
        if not earlier.name.endswith(ending) or len(earlier.name) != 16 + len(ending):
            continue
        try:
            found = _same_content(inbox, path, earlier)
            if found is None or found[:16] != earlier.name[:16]:
                continue
            name = target / earlier.name
            name.unlink(missing_ok=True)  # of an earlier try
            os.link(earlier, name, follow_symlinks=False)
            reached("data copied")
            return Copied(named=path, path=name, sha256=found, size=name.stat().st_size)
        except OSError:  # erased meanwhile, or no links here: it is copied, and says what is wrong
            continue
    return None


def _same_content(inbox: Folder, path: str, earlier: Path) -> str | None:
    """Give the sha256 of a file and of an earlier copy of it; None where they differ."""
    descriptor = os.open(earlier, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with (
        open(descriptor, "rb", buffering=0) as copy,
        open(inbox.open_file(path), "rb", buffering=0) as source,
    ):
        before = _fingerprint(fresh_stat(source.fileno()))
        if os.fstat(descriptor).st_size != before[2]:
            return None
        digest = hashlib.sha256()
        while block := source.read(_BLOCK):
            if copy.read(len(block)) != block:
                return None
            digest.update(block)
        if _fingerprint(fresh_stat(source.fileno())) != before:
            return None
    with open(inbox.open_file(path), "rb", buffering=0) as again:
        return digest.hexdigest() if _fingerprint(fresh_stat(again.fileno())) == before else None


def _fingerprint(facts: os.stat_result) -> tuple[int, ...]:
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def _copy_once(inbox: Folder, path: str, beside: Path) -> tuple[str, int]:
    """Copy and hash from one descriptor, then see whether the source is still what was read."""
    digest, size = hashlib.sha256(), 0
    with open(inbox.open_file(path), "rb", buffering=0) as source:
        before = _fingerprint(fresh_stat(source.fileno()))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(beside, flags, 0o440), "wb") as copy:
            while block := source.read(_BLOCK):
                digest.update(block)
                copy.write(block)
                size += len(block)
            copy.flush()
            os.fsync(copy.fileno())
        if _fingerprint(fresh_stat(source.fileno())) != before or size != before[2]:
            raise _ChangedError
    # The name may meanwhile lead to another file: a sync client replaces rather than writes.
    with open(inbox.open_file(path), "rb", buffering=0) as again:
        if _fingerprint(fresh_stat(again.fileno())) != before:
            raise _ChangedError
    return digest.hexdigest(), size


def _known_copy(sha256: str, size: int, known: Sequence[Path]) -> Path | None:
    """Find a file with the same content in an earlier snapshot; its content is hashed again."""
    for folder in known:
        for path in folder.glob(f"{sha256[:16]}-*"):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue  # erased meanwhile
            with open(descriptor, "rb") as file:
                if os.fstat(file.fileno()).st_size != size:
                    continue
                if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                    return path
    return None


def _link_instead(same: Path, beside: Path) -> None:
    """Replace the fresh copy by a hard link; where the file system has none, the copy stays."""
    link = beside.with_name(beside.name + "-link")
    with contextlib.suppress(OSError):
        os.link(same, link, follow_symlinks=False)
        os.rename(link, beside)
