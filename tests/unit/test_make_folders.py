"""Turns folders of a host into a box's, as root may and as an ordinary user may."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from runner.commands.make_folders import make_folders
from runner.commands.starters import write_starters
from runner.spec.read_spec import read_spec
from runner.training.data.formats import to_conversations
from runner.training.data.rows import Findings, read_rows

REPOSITORY = Path(__file__).parents[2]
UID, GID = (20123, 20124) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """An empty folder of the host, and the cache volume beside it."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "box").mkdir()
    return tmp_path / "box"


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, found.st_mode & 0o7777


def make(box: Path) -> list[str]:
    return make_folders(box, box.parent / "cache", uid=UID, gid=GID)


def test_missing_folders_are_made_for_their_owner(box: Path) -> None:
    """The share's group may drop and may read; nobody else may do anything."""
    assert make(box)[:3] == ["jobs was made", "outputs was made", "models was made"]
    assert owner_and_mode(box / "jobs") == (UID, GID, 0o2770)
    assert owner_and_mode(box / "outputs") == (UID, GID, 0o2750)
    assert owner_and_mode(box / "models") == (UID, GID, 0o2750)
    assert owner_and_mode(box.parent / "cache") == (UID, GID, 0o700)
    assert make(box) == []


def test_what_is_there_keeps_content_and_mode(box: Path) -> None:
    """A models folder that is open to everybody stays so; the inbox is opened to its group."""
    (box / "models").mkdir()
    (box / "models").chmod(0o755)
    (box / "jobs").mkdir(mode=0o755)
    (box / "jobs" / "a.yaml").write_text("model: m")
    assert "jobs belongs to" in make(box)[0]
    assert owner_and_mode(box / "models") == (UID, GID, 0o755)
    assert owner_and_mode(box / "jobs") == (UID, GID, 0o2775)
    assert (box / "jobs" / "a.yaml").read_text() == "model: m"


def test_a_link_to_another_disk_is_left_alone(box: Path, tmp_path: Path) -> None:
    """The owner of what a link leads to is not ours to change."""
    (tmp_path / "large").mkdir(mode=0o755)
    (box / "outputs").symlink_to(tmp_path / "large")
    before = owner_and_mode(tmp_path / "large")
    assert "outputs is a link and was left alone" in make(box)
    assert owner_and_mode(tmp_path / "large") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own a folder that others own")
def test_the_box_itself_keeps_its_owner(box: Path) -> None:
    """The folder around them is owned for a moment, and given back."""
    os.chown(box, 20125, 20126)
    make(box)
    assert owner_and_mode(box)[:2] == (20125, 20126)


def test_an_empty_box_explains_itself(box: Path) -> None:
    """HOWTO.txt in two languages, a ready spec with its data, and a table for Excel."""
    assert "HOWTO.txt" in make(box)[-1]
    jobs = box / "jobs"
    howto = (jobs / "HOWTO.txt").read_text(encoding="utf-8-sig")
    assert "CSV UTF-8" in howto
    assert "Speichern unter" in howto
    spec = read_spec((jobs / "examples/first-job.yaml").read_bytes(), file_name="first-job.yaml")
    assert (jobs / spec.data[0]).is_file()
    with zipfile.ZipFile(jobs / "examples/questions-and-answers.xlsx") as table:
        assert table.testzip() is None
        for name in table.namelist():
            ET.fromstring(table.read(name))
        assert b"completion" in table.read("xl/worksheets/sheet1.xml")
    with (jobs / spec.data[0]).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert set(rows[0]) == {"prompt", "completion"}
    for path in jobs.rglob("*"):
        assert owner_and_mode(path) == (UID, GID, 0o2770 if path.is_dir() else 0o660)
    assert owner_and_mode(jobs) == (UID, GID, 0o2770)


def test_nothing_is_written_over_or_written_again(box: Path) -> None:
    """A file of the same name stays, and a box that has been used is given nothing."""
    (box / "jobs").mkdir()
    (box / "jobs" / "HOWTO.txt").write_text("ours")
    make(box)
    assert (box / "jobs" / "HOWTO.txt").read_text() == "ours"
    (box / "jobs" / "HOWTO.txt").unlink()
    (box / "jobs" / ".runner-inbox").write_text("inbox 1 of the fine-tuning box")
    make(box)
    assert not (box / "jobs" / "HOWTO.txt").exists()


def test_the_first_job_is_read_row_by_row(box: Path, tmp_path: Path) -> None:
    """The table that HOWTO.txt speaks of is one that the box reads without a word."""
    make(box)
    findings = Findings()
    rows = read_rows(box / "jobs/data/first-job.csv", shown_as="first-job.csv", findings=findings)
    found = to_conversations(rows, data_format="auto", system_prompt=None, findings=findings)
    assert not findings.problems
    assert len(found) == 20


def test_the_excel_template_is_read_as_it_is(box: Path) -> None:
    """Whoever fills it in may name it in a spec; HOWTO.txt says so in both languages."""
    make(box)
    template, findings = box / "jobs/examples/questions-and-answers.xlsx", Findings()
    rows = read_rows(template, shown_as=template.name, findings=findings)
    found = to_conversations(rows, data_format="auto", system_prompt=None, findings=findings)
    assert not findings.problems
    asked = [one.messages[0]["content"] for one in found]
    assert asked == [f"What is the notice period in contract {n}?" for n in (1, 2, 3)]
    howto = " ".join((box / "jobs/HOWTO.txt").read_text().split())
    assert "as an Excel file (.xlsx) or as CSV" in howto
    assert "als Excel-Datei (.xlsx) oder als CSV" in howto


def test_git_ignores_the_starters_in_a_checkout(tmp_path: Path) -> None:
    """A checkout that is itself a box stays clean: init's first files are no change to commit."""
    shutil.copy(REPOSITORY / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "jobs").mkdir()
    written = write_starters(tmp_path / "jobs", uid=os.geteuid(), gid=os.getegid())
    assert "examples/first-job.yaml" in written
    seen = subprocess.run(
        ["git", "-C", tmp_path, "status", "--porcelain", "--untracked-files=all"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert seen.stdout.splitlines() == ["?? .gitignore"]


def test_what_compose_mounts_of_notices_is_there_before_a_run_has_ended(box: Path) -> None:
    """A missing folder would keep the container from starting; it is the daemon's own."""
    make(box)
    for name in ("notices", "notices/sent"):
        assert owner_and_mode(box / "outputs" / ".runner" / name) == (UID, GID, 0o2750)


def test_the_page_finds_its_folders_and_nobody_else_may_look_in(box: Path) -> None:
    """Keys lie where their owner alone may look; requests have a folder before the daemon ran."""
    assert "page was made" in make(box)
    assert owner_and_mode(box / "page") == (UID, GID, 0o700)
    assert owner_and_mode(box / "door") == (UID, GID, 0o700)
    assert owner_and_mode(box / "outputs" / ".runner" / "requests") == (UID, GID, 0o2750)
    assert owner_and_mode(box / "outputs") == (UID, GID, 0o2750)
    (box / "page" / "key").write_text("x")
    assert make(box) == []
    assert (box / "page" / "key").read_text() == "x"
