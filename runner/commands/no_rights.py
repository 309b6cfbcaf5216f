"""No rights: what a person reads when a command may not look into a folder or file of the box."""

from __future__ import annotations

import os
from pathlib import Path

from runner.errors import RunnerError
from runner.words import visible


class NoRightsError(RunnerError):
    """A folder or file of the box may not be used by this user."""

    kind = "no_rights"


def no_rights(error: PermissionError) -> NoRightsError:
    """Say which folder or file it is, whose it is, who asked, and how to fix it."""
    me = f"user {os.geteuid()}"
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return NoRightsError(
            f"{me} may not do this ({error.strerror})", advice=f"How to fix: {_WAYS}"
        )
    path = Path(os.path.abspath(os.fsdecode(error.filename)))
    barred = next((one for one in (*reversed(path.parents), path) if not _may_pass(one)), path)
    try:
        found = barred.stat()
    except OSError:
        return NoRightsError(
            f"{me} may not use {visible(str(barred))}", advice=f"How to fix: {_WAYS}"
        )
    owner = f"{found.st_uid}:{found.st_gid}"
    return NoRightsError(
        f"{me} may not use {visible(str(barred))}: it belongs to {owner} "
        f"(mode {found.st_mode & 0o7777:04o})",
        advice=f"How to fix: {_WAYS} Or call it as its owner: "
        f"sudo setpriv --reuid={found.st_uid} --regid={found.st_gid} --clear-groups runner …",
    )


_WAYS = (
    "PUID and PGID in .env must be the owner of jobs/, outputs/ and models/; "
    "`docker compose up -d` then gives them to that user."
)


def _may_pass(path: Path) -> bool:
    wanted = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    return os.access(path, wanted, effective_ids=True)
