"""Errors: what went wrong, in words that a person can act on.

RunnerError
├── InputError            a spec, data file or model that cannot be used; never retried
│   ├── SpecError         the job spec
│   ├── DataError         the rows
│   └── ModelError        the base model
├── UnsafePathError       a path that leaves its folder, a link, a pipe, a device
├── UnansweredError       a file system that does not answer
├── BusyError             a lock or the GPU is held by somebody else, who is named
├── DamagedError          a record or checkpoint that cannot be trusted
│   └── NewerRecordError  a record that a newer version of the runner wrote
└── StageError            a stage that ended in a known way; carries its exit code
UnreadableError           an OSError: a file that cannot be read now; what it holds is not known
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from runner.exit_codes import ExitCode

BOX_WIDE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""What an OSError tells of the whole disk, not of one file: everything on it waits."""
HOST_MEMORY_ADVICE = (
    "Close other programs on this machine, or give the runner (its container, or the machine) more "
    "memory; docs/out-of-memory.md says what uses it."
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with an input, where it is, and how to fix it."""

    message: str
    """What is wrong, in one sentence, without any content of a data row."""
    file: str | None = None
    """The file as its owner knows it: relative to the folder it was dropped into."""
    line: int | None = None
    """1-based line in that file."""
    field: str | None = None
    """Dotted name of the spec's field, such as ``training.learning_rate``."""
    found: str | None = None
    """What stands there now."""
    allowed: str | None = None
    """What may stand there."""
    hint: str | None = None
    """What to do next: "did you mean", a command, a value that would work."""
    count: int = 1
    """How many rows or places have this problem; ``line`` is then the first."""
    lines: tuple[int, ...] = ()
    """The first of those places, where they are known."""
    unit: str = "line"
    """What ``line`` counts: ``row`` in files that have no lines of text, such as Parquet."""

    @property
    def place(self) -> str:
        """Name the lines: ``line 3``, ``lines 2, 6 and 10``, ``lines 2, 6, 10 and 40 more``."""
        lines = [str(line) for line in self.lines or ([self.line] if self.line else [])]
        left = self.count - len(lines) if lines else 0
        *others, last = [*lines, *([f"{left} more"] if left > 0 else [])] or [""]
        named = f"{', '.join(others)} and {last}" if others else last
        return f"{self.unit}{'s' * bool(others)} {named}" if named else ""

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.file, self.place) if part)
        text = (f"{where}: " if where else "") + (f"{self.field}: " if self.field else "")
        text += self.message
        if self.count > 1 and not self.lines:
            text += f" ({self.count} places; the first is shown)"
        if self.found is not None:
            text += f"\n    Found: {self.found}"
        if self.allowed is not None:
            text += f"\n    Allowed: {self.allowed}"
        if self.hint is not None:
            text += f"\n    How to fix: {self.hint}"
        return text


class RunnerError(Exception):
    """Something went wrong that a person can act on."""

    kind = "error"

    def __init__(self, message: str | None = None, *, advice: str | None = None) -> None:
        """Take the message (default: the class's docstring) and what to do next."""
        self.message = message or (self.__doc__ or "").strip()
        self.advice = advice
        super().__init__(self.message)


class InputError(RunnerError):
    """The job cannot be run as it stands."""

    kind = "bad_input"

    def __init__(self, problems: Sequence[Problem], *, advice: str | None = None) -> None:
        """Take every problem at once, so that all are corrected in one go."""
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems), advice=advice)

    def reword(self, problems: Sequence[Problem]) -> None:
        """Take the same problems once more is known of them: where they are."""
        self.problems = tuple(problems)
        self.message = "\n".join(str(problem) for problem in self.problems)
        self.args = (self.message,)


class SpecError(InputError):
    """The job spec cannot be used."""

    kind = "bad_spec"

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        may_be_incomplete: bool = False,
        advice: str | None = None,
    ) -> None:
        """Take the problems, and whether more bytes of the same file could set it right."""
        self.may_be_incomplete = may_be_incomplete
        super().__init__(problems, advice=advice)


class DataError(InputError):
    """The data cannot be used."""

    kind = "bad_data"


class ModelError(InputError):
    """The base model cannot be used."""

    kind = "bad_model"


class UnsafePathError(RunnerError):
    """A path leads outside its folder, or through a link, or to something that is no plain file."""

    kind = "unsafe_path"

    def __init__(self, path: str, what: str, *, advice: str) -> None:
        """Take the path and, apart from it, what is wrong: some callers name the file."""
        self.what = what
        super().__init__(f"{path!r} {what}", advice=advice)


class UnansweredError(RunnerError):
    """A file system that did not answer in time: what was asked of it may yet happen."""

    kind = "unanswered"


class BusyError(RunnerError):
    """Somebody else holds what is needed."""

    kind = "busy"


class DamagedError(RunnerError):
    """A file that the runner wrote can no longer be trusted."""

    kind = "damaged"


class NewerRecordError(DamagedError):
    """A newer version of the runner wrote it; it is left for that one."""

    kind = "newer_record"


class StageError(RunnerError):
    """A stage ended in a way that has an exit code of its own."""

    kind = "stage"

    def __init__(
        self, message: str, *, exit_code: ExitCode, kind: str, advice: str | None = None
    ) -> None:
        """Take the exit code that the stage leaves with and the kind written to the record."""
        self.exit_code = exit_code
        self.kind = kind
        super().__init__(message, advice=advice)


class UnreadableError(OSError):
    """A file that cannot be read now, and says nothing by that of what it holds.

    It has a number, its words and the file's name (`runner.files.unreadable`).
    """
