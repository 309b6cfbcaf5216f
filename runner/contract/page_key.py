"""Page keys: the files that hold what one must know to use the page and the API.

`page/key` may read and write; `page/read-key`, which the box's owner may add, may only read.
Deleting or changing a file ends every session that was opened with it.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.files.plain import read_plain

KEY, READ_KEY = "key", "read-key"
LEAST_CHARACTERS = 20
"""A shorter key, written by hand, could be guessed, and is not taken."""
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # without l, o, 0 and 1: people type it
_GROUPS, _OF = 5, 5  # 25 characters of 5 bits each: 125 bits
_BYTES = 1024


class KeyFileError(RunnerError):
    """The key's file cannot be used."""

    kind = "page_key"


def read_key(folder: Path, name: str = KEY) -> str | None:
    """Read a key; None: there is no such file.

    Raises:
        KeyFileError: it cannot be read, or is too short to be a key.
    """
    try:
        content = read_plain(folder / name, limit_bytes=_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileError(
            f"the page's key {folder / name} cannot be read: {error.strerror}",
            advice="Delete the file: the page makes another when it starts.",
        ) from error
    # Notepad puts a mark before UTF-8; what PowerShell writes as UTF-16 could not be typed.
    key = content.decode("utf-8-sig", errors="replace").strip().lower()
    is_text = key.isprintable() and "\ufffd" not in key
    if len(key) < LEAST_CHARACTERS or len(content) > _BYTES or not is_text:
        raise KeyFileError(
            f"the page's key {folder / name} is no key: it is not one line of UTF-8 text, or has "
            f"fewer than {LEAST_CHARACTERS} characters, or far too many",
            advice="Delete the file: the page makes another when it starts.",
        )
    return key


def make_key(folder: Path) -> str | None:
    """Make the key that may write, readable by its owner alone; None: there is one already."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_OF)) for _ in range(_GROUPS))
    key = "-".join(groups)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Folder.open(folder) as there:
        try:
            # Named when it is whole: a power cut leaves no empty key, which would open to nobody.
            there.write_bytes(KEY, f"{key}\n".encode(), mode=0o600, replace=False)
        except FileExistsError:
            return None
        there.sync()
    return key
