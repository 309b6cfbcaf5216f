"""Checkpoints: may a run resume from this folder?

A checkpoint is a folder ``step-00000012`` with a ``manifest.json`` that holds the size and sha256
of every other file. It was written elsewhere, synced and renamed, so one without a manifest, or
with a file that differs, is damaged and is not trusted. One that cannot be read now is neither: it
may be whole, so whoever asks is told that nobody knows, and asks again later.

An attempt seals beneath its own folder, ``attempts/01-3f9c22ab/checkpoints/``. When it has ended,
the daemon moves what it finds there to the run's ``checkpoints/`` (daemon/stages/adopt.py): a run
goes on from that folder alone, and no attempt can reach into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.contract.layout import RunFolder, StageFolder
from runner.errors import DamagedError, UnreadableError
from runner.files.plain import read_plain
from runner.files.unreadable import reading, unreadable

MANIFEST = "manifest.json"
_MANIFEST_BYTES = 1024 * 1024  # a line for each of a few files
_NAME = re.compile(r"step-(\d{8})")


class CheckpointFile(BaseModel):
    """One file of a checkpoint, as it was written."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str
    bytes: int


class Manifest(BaseModel):
    """What a checkpoint holds, and what a resumed run must know that Trainer does not keep."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    step: int
    """The last finished optimizer step."""
    tokens_seen: int = 0
    """Tokens of all rows trained on up to this step, prompt included."""
    evaluation_due: bool = False
    """The held-out loss was due after this step and was not measured yet."""
    evaluates: bool = True
    """Held-out losses are measured; False once one did not fit into memory, however small."""
    eval_loss: float | None = None
    """The last held-out loss measured, in nats per token."""
    best_step: int | None = None
    """The step with the lowest held-out loss up to this one."""
    best_eval_loss: float | None = None
    files: dict[str, CheckpointFile] = {}


def step_of(name: str) -> int | None:
    """Give the optimizer step that a checkpoint's name tells, or None."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


Sha256 = Callable[[Path], str]
"""How a file's hash is found: `sha256_of` reads it; the daemon's loop never does, for it takes
seconds (daemon/hashes.py)."""


def sha256_of(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read a checkpoint's manifest, without looking at the other files.

    Raises:
        DamagedError: there is none, or it is no manifest.
        UnreadableError: it cannot be read now.
    """
    path = folder / MANIFEST
    try:
        with reading(path):
            content = read_plain(path, limit_bytes=_MANIFEST_BYTES)
        return Manifest.model_validate(json.loads(content))
    except UnreadableError:
        raise
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise DamagedError(
            f"checkpoint {folder.name} has no readable manifest",
            advice="An older checkpoint is used where there is one.",
        ) from error


def verified(folder: Path, sha256: Sha256 = sha256_of) -> bool:
    """Whether a named checkpoint is one that a run may go on from; False: it is damaged.

    Raises:
        UnreadableError: that cannot be told now.
    """
    with reading(folder):
        if folder.is_symlink():
            return False
    return _is_whole(folder, sha256, step=step_of(folder.name))


def whole(folder: Path, sha256: Sha256 = sha256_of) -> bool:
    """Whether every file of a checkpoint is there and is what was written, and nothing else.

    Raises:
        UnreadableError: that cannot be told now.
    """
    return _is_whole(folder, sha256)


def _is_whole(folder: Path, sha256: Sha256, *, step: int | None = None) -> bool:
    """Decide both; ``step``: what the manifest must say, where the folder's name tells it."""
    try:
        there = set(_files_in(folder))
    except UnreadableError:
        raise
    except OSError:
        return False  # nothing lies there, or no folder
    if MANIFEST not in there:
        return False
    try:
        manifest = read_manifest(folder)
    except DamagedError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise unreadable(error.__cause__, folder / MANIFEST) from error
        return False
    if step is not None and manifest.step != step:
        return False
    if there != {*manifest.files, MANIFEST} or not manifest.files:
        return False
    return all(_is_as_written(folder / name, one, sha256) for name, one in manifest.files.items())


def _files_in(folder: Path, within: str = "") -> Iterator[str]:
    """List what lies in a checkpoint but folders, by paths within it; links are not followed.

    Neither Path.rglob nor os.walk: they pass over what cannot be looked into.

    Raises:
        UnreadableError: not all of it can be listed now: what seems to be missing may be there.
        OSError: it is no folder.
    """
    with reading(folder / within), os.scandir(folder / within) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for name, is_folder in entries:
        if is_folder:
            yield from _files_in(folder, f"{within}{name}/")
        else:
            yield within + name


def _is_as_written(file: Path, wanted: CheckpointFile, sha256: Sha256) -> bool:
    """Compare a file that its folder lists.

    Raises:
        UnreadableError: it cannot be read now, or is said to be gone while its folder lists it.
    """
    try:
        with reading(file):
            if file.is_symlink() or file.stat().st_size != wanted.bytes:
                return False
            return sha256(file) == wanted.sha256
    except UnreadableError:
        raise
    except FileNotFoundError as error:
        # Two answers that do not agree, as of a mount that is just going: neither is believed.
        raise unreadable(error, file) from error
    except OSError:
        return False


def names(checkpoints: Path) -> list[str]:
    """List the checkpoints in a folder by name, newest first, verified or not."""
    try:
        return names_there(checkpoints)
    except OSError:
        return []


def names_there(checkpoints: Path) -> list[str]:
    """List them as `names` does, for whoever goes on from them: "none" is true.

    Raises:
        OSError: the folder is there and cannot be listed, as on a share that is away for a moment.
    """
    try:
        found = [name for name in os.listdir(checkpoints) if step_of(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, reverse=True)


def listed(*folders: Path) -> list[Path]:
    """List the checkpoints in several folders, newest first; of two of a step the first one's."""
    found = {name: folder / name for folder in reversed(folders) for name in names(folder)}
    return [path for _, path in sorted(found.items(), reverse=True)]


def everywhere(run: RunFolder) -> list[Path]:
    """List every checkpoint of a run, newest first: adopted ones, and those of its attempts."""
    own = (StageFolder(one).checkpoints for one in run.attempt_folders())
    return listed(run.checkpoints, *own)


def newest_verified(checkpoints: Path, sha256: Sha256 = sha256_of) -> str | None:
    """Give the name of the newest checkpoint in a folder that can be trusted, or None.

    Raises:
        UnreadableError: one cannot be read now that is newer than all that can be trusted.
    """
    for name in names(checkpoints):
        if verified(checkpoints / name, sha256):
            return name
    return None
