"""Replace: a file takes another one's name in one step; by SMB, once nobody here has that open.

An SMB server refuses to replace a file that a program of the same machine has open. The kernel then
has the old file deleted as soon as it is closed, tries once more, and is refused again: now neither
the old nor the new one would be there. So the new one waits beside until the reader has closed.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from runner.files.mounts import is_smb
from runner.files.waits import waiting

_REFUSED = frozenset({errno.EACCES, errno.EBUSY, errno.ETXTBSY})
_PATIENCE_SECONDS = 10.0  # what reads our files has them open for milliseconds
_EVERY_SECONDS = 0.02


def replace(beside: Path | str, path: Path | str, *, folder: int | None = None) -> None:
    """Rename ``beside`` to ``path``, whatever has that name.

    Args:
        beside: the new file, in the same file system.
        path: its name to be.
        folder: a descriptor that both start from.

    Raises:
        OSError: it cannot be renamed, by SMB for 10 seconds.
    """
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            os.rename(beside, path, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            within = Path(path).parent if folder is None else Path(f"/proc/self/fd/{folder}")
            if error.errno not in _REFUSED or time.monotonic() >= end or not is_smb(within):
                raise
        else:
            return
        with waiting():
            time.sleep(_EVERY_SECONDS)
