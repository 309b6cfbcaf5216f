"""Prepares rows as a stream: in workers as in one process, in memory that does not grow."""

import json
import subprocess
import sys

import pytest
from datasets import load_from_disk
from test_prepare import Box, qa
from transformers import AutoTokenizer

from runner.training.data import base, known_words, workers


@pytest.fixture
def box(tmp_path, tiny_model):
    """Give an empty inbox and the box's small model."""
    return Box(tmp_path, tiny_model.parent)


def parts(box):
    """Give both data sets of the last run, row by row."""
    return [list(load_from_disk(str(box.run.prepared / name))) for name in ("train", "eval")]


def test_workers_give_what_one_process_gives(box, monkeypatch):
    """The same rows in the same order, with the same notes, whoever tokenised them."""
    rows = [qa(i) for i in range(2000)]
    rows[5]["output"] = "an <|im_end|> as text"
    rows[1995]["output"] = "another <|im_start|>"
    rows[700]["weight"] = 0
    box.put("a.jsonl", rows)
    monkeypatch.setattr(workers, "cores", lambda: 1)
    alone = box.prepare("data: a.jsonl", try_model=False), parts(box)
    monkeypatch.setattr(workers, "cores", lambda: 3)
    monkeypatch.setattr(workers, "ALONE_CHARS", 1)
    together = box.prepare("data: a.jsonl", try_model=False), parts(box)
    assert together == alone
    assert "2 rows spell control tokens" in " ".join(alone[0].shortfalls)


def test_workers_make_ready_while_the_main_process_does(box, monkeypatch):
    """Much data is not waited for by a core that has nothing to do; the tokens are the same."""
    box.put("a.jsonl", [qa(i) for i in range(1200)])
    monkeypatch.setattr(workers, "cores", lambda: 2)
    box.prepare("data: a.jsonl", try_model=False)
    alone = parts(box)
    done = []
    start, load = workers.Workers.start, base.load_tokenizer

    def started(self):
        done.append("workers")
        start(self)

    def loaded(*given, **options):
        done.append("tokenizer")
        return load(*given, **options)

    monkeypatch.setattr(workers.Workers, "start", started)
    monkeypatch.setattr(base, "load_tokenizer", loaded)
    monkeypatch.setattr(workers, "ALONE_CHARS", 1)
    box.prepare("data: a.jsonl", try_model=False)
    assert done[:2] == ["workers", "tokenizer"]
    assert parts(box) == alone


def test_what_is_wrong_is_said_alike_by_workers(box, monkeypatch):
    """Every bad row with its line, in the file's order, whichever process met it."""
    rows = [qa(i) for i in range(1500)]
    for at in (3, 700, 1499):
        rows[at] = {"instruction": "SECRET"}
    box.put("a.jsonl", rows)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(workers, "ALONE_CHARS", 1)
    with pytest.raises(Exception, match="lines 4, 701 and 1500: the row has no answer"):
        box.prepare("data: a.jsonl", try_model=False)
    listed = (box.run.prepared / "bad_rows.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in listed] == [
        f"a.jsonl, line {line}" for line in (4, 701, 1500)
    ]


def test_tokens_are_those_of_the_tokenizer_called_row_by_row(box, tiny_model):
    """The ids on disk are those that transformers gives for the whole conversation."""
    rows = [qa(i) for i in range(600)]
    box.put("a.jsonl", rows)
    box.prepare("data: a.jsonl", try_model=False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for row in [row for part in parts(box) for row in part][::37]:
        said = rows[row["row"]]
        talk = [
            {"role": "user", "content": said["instruction"]},
            {"role": "assistant", "content": said["output"]},
        ]
        assert row["input_ids"] == tokenizer.apply_chat_template(talk)["input_ids"]


PEAK = """
import re, sys
from pathlib import Path
from runner.training.data.findings import Findings
from runner.training.data.rows import stream_rows
findings = Findings()
rows = sum(1 for _ in stream_rows(Path(sys.argv[1]), shown_as=sys.argv[1], findings=findings))
status = Path("/proc/self/status").read_text()  # of this program; ru_maxrss outlives an exec
print(rows, int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024, findings.problems)
"""


def peak(path):
    """Read a file in a process of its own; give its rows and its peak memory in MiB."""
    out = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
    ).stdout
    rows, mib, problems = out.split(maxsplit=2)
    return int(rows), int(mib), problems.strip()


