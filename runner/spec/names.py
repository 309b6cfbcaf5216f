"""Turns a file's name in the inbox into whether it is a spec, or how to rename a near miss."""

from __future__ import annotations

import re

from runner.errors import Problem
from runner.spec.tree import shown

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
    return Problem(
        file=shown(name),
        message="a job spec's name ends in .yaml, .yml or .json, and this one does not",
        hint=f"rename it to {shown(good)} (Windows hides the last ending: in the Explorer, "
        "View > Show > File name extensions)",
    )
