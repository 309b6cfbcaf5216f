"""The shared folder as a lawyer sees it: what each wrong file is answered with."""

from __future__ import annotations

import json
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from daemon_box import Box, wait_until

from runner.contract.states import State


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    return Box(tmp_path)


def data(box: Box, name: str) -> None:
    """Put a data file there."""
    (box.jobs / name).parent.mkdir(parents=True, exist_ok=True)
    (box.jobs / name).write_text(json.dumps({}))


def status(box: Box) -> str:
    """Read STATUS.txt; empty before it is there."""
    path = box.jobs / "STATUS.txt"
    return path.read_text() if path.exists() else ""


def test_a_path_in_another_case_is_answered_without_waiting(box: Box) -> None:
    """The ten minutes that a job waits for its data are for data that may still come."""
    data(box, "data/Contracts.JSONL")
    (box.jobs / "a.yaml").write_text("model: m\ndata: data/contracts.jsonl\n")
    with box.watching(data_wait_seconds=600):
        wait_until(lambda: list((box.jobs / "rejected").glob("*.txt")))
        assert box.in_state(State.REJECTED)


def test_a_waiting_job_says_for_what_until_when_and_what_lies_there(box: Box) -> None:
    """A near name may be a slip or next week's file: the job waits, and says what it found."""
    data(box, "data/contract.jsonl")
    (box.jobs / "a.yaml").write_text("model: m\ndata: data/contracts.jsonl\n")
    with box.watching(data_wait_seconds=600):
        wait_until(lambda: box.in_state(State.QUEUED) and box.record().waiting)
        waiting = box.record().waiting
        assert waiting is not None
        assert waiting.reason == "waiting for jobs/data/contracts.jsonl"
        assert waiting.until is not None
        assert (waiting.until - waiting.since).total_seconds() == 600
        assert "there is a contract.jsonl: did you mean that?" in str(waiting.advice)
        data(box, "data/contracts.jsonl")
        wait_until(lambda: box.in_state(State.SUCCEEDED))


def test_a_remark_in_a_path_names_the_file_that_lies_there(box: Box) -> None:
    """The answer gives the path in quotes."""
    data(box, "data/akten #12.jsonl")
    (box.jobs / "a.yaml").write_text("model: m\ndata: data/akten #12.jsonl\n")
    assert box.once().returncode == 1
    answer = box.answer("rejected")
    assert 'put the path in quotes: "data/akten #12.jsonl"' in answer
    assert "a file akten #12.jsonl lies there" in answer


@pytest.mark.parametrize("name", ["contracts.txt", "contracts", "Contracts.TXT", "a.text"])
def test_a_spec_that_notepad_saved_as_text_is_answered(box: Box, name: str) -> None:
    """The answer says what to rename it to, and how to see the ending."""
    data(box, "d.jsonl")
    (box.jobs / name).write_bytes("\ufeffmodel: m\r\ndata: d.jsonl\r\n".encode())
    (box.jobs / "notes.txt").write_text("Liebe Kollegen, die data: liegen in data/")
    assert box.once().returncode == 1
    answer = max((box.jobs / "rejected").glob("*.txt"), key=lambda path: len(path.name))
    assert f"rename it to {Path(name).stem}.yaml" in answer.read_text()
    assert f"{name} was rejected: " in status(box)
    assert (box.jobs / "notes.txt").exists()


@pytest.mark.parametrize("name", ["a.YAML", "b.yml", "C.Yml", "d.json"])
def test_every_ending_of_a_spec_is_taken(box: Box, name: str) -> None:
    """Upper and lower case make no difference."""
    data(box, "d.jsonl")
    (box.jobs / name).write_text('{"model": "m", "data": "d.jsonl"}')
    assert box.once().returncode == 0


