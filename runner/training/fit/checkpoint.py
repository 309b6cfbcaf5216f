"""Save a checkpoint: what Trainer wrote is sealed, verified and named.

Written elsewhere, hashed, synced, read back from the disk, renamed: `contract/checkpoints.py` says
how it is verified.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zipfile
from pathlib import Path

from runner.contract.checkpoints import (
    MANIFEST,
    CheckpointFile,
    Manifest,
    read_manifest,
    sha256_of,
    verified,
    whole,
)
from runner.contract.layout import checkpoint_name
from runner.errors import StageError
from runner.exit_codes import ExitCode
from runner.files.crash_points import reached
from runner.files.durable import (
    TEMPORARY_PREFIX,
    rename_durably,
    sync_folder,
    sync_tree,
    write_json,
)

_NOT_KEPT = ("training_args.bin", "README.md")  # a pickle, and boilerplate about nobody's run


def loads(file: Path) -> bool:
    """Whether a file is whole by its own format, as far as that can be told without loading it."""
    if file.suffix == ".safetensors":
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if not 0 < length <= file.stat().st_size:
                return False
            header = json.loads(content.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name[:2] != "__"]
        return bool(ends) and 8 + length + max(ends) == file.stat().st_size
    if file.suffix in (".pt", ".pth"):  # torch writes zip files, with a checksum for each part
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is None
    if file.suffix == ".json":
        json.loads(file.read_bytes())
    return True


def _read_back(written: Path) -> None:
    """Make sure that what lies on the disk is what was written, and that it loads.

    Raises:
        StageError: it does not: the checkpoint before stands.
    """
    for path in written.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:  # out of the kernel's memory: what is read now comes from the disk
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
    try:
        if whole(written) and all(loads(p) for p in written.rglob("*") if p.is_file()):
            return
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, RecursionError):
        pass
    raise StageError(
        "A checkpoint could not be read back as it was written.",
        exit_code=ExitCode.UNEXPECTED,
        kind="damaged",
        advice="The disk under outputs/, or the machine's memory, needs a look.",
    )


def seal(written: Path, checkpoints: Path, manifest: Manifest) -> str:
    """Move a checkpoint to its place and give its name; an older verified one is never replaced.

    Args:
        written: what Trainer left, on the same file system.
        checkpoints: the attempt's own folder of them.
        manifest: what it is to say, but for the files.

    Raises:
        StageError: it could not be read back as it was written.
    """
    target = checkpoints / checkpoint_name(manifest.step)
    if not checkpoints.exists():
        checkpoints.mkdir()
        sync_folder(checkpoints.parent)
    reached("checkpoint begun")
    if target.exists():
        if verified(target):
            shutil.rmtree(written)
            return target.name
        os.rename(target, checkpoints / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}")
    for name in _NOT_KEPT:
        (written / name).unlink(missing_ok=True)
    files = {
        path.relative_to(written).as_posix(): CheckpointFile(
            sha256=sha256_of(path), bytes=path.stat().st_size
        )
        for path in sorted(written.rglob("*"))
        if path.is_file()
    }
    full = manifest.model_copy(update={"files": files})
    write_json(written / MANIFEST, full.model_dump(mode="json"))
    sync_tree(written)
    reached("checkpoint synced")
    _read_back(written)
    rename_durably(written, target)
    reached("checkpoint named")
    return target.name


def seal_again(source: Path, checkpoints: Path, manifest: Manifest) -> None:
    """Let a checkpoint say something else, such as a held-out loss that was owed.

    One of an earlier attempt stays as it is: its files are sealed once more, as the attempt's own.

    Args:
        source: the checkpoint.
        checkpoints: the attempt's own folder of them.
        manifest: what it is to say, but for the files, which stay.
    """
    full = manifest.model_copy(update={"files": read_manifest(source).files})
    content = full.model_dump(mode="json")
    if source.parent == checkpoints:
        write_json(source / MANIFEST, content)
        return
    if not checkpoints.exists():
        checkpoints.mkdir()
        sync_folder(checkpoints.parent)
    beside = checkpoints / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    shutil.copytree(source, beside, copy_function=_link, ignore=lambda *_: [MANIFEST])
    write_json(beside / MANIFEST, content)
    sync_tree(beside)
    rename_durably(beside, checkpoints / source.name)


def _link(source: str, target: str) -> None:
    """Give a file a second name; copy it where the file system has only one for each."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
