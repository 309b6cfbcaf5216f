"""Old rows that a continued run learns again: a share of them, each once, and no held-out one."""

import shutil

import pytest
from datasets import load_from_disk
from test_prepare import Box
from transformers import AutoTokenizer

from runner.clock import now
from runner.contract.record import RunRecord, write_record
from runner.contract.states import State
from runner.errors import DataError
from runner.training.data.learned import learned_by
from runner.training.data.token_table import KNOWN, read_part

SPEC = "data: {data}\nstart_from: current\nreplay: {share}\n{more}"


def rows(first, last, answer="The answer is"):
    """Make rows with numbers that tell them apart."""
    return [
        {"instruction": f"Question {n}?", "output": f"{answer} {n}."} for n in range(first, last)
    ]


class ReplayBox(Box):
    """A box whose runs go on from each other."""

    def first(self, data, more="eval_split: 0"):
        """Prepare a run that begins afresh."""
        result = self.prepare(f"data: {data}\n{more}", try_model=False)
        self.record(None)
        return result

    def again(self, data, share, more="eval_split: 0", **plan):
        """Prepare a run that goes on from the one before."""
        before = self.run
        spec = SPEC.format(data=data, share=share, more=more)
        given = {"try_model": False, "replay_from": str(before.root), **plan}
        result = self.prepare(spec, **given)
        self.record(before.run_id)
        return result

    def record(self, started_from):
        """Write what a daemon would have written of the run."""
        record = RunRecord(
            job=self.run.job,
            run_id=self.run.run_id,
            state=State.SUCCEEDED,
            file_name="job.yaml",
            created_at=now(),
            spec_sha256="0" * 64,
            started_from=started_from,
        )
        write_record(self.run.record, record)

    def texts(self, name="train"):
        """Give the rows of a part as the tokenizer reads them back."""
        folder = self.run.prepared / name
        if not folder.exists():
            return []
        rows = load_from_disk(str(folder))
        return sorted(self.tokenizer.decode(ids) for ids in rows["input_ids"])


@pytest.fixture
def box(tmp_path, tiny_model):
    """Give an empty box."""
    box = ReplayBox(tmp_path, tiny_model.parent)
    box.tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return box


def numbers(texts):
    """Tell which rows those are."""
    return sorted(int(text.split("Question ")[1].split("?")[0]) for text in texts)


def test_a_new_file_gets_a_share_of_the_old_rows(box):
    """The old file is gone from the share: its rows come from the earlier run, as they were."""
    box.put("a.jsonl", rows(0, 40))
    box.first("a.jsonl")
    old = box.texts()
    (box.inbox / "a.jsonl").unlink()
    box.put("b.jsonl", rows(100, 110))
    result = box.again("b.jsonl", 0.25)
    assert result.train_rows == 20
    assert result.replay is not None
    assert (result.replay.old, result.replay.replayed, result.replay.new) == (40, 10, 10)
    found = numbers(box.texts())
    assert [n for n in found if n >= 100] == list(range(100, 110))
    replayed = [text for text in box.texts() if text in old]
    assert len(set(replayed)) == 10
    train = load_from_disk(str(box.run.prepared / "train"))
    assert len(set(train["row"])) == 20
    assert result.train_tokens == sum(map(len, train["input_ids"]))
    learned = sum(label != -100 for labels in train["labels"] for label in labels)
    assert result.learned_tokens == learned
    assert result.longest == max(map(len, train["input_ids"]))
    note = f"of the rows that the adapter in use ({result.replay.run_id}) was trained on, "
    assert note + "10 of 40 are learned again (replay); new rows: 10" in result.shortfalls


