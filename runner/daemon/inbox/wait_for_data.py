"""Data files of a job: whether they are there, complete, or what the job waits for.

Only names, sizes and times are looked at: the daemon reads no data. What is wrong with a path or a
file is for the prepare stage to say, all of it together.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runner.errors import UnsafePathError
from runner.files.beneath import Folder
from runner.files.settle import Look, Seen, is_settled, look_again
from runner.spec.data_files import named_by
from runner.spec.near_files import Similar, similar_file
from runner.spec.spec import JobSpec

_MOST_SEEN = 5000
"""Files of ended jobs that are remembered, the newest: about 1 MB."""
_LOOK_AROUND_SECONDS = 10.0
"""A missing file's neighbours are listed this often: a share may hold thousands of files."""


@dataclass(frozen=True, kw_only=True)
class DataWait:
    """What a job waits for."""

    reason: str
    missing: bool = False
    """It is not there; else it is there, and still being written."""
    never: bool = False
    """It will not come: the path differs from a file that is there in upper or lower case alone."""
    advice: str | None = None
    """What similar file lies there."""


def named_files(spec: JobSpec) -> list[str]:
    """List the files that a spec names."""
    return spec.named_files


def some_from(
    run_ids: Sequence[str], *, after: str | None, most: int
) -> tuple[Sequence[str], str | None]:
    """Give the runs to look at in this round, and the last of them where others are left.

    The round before stopped ``after`` that one; the first is next once all were looked at, or when
    that one is no longer there.
    """
    begin = run_ids.index(after) + 1 if after in run_ids else 0
    some = run_ids[begin : begin + most]
    return some, some[-1] if begin + most < len(run_ids) else None


class DataWatch:
    """Remembers how the data files looked, from one scan to the next."""

    def __init__(self, *, settle_seconds: float) -> None:
        self._settle_seconds = settle_seconds
        self._seen: dict[str, Seen] = {}
        self._named: dict[str, list[str]] = {}
        """Pattern or folder → the files that it named when it was last looked at."""
        self.told_at = 0.0
        """When those were last looked at whose turn it is not."""
        self.looked_to: str | None = None
        """The run at which the last round stopped looking; None: it looked at all."""
        self._similar: dict[str, tuple[float, Similar | None]] = {}
        """Missing path → when its neighbours were listed (monotonic), and what was found."""

    def waiting_for(self, inbox: Folder, paths: Iterable[str], at: float) -> DataWait | None:
        """Say what is waited for; None when all is there.

        Every file is looked at each time, so that they settle side by side.
        """
        waits: list[DataWait] = []
        for path in self._files(inbox, paths):
            if path in self._named:  # a pattern or a folder that names no file yet
                what = f"waiting for a file that can be read: jobs/{path}"
                waits.append(DataWait(reason=what, missing=True))
                continue
            try:
                status = inbox.stat(path)
            except UnsafePathError:
                continue  # prepare refuses it with the reason
            except FileNotFoundError:
                self._seen.pop(path, None)
                waits.append(self._missing(inbox, path, at))
                continue
            except OSError:
                continue  # a link or a file on the way: prepare refuses it with the reason
            if status.st_size == 0:
                continue  # an empty file is refused by prepare, not waited for
            seen = look_again(self._seen.get(path), Look.of(status), at)
            self._seen[path] = seen
            settled = is_settled(seen, at=at, settle_seconds=self._settle_seconds)
            if not settled or _is_held_by_its_writer(inbox, path):
                waits.append(DataWait(reason=f"waiting until jobs/{path} is complete"))
        return min(waits, key=lambda wait: not wait.never) if waits else None

    def _files(self, inbox: Folder, paths: Iterable[str]) -> list[str]:
        """Give the files that paths name; a pattern or folder itself where it names none."""
        found: dict[str, None] = {}
        for path in paths:
            files = _named_by(inbox, path)
            if files is None:
                self._named.pop(path, None)
                found[path] = None
                continue
            for gone in set(self._named.get(path, ())) - set(files):
                self._seen.pop(gone, None)
            self._named[path] = files
            found.update(dict.fromkeys(files or [path]))
        return list(found)

    def _missing(self, inbox: Folder, path: str, at: float) -> DataWait:
        looked_at, similar = self._similar.get(path, (-_LOOK_AROUND_SECONDS, None))
        if at - looked_at >= _LOOK_AROUND_SECONDS:
            similar = similar_file(inbox, path)
            self._similar[path] = (at, similar)
        return DataWait(
            reason=f"waiting for jobs/{path}",
            missing=True,
            never=similar is not None and similar.same,
            advice=similar.advice(path) if similar else None,
        )

    @staticmethod
    def looks(inbox: Folder, paths: Iterable[str]) -> tuple[Look | None, ...]:
        """Give how the files look now, to be compared later."""
        found: list[Look | None] = []
        files = [_named_by(inbox, path) or [path] for path in paths]
        for path in dict.fromkeys(file for named in files for file in named):
            try:
                found.append(Look.of(inbox.stat(path)))
            except (OSError, UnsafePathError):
                found.append(None)
        return tuple(found)

    def size_bytes(self, paths: Iterable[str]) -> int:
        """Sum up the data files as they were last seen."""
        files = {file for path in paths for file in self._named.get(path, [path])}
        return sum(seen.look.size_bytes for file in files if (seen := self._seen.get(file)))

    def forget(self, paths: Iterable[str]) -> None:
        """Drop what is known about paths that are no longer waited for.

        How a file looked is kept for a while: the next job may name it, too, and need not wait
        until it has settled once more.
        """
        for path in paths:
            self._named.pop(path, None)
            self._similar.pop(path, None)
        while len(self._seen) > _MOST_SEEN:
            del self._seen[next(iter(self._seen))]


def _named_by(inbox: Folder, path: str) -> list[str] | None:
    try:
        return named_by(inbox, path)
    except (OSError, UnsafePathError):
        return None  # a link or a folder that cannot be listed: prepare refuses it with the reason


def _is_held_by_its_writer(inbox: Folder, path: str) -> bool:
    """Whether somebody writes to a file who lets nobody else open it: Windows, while it copies."""
    try:
        inbox.try_file(path)
    except UnsafePathError:
        return False
    except OSError as error:
        return error.errno in (errno.EBUSY, errno.ETXTBSY, errno.EAGAIN)
    return False
