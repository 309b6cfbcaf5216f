"""Finds the files of patterns and folders, waits for them, and says what grew."""

import numpy as np
import pytest

from runner.daemon.inbox.wait_for_data import DataWatch
from runner.files.beneath import Folder
from runner.spec.data_files import matches, named_by
from runner.training.data.findings import Findings
from runner.training.data.growth import compare
from runner.training.data.snapshot import take_snapshot
from runner.training.data.token_table import Rows


@pytest.fixture
def jobs(tmp_path):
    """An inbox with data of two months, and files that are no rows."""
    folder = tmp_path / "jobs"
    (folder / "data" / "deep").mkdir(parents=True)
    names = ("2026-02.jsonl", "2026-01.jsonl", "old.jsonl", "notes.txt", ".x.jsonl", "t.csv.gz")
    for name in (*names, "deep/a.jsonl"):
        (folder / "data" / name).write_text(f"{name}\n")
    (folder / "data" / "2026-09.jsonl").symlink_to("/etc/passwd")
    return folder


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("data/2026-*.jsonl", ["data/2026-01.jsonl", "data/2026-02.jsonl"]),
        ("data/2026-0?.jsonl", ["data/2026-01.jsonl", "data/2026-02.jsonl"]),
        (
            "data/",
            ["data/2026-01.jsonl", "data/2026-02.jsonl", "data/old.jsonl", "data/t.csv.gz"],
        ),
        ("data/deep", ["data/deep/a.jsonl"]),
        ("data/2027-*.jsonl", []),
        ("none/*.jsonl", []),
        ("data/old.jsonl", None),
        ("data/none.jsonl", None),
    ],
)
def test_a_pattern_and_a_folder_name_files_of_rows(path, files, jobs):
    """In the order of their names; no links, no hidden files, nothing that is not read."""
    with Folder.open(jobs) as inbox:
        assert named_by(inbox, path) == files
    for file in files or ():
        assert matches(file, path)


def test_the_snapshot_holds_every_file_of_a_pattern_once(jobs, tmp_path):
    """Each is named by its own path, so that a line is said as file and line."""
    findings = Findings()
    copies = take_snapshot(
        ["data/old.jsonl", "data/*.jsonl", "data/2027-*.jsonl"],
        inbox=jobs,
        spec_folder=".",
        target=tmp_path / "copies",
        findings=findings,
    )
    named = ["data/old.jsonl", "data/2026-01.jsonl", "data/2026-02.jsonl"]
    assert [copy.named for copy in copies] == named
    (problem,) = findings.problems
    assert (problem.file, problem.message) == (
        "data/2027-*.jsonl",
        "no file that can be read lies there",
    )
    assert problem.hint.startswith("In the same folder lie: 2026-01.jsonl, 2026-02.jsonl")
    assert problem.hint.endswith("Compare the pattern with these names.")


def test_a_path_that_differs_in_capitals_alone_never_comes(jobs):
    """It is answered at once; any other near name may be next week's file, and is waited for."""
    watch = DataWatch(settle_seconds=2.0)
    with Folder.open(jobs) as inbox:
        wait = watch.waiting_for(inbox, ["Data/OLD.jsonl"], 0.0)
        assert (wait.missing, wait.never) == (True, True)
        assert "Then write data/old.jsonl" in wait.advice
        wait = watch.waiting_for(inbox, ["data/olds.jsonl"], 0.0)
        assert (wait.missing, wait.never) == (True, False)
        assert "there is a old.jsonl: did you mean that?" in wait.advice


def test_a_pattern_waits_until_one_matches_and_all_have_settled(jobs):
    """A file that still grows holds the job up, though others are complete."""
    watch = DataWatch(settle_seconds=2.0)
    with Folder.open(jobs) as inbox:
        wait = watch.waiting_for(inbox, ["data/2027-*.jsonl"], 0.0)
        assert (wait.missing, wait.reason) == (
            True,
            "waiting for a file that can be read: jobs/data/2027-*.jsonl",
        )
        (jobs / "data/2027-1.jsonl").write_text("a")
        assert (
            "jobs/data/2027-1.jsonl is complete"
            in watch.waiting_for(inbox, ["data/2027-*.jsonl"], 10.0).reason
        )
        (jobs / "data/2027-2.jsonl").write_text("a")
        assert (
            "jobs/data/2027-2.jsonl is complete"
            in watch.waiting_for(inbox, ["data/2027-*.jsonl"], 13.0).reason
        )
        before = watch.looks(inbox, ["data/2027-*.jsonl"])
        assert watch.waiting_for(inbox, ["data/2027-*.jsonl"], 16.0) is None
        assert watch.size_bytes(["data/2027-*.jsonl"]) == 2
        (jobs / "data/2027-3.jsonl").write_text("a")
        assert watch.looks(inbox, ["data/2027-*.jsonl"]) != before