def test_data_that_has_grown_takes_its_old_rows_from_itself(box):
    """A pattern that finds old and new files: new rows are all learned, old ones by their share."""
    box.put("a.jsonl", rows(0, 40))
    box.first('"*.jsonl"')
    box.put("b.jsonl", rows(100, 110))
    result = box.again('"*.jsonl"', 0.5)
    assert (result.train_rows, result.left_out_rows) == (30, 0)
    found = numbers(box.texts())
    assert found[-10:] == list(range(100, 110))
    assert len(set(found)) == 30
    assert (read_part(box.run.prepared / "rows.arrow") == KNOWN).sum() == 20


def test_the_third_run_still_knows_the_rows_of_the_first(box):
    """Rows that were not drawn in between are old rows all the same, never new ones."""
    box.put("a.jsonl", rows(0, 40))
    box.first("a.jsonl")
    box.put("b.jsonl", rows(100, 110))
    box.again("b.jsonl", 0.25)
    box.put("c.jsonl", rows(200, 205))
    result = box.again("c.jsonl", 1)
    assert (result.replay.old, result.replay.replayed, result.replay.new) == (50, 50, 5)
    assert numbers(box.texts()) == [*range(40), *range(100, 110), *range(200, 205)]
    assert sum(int(one.known.sum()) for one in learned_by(box.run)[0]) == 55


def test_nothing_old_is_learned_at_a_share_of_none(box):
    """Only the new rows are; and where there are none, the run is refused with what to do."""
    box.put("a.jsonl", rows(0, 40))
    box.first("a.jsonl")
    box.put("a.jsonl", rows(0, 45))
    result = box.again("a.jsonl", 0)
    assert numbers(box.texts()) == list(range(40, 45))
    assert result.replay.replayed == 0
    with pytest.raises(DataError, match="was trained on every row of the data") as refused:
        box.again("a.jsonl", 0)
    assert "give replay a share above 0" in str(refused.value)


def test_each_run_draws_other_rows_and_each_try_the_same(box):
    """A run that is prepared twice has the same rows; the next one does not draw them again."""
    box.put("a.jsonl", rows(0, 200))
    box.first("a.jsonl")
    first = box.run
    box.put("b.jsonl", rows(300, 310))
    box.again("b.jsonl", 0.2)
    once = box.texts()
    box.run = first
    box.again("b.jsonl", 0.2)
    assert box.texts() == once
    box.put("c.jsonl", rows(400, 410))
    box.again("c.jsonl", 0.2)
    drawn = {n for n in numbers(once) if n < 200}
    assert len(drawn) == 40
    assert len(drawn & set(numbers(box.texts()))) < 25  # 8 are to be expected


@pytest.mark.parametrize("data", ["b.jsonl", '"*.jsonl"'])
def test_what_is_held_out_is_never_learned_again(box, data):
    """Neither what this run holds out nor what the earlier one did."""
    box.put("a.jsonl", rows(0, 60))
    box.first("a.jsonl", "eval_split: 0.3")
    held_before = numbers(box.texts("eval"))
    box.put("b.jsonl", rows(100, 130))
    result = box.again(data, 1, more="eval_split: 0.3")
    held = set(held_before) | set(numbers(box.texts("eval")))
    assert len(held_before) > 5
    assert not held & set(numbers(box.texts()))
    assert result.replay.replayed == 60 - len(held_before)


@pytest.mark.parametrize("data", ["b.jsonl", '"?.jsonl"'])
def test_a_held_out_file_with_old_rows_keeps_them_from_training(box, data):
    """Rows that were learned and are now asked in eval_data do not come back."""
    box.put("a.jsonl", rows(0, 40))
    box.first("a.jsonl")
    box.put("b.jsonl", rows(100, 110))
    box.put("held.jsonl", rows(0, 20, answer="Otherwise it is"))
    box.again(data, 1, more="eval_data: held.jsonl")
    assert not {n for n in numbers(box.texts()) if n < 20}


