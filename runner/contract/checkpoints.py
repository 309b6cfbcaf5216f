"""Checkpoints: may a run resume from this folder?

A checkpoint is a folder ``step-00000012`` with a ``manifest.json`` that holds the size and sha256
of every other file. It was written elsewhere, synced and renamed, so one without a manifest, or
with a file that differs, is damaged and is not trusted.

An attempt seals beneath its own folder, ``attempts/01-3f9c22ab/checkpoints/``. When it has ended,
the daemon moves what it finds there to the run's ``checkpoints/`` (daemon/stages/adopt.py): a run
goes on from that folder alone, and no attempt can reach into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.contract.layout import RunFolder, StageFolder
from runner.errors import DamagedError
from runner.files.plain import read_plain

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
        DamagedError: there is none, or it cannot be read.
    """
    try:
        return Manifest.model_validate(
            json.loads(read_plain(folder / MANIFEST, limit_bytes=_MANIFEST_BYTES))
        )
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise DamagedError(
            f"checkpoint {folder.name} has no readable manifest",
            advice="An older checkpoint is used where there is one.",
        ) from error


def verified(folder: Path, sha256: Sha256 = sha256_of) -> bool:
    """Whether a named checkpoint is one that a run may go on from."""
    try:
        named_well = read_manifest(folder).step == step_of(folder.name)
    except DamagedError:
        return False
    return named_well and not folder.is_symlink() and whole(folder, sha256)


def whole(folder: Path, sha256: Sha256 = sha256_of) -> bool:
    """Whether every file of a checkpoint is there and is what was written, and nothing else."""
    try:
        manifest = read_manifest(folder)
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
        if there != {*manifest.files, MANIFEST} or not manifest.files:
            return False
        for name, wanted in manifest.files.items():
            file = folder / name
            if file.is_symlink() or file.stat().st_size != wanted.bytes:
                return False
            if sha256(file) != wanted.sha256:
                return False
    except (OSError, DamagedError):
        return False
    return True


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
    """Give the name of the newest checkpoint in a folder that can be trusted, or None."""
    for name in names(checkpoints):
        if verified(checkpoints / name, sha256):
            return name
    return None