def test_a_json_spec_with_a_slip_is_answered_and_data_is_left_alone(box: Box) -> None:
    """A comma too many is said; a table in JSON is no spec."""
    (box.jobs / "a.json").write_text('{"model": "m", "data": "d.jsonl",}')
    (box.jobs / "rows.json").write_text('[{"question": "a"},]')
    assert box.once().returncode == 1
    assert "this is not JSON" in box.answer("rejected")
    assert (box.jobs / "rows.json").exists()
    assert "rows.json is no spec and no spec names it" in status(box)


STRAYS = ["akten.zip", "Auftrag.docx", "Tabelle.xlsx", "a.csv", "b.jsonl", "c.pdf", "d.7z", "e.doc"]


def test_a_file_dropped_alone_is_spoken_of(box: Box) -> None:
    """A zip, a document or a table without a spec: STATUS.txt says what to do with it."""
    for name in (*STRAYS, "notes.txt", "~$Auftrag.docx", "x.csv.part"):
        (box.jobs / name).write_bytes(b"PK")
    assert box.once().returncode == 0
    text = status(box)
    for name in STRAYS:
        assert f"{name} is no spec and no spec names it" in text
    assert "akten.zip is no spec and no spec names it: unpack it into data/ and drop a spec" in text
    assert "Nothing needs" not in text
    assert not any(name in text for name in ("notes.txt", "~$", ".part"))


def test_a_file_that_a_spec_names_is_no_stray(box: Box) -> None:
    """Not before its run, not after it, and not after a restart; and one that goes is forgotten."""
    data(box, "d.csv")
    (box.jobs / "akten.zip").write_bytes(b"PK")
    with box.watching(broken_spec_seconds=0.3):
        wait_until(lambda: "akten.zip" in status(box))
        (box.jobs / "a.yaml").write_text("model: m\ndata: d.csv\n")
        wait_until(lambda: box.in_state(State.SUCCEEDED))
        (box.jobs / "akten.zip").unlink()
        wait_until(lambda: "akten.zip" not in status(box) and "d.csv" not in status(box))
    assert box.once().returncode == 0
    assert "d.csv" not in status(box)


def rejected(box: Box) -> Path:
    """Give the one spec in rejected/."""
    (path,) = (p for p in (box.jobs / "rejected").iterdir() if p.suffix != ".txt")
    return path


@pytest.mark.parametrize("how", ["answer", "spec", "success"])
def test_a_rejected_spec_needs_a_person_until_somebody_acts(box: Box, how: str) -> None:
    """It stays in STATUS.txt over restarts, until it is fixed, deleted or acknowledged."""
    data(box, "data/d.jsonl")
    (box.jobs / "a.yaml").write_text("model: m\ndata: data/d.jsonl\nmethod: quora\n")
    assert box.once().returncode == 1
    text = status(box)
    assert text.startswith("Needs a person:\n  a.yaml was rejected: line 3: method: ")
    assert "(more: jobs/rejected/a--" in text
    box.once()
    assert status(box) == text
    if how == "answer":
        Path(f"{rejected(box)}.txt").unlink()
    elif how == "spec":
        rejected(box).unlink()
    else:
        (box.jobs / "a.yaml").write_text("model: m\ndata: data/d.jsonl\n")
    box.once()
    assert status(box).startswith("Nothing needs a person.")


def test_a_failed_run_needs_a_person_until_its_job_succeeds(box: Box) -> None:
    """The job's name counts, under whatever file name it was dropped; failures stand first."""
    box.drop("b", prepare=[1])
    (box.jobs / "b.yaml").write_text("model: m\ndata: b.jsonl\nname: weekly\n")
    (box.jobs / "a.yaml").write_text("model: m\n")
    box.once()
    lines = status(box).split("\n")
    assert lines[1].startswith("  b.yaml failed: ") or "b.yaml was rejected" in lines[1]
    data(box, "ok.jsonl")
    (box.jobs / "c.yaml").write_text("model: m\ndata: ok.jsonl\nname: weekly\n")
    box.once()
    assert "b.yaml" not in status(box)
    assert "a.yaml was rejected" in status(box)