def test_a_corrected_row_does_not_come_back_as_it_was(box):
    """The same question with another answer: the old answer is not learned again."""
    box.put("a.jsonl", rows(0, 40))
    box.first("a.jsonl")
    box.put("b.jsonl", rows(0, 10, answer="Corrected, it is"))
    box.again("b.jsonl", 1)
    assert len(box.texts()) == 40
    assert sum("Corrected" in text for text in box.texts()) == 10
    box.put("c.jsonl", rows(100, 101))
    box.again("c.jsonl", 1)
    assert sum("Corrected" in text for text in box.texts()) == 10
    assert len(box.texts()) == 41


def test_a_row_that_stands_there_twice_is_learned_again_once(box):
    """Copies among old rows are taken once, whichever file they stand in."""
    box.put("a.jsonl", [*rows(0, 20), *rows(0, 20)])
    box.first("a.jsonl")
    box.put("b.jsonl", [*rows(0, 20), *rows(100, 105)])
    result = box.again('"*.jsonl"', 1)
    assert numbers(box.texts()) == [*range(20), *range(100, 105)]
    assert result.replay.old == 20


def test_rows_longer_than_the_limit_stay_out(box):
    """Old rows obey the run's own max_length."""
    box.put("a.jsonl", [*rows(0, 20), {"instruction": "Question 50?", "output": "long " * 200}])
    box.first("a.jsonl")
    box.put("b.jsonl", rows(100, 105))
    box.again("b.jsonl", 1, more="eval_split: 0\ntraining: {max_length: 100}")
    assert 50 not in numbers(box.texts())
    assert len(box.texts()) == 25


def test_a_deleted_run_is_named(box):
    """Of a run before the last one: a note. Of the one that is gone on from: a refusal."""
    box.put("a.jsonl", rows(0, 40))
    box.first("a.jsonl")
    first = box.run
    box.put("b.jsonl", rows(100, 110))
    box.again("b.jsonl", 0.25)
    shutil.rmtree(first.prepared)
    box.put("c.jsonl", rows(200, 205))
    second = box.run
    result = box.again("c.jsonl", 1)
    assert result.replay.gone_runs == (first.run_id,)
    assert any(f"learned in {first.run_id} cannot be learned" in one for one in result.shortfalls)
    assert [n for n in numbers(box.texts()) if n >= 100] == [*range(100, 110), *range(200, 205)]
    box.run = second
    shutil.rmtree(second.prepared / "train")
    result = box.again("c.jsonl", 1)
    assert result.replay.gone_runs == (second.run_id, first.run_id)
    box.run = second
    (second.prepared / "rows.arrow").unlink()
    with pytest.raises(DataError, match="are not known") as refused:
        box.again("c.jsonl", 1)
    assert f"outputs/job/{second.run_id}/prepared/ is gone" in str(refused.value)


def test_torn_tokens_are_a_refusal_not_a_crash(box):
    """An earlier run's table that a disk has cut is named."""
    box.put("a.jsonl", rows(0, 40))
    box.first("a.jsonl")
    table = box.run.prepared / "train" / "data-00000-of-00001.arrow"
    table.write_bytes(table.read_bytes()[:700])
    box.put("b.jsonl", rows(100, 110))
    with pytest.raises(DataError, match="cannot be read"):
        box.again("b.jsonl", 1)


def test_the_token_cache_never_gives_a_run_replayed_rows(box, tmp_path):
    """A run that begins afresh on the same file has its rows alone, before and after."""
    cache = {"token_cache": str(tmp_path / "tokens")}
    box.put("a.jsonl", rows(0, 40))
    box.first("a.jsonl")
    box.put("b.jsonl", rows(100, 110))
    box.again("b.jsonl", 1, **cache)
    assert len(box.texts()) == 50
    box.prepare("data: b.jsonl\neval_split: 0", try_model=False, **cache)
    assert len(box.texts()) == 10
    box.record(None)
    box.prepare("data: b.jsonl\neval_split: 0", try_model=False, **cache)
    assert len(box.texts()) == 10