def write(path, rows):
    """Write so many rows of 1 KB in the form that the ending names."""
    row = json.dumps({"question": "q", "answer": "word " * 200})
    with path.open("w") as file:
        if path.suffix == ".csv":
            file.write("question,answer\n")
        for number in range(rows):
            if path.suffix == ".csv":
                file.write('q,"' + "word " * 200 + '"\n')
            else:
                start = "[" if number == 0 else ","
                file.write((start if path.suffix == ".json" else "") + row + "\n")
        file.write("]" if path.suffix == ".json" else "")


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_memory_does_not_grow_with_the_file(ending, tmp_path):
    """Forty times the rows take the same memory, an array of JSON too."""
    few, many = tmp_path / f"few.{ending}", tmp_path / f"many.{ending}"
    write(few, 2_000)
    write(many, 80_000)
    (rows, small, _), (more, large, _) = peak(few), peak(many)
    assert (rows, more) == (2_000, 80_000)
    assert large - small < 30


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_a_row_of_50_mb_is_refused_in_a_sentence(ending, tmp_path):
    """Its line is said, and the memory is not swallowed."""
    path = tmp_path / f"a.{ending}"
    huge = "x" * 50_000_000
    text = {
        "jsonl": f'{{"question": "q", "answer": "{huge}"}}\n',
        "json": f'[{{"question": "q", "answer": "{huge}"}}]',
        "csv": f'question,answer\nq,"{huge}"\n',
    }[ending]
    path.write_text(text)
    rows, mib, problems = peak(path)
    assert rows == 0
    assert "longer than 8 MiB" in problems
    assert mib < 200


def test_a_pattern_is_one_data_set_and_eval_data_is_never_learned(box):
    """Rows of several files, each said by its own name; a file of eval_data is held out alone."""
    box.put("2026-1.jsonl", [qa(i) for i in range(10)])
    box.put("2026-2.jsonl", [qa(i) for i in range(10, 20)])
    box.put("2026-3.jsonl", [qa(i) for i in range(20, 25)])
    spec = "data: 2026-*.jsonl\neval_data: 2026-3.jsonl"
    result = box.prepare(spec, try_model=False)
    assert [(file.path, file.rows) for file in result.data] == [
        ("2026-1.jsonl", 10),
        ("2026-2.jsonl", 10),
        ("2026-3.jsonl", 5),
    ]
    assert (result.train_rows, result.eval_rows) == (20, 5)
    box.put("2026-2.jsonl", [qa(1), "{"])
    with pytest.raises(Exception, match=r"2026-2\.jsonl, line 2: the line is not valid JSON"):
        box.prepare(spec, try_model=False)


def test_what_grew_since_the_last_run_is_said_and_recorded(box):
    """New, changed and gone rows, against the job's own earlier run."""
    box.put("a.jsonl", [qa(i) for i in range(30)])
    first = box.prepare("data: a.jsonl", try_model=False)
    assert first.data_change is None
    rows = [qa(i) for i in range(2, 33)]
    rows[4]["output"] = "Another answer."
    box.put("a.jsonl", rows)
    earlier = (str(box.run.prepared),)
    result = box.prepare("data: a.jsonl", try_model=False, earlier_runs=earlier)
    change = result.data_change
    assert (change.new, change.changed, change.gone, change.rows_before) == (3, 1, 2, 30)
    said = "since the job's last run (30 rows): 3 rows are new, 1 row is changed, 2 rows are no"
    assert any(note.startswith(said) for note in result.shortfalls)


def test_words_that_differ_cost_time_and_no_token(box, monkeypatch):
    """All rows are then read again by the tokenizer alone, in workers too."""
    rows = [qa(i) for i in range(1500)]
    rows[40]["instruction"] = "with an <|im_end|>"
    box.put("a.jsonl", rows)
    monkeypatch.setattr(workers, "cores", lambda: 1)
    right = box.prepare("data: a.jsonl", try_model=False), parts(box)
    monkeypatch.setattr(known_words.KnownWords, "ids_of", lambda *_: ([1], []))
    assert (box.prepare("data: a.jsonl", try_model=False), parts(box)) == right
