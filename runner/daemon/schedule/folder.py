"""The folder jobs/scheduled/: which specs lie there, read when they have settled.

Anything may lie beside them: links, pipes, folders, thousands of files. It is listed every few
seconds, each spec is read once, and reading goes on in the next round where it takes long.
"""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass

from runner.contract.settings import Settings
from runner.daemon.inbox.view import SPEC_BYTES
from runner.errors import SpecError, UnsafePathError
from runner.files.beneath import Folder
from runner.files.settle import Look, Seen, is_settled, look_again
from runner.spec.names import is_spec_name
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec
from runner.words import visible

MOST = 1000  # schedules: each is a line of the file that is written before a run starts
NO_SCHEDULE = (
    "it has no schedule. Add a line such as\n"
    '    schedule: "0 2 * * sun"\n'
    "or move it to jobs/ itself, to run once."
)


@dataclass(kw_only=True)
class SpecFile:
    """One spec as it was last seen and read."""

    seen: Seen
    read: Look | None = None
    """How it looked when it was read; None: not yet."""
    spec: JobSpec | None = None
    """What it says; None: it cannot be used."""
    sha256: str = ""
    fault: str = ""
    """Why it cannot be used."""
    twin: str = ""
    """Another file there that is the schedule of the same job, and counts."""

    @property
    def problem(self) -> str:
        """Why it starts nothing."""
        if self.fault or not self.twin or self.spec is None:
            return self.fault
        return (
            f"{visible(self.twin)} is the schedule of the same job, {self.spec.name}. Delete one "
            "of the two, or give this one a name: of its own."
        )

    @property
    def is_current(self) -> bool:
        """Whether what was read is what lies there."""
        return self.read == self.seen.look


class ScheduledFolder:
    """Remembers what lies in the folder from one look to the next."""

    def __init__(self, settings: Settings) -> None:
        """Begin with a folder that was never looked at."""
        self._settings = settings
        self.files: dict[str, SpecFile] = {}
        self.odd: tuple[str, ...] = ()
        """What is named like a spec and is no plain file."""
        self.too_many = False
        self._listed_at: float | None = None

    def is_due(self, at: float) -> bool:
        """Whether it is time for another listing."""
        if self._listed_at is None or self._settings.once:
            return True
        return at - self._listed_at >= self._settings.settle_seconds  # sooner, nothing has settled

    def list(self, folder: Folder, at: float) -> None:
        """See which specs are there."""
        self._listed_at = at
        there: dict[str, Look] = {}
        odd = []
        for entry, status in folder.scan_status(is_spec_name):
            if not entry.name.isprintable() or not stat.S_ISREG(status.st_mode):
                odd.append(entry.name)
            else:
                there[entry.name] = Look.of(status)
        self.odd = tuple(sorted(odd))
        self.too_many = len(there) > MOST
        files = {}
        for name in sorted(there)[:MOST]:
            known = self.files.get(name)
            seen = look_again(known.seen if known else None, there[name], at)
            files[name] = known or SpecFile(seen=seen)
            files[name].seen = seen
        self.files = files

    def find_twins(self, counts: Collection[str]) -> None:
        """Let one file of each job count: one of ``counts`` before others, else by name."""
        owners: dict[str, str] = {}
        for name in sorted(self.files, key=lambda name: (name not in counts, name)):
            file = self.files[name]
            if file.spec is not None and not file.fault:
                owner = owners.setdefault(file.spec.name, name)
                file.twin = "" if owner == name else owner

    def read(self, folder: Folder, at: float, *, until: float) -> bool:
        """Read what has settled; False: the rest is read in the next round.

        Args:
            folder: the folder.
            at: the loop's time.
            until: monotonic time after which no further one is begun.
        """
        for name, file in self.files.items():
            if file.is_current or not self._has_settled(file, at):
                continue
            if time.monotonic() >= until:
                return False
            self._read(folder, name, file, at)
        return True

    def _has_settled(self, file: SpecFile, at: float) -> bool:
        if self._settings.once:
            return file.seen.look.size_bytes > 0
        settle = self._settings.settle_seconds
        return is_settled(file.seen, at=at, settle_seconds=settle)

    def _read(self, folder: Folder, name: str, file: SpecFile, at: float) -> None:
        patience = self._settings.broken_spec_seconds
        try:
            content = folder.read_file(name, limit_bytes=SPEC_BYTES)
            spec = read_spec(content, file_name=name)
        except FileNotFoundError:
            return
        except SpecError as error:
            unchanged = file.seen.unchanged_seconds(at)
            if error.may_be_incomplete and unchanged < patience and not self._settings.once:
                return
            file.spec, file.fault = None, error.message
        except UnsafePathError as error:
            file.spec, file.fault = None, error.message
        except OSError as error:
            # Read again at the next look: whether it can be, the file's times do not tell.
            file.spec, file.fault = None, f"{name} cannot be read ({error.strerror})"
            return
        else:
            file.spec, file.fault = spec, "" if spec.schedule else f"{name}: {NO_SCHEDULE}"
            file.sha256 = hashlib.sha256(content).hexdigest()
        file.read = file.seen.look
