"""Attacks the share while its files are copied: nothing outside is ever read."""

import hashlib
import os
import random
import threading

import pytest

from runner.errors import DataError
from runner.training.data.findings import Findings
from runner.training.data.snapshot import take_snapshot


@pytest.fixture
def inbox(tmp_path):
    """Give an inbox with one file, and something secret beside it."""
    (tmp_path / "jobs" / "data").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jsonl").write_text("SECRET")
    (tmp_path / "jobs" / "data" / "a.jsonl").write_text('{"text": "x"}\n')
    return tmp_path / "jobs"


def snapshot(inbox, *named, spec_folder=".", known=(), target="run"):
    """Take a snapshot beside the inbox; what is wrong is raised together, as a stage does."""
    findings = Findings()
    copies = take_snapshot(
        named,
        inbox=inbox,
        spec_folder=spec_folder,
        target=inbox.parent / target,
        findings=findings,
        known=known,
    )
    if findings.problems:
        raise DataError(findings.problems)
    return copies


def test_hash_and_size_are_those_of_the_copied_bytes(inbox):
    """The record speaks of what was copied."""
    (copied,) = snapshot(inbox, "data/a.jsonl")
    content = copied.path.read_bytes()
    assert content == (inbox / "data/a.jsonl").read_bytes()
    assert copied.sha256 == hashlib.sha256(content).hexdigest()
    assert copied.size == len(content)


def test_paths_start_at_the_spec_folder(inbox):
    """A spec in a folder of its own names its neighbours."""
    (copied,) = snapshot(inbox, "a.jsonl", spec_folder="data")
    assert copied.size


HOSTILE = {
    "absolute": "/etc/passwd",
    "climbing": "../outside/secret.jsonl",
    "climbing within": "data/../../outside/secret.jsonl",
    "file link": "data/link.jsonl",
    "folder link": "door/secret.jsonl",
    "link to itself": "loop/a.jsonl",
    "link that leads back up": "data/again/data/a.jsonl",
    "pipe": "data/pipe.jsonl",
    "folder without rows": "hollow",
    "backslash": "data\\a.jsonl",
    "state folder": "queued/a.yaml",
    "marker": ".runner-inbox",
    "nul": "data/a\0.jsonl",
    "empty": "",
    "itself": ".",
    "missing": "data/none.jsonl",
    "through a file": "data/a.jsonl/b",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_paths_are_refused(case, inbox):
    """Links, climbing, pipes, folders and the runner's own files are named and not read."""
    (inbox / "data/link.jsonl").symlink_to(inbox.parent / "outside/secret.jsonl")
    (inbox / "door").symlink_to(inbox.parent / "outside")
    (inbox / "loop").symlink_to("loop")
    (inbox / "data" / "again").symlink_to("..")
    os.mkfifo(inbox / "data/pipe.jsonl")
    (inbox / "queued").mkdir()
    (inbox / "hollow").mkdir()
    (inbox / "queued/a.yaml").write_text("x")
    (inbox / ".runner-inbox").write_text("x")
    with pytest.raises(DataError) as caught:
        snapshot(inbox, "data/a.jsonl", HOSTILE[case])
    (problem,) = caught.value.problems
    assert problem.file == HOSTILE[case]


def test_every_unusable_file_is_named_at_once(inbox):
    """One round of mending is enough."""
    with pytest.raises(DataError) as caught:
        snapshot(inbox, "data/none.jsonl", "data/a.jsonl", "../x")
    assert [p.file for p in caught.value.problems] == ["data/none.jsonl", "../x"]


def test_a_link_swapped_in_while_we_look_leads_nowhere(inbox):
    """However often file and folder turn into links meanwhile, nothing outside is copied."""
    secret, stop = inbox.parent / "outside", threading.Event()
    good = inbox / "good"
    good.mkdir()
    (good / "secret.jsonl").write_text("fine")
    link = inbox / "turn-link"

    def turn():
        while not stop.is_set():
            os.rename(good, inbox / "aside")
            link.symlink_to(secret)
            os.rename(link, good)
            os.unlink(good)
            os.rename(inbox / "aside", good)
            stop.wait(random.uniform(0, 0.02))  # real for a while, or no copy ever gets through

    thread = threading.Thread(target=turn)
    thread.start()
    taken = refused = 0
    try:
        for number in range(300):
            try:
                (copied,) = snapshot(inbox, "good/secret.jsonl", target=f"run{number}")
            except DataError:
                refused += 1
                continue
            taken += 1
            assert copied.path.read_text() == "fine"
    finally:
        stop.set()
        thread.join()
    assert taken, "the loop must see the file too, or it proves nothing"
    assert refused, "the loop must meet the link too, or it proves nothing"


def append(path):
    """Write on, as a program does that is not finished."""
    with path.open("a") as file:
        file.write("more\n")


def replace(path):
    """Put another file in its place, as a sync client does."""
    beside = path.with_suffix(".new")
    beside.write_bytes(path.read_bytes())
    os.rename(beside, path)


@pytest.fixture
def meanwhile(monkeypatch):
    """Let something happen to the source between the copy and the second look at it."""

    def arrange(happens, *, times):
        left, fsync = [times], os.fsync

        def fsync_while_it_happens(descriptor):
            if left[0]:
                left[0] -= 1
                happens()
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync_while_it_happens)

    return arrange


@pytest.mark.parametrize("change", [append, replace])
def test_a_file_that_is_never_still_is_refused(change, inbox, meanwhile):
    """What changes each time it is copied is no snapshot of anything; nothing of it is left."""
    meanwhile(lambda: change(inbox / "data/a.jsonl"), times=100)
    with pytest.raises(DataError, match="written to"):
        snapshot(inbox, "data/a.jsonl")
    assert list((inbox.parent / "run").iterdir()) == []


@pytest.mark.parametrize("change", [append, replace])
def test_a_file_that_comes_to_rest_is_copied_as_it_then_is(change, inbox, meanwhile):
    """One late write costs another copy, not the job."""
    meanwhile(lambda: change(inbox / "data/a.jsonl"), times=1)
    (copied,) = snapshot(inbox, "data/a.jsonl")
    assert copied.path.read_bytes() == (inbox / "data/a.jsonl").read_bytes()


def test_a_known_file_is_compared_and_not_written_once_more(inbox, monkeypatch):
    """A copy of what is there already would have to reach the disk before the job goes on."""
    (first,) = snapshot(inbox, "data/a.jsonl", target="one")

    def copy(*_):
        raise AssertionError

    monkeypatch.setattr("runner.training.data.snapshot._copy_once", copy)
    (second,) = snapshot(inbox, "data/a.jsonl", target="two", known=[first.path.parent])
    assert os.path.samefile(first.path, second.path)
    assert (second.named, second.sha256, second.size) == (first.named, first.sha256, first.size)


def test_known_content_is_linked_and_other_content_is_not(inbox):
    """Runs on the same data share it; a damaged earlier copy is never trusted."""
    (first,) = snapshot(inbox, "data/a.jsonl", target="one")
    (second,) = snapshot(inbox, "data/a.jsonl", target="two", known=[first.path.parent])
    assert os.path.samefile(first.path, second.path)
    first.path.chmod(0o640)
    first.path.write_text('{"text": "y"}\n')
    (third,) = snapshot(inbox, "data/a.jsonl", target="three", known=[first.path.parent])
    assert not os.path.samefile(first.path, third.path)
    assert third.path.read_bytes() == (inbox / "data/a.jsonl").read_bytes()
