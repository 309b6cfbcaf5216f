"""Calls that are answered, that fail, and that nobody answers."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from runner.errors import UnansweredError
from runner.files.beneath import Folder
from runner.files.patient_calls import PatientCalls


def test_answers_and_errors_come_back() -> None:
    """Whoever asks gets what the call gives or raises, and it was made by another thread."""
    calls = PatientCalls(10.0)
    assert calls(threading.get_ident) != threading.get_ident()
    with pytest.raises(FileNotFoundError):
        calls(lambda: os.stat("/no/such/file"))
    assert calls(lambda: 1) == 1


def test_a_call_that_is_given_up() -> None:
    """Nothing is asked while it is out; what it gives in the end is undone; then all is well."""
    calls = PatientCalls(0.1)
    answered, undone = threading.Event(), threading.Event()
    given: list[object] = []

    def undo(what: object) -> None:
        given.append(what)
        undone.set()

    with pytest.raises(UnansweredError, match=r"no answer within 0\.1 s"):
        calls(lambda: answered.wait(30) and "late", undo=undo)
    with pytest.raises(UnansweredError):
        calls(lambda: given.append("asked all the same"))
    answered.set()
    assert undone.wait(30)
    assert calls(lambda: "there again") == "there again"
    assert given == ["late"]


def test_a_large_folder_is_listed_in_short_calls(tmp_path: Path) -> None:
    """Every entry comes once, in several calls; the wanted ones with their status."""
    for number in range(1201):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / "a link.yaml").symlink_to("nowhere")
    made: list[object] = []
    calls = PatientCalls(10.0)

    def counted(call, *, undo=None):
        made.append(call)
        return calls(call, undo=undo)

    with Folder.open(tmp_path, calls=counted) as folder:
        assert len({entry.name for entry in folder.scan()}) == 1202
        assert len(made) > 3  # the folder, and at least three parts of its list
        found = list(folder.scan_status(lambda name: name.startswith("a ")))
        assert [(entry.name, status.st_size) for entry, status in found] == [("a link.yaml", 7)]
        listing = folder.scan()  # what is not listed to its end is closed
        next(listing)
        listing.close()
