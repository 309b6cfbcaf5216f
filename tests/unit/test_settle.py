"""Turns histories of a file into whether it may be taken."""

from __future__ import annotations

import pytest

from runner.files.settle import Look, is_settled, look_again


def look(size: int = 10, mtime: int = 1, inode: int = 1) -> Look:
    """Make one look."""
    return Look(size_bytes=size, mtime_ns=mtime, inode=inode)


@pytest.mark.parametrize(
    ("history", "at", "settled"),
    [
        ([(0.0, look())], 0.0, False),
        ([(0.0, look())], 1.9, False),
        ([(0.0, look())], 2.0, True),
        ([(0.0, look()), (1.5, look(size=11))], 2.5, False),
        ([(0.0, look()), (1.5, look(size=11))], 3.5, True),
        ([(0.0, look()), (1.5, look(mtime=2))], 2.5, False),
        ([(0.0, look()), (1.5, look(inode=2))], 2.5, False),
        ([(0.0, look()), (1.5, look()), (1.9, look())], 2.0, True),
        ([(0.0, look(size=0))], 60.0, False),
        # The clock of a share may be years off: only changes count, not the times themselves.
        ([(0.0, look(mtime=10**19))], 2.0, True),
    ],
)
def test_a_file_is_taken_when_unchanged_for_long_enough(
    history: list[tuple[float, Look]], at: float, *, settled: bool
) -> None:
    """Whoever still writes, by any of the ways to write, is not interrupted."""
    seen = None
    for when, what in history:
        seen = look_again(seen, what, when)
    assert seen is not None
    assert is_settled(seen, at=at, settle_seconds=2.0) is settled
