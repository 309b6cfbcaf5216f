"""State folders of the inbox, and the one for schedules: those that are missing are made."""

from __future__ import annotations

from runner.contract.layout import SCHEDULED, STATE_FOLDERS
from runner.files.beneath import Folder


def make_state_folders(inbox: Folder) -> set[str]:
    """Make those that are missing, and give them."""
    return inbox.make_each((*STATE_FOLDERS, SCHEDULED), mode=0o770)
