"""Standing by: what the daemon tells a process that is ready, so that it becomes a stage."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import ClassVar

STAND_BY = "stand-by"
"""Word in a stage's place: import, and wait to be told which stage it is."""


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """What it is told; descriptors come with it: log, locks."""

    BYTES: ClassVar[int] = 16 * 1024
    """Longer than any path."""
    DESCRIPTORS: ClassVar[int] = 8

    daemon: int
    """Its pid."""
    stage: str
    folder: str
    """Absolute."""

    def to_bytes(self) -> bytes:
        """Write it down."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, told: bytes) -> HandOver:
        """Read it: both ends are of one version, and nobody else has the socket."""
        return cls(**json.loads(told))
