"""Disk trouble: what a person reads when a file of the box cannot be read or written.

A folder under a file's name, a pipe, a full or a dying disk: said in a line, not as a traceback.
"""

from __future__ import annotations

import errno
import os

from runner.errors import RunnerError
from runner.words import visible

_ADVICE = {
    errno.ENOSPC: "Make room on the disk, then call it again.",
    errno.EDQUOT: "Make room on the disk, then call it again.",
    errno.EROFS: "The disk is read-only: `dmesg` on the host says why, often a damaged disk.",
    errno.EIO: "The disk or the share fails: `dmesg` on the host says more.",
    errno.EINVAL: "A plain file of the box belongs there: move away what lies in its place.",
    errno.EISDIR: "A plain file of the box belongs there: move away what lies in its place.",
    errno.ENOTDIR: "A folder of the box belongs there: move away what lies in its place.",
}
_ELSE = "Look at what lies there; `runner doctor` examines the box."


class DiskTroubleError(RunnerError):
    """A file of the box cannot be read or written."""

    kind = "disk_trouble"


def disk_trouble(error: OSError) -> DiskTroubleError:
    """Say which file it is, what the system says of it, and what to do."""
    said = error.strerror or type(error).__name__
    if isinstance(error.filename, str | bytes | os.PathLike):
        path = visible(os.path.abspath(os.fsdecode(error.filename)))
        said = f"{path} cannot be used: {said}"
    return DiskTroubleError(said, advice=_ADVICE.get(error.errno or 0, _ELSE))
