"""Names of files in the inbox: which are specs, how to rename a near miss, which are strays."""

from __future__ import annotations

import re

from runner.contract.layout import RESERVED_FOLDERS
from runner.errors import Problem
from runner.spec.file_kinds import ROWS, SAVE_AS, ending
from runner.spec.tree import shown

OWN_FILES = frozenset({"status.txt", "howto.txt", "readme.txt", "readme.md", "readme"})
"""Texts that belong in the inbox; in small letters."""
SPEC_SUFFIXES = (".yaml", ".yml", ".json")

_TEMPORARY = re.compile(
    r"\..*"  # dotfiles, our own .tmp-, macOS ._x, .DS_Store, rsync's .x.yaml.AbC123
    r"|~.*|.*~"  # Office's ~$x, editors' x.yaml~
    r"|#.*#"  # Emacs
    r"|.*\.(part|partial|tmp|temp|swp|swo|swx|crdownload|download|filepart|bak|old|orig|lock)"
    r"|.*\.sb-[0-9a-f]+-\w+"  # macOS saving over SMB
    r"|.*[-.]sync-conflict-\d.*|.* \(conflicted copy .*|.*\(.*'s conflicted copy .*",
    re.IGNORECASE | re.DOTALL,
)
_PACKED = (".zip", ".7z", ".rar", ".gz", ".tgz", ".tar", ".bz2", ".xz")
_NEAR_MISS = re.compile(
    r"(.+?\.(?:yaml|yml|json))[ .]*(?:\.(?:txt|text|doc|docx|rtf))?[ .]*"
    r"|(.+)\.(?:yaml|yml|ymal|yalm|yaml1|yam)(?: ?\(\d+\))?",
    re.IGNORECASE,
)


def is_temporary_name(name: str) -> bool:
    """Whether an editor or a sync client made this file for its own use."""
    return _TEMPORARY.fullmatch(name) is not None


def is_spec_name(name: str) -> bool:
    """Whether a file of this name in the inbox's root may be a spec."""
    return (
        not is_temporary_name(name)
        and name.lower().endswith(SPEC_SUFFIXES)
        and name.lower() not in SPEC_SUFFIXES
    )


def naming_problem(name: str) -> Problem | None:
    """Say how to rename a file that was surely meant to be a spec; None for every other file."""
    if is_temporary_name(name) or is_spec_name(name):
        return None
    match = _NEAR_MISS.fullmatch(name)
    if match is None:
        return None
    good = match[1] or f"{match[2]}.yaml"
    if not is_spec_name(good):
        return None
    if ending(name) in (".doc", ".docx", ".rtf"):
        return Problem(
            file=shown(name),
            message="this is a document of Word or WordPad; a job spec is a plain text",
            hint=f"copy its lines into Notepad, and save them as {shown(good)} (Save as type: All "
            "files)",
        )
    return Problem(
        file=shown(name),
        message="a job spec's name ends in .yaml, .yml or .json, and this one does not",
        hint=f"rename it to {shown(good)} (Windows hides the last ending: in the Explorer, "
        "View > Show > File name extensions)",
    )


def may_hold_spec(name: str) -> bool:
    """Whether a file may be a spec by its content: Notepad's default ending, or none at all."""
    return (
        not is_temporary_name(name)
        and name.lower() not in (*OWN_FILES, *RESERVED_FOLDERS)
        and ending(name) in ("", ".txt", ".text")
        and naming_problem(name) is None
    )


def text_problem(name: str) -> Problem:
    """Say how to rename a text file that holds a spec."""
    stem = name[: len(name) - len(ending(name))] if ending(name) else name
    return Problem(
        file=shown(name),
        message="this is a job spec, but its name does not end in .yaml",
        hint=f"rename it to {shown(stem.rstrip('. '))}.yaml (in Notepad: Save as, Save as type: "
        "All files; in the Explorer: View > Show > File name extensions)",
    )


def stray_reason(name: str) -> str | None:
    """Say what to do with a file that no spec names; None for one that nobody need care about."""
    kind = ending(name)
    if is_temporary_name(name) or name.lower() in OWN_FILES:
        return None
    if kind in _PACKED:
        return "is no spec and no spec names it: unpack it into data/ and drop a spec"
    if kind in ROWS:
        return "is no spec and no spec names it: move it into data/ and drop a spec that names it"
    if kind in SAVE_AS and kind not in (".txt", ".text", ".log", ".md"):
        return (
            f"is no spec and no spec names it, and {kind} files are not read: {SAVE_AS[kind]}; put "
            "that into data/ and drop a spec that names it"
        )
    return None
