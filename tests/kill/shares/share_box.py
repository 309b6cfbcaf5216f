"""Turns a share into a box's inbox, into which people drop from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from daemon_box import wait_until
from kill_box import KillBox
from served import Served

from runner.contract.states import State

SETTLE_SECONDS = 1.0  # as short as the servers' own caching of sizes and times allows


class ShareBox(KillBox):
    """A box that is empty but for the files of people."""

    def __init__(self, root: Path, served: Served) -> None:
        self.served = served
        super().__init__(root)

    def fill(self) -> None:
        """Drop nothing."""

    @property
    def people(self) -> Path:
        """The inbox as people see it from their own machines."""
        return self.served.people

    def settings(self) -> dict[str, Any]:
        """Give the settings of the daemon under test."""
        return {**super().settings(), "settle_seconds": SETTLE_SECONDS, "polling": None}

    def put(self, name: str, *, state: State = State.SUCCEEDED) -> Path:
        """Let somebody drop a spec and its data, and remember how it must end."""
        job = f"job{len(self.dropped)}"
        (self.people / f"{job}.jsonl").write_text(f"rows of {job}")
        text = f"model: m\ndata: {job}.jsonl\nname: {job}\n"
        (self.people / name).write_text(text)
        self.expect(name, text, state)
        return self.people / name

    def expect(self, name: str, text: str, state: State = State.SUCCEEDED) -> None:
        """Remember how a spec must end."""
        self.dropped[name] = (text.encode(), state)

    def all_over(self) -> bool:
        """Whether every spec has ended and its answer is written."""
        try:
            shown = [
                path.name
                for state in (State.SUCCEEDED, State.REJECTED, State.FAILED, State.CANCELLED)
                for path in (self.people / state.folder).glob("*.txt")
            ]
        except BlockingIOError:  # cifs says so, rarely, of a folder that is just being changed
            return False
        return len(shown) >= len(self.dropped) and all(r.state.is_final for r in self.records())

    def wait_for_all(self, *, seconds: float = 60) -> None:
        """Wait until every spec has ended."""
        wait_until(self.all_over, seconds=seconds)

    def said(self) -> str:
        """Give what the daemon has printed."""
        return (self.root / "daemon.out").read_text()

    def status(self) -> str:
        """Give STATUS.txt as people see it."""
        path = self.people / "STATUS.txt"
        return path.read_text() if os.path.exists(path) else ""
