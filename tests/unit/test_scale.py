"""A box with thousands of ended runs costs hardly more than a new one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from runner.contract.ended import EndedRun, newest_ended, stamp_of, write_ended
from runner.contract.layout import Outputs
from runner.contract.settings import Settings
from runner.daemon.book import Book
from runner.daemon.daemon import Daemon
from runner.daemon.inbox import follow_view, view
from runner.daemon.inbox.unresolved import Ends, Unresolved
from runner.files.beneath import Folder
from runner.words import visible

ID = "20261123T2210{:02d}Z-k3f9"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("runner.commands.status", "rich docker ruamel asyncio runner.daemon runner.spec"),
        ("runner.commands.watch", "rich docker pygments asyncio torch"),
    ],
)
def test_what_is_not_needed_is_not_loaded(module: str, heavy: str) -> None:
    """`runner status` answers at once, and the daemon stays small: both by what they leave out."""
    script = f"import sys, {module}\nprint(*(set({heavy.split()!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert done.stdout.decode().strip() == ""


def make_inbox(root: Path) -> Path:
    """Make an inbox with a run in each state folder."""
    for number, name in enumerate(("queued", *view.OVER)):
        (root / name).mkdir(parents=True)
        spec = root / name / f"job--{ID.format(number)}.yaml"
        spec.write_text("x")
        spec.with_name(f"{spec.name}.txt").write_text("job: over\n\nIt is over.\n")
    (root / "running").mkdir()
    return root


def test_folders_of_runs_that_are_over_are_listed_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle box does not list done/ again and again; what is put there is seen all the same."""
    jobs = make_inbox(tmp_path / "jobs")
    for name in view.OVER:
        os.utime(jobs / name, (time.time() - 60, time.time() - 60))
    outputs = tmp_path / "outputs"
    (outputs / ".runner").mkdir(parents=True)
    daemon = Daemon(Settings(jobs_dir=jobs, outputs_dir=outputs, models_dir=tmp_path))
    listed: list[bool] = []
    scan = view.scan

    def noted(inbox: Folder, *, wanted: list[str], everywhere: bool) -> view.Places:
        listed.append(everywhere)
        return scan(inbox, wanted=wanted, everywhere=everywhere)

    monkeypatch.setattr(view, "scan", noted)
    monkeypatch.setattr(follow_view, "_adopt", lambda *_: None)
    with Folder.open(jobs) as inbox:
        for at in (0.0, 1.0, 40.0, 80.0):
            follow_view.follow_view(daemon, inbox, at, made=())
        assert listed == [True, False, False, False]
        (jobs / "done" / "mislaid.yaml").write_text("x")
        places = follow_view.follow_view(daemon, inbox, 120.0, made=())
        assert ("done", "mislaid.yaml") in places.misplaced
        follow_view.follow_view(daemon, inbox, 121.0 + 600.0, made=())
        assert listed[4:] == [True, True]


def test_of_what_is_over_only_what_is_wanted_is_kept(tmp_path: Path) -> None:
    """The specs of runs under way are always told; ten thousand others are not remembered."""
    with Folder.open(make_inbox(tmp_path)) as inbox:
        assert view.scan(inbox, wanted=()).where.keys() == {ID.format(0)}
        assert view.scan(inbox, wanted=[ID.format(1)]).where.keys() == {ID.format(0), ID.format(1)}
        assert len(view.scan(inbox).where) == 1 + len(view.OVER)
        assert view.scan_under_way(inbox).keys() == {ID.format(0)}
        (tmp_path / "queued" / f"gone--{ID.format(30)}.yaml.txt").write_text("x")
        (tmp_path / "queued" / f"moved--{ID.format(1)}.yaml.txt").write_text("x")
        assert view.scan_under_way(inbox).get(ID.format(30), "absent") is None
        assert ID.format(1) not in view.scan_under_way(inbox)


def test_a_run_of_an_earlier_daemon_is_known_by_its_record(tmp_path: Path) -> None:
    """No list of all ids is kept: the disk knows them."""
    book = Book(Outputs(tmp_path))
    (tmp_path / "job" / ID.format(1)).mkdir(parents=True)
    assert not book.knows(ID.format(1))  # killed before its record was written: it is adopted
    (tmp_path / "job" / ID.format(1) / "run.json").write_text("{}")
    assert book.knows(ID.format(1))
    given = book.new_id()
    assert book.knows(given)
    book.forget(given)
    assert not book.knows(given)


def test_a_success_clears_the_line_of_its_job_alone(tmp_path: Path) -> None:
    """Of thousands of specs in done/ the newest of each job counts, and only its answer's run."""
    with Folder.open(make_inbox(tmp_path)) as inbox:
        done, failed = tmp_path / "done", tmp_path / "failed"
        for job, number in (("a", 20), ("b", 22)):
            spec = failed / f"{job}--{ID.format(number)}.yaml"
            spec.write_text("x")
            spec.with_name(f"{spec.name}.txt").write_text(f"{job}: failed\n\nNo.\n")
        (done / f"a--{ID.format(21)}.yaml").write_text("x")
        (done / f"b--{ID.format(19)}.yaml").write_text("x")
        (done / f"b--{ID.format(19)}.yaml.txt").write_text("b: succeeded\n")
        found = Unresolved()
        found.read(inbox, asked=frozenset({ID.format(19), ID.format(21)}))
        said = found.lines(Ends(), said="")
        assert [line[:6] for line in said if line[0] in "ab"] == ["b.yaml"]
        said.append("more")  # whoever gets the lines may go on with them
        assert "more" not in found.lines(Ends(), said="")
        assert found.answered_done == {ID.format(19)}


def test_the_newest_are_found_without_a_look_at_each_record(tmp_path: Path) -> None:
    """A torn line hides no run, a removed run takes no place, and what is not known is read."""
    outputs = Outputs(tmp_path)
    outputs.private.mkdir()
    lines = []
    for number in range(6):
        run = outputs.run("job", ID.format(number))
        run.root.mkdir(parents=True)
        run.record.write_text("{}")
        stamp = stamp_of(run.record)
        assert stamp is not None
        at = f"2026-11-23T22:10:{number:02d}.000+00:00"
        lines.append(EndedRun("job", run.run_id, "succeeded", number, at, stamp))
    write_ended(outputs, lines[:5])
    with outputs.ended.open("ab") as file:
        file.write(lines[5].as_line()[:40])
    outputs.run("job", ID.format(4)).record.unlink()
    outputs.run("job", ID.format(4)).root.rmdir()
    found = newest_ended(outputs, 2)
    assert {run.run_id for run in found.newest} == {ID.format(3), ID.format(2)}
    assert [run.run_id for run in found.to_read] == [ID.format(5)]


def test_a_text_that_is_shown_as_it_is_holds_nothing_to_escape() -> None:
    """The short way and the long way agree for every character there is."""
    hidden = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in hidden:
            assert visible(character) != character
        elif character.isprintable():
            assert visible(f"a{character}") == f"a{character}"
