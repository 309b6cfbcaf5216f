"""Turns a trace of system calls into the renames that a power cut could undo or leave torn."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from daemon_box import REPOSITORY
from kill_box import KillBox

TRACED = (
    "openat,rename,renameat,renameat2,fsync,fdatasync,write,pwrite64,writev,sendfile,"
    "copy_file_range,ftruncate,fallocate,unlink,unlinkat"
)
# Records and messages, the claim's moves, snapshots, checkpoints, the adapter. Not: answers (they
# are written anew), what is thrown away, a library's own folders.
COUNTS = re.compile(
    r"/outputs/[^.][^/]*/[^/]+/((attempts/\d+-[0-9a-f]+|prepared|export|evaluation)/)?"
    r"((run|plan|result)\.json|spec\.yaml|adapter|(checkpoints/step-\d+)(/manifest\.json)?"
    r"|data/[^.][^/]*)$"
    r"|/jobs/(queued|running|done|rejected)/[^/]*\.yaml$"
)
TRACES = "traces"
"""In the box's folder."""
_COMMAND = [
    "strace",
    "--seccomp-bpf",
    "-ff",
    "-y",
    "-s",
    "0",
    "-e",
    f"trace={TRACED}",
    "-e",
    "signal=none",
    "-o",
]

_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")
_PATH = re.compile(r"(?:\d+|AT_FDCWD)<([^>]*)>")
_NAMES = re.compile(r'(?:(?:\d+|AT_FDCWD)<([^>]*)>, )?"([^"]*)"\.{0,3}')


@dataclass(kw_only=True)
class Process:
    """What one process wrote, synced and renamed."""

    dirty: set[str] = field(default_factory=set)
    """Files written to and not synced since."""
    unsynced_folders: dict[str, str] = field(default_factory=dict)
    """Folder → the rename in it that is not durable yet."""
    renamed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def wrote(self, path: str) -> None:
        """Note a write."""
        self.dirty.add(path)

    def synced(self, path: str) -> None:
        """Note an fsync."""
        self.dirty.discard(path)
        self.unsynced_folders.pop(path, None)

    def moved(self, source: str, target: str) -> None:
        """Note a rename that is not judged: what is under the new name is as dirty as it was."""
        self.dirty = {
            target + path[len(source) :]
            if path == source or path.startswith(source + "/")
            else path
            for path in self.dirty
        }

    def rename(self, source: str, target: str, *, content_is_ours: bool) -> None:
        """Judge a rename by what was synced before it and after the one before."""
        self.renamed.append(target)
        torn = [p for p in self.dirty if p == source or p.startswith(source + "/")]
        if content_is_ours and torn:
            self.faults.append(f"{target} was named before {torn} were synced")
        self.dirty -= set(torn)
        folders = {os.path.dirname(source), os.path.dirname(target)}
        self.folder_must_be_synced_by_now(except_for=folders)
        for folder in folders:
            self.unsynced_folders[folder] = target

    def folder_must_be_synced_by_now(self, *, except_for: Collection[str] = ()) -> None:
        """Judge the renames so far; several between the same folders may share one sync."""
        for folder, target in list(self.unsynced_folders.items()):
            if folder not in except_for:
                self.faults.append(f"{folder} was not synced after {target} was named")
                del self.unsynced_folders[folder]


def _whole(folder: str, name: str) -> str:
    return os.path.normpath(os.path.join(folder, name))


def judge(trace: Iterable[str], counts: re.Pattern[str]) -> Process:
    """Read one process's trace; only renames to paths that match ``counts`` are judged."""
    process = Process()
    for line in trace:
        call = _CALL.match(line)
        if call is None or int(call[3]) < 0:
            continue
        name, arguments = call[1], call[2]
        if name in ("fsync", "fdatasync"):
            process.synced(_PATH.findall(arguments)[0])
        elif name.startswith("rename"):
            (from_folder, source), (to_folder, target) = _NAMES.findall(arguments)[:2]
            source, target = _whole(from_folder, source), _whole(to_folder, target)
            if counts.search(target):
                ours = name == "rename"
                process.rename(source, target, content_is_ours=ours)
            else:
                process.moved(source, target)
        elif name.startswith("unlink"):
            folder, path = _NAMES.findall(arguments)[0]
            process.dirty.discard(_whole(folder, path))
        elif name == "openat":
            if "O_CREAT" in arguments and "O_APPEND" not in arguments:
                folder, path = _NAMES.findall(arguments)[0]
                process.wrote(_whole(folder, path))
        else:
            paths = _PATH.findall(arguments)
            target = paths[-1] if name == "copy_file_range" else paths[0]
            process.wrote(target)
    process.folder_must_be_synced_by_now()
    return process


def judge_all(folder: Path, counts: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Judge the traces in a folder: what was renamed, and what is wrong with it."""
    renamed: list[str] = []
    faults: list[str] = []
    for path in sorted(folder.iterdir()):
        with path.open(errors="replace") as trace:
            found = judge(trace, counts)
        renamed += found.renamed
        faults += found.faults
    return renamed, faults


needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None,
    reason="NO STRACE HERE: nothing is proved about fsync (it is a Debian package)",
)


def traced(box: KillBox) -> None:
    """Let a box work off what is there, and trace it and its stages."""
    traces = box.root / TRACES
    traces.mkdir()
    with (box.root / "daemon.out").open("ab") as output:
        subprocess.run(
            [*_COMMAND, str(traces / "of"), *box.command(once=True)],
            cwd=REPOSITORY,
            env=box.environment,
            stdout=output,
            stderr=output,
            check=False,
            timeout=500,
        )


def kinds(renamed: list[str]) -> set[str]:
    """Give the last part of each name, without its numbers."""
    return {re.sub(r"\d+", "N", path.rpartition("/")[2]) for path in renamed}