def test_a_file_that_was_complete_for_one_job_is_so_for_the_next(jobs):
    """The end of a job does not make the others wait for its data once more."""
    watch = DataWatch(settle_seconds=2.0)
    with Folder.open(jobs) as inbox:
        assert watch.waiting_for(inbox, ["data/old.jsonl"], 0.0) is not None
        assert watch.waiting_for(inbox, ["data/old.jsonl"], 3.0) is None
        watch.forget(["data/old.jsonl"])
        assert watch.waiting_for(inbox, ["data/old.jsonl"], 4.0) is None
        (jobs / "data/old.jsonl").write_text("written again, longer than before")
        assert watch.waiting_for(inbox, ["data/old.jsonl"], 5.0) is not None


def rows(*said):
    """Make the table of rows that ask and say so."""
    count = len(said)
    zeros = np.zeros(count, "int64")
    columns = {
        "row": np.arange(count),
        "file": zeros,
        "line": zeros,
        "tokens": zeros,
        "learned": zeros,
        "longest": zeros,
        "place": np.array([ord(text[0]) / 256 for text in said]),
        "content": np.array([hash(text) & 0xFFFF_FFFF for text in said], "uint64"),
        "askable": zeros,
    }
    return Rows(columns, count)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("a1 b1 c1", "a1 b1 c1", (0, 0, 0)),
        ("a1 b1 c1", "c1 a1 d1 b1", (1, 0, 0)),
        ("a1 b1 c1", "a1 b2 c1", (0, 1, 0)),
        ("a1 b1 c1", "a1", (0, 0, 2)),
        ("a1 a1 b1", "a1 b1", (0, 0, 1)),
        ("a1", "a1 a1 a2", (2, 0, 0)),
        ("a1 b1", "c1 d1 e1", (3, 0, 2)),
        ("a1 a1 a1 a1", "a1 a1", (0, 0, 2)),
        ("a1 a2 a3 b1", "a4 a5 a6 b1", (0, 3, 0)),
        ("a1 a2 a3", "a4", (0, 1, 2)),
    ],
)
def test_new_changed_and_gone_rows_are_counted(before, now, expected):
    """By what they ask and what they say, wherever they stand; each as often as it is there."""
    growth = compare(rows(*before.split()), rows(*now.split()))
    assert (growth.new, growth.changed, growth.gone) == expected
    assert growth.rows == len(before.split())


def test_growth_is_said_in_words():
    """What changed, and nothing of what did not."""
    growth = compare(rows("a1", "b1"), rows("a1", "b2", "c1", "d1"))
    assert growth.sentence() == (
        "since the job's last run (2 rows): 2 rows are new, 1 row is changed"
    )


def test_what_lies_beside_and_is_not_read_is_said(jobs, tmp_path):
    """Links, folders, other endings, another case: nobody trains on less than they think."""
    folder = jobs / "new"
    (folder / "old").mkdir(parents=True)
    for name in ("a.jsonl", "A.JSONL", "notes.txt", ".hidden.jsonl", "b.jsonl"):
        (folder / name).write_text('{"text": "x"}\n')
    (folder / "c.jsonl").symlink_to(folder / "a.jsonl")

    def take(name):
        findings = Findings()
        found = take_snapshot(
            [name], inbox=jobs, spec_folder=".", target=tmp_path / "run", findings=findings
        )
        return [one.named for one in found], findings

    files, findings = take("new/")
    assert files == ["new/A.JSONL", "new/a.jsonl", "new/b.jsonl"]
    assert findings.of_files == ["not read of new/: c.jsonl (a link), notes.txt, old (a folder)"]
    files, findings = take("new/a*.jsonl")
    assert files == ["new/a.jsonl"]
    assert findings.of_files == ["not read of new/a*.jsonl: A.JSONL"]
    files, findings = take("new/c*.jsonl")
    assert files == []
    assert "There is only: c.jsonl (a link)." in findings.problems[0].hint
