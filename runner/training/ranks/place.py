"""Place of a process among the ranks of a stage: its number, and the folder that it writes to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.contract.layout import StageFolder

FLAG = "--rank="
"""Of a rank's command line: its number, how many there are, and where they meet."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which of how many."""

    rank: int
    size: int
    meeting: Path
    """A file on a disk of this machine, by which the ranks find each other."""

    @property
    def flag(self) -> str:
        """The word of a command line that says it."""
        return f"{FLAG}{self.rank}/{self.size}@{self.meeting}"

    @classmethod
    def read(cls, word: str) -> Place:
        """Read that word."""
        numbers, _, meeting = word.removeprefix(FLAG).partition("@")
        rank, _, size = numbers.partition("/")
        return cls(rank=int(rank), size=int(size), meeting=Path(meeting))


def folder_of(stage: Path, rank: int) -> StageFolder:
    """Give the folder that a rank writes to: the first one's is the stage's own.

    The others' metrics, result and log are for whoever looks into a failure; what the run keeps is
    written by the first rank alone.
    """
    return StageFolder(StageFolder(stage).ranks / str(rank) if rank else stage)
