"""Stray files: a zip, a document or a table that was dropped into the inbox without a spec.

Whoever drops ``akten.zip`` alone expects something to happen. STATUS.txt says that nothing will,
and what to do, once the file has been there for a while and no spec, old or new, names it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from runner.contract.layout import STATE_FOLDERS, run_id_of
from runner.daemon.daemon import Daemon
from runner.daemon.inbox.wait_for_data import named_files
from runner.errors import RunnerError, UnsafePathError
from runner.files.beneath import Folder
from runner.spec.data_files import is_pattern, matches
from runner.spec.names import stray_reason
from runner.words import visible

_SPECS_READ = 40  # the newest: data that older ones named may lie there, and is spoken of once
_SPEC_BYTES = 64 * 1024  # as much as a spec may have


class Strays:
    """Remembers since when files lie in the inbox's root that are no spec."""

    def __init__(self, daemon: Daemon) -> None:
        """Begin with an inbox that was never looked at."""
        self.daemon = daemon
        self.sentences: dict[str, str] = {}
        """File name → what a person must know about it."""
        self._first_seen: dict[str, float] = {}
        self._named: set[str] = set()

    def judge(
        self, inbox: Folder, names: Collection[str], at: float, *, patience_seconds: float
    ) -> None:
        """Say of each file whether a person should know about it."""
        present = {name for name in names if stray_reason(name)}
        self._first_seen = {name: self._first_seen.get(name, at) for name in present}
        self._named &= present
        self.sentences = {n: s for n, s in self.sentences.items() if n in present}
        if self.sentences:
            for name in self._named_by_live_runs() & self.sentences.keys():
                del self.sentences[name]
                self._named.add(name)
        due = {
            name
            for name, since in self._first_seen.items()
            if at - since >= patience_seconds
            and name not in self._named
            and name not in self.sentences
        }
        if not due:
            return
        due -= (named := due & self._named_by_live_runs())
        texts = _spec_texts(inbox) if due else []
        named |= {name for name in due if any(name.encode() in text for text in texts)}
        self._named |= named
        for name in sorted(due - named):
            self.sentences[name] = f"{visible(name)} {stray_reason(name)}."
            self.daemon.log.say(self.sentences[name], level="warning")

    def _named_by_live_runs(self) -> set[str]:
        live = self.daemon.book.runs.values()
        paths = {path for one in live for path in named_files(one.spec)}
        paths |= self.daemon.scheduled_data
        patterns = [path for path in paths if is_pattern(path)]
        known = self._first_seen
        return paths | {name for name in known for path in patterns if matches(name, path)}


def _spec_texts(inbox: Folder) -> list[bytes]:
    """Read the newest specs that were dropped: what one of them names is no stray."""
    found: list[tuple[str, str]] = []
    for state_folder in STATE_FOLDERS:
        # One that cannot be looked into is spoken of elsewhere.
        with (
            contextlib.suppress(OSError, UnsafePathError),
            inbox.open_folder(state_folder) as folder,
        ):
            found += [
                (run_id, f"{state_folder}/{entry.name}")
                for entry in folder.scan()
                if (run_id := run_id_of(entry.name)) and not entry.name.endswith((".txt", ".html"))
            ]
    texts = []
    for _, path in sorted(found, reverse=True)[:_SPECS_READ]:
        try:
            texts.append(inbox.read_file(path, limit_bytes=_SPEC_BYTES))
        except (OSError, RunnerError):
            continue  # moved or deleted meanwhile, or not a file that may be read
    return texts
