"""Cluster: the files by which further boxes train for one whose queue they share.

    outputs/.runner/cluster/
      head.json         of the box with the queue (the head): which tickets hold, said anew
      boxes/NAME.json   of a further box: its version and cards, and a counter that shows it lives
      tickets/X.json    one attempt of a run, for one card of one box; written by the head
      seen/X.json       what that box says of it: taken, started, ended

Each file has one writer, and is replaced as a whole. No times are compared between machines: a
counter that moves shows that somebody lives, by the clock of whoever looks (docs/cluster.md).
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.contract.layout import RUN_ID, Outputs
from runner.files.durable import TEMPORARY_PREFIX, write_json
from runner.files.mounts import is_nfs, is_smb
from runner.files.plain import read_plain

BOX_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""A box's name: it becomes a file's name, and people read it."""
MARGIN = 0.5
"""Of the lease: for a share that shows a file late, and for two clocks that run unalike."""
BEATS_A_LEASE = 6
"""So many chances has a counter to move before somebody is taken to be away."""
ODD_FILE = frozenset({errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO})
"""What an OSError tells of a link, a folder or a pipe under a message's name."""
OF_ONE_FILE = ODD_FILE | {errno.EACCES, errno.EPERM}
"""What it tells of one file, which may be somebody else's, and not of the share."""
_BYTES = 256 * 1024  # of one file; a head with a thousand tickets has 100 KB
_TOKEN = r"[0-9a-f]{8,32}"  # noqa: S105 - the shape of one


_Name = Annotated[str, Field(max_length=200)]
_Words = Annotated[str, Field(max_length=4096)]
WORDS_TOLD = 1000
"""Characters of an error's words that a message has: one that is too long is not understood."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Order(StrEnum):
    """What the head says of a ticket."""

    GO = "go"
    STOP = "stop"
    """Leave a checkpoint and end."""
    KILL = "kill"


class Held(_Message):
    """A ticket that holds: its attempt is the one that the record knows."""

    box: str
    order: Order = Order.GO


class Head(_Message):
    """head.json. A ticket that is not among these holds no longer: its stage is to end."""

    head: str
    """Drawn at each start of the daemon; with the counter it is never the same twice."""
    counter: int
    version: str
    lease_seconds: float = Field(gt=0)
    """A box whose head has not moved for so long ends its stages."""
    grace_seconds: float = Field(gt=0)
    """So long has a stage to leave a checkpoint before it is killed."""
    tickets: dict[str, Held] = {}

    @property
    def beat_seconds(self) -> float:
        """How often each side moves its counter."""
        return self.lease_seconds / BEATS_A_LEASE


class BoxCard(_Message):
    """A card of a further box."""

    number: _Name = "0"
    uuid: _Name = ""
    """Empty: it has no card, and its processor computes."""
    name: _Name = ""
    memory: dict[str, Any] | None = None
    """As `runner.card.memory` tells it; None: no card, or its driver does not answer."""
    problem: _Words = ""
    """Why nothing may start on it."""


class BoxSaid(_Message):
    """boxes/NAME.json."""

    box: str
    agent: _Name
    """Drawn at each start of its agent."""
    version: _Name
    counter: int
    outputs_dir: _Words
    models_dir: _Words
    models: tuple[str, ...] = ()
    """Those that it sees."""
    cards: tuple[BoxCard, ...] = ()


class Ticket(_Message):
    """tickets/X.json: no command, no path and no variable stands in it, only names."""

    box: str = Field(pattern=f"^{BOX_NAME.pattern}$")
    card: str = ""
    """UUID; empty: the processor."""
    job: str
    run_id: str = Field(pattern=f"^{RUN_ID.pattern}$")
    number: int = Field(ge=1, le=9999)
    token: str = Field(pattern=f"^{_TOKEN}$")
    spare_host_memory: bool = False

    @property
    def name(self) -> str:
        """Of its file, and in head.json."""
        return f"{self.run_id}-{self.number:02d}"

    def folder(self, outputs: Outputs) -> Path:
        """Give the attempt's folder.

        Raises:
            ValueError: the job's name leads elsewhere.
        """
        if self.job in ("", ".", "..") or "/" in self.job or "\0" in self.job:
            raise ValueError("a job's name is no path")
        return outputs.run(self.job, self.run_id).attempt(self.number, self.token)


class Now(StrEnum):
    """How far a box is with a ticket."""

    TAKEN = "taken"
    """It is about to start the stage: whoever finds this after a crash starts no second one."""
    STARTED = "started"
    ENDED = "ended"


class Why(StrEnum):
    """Why a stage on a further box ended."""

    ITSELF = "itself"
    ASKED = "asked"
    LEASE = "lease"
    """The head was not seen for the length of a lease."""
    AGENT = "agent"
    """The box's agent went down under it."""
    NOT_SEEN = "not seen"
    """The box does not see the attempt's folder, or could not start anything in it."""


