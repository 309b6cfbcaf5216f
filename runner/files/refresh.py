"""Refresh: a folder on a share shows at once what other machines have made in it.

An NFS client remembers for 30 to 60 s that a name was not there (acdirmin, acdirmax in nfs(5)).
A folder that is listed is asked for anew, and so are the names in it that were missing.
"""

from __future__ import annotations

import os
from pathlib import Path


def refresh(folder: Path, *, below: Path) -> None:
    """List the folders from ``below`` to ``folder``, both included.

    Raises:
        OSError: one of them is missing, or the share is away.
    """
    at = below
    os.listdir(at)
    for part in folder.relative_to(below).parts:
        at /= part
        os.listdir(at)
