"""Unpack gzip and zstd: compressed data files as streams; a decompression bomb is stopped."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from runner.files.unreadable import require_storage
from runner.spec.file_kinds import PACKED

MOST_BYTES = 64 * 1024**3  # unpacked; a file can claim to hold more than any disk
MOST_RATIO = 200  # bytes unpacked for each packed one; text packs to a tenth, logs to a fiftieth
SMALL_BYTES = 64 * 1024**2  # so much may come out of any file, however well it packs


_ZSTD = b"\x28\xb5\x2f\xfd"
PACKED_MARKS = {".gz": b"\x1f\x8b", ".zst": _ZSTD, ".zstd": _ZSTD}
"""How compressed files begin, by their ending."""


class TooMuchError(Exception):
    """More comes out of a file than any data has."""

    def __init__(self, most_bytes: int) -> None:
        """Take how much it may be."""
        self.what = f"the file unpacks to more than {most_bytes / 1024**2:.0f} MiB"
        super().__init__(self.what)


class NotPackedError(Exception):
    """The file is not what its ending says, or its end is missing."""


TOO_MUCH_HINT = "Save it without compression, or in several files."


def most_bytes(packed: int) -> int:
    """Say how much may come out of a file of so many bytes."""
    return min(MOST_BYTES, max(MOST_RATIO * packed, SMALL_BYTES))


def inner_name(name: str) -> str:
    """Give a name without the ending of its compression: ``rows.jsonl.gz`` is ``rows.jsonl``."""
    path = PurePath(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in PACKED else name


class Limited(io.RawIOBase):
    """Bytes that come out of a packed file, counted."""

    def __init__(self, source: Any, most: int) -> None:
        """Read from ``source`` at most so many bytes."""
        self._source, self._most, self._given = source, most, 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Give the next bytes.

        Raises:
            TooMuchError: there are more than any data has.
            NotPackedError: the packed file is broken.
        """
        try:
            block = self._source.read(size)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            require_storage(error, getattr(self._source, "name", ""))
            raise NotPackedError from error
        self._given += len(block)
        if self._given > self._most:
            raise TooMuchError(self._most)
        return bytes(block)

    def close(self) -> None:
        """Close the packed file, too."""
        self._source.close()
        super().close()


def open_bytes(path: Path, name: str) -> BinaryIO:
    """Open a data file for its bytes, unpacked where its name says that it is packed."""
    opener = _OPENERS.get(PurePath(name).suffix.lower())
    if opener is None:
        return path.open("rb")
    return Limited(opener(path), most_bytes(path.stat().st_size))  # type: ignore[return-value]


def _zstd(path: Path) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")


_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".zst": _zstd,
    ".zstd": _zstd,
}