def test_a_box_without_a_base_model_says_so(box: Box) -> None:
    """Nobody has to drop a job to learn that none can run."""
    (box.root / "models" / "m" / "config.json").unlink()
    assert box.once().returncode == 0
    assert "There is no base model on this box" in status(box)
    assert "fetch ORGANISATION/MODEL" in status(box)


def test_answers_show_times_and_paths_as_people_have_them(box: Box) -> None:
    """The box's zone, and the share's name before every path, with the share's own slashes."""
    data(box, "d.jsonl")
    (box.jobs / "a.yaml").write_text("model: m\ndata: d.jsonl\n")
    (box.jobs / "b.yaml").write_text("model: m\ndata: data/late.jsonl\n")
    with box.watching(share_name="\\\\server", environment={"TZ": "Asia/Tokyo"}):
        waiting = wait_until(lambda: list((box.jobs / "queued").glob("b--*.txt")))[0]
        wait_until(lambda: "If it has not" in waiting.read_text())
        until = next(r.waiting for r in box.records() if r.job == "b").until
        shown = until.astimezone(ZoneInfo("Asia/Tokyo"))
        assert (
            "Waiting for \\\\server\\jobs\\data\\late.jsonl. If it has not arrived by "
            in waiting.read_text()
        )
        assert f"{shown:%H:%M}, the job is rejected." in waiting.read_text()
        (answer,) = wait_until(lambda: list((box.jobs / "done").glob("*.txt")))
        run = next(r.run_id for r in box.records() if r.job == "a")
        assert f"The adapter: \\\\server\\outputs\\a\\{run}\\adapter" in answer.read_text()
        ended = next(r.ended_at for r in box.records() if r.job == "a")
        local = f"{ended.astimezone(ZoneInfo('Asia/Tokyo')):%Y-%m-%d %H:%M}"
        wait_until(lambda: f"succeeded, {local}" in status(box))
        assert "Recently finished:" in status(box)


def test_rows_that_cannot_be_used_lie_beside_the_answer(box: Box) -> None:
    """Whoever has only the share sees every bad row, and the answer names the file."""
    box.drop("a", prepare=["10"], bad_rows=["a.jsonl, line 2: the row has no answer"])
    assert box.once().returncode == 1
    (listed,) = (box.jobs / "rejected").glob("*.bad_rows.txt")
    assert listed.read_text() == "a.jsonl, line 2: the row has no answer\n"
    answer = next(p for p in (box.jobs / "rejected").glob("*.yaml.txt")).read_text()
    assert f"All rows that cannot be used: {listed.name}, in this folder" in answer
    assert "a.yaml was rejected" in status(box)


def test_the_same_spec_and_data_again_says_so(box: Box) -> None:
    """A run that repeats another one names it; with other data it does not."""
    data(box, "d.jsonl")
    for content in ("{}", "{}", '{"lengths": [3]}'):
        (box.jobs / "d.jsonl").write_text(content)
        (box.jobs / "a.yaml").write_text("model: m\ndata: d.jsonl\n")
        assert box.once().returncode == 0
    first, second, third = box.records()
    assert not any("same spec" in note for note in first.shortfalls + third.shortfalls)
    assert f"This is the same spec and data as run {first.run_id}" in " ".join(second.shortfalls)
    answer = next(p for p in (box.jobs / "done").glob(f"*{second.run_id}.yaml.txt"))
    assert f"the same spec and data as run {first.run_id}, which succeeded" in answer.read_text()


def test_a_list_of_files_is_no_list_of_rows(box: Box) -> None:
    """Where a file is missing the answer says all there is; no list of rows is put beside it."""
    box.drop("a", prepare=["10"], bad_rows=["data/b.jsonl: there is no such file"])
    assert box.once().returncode == 1
    assert not list((box.jobs / "rejected").glob("*.bad_rows.txt"))
    assert "All rows" not in box.answer("rejected")
