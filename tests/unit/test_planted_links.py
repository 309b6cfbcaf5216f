"""A link that somebody planted in the share leads no command out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.commands.demo import drop
from runner.commands.starters import write_starters
from runner.commands.submit import SubmitError, submit
from runner.errors import UnsafePathError


class Share:
    """A shared folder, one that must stay as it is, and a spec with its data."""

    def __init__(self, root: Path) -> None:
        self.jobs, self.others, mine = root / "jobs", root / "others", root / "mine"
        for folder in (self.jobs, self.others, mine / "data"):
            folder.mkdir(parents=True)
        (self.others / "rows.jsonl").write_text("somebody else's")
        self.spec = mine / "job.yaml"
        self.spec.write_text("model: m\ndata: data/rows.jsonl\n")
        (mine / "data" / "rows.jsonl").write_text("new rows")

    def untouched(self) -> bool:
        """Whether the other folder is as it was."""
        there = {path.name: path.read_text() for path in self.others.iterdir()}
        return there == {"rows.jsonl": "somebody else's"}


@pytest.fixture
def share(tmp_path: Path) -> Share:
    """A share."""
    return Share(tmp_path)


@pytest.mark.parametrize("where", ["data", "data/rows.jsonl", "job.yaml"])
def test_submit_writes_through_no_link(share: Share, where: str) -> None:
    """At the folder, at the file or at the spec: it is refused by name, and nothing is written."""
    link = share.jobs / where
    link.parent.mkdir(exist_ok=True)
    target = share.others if where == "data" else share.others / "rows.jsonl"
    link.symlink_to(target)
    with pytest.raises(UnsafePathError, match="link"):
        submit(share.spec, share.jobs, replace=True)
    assert share.untouched()


def test_demo_writes_through_no_link(share: Share) -> None:
    """A link at jobs/data is refused; one at the spec is replaced, and its target stays."""
    (share.jobs / "building-law.yaml").symlink_to(share.others / "rows.jsonl")
    drop(share.jobs, "a spec", b"rows")
    assert share.untouched()
    assert (share.jobs / "building-law.yaml").read_text() == "a spec"
    assert (share.jobs / "data" / "building-law.jsonl").read_bytes() == b"rows"
    (share.jobs / "data").rename(share.jobs / "away")
    (share.jobs / "data").symlink_to(share.others)
    with pytest.raises(UnsafePathError, match="link"):
        drop(share.jobs, "a spec", b"rows")
    assert share.untouched()


def test_init_writes_through_no_link(share: Share) -> None:
    """It runs as root: what lies behind a link at jobs/data gets neither a file nor an owner."""
    (share.jobs / "data").symlink_to(share.others)
    written = write_starters(share.jobs, uid=os.geteuid(), gid=os.getegid())
    assert share.untouched()
    assert "HOWTO.txt" in written
    assert "examples/first-job.yaml" in written
    assert "data/first-job.csv" not in written


def test_submit_still_brings_what_is_new_and_refuses_what_differs(share: Share) -> None:
    """The same file again is no error; another of its name is, unless it may be replaced."""
    assert submit(share.spec, share.jobs) == (share.jobs / "job.yaml", ["data/rows.jsonl"])
    there = share.jobs / "data" / "rows.jsonl"
    assert there.read_text() == "new rows"
    (share.jobs / "job.yaml").unlink()
    assert submit(share.spec, share.jobs)[1] == []
    (share.jobs / "job.yaml").unlink()
    there.write_text("old rows")
    with pytest.raises(SubmitError, match="has another"):
        submit(share.spec, share.jobs)
    assert submit(share.spec, share.jobs, replace=True)[1] == ["data/rows.jsonl"]
    assert there.read_text() == "new rows"
    with pytest.raises(SubmitError, match="waits in the inbox already"):
        submit(share.spec, share.jobs)
    assert list(share.jobs.rglob(".*")) == []
