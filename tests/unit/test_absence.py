"""What an absent spec means, row by row."""

from __future__ import annotations

import pytest

from runner.daemon.inbox.absence import Absence, meaning


@pytest.mark.parametrize(
    ("unseen", "replaced", "all_at_once", "seconds", "means"),
    [
        (True, True, True, 99.0, Absence.OUT_OF_SIGHT),
        (True, False, False, 99.0, Absence.OUT_OF_SIGHT),
        (False, True, False, 99.0, Absence.PUT_BACK),
        (False, True, True, None, Absence.PUT_BACK),
        (False, False, False, None, Absence.WAIT),
        (False, False, False, 0.9, Absence.WAIT),
        (False, False, False, 1.0, Absence.DELETED),
        (False, False, True, 9.0, Absence.WAIT),
        (False, False, True, 10.0, Absence.DELETED),
    ],
)
def test_only_what_was_surely_deleted_cancels(
    *, unseen: bool, replaced: bool, all_at_once: bool, seconds: float | None, means: Absence
) -> None:
    """A folder that cannot be seen or was replaced cancels no run."""
    found = meaning(
        any_unseen=unseen, folder_replaced=replaced, all_at_once=all_at_once, seconds=seconds
    )
    assert found is means