class Seen(_Message):
    """seen/X.json."""

    ticket: str
    token: str
    agent: str
    now: Now
    pid: int = 0
    exit_code: int | None = None
    """What the end means; None: nobody saw it."""
    why: Why = Why.ITSELF
    reason: _Words = ""


@dataclass(frozen=True)
class ClusterFolder:
    """Where these files lie."""

    root: Path

    @classmethod
    def of(cls, outputs: Outputs) -> ClusterFolder:
        """Give that of an outputs folder."""
        return cls(outputs.private / "cluster")

    @property
    def head(self) -> Path:
        """What the head says."""
        return self.root / "head.json"

    @property
    def boxes(self) -> Path:
        """A file for each further box."""
        return self.root / "boxes"

    def box(self, name: str) -> Path:
        """What one of them says."""
        return self.boxes / f"{name}.json"

    @property
    def tickets(self) -> Path:
        """A file for each attempt on a further box."""
        return self.root / "tickets"

    def ticket(self, name: str) -> Path:
        """One of them."""
        return self.tickets / f"{name}.json"

    @property
    def seen(self) -> Path:
        """What boxes say of their tickets."""
        return self.root / "seen"

    def seen_of(self, name: str) -> Path:
        """Of one of them."""
        return self.seen / f"{name}.json"


M = TypeVar("M", bound=_Message)


def say(path: Path, message: _Message) -> None:
    """Replace a file by what is said now.

    Raises:
        OSError: the share is away or full.
    """
    write_json(path, message.model_dump(mode="json"))


def hear(path: Path, kind: type[M]) -> M | None:
    """Read what somebody says; None: nothing yet, or nothing that can be understood.

    Raises:
        OSError: the share itself cannot be read.
    """
    try:
        content = _read(path)
    except FileNotFoundError:
        # NFS takes a name that was missing to be missing for up to a minute more; a listing is new.
        if path.name not in os.listdir(path.parent):
            return None
        content = _read(path)
    try:
        return kind.model_validate(json.loads(content))
    except (ValueError, ValidationError, RecursionError):
        return None


def _read(path: Path) -> bytes:
    # By NFS, a file that was opened is this machine's until the server asks for it back
    # (delegation): while a box is cut off, nobody could replace it. O_DIRECT asks for none.
    direct = os.O_DIRECT if is_nfs(path.parent) else 0
    # By SMB, a file is open for a second more (closetimeo), and while it is, its name is not asked
    # for: whoever looks twice a second would read what was replaced long ago. A listing asks.
    if is_smb(path.parent):
        os.listdir(path.parent)
    return read_plain(path, limit_bytes=_BYTES, extra_flags=direct)


def in_the_way(error: OSError) -> str:
    """Give the path of a file that a person must remove; empty: it is not one file that is wrong.

    A name that was drawn for a file to be renamed is none: it would be another one each time.
    """
    which = error.filename2 or error.filename
    if not isinstance(which, str | bytes) or error.errno not in ODD_FILE | {errno.EEXIST}:
        return ""
    path = os.fsdecode(which)
    return "" if os.path.basename(path).startswith(TEMPORARY_PREFIX) else path


def fence_seconds(lease_seconds: float, grace_seconds: float) -> float:
    """Give how long after a box was taken to be away its stage may still run.

    It ends its stages when the head has not moved for a lease, and kills them a grace later.
    """
    return lease_seconds + grace_seconds + MARGIN * lease_seconds
