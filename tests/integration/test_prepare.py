"""Prepares real rows with a real tokenizer, and refuses what cannot be learned from."""

import json
from pathlib import Path

import pytest
from datasets import load_from_disk
from transformers import AutoTokenizer

from runner.contract.fp8_cards import fp8_obstacle
from runner.contract.layout import Outputs, new_run_id
from runner.contract.stage_io import PreparePlan, PrepareResult, read_message, write_message
from runner.errors import DataError, InputError, SpecError
from runner.forecast.lengths import Lengths, read_lengths
from runner.training.data.mark_answers import IGNORED
from runner.training.data.part_rows import what_rows_show
from runner.training.data.prepare import prepare, total_steps


@pytest.fixture
def box(tmp_path, tiny_model):
    """Give an empty inbox and the box's small model."""
    return Box(tmp_path, tiny_model.parent)


class Box:
    """An inbox and outputs, with one claimed spec at a time."""

    def __init__(self, root: Path, models: Path):
        self.models, self.outputs, self.inbox = models, Outputs(root / "outputs"), root / "jobs"
        self.inbox.mkdir()

    def put(self, name, rows):
        """Write a JSON Lines file into the inbox; a str is written as it is."""
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (self.inbox / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def prepare(self, spec, *, model="tiny", **plan):
        """Run the stage on a new run of this spec."""
        self.run = self.outputs.run("job", new_run_id())
        self.run.prepared.mkdir(parents=True)
        self.run.spec.write_text(f"model: {model}\n{spec}\n", encoding="utf-8")
        said = PreparePlan(models_dir=str(self.models), jobs_dir=str(self.inbox), **plan)
        write_message(self.run.prepared / "plan.json", said)
        prepare(self.run.prepared)
        return read_message(self.run.prepared / "result.json", PrepareResult)


def qa(i):
    """Make one good row."""
    return {"instruction": f"Question {i}?", "output": f"The answer is {i}."}


def test_rows_become_tokens_to_learn(box):
    """Everything that the train stage needs lies there, and the counts agree with it."""
    box.put("a.jsonl", [qa(i) for i in range(60)])
    result = box.prepare("data: a.jsonl\neval_split: 0.1\ntraining: {epochs: 1.5}")
    train = load_from_disk(str(box.run.prepared / "train"))
    held_out = load_from_disk(str(box.run.prepared / "eval"))
    assert result.train_rows == len(train)
    assert result.eval_rows == len(held_out) > 0
    assert sorted([*train["row"], *held_out["row"]]) == list(range(60))
    told = f"{len(held_out)} rows are held out to measure the result: "
    assert any(note.startswith(told) for note in result.shortfalls)
    assert result.data[0].rows == 60
    assert result.train_tokens == sum(map(len, train["input_ids"]))
    assert result.eval_tokens == sum(map(len, held_out["input_ids"]))
    learned = sum(label != IGNORED for labels in train["labels"] for label in labels)
    assert result.learned_tokens == learned
    assert read_lengths(box.run.lengths) == Lengths.of(map(len, train["input_ids"]))
    assert result.total_steps == total_steps(
        len(train), effective_batch_size=8, epochs=1.5, max_steps=None
    )
    assert result.effective_batch_size == 8
    tokenizer = AutoTokenizer.from_pretrained(box.run.prepared / "tokenizer")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    samples = json.loads((box.run.prepared / "samples.json").read_text())
    assert 1 <= len(samples) <= 3
    assert samples[0]["messages"][-1]["role"] == "user"
    assert samples[0]["reference"].startswith("The answer is")
    row = train[0]
    text = tokenizer.decode([label for label in row["labels"] if label != IGNORED])
    assert text == f"The answer is {row['row']}.<|im_end|>"


def test_what_so_many_held_out_rows_can_show_is_said():
    """40 rows cannot tell 24 points from chance, 200 cannot tell 11, and 3 can tell nothing."""
    assert "a difference of up to about 24 in 100 may be chance" in what_rows_show(40)
    assert "a difference of up to about 11 in 100 may be chance" in what_rows_show(200)
    assert "too few to show any difference for sure" in what_rows_show(3)


def test_the_same_data_again_is_linked_and_split_alike(box):
    """A second run shares the file with the first; a row held out stays held out."""
    box.put("a.jsonl", [qa(i) for i in range(100)])
    box.prepare("data: a.jsonl\neval_split: 0.2")
    first, known = box.run, str(box.run.data)
    held = set(load_from_disk(str(first.prepared / "eval"))["row"])
    box.prepare("data: a.jsonl\neval_split: 0.2", known_data=(known,))
    (one,), (two,) = list(first.data.iterdir()), list(box.run.data.iterdir())
    assert one.stat().st_ino == two.stat().st_ino
    box.put("a.jsonl", [qa(i) for i in range(150)])
    box.prepare("data: a.jsonl\neval_split: 0.2")
    again = set(load_from_disk(str(box.run.prepared / "eval"))["row"])
    assert held == {row for row in again if row < 100}


def test_why_no_row_is_held_out_is_said(box):
    """Nothing is measured then: the reason is that of this data."""
    box.put("a.jsonl", [qa(1)])
    result = box.prepare("data: a.jsonl", try_model=False)
    assert "no row is held out: there is only one" in result.shortfalls
    box.put("a.jsonl", [qa(i) for i in range(9)])
    box.put("b.jsonl", [{**qa(99), "weight": 0}])
    result = box.prepare("data: a.jsonl\neval_data: b.jsonl", try_model=False)
    assert (
        "no row is held out: all rows of eval_data are marked as not to be learned"
        in result.shortfalls
    )


def test_held_out_rows_may_come_from_a_file_of_their_own(box):
    """All of eval_data is held out, and questions that are learned too are told."""
    box.put("a.jsonl", [qa(i) for i in range(10)])
    box.put("b.jsonl", [qa(i) for i in range(8, 12)])
    result = box.prepare("data: a.jsonl\neval_data: b.jsonl")
    assert (result.train_rows, result.eval_rows) == (10, 4)
    (leak,) = [one for one in result.findings if one.check == "leak"]
    assert leak.count == 2
    assert [(one.file, one.line) for one in leak.places] == [("b.jsonl", 1), ("b.jsonl", 2)]


def test_a_few_long_rows_are_left_out_and_named(box):
    """Nothing is cut: a row that would lose tokens is left out, with its line told."""
    rows = [qa(i) for i in range(40)]
    rows[6]["output"] = "word " * 200
    box.put("a.jsonl", rows)
    result = box.prepare("data: a.jsonl\ntraining: {max_length: 100}")
    assert result.left_out_rows == 1
    assert any("left out: a.jsonl, line 7" in told for told in result.shortfalls)
    assert result.longest <= 100
    assert result.train_rows + result.eval_rows == 39


def test_many_long_rows_refuse_the_job_with_the_length_that_would_do(box):
    """More than 5% left out is not what anybody meant."""
    rows = [qa(i) for i in range(20)]
    rows[3]["output"] = rows[4]["output"] = "secret " * 200
    box.put("a.jsonl", rows)
    with pytest.raises(DataError) as caught:
        box.prepare("data: a.jsonl\ntraining: {max_length: 100}")
    (problem,) = caught.value.problems
    assert problem.lines == (4, 5)
    assert "secret" not in str(problem)
    assert "max_length: " in (problem.hint or "")
    length = int(problem.hint.split()[1])
    assert box.prepare(f"data: a.jsonl\ntraining: {{max_length: {length}}}").left_out_rows == 0


def test_auto_covers_what_the_card_allows(box):
    """A row that the card has no memory for, at any plan, is left out and named; many are not."""
    rows = [qa(i) for i in range(40)]
    rows[6]["output"] = "word " * 6000
    box.put("a.jsonl", rows)
    room = int(1.0 * 2**30)  # at the smallest plan the long row is forecast to take 1.05 GiB
    result = box.prepare("data: a.jsonl", gpu_memory_bytes=room)
    assert result.left_out_rows == 1
    assert any("left out: a.jsonl, line 7" in told for told in result.shortfalls)
    assert box.prepare("data: a.jsonl", gpu_memory_bytes=80 * 2**30).left_out_rows == 0
    rows[7]["output"] = rows[8]["output"] = "word " * 6000
    box.put("a.jsonl", rows)
    result = box.prepare("data: a.jsonl", gpu_memory_bytes=room)
    assert result.left_out_rows == 0, "three of 40: the run is to say what would fit"


def test_packed_sequences_are_counted_as_the_trainer_packs_them(box):
    """The steps of a packed run are those of its sequences."""
    box.put("a.jsonl", [qa(i) for i in range(40)])
    packed = box.prepare("data: a.jsonl\ntraining: {packing: true, max_length: 400}")
    train = load_from_disk(str(box.run.prepared / "train"))
    lengths = [len(ids) for ids in train["input_ids"]]
    assert sum(lengths) / 400 <= packed.train_rows < len(lengths) / 4
    assert packed.total_steps == 3  # of few sequences: three epochs of one step


def test_a_cap_below_the_weights_is_refused_before_anything_is_copied(box):
    """The run is rejected with the numbers; no minute is spent on data or training."""
    box.put("a.jsonl", [qa(1)])
    with pytest.raises(SpecError, match=r"weights alone take 0\.1 GiB \(qlora\)") as caught:
        box.prepare("data: a.jsonl\nlimits: {gpu_memory_gib: 0.3}")
    assert caught.value.problems[0].field == "limits.gpu_memory_gib"
    assert not box.run.data.exists()


BAD = {
    "empty": ([], "no rows", None),
    "bad JSON": ([qa(1), '{"instruction": "SECRET', qa(2), "SECRET"], "not valid JSON", 2),
    "no object": ([qa(1), '["SECRET"]'], "not a JSON object", 2),
    "no answer": ([qa(1), {"instruction": "SECRET"}], "no answer", 2),
    "empty answer": ([qa(1), {"instruction": "SECRET", "output": " "}], "no answer", 2),
    "mixed": ([qa(1), qa(2), {"text": "SECRET"}], "written as text", 3),
    "unknown": ([qa(1), {"Frist": "SECRET"}], "names are not recognised: Frist", 2),
    "a sentence for a name": ([qa(1), {"SECRET, or not?": 1}], "not shown", 2),
    "half a character": ([qa(1), {"instruction": "SECRET\ud800", "output": "x"}], "Unicode", 2),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_with_its_line_and_without_its_content(name, box):
    """File and line are told; what stands in the row is not."""
    rows, message, line = BAD[name]
    box.put("a.jsonl", rows)
    with pytest.raises(DataError, match=message) as caught:
        box.prepare("data: a.jsonl")
    assert caught.value.problems[0].file == "a.jsonl"
    assert caught.value.problems[0].line == line
    assert "SECRET" not in str(caught.value)


def test_all_that_is_wrong_is_found_in_one_pass(box):
    """Problems of one kind are told once with their count, in every file."""
    box.put("a.jsonl", [qa(1), "{", qa(2), "{", {"instruction": "q"}])
    box.put("b.jsonl", ["[1]", qa(1)])
    with pytest.raises(DataError) as caught:
        box.prepare("data: [a.jsonl, b.jsonl]")
    found = {(p.file, p.line, p.count) for p in caught.value.problems}
    assert found == {("a.jsonl", 2, 2), ("a.jsonl", 5, 1), ("b.jsonl", 1, 1)}


def test_a_missing_model_or_file_hides_no_other_problem(box):
    """Files that can be read are checked although another, and the model, is missing."""
    box.put("a.jsonl", [qa(1), "{", qa(2)])
    with pytest.raises(InputError) as caught:
        box.prepare("data: [none.jsonl, a.jsonl]", model="absent")
    told = [(p.field or p.file, p.line) for p in caught.value.problems]
    assert told == [("model", 1), ("none.jsonl", None), ("a.jsonl", 2)]


@pytest.mark.parametrize(
    ("rows", "steps"), [(101, 39), (96, 36), (1, 3)], ids=["uneven", "even", "one"]
)
def test_steps_are_counted_as_the_trainer_counts_them(rows, steps):
    """A partial window at the end of an epoch is a step of its own."""
    assert total_steps(rows, effective_batch_size=8, epochs=3, max_steps=None) == steps


def test_parts_of_an_epoch_are_rounded_up():
    """Trainer takes the ceiling of epochs times steps an epoch."""
    assert total_steps(101, effective_batch_size=8, epochs=0.5, max_steps=None) == 7
    assert total_steps(101, effective_batch_size=8, epochs=3, max_steps=5) == 5


def test_a_card_without_fp8_is_refused_before_it_is_waited_for(box):
    """By name, with what to write, and only where the spec asks for it."""
    box.put("a.jsonl", [qa(i) for i in range(20)])
    no_fp8 = fp8_obstacle("NVIDIA GeForce RTX 3090", "8.6")
    with pytest.raises(SpecError, match=r"RTX 3090, compute capability 8\.6") as caught:
        box.prepare("data: a.jsonl\nspeed: fp8", no_fp8=no_fp8)
    (problem,) = caught.value.problems
    assert problem.field == "speed"
    assert "Leave speed out" in problem.hint
    assert box.prepare("data: a.jsonl", no_fp8=no_fp8, try_model=False).train_rows
