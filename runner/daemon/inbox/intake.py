"""Intake: what lies in the inbox's root is seen, settles, and is claimed as a run or answered."""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable

from runner.daemon.daemon import Daemon
from runner.daemon.inbox import claim
from runner.daemon.inbox.enter import enter, note_refusal
from runner.daemon.inbox.strays import Strays
from runner.daemon.inbox.view import SPEC_BYTES
from runner.daemon.inbox.wait_for_data import named_files
from runner.daemon.schedule.enter import is_for_schedule, keep_on_schedule
from runner.errors import RunnerError, SpecError, UnansweredError, UnsafePathError
from runner.files.beneath import Folder
from runner.files.settle import Look, Seen, is_settled, look_again
from runner.spec.names import is_spec_name, may_hold_spec, naming_problem, text_problem
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec
from runner.spec.spec_text import is_json_spec, is_text_spec
from runner.words import visible

_CLAIM_SECONDS = 0.08
"""Claiming goes on for so long before the loop looks at everything else: thousands may come, and a
round of the loop is to take 0.2 s at most (rounds.py)."""
_STILL_WRITTEN = (errno.EBUSY, errno.ETXTBSY, errno.EAGAIN)
"""How a server says that somebody has a file open who lets nobody else read it meanwhile."""


class Intake:
    """Remembers what was seen in the root from one scan to the next."""

    def __init__(self, daemon: Daemon) -> None:
        """Begin with an inbox that was never looked at."""
        self.daemon = daemon
        self.settings = daemon.settings
        self.specs: dict[str, Seen] = {}
        """Files that may become runs."""
        self.unclaimable: dict[str, str] = {}
        """File name → what a person must know about it: why it does not become a run."""
        self.strays = Strays(daemon)
        self._not_specs: dict[str, Look] = {}

    def claim_settled(self, inbox: Folder, at: float) -> None:
        """Claim every spec that has been unchanged for long enough, oldest first."""
        until = time.monotonic() + _CLAIM_SECONDS
        seen: dict[str, Seen] = {}
        settled: list[tuple[int, str]] = []
        told: set[str] = set()
        others: set[str] = set()

        def is_wanted(name: str) -> bool:
            wanted = is_spec_name(name) or bool(naming_problem(name)) or may_hold_spec(name)
            if not wanted:
                others.add(name)
            return wanted

        for entry, status in inbox.scan_status(is_wanted):
            if may_hold_spec(entry.name) and not entry.is_file(follow_symlinks=False):
                continue  # a folder, most likely one for data
            if (why := _never_a_spec(entry)) is not None:
                told.add(entry.name)
                self._tell(entry.name, why)
                continue
            if self._not_specs.get(entry.name) == Look.of(status):
                others.add(entry.name)
                continue
            known = look_again(self.specs.get(entry.name), Look.of(status), at)
            new = known is not self.specs.get(entry.name)
            if new and is_spec_name(entry.name) and time.monotonic() < until:
                self._look_at_data(inbox, entry.name, at)
            unchanged = known.unchanged_seconds(at)
            settled_now = is_settled(known, at=at, settle_seconds=self.settings.settle_seconds)
            if settled_now or unchanged >= self._patience:  # the latter: empty for good
                settled.append((status.st_mtime_ns, entry.name))
            seen[entry.name] = known
        self.specs, names = seen, frozenset(seen)
        self.unclaimable = {
            name: why for name, why in self.unclaimable.items() if name in seen or name in told
        }
        until = time.monotonic() + _CLAIM_SECONDS  # its own, however long the listing took
        for _, name in sorted(settled):
            if time.monotonic() >= until:
                self.daemon.next_look = at  # the rest in the next round, at once
                break
            if self._is_as_it_was(inbox, name, at):
                self._take(inbox, name, at)
        others |= names & self._not_specs.keys()
        # While a spec settles it may be the one that names them.
        patience = math.inf if self.specs else self._stray_patience
        self.strays.judge(inbox, others, at, patience_seconds=patience)

    def _is_as_it_was(self, inbox: Folder, name: str, at: float) -> bool:
        """Ask the share's server, once: a listing tells sizes that may be a minute old."""
        try:
            now = look_again(self.specs[name], Look.of(inbox.stat(name)), at)
        except (OSError, UnsafePathError):
            return True  # taking it says what is wrong
        same = now is self.specs[name]
        self.specs[name] = now
        return same

    def _tell(self, name: str, why: str) -> None:
        """Say, once, why a file does not become a run."""
        reason = f"{visible(name)} {why}"
        if self.unclaimable.get(name) != reason:
            self.unclaimable[name] = reason
            self.daemon.log.say(reason, level="warning")

    def _look_at_data(self, inbox: Folder, name: str, at: float) -> None:
        """Begin to watch a new spec's data at once: it settles while the spec does."""
        try:
            content = inbox.read_file(name, limit_bytes=SPEC_BYTES)
            spec = read_spec(content, file_name=claim.dropped_name(name))
        except (OSError, RunnerError):
            return  # half written, or wrong: the claim has the last word
        self.daemon.data.waiting_for(inbox, named_files(spec), at)

    @property
    def _patience(self) -> float:
        s = self.settings
        return s.settle_seconds if s.once else max(s.settle_seconds, s.broken_spec_seconds)

    @property
    def _stray_patience(self) -> float:
        """A spec is often dropped after its data: only then is a file alone."""
        return 0.0 if self.settings.once else self._patience

    def _is_no_spec(self, inbox: Folder, name: str) -> bool:
        """Whether a file that may be a spec by its name is none by its content."""
        if name.lower().endswith(".json"):
            return not _content_is(is_json_spec, inbox, name)
        if not may_hold_spec(name):
            return False
        try:
            return not _content_is(is_text_spec, inbox, name)
        except FileNotFoundError:
            raise
        except OSError:
            return True  # a note that is nobody's business, until it changes

    def _take(self, inbox: Folder, name: str, at: float) -> None:
        daemon = self.daemon
        run_id = daemon.book.new_id()
        try:
            problem = naming_problem(name)
            if problem is not None:
                note_refusal(
                    daemon,
                    claim.refuse_name(inbox, name, problem, run_id=run_id, speak=daemon.says.speak),
                )
                self.specs.pop(name, None)
                return
            if self._is_no_spec(inbox, name):
                self._not_specs[name] = self.specs.pop(name).look
                return
            if may_hold_spec(name):
                problem = text_problem(name)
                note_refusal(
                    daemon,
                    claim.refuse_name(inbox, name, problem, run_id=run_id, speak=daemon.says.speak),
                )
                self.specs.pop(name, None)
                return
            found = claim.peek(inbox, name, cards=daemon.cards.served)
            unchanged = self.specs[name].unchanged_seconds(at)
            if isinstance(found, SpecError) and found.may_be_incomplete:
                if unchanged < self._patience:
                    return
            elif isinstance(found, JobSpec) and is_for_schedule(name, found):
                daemon.book.forget(run_id)
                keep_on_schedule(daemon, inbox, name, found, run_id=run_id)
                self.specs.pop(name, None)
                self.unclaimable.pop(name, None)
                return
            taken = claim.claim(
                inbox,
                daemon.outputs,
                name,
                run_id=run_id,
                sequence=daemon.book.sequence + 1,
                cards=daemon.cards.served,
                speak=daemon.says.speak,
            )
        except FileNotFoundError:
            self.specs.pop(name, None)
            return
        except UnansweredError:
            daemon.book.forget(run_id)  # as below: what is moved in the end is adopted
            raise
        except (OSError, UnsafePathError) as error:  # one that cannot be taken holds up no others
            # Where it was moved already, it is adopted from queued/ as soon as that is possible.
            daemon.book.forget(run_id)
            if getattr(error, "errno", None) in _STILL_WRITTEN and not self.settings.once:
                return
            self._tell(name, _cannot_be_taken(error))
            daemon.book.all_succeeded = False
            if self.settings.once:
                self.specs.pop(name, None)
            return
        self.specs.pop(name, None)
        self.unclaimable.pop(name, None)
        enter(daemon, taken)


def _content_is(kind: Callable[[bytes], bool], inbox: Folder, name: str) -> bool:
    """Ask a question about a file's content.

    Raises:
        OSError: it is gone, or may not be read.
    """
    try:
        return kind(inbox.read_file(name, limit_bytes=SPEC_BYTES))
    except UnsafePathError:
        return False


def _never_a_spec(entry: os.DirEntry[str]) -> str | None:
    """Say why what is named like a spec is none, whatever becomes of it; None for a file."""
    if entry.is_dir(follow_symlinks=False):
        return "is a folder, not a spec: put the spec file itself into the jobs folder"
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "has a name that cannot be read as text (UTF-8): rename it"
    return None


def _cannot_be_taken(error: OSError | UnsafePathError) -> str:
    if isinstance(error, UnsafePathError):
        return f"cannot be claimed: {error.message}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"cannot be read or moved ({error.strerror}): give everyone who may drop jobs the "
            "right to read and change it"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot be taken yet ({error.strerror}): make room, and it is taken by itself"
    return f"cannot be taken: {error.strerror}. Copy it again"
