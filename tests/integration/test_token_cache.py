"""Takes the tokens of an earlier run on the same rows, and of no other."""

import json
import shutil

import pytest
from datasets import load_from_disk
from test_prepare import Box, qa

from runner.contract.token_entries import sweep_entries
from runner.files.durable import TEMPORARY_PREFIX
from runner.training.data import base, leave_questions
from runner.training.data import prepare as stage


class FlowedError(Exception):
    """The rows were tokenised anew."""


@pytest.fixture
def box(tmp_path, tiny_model):
    """Give a box whose runs share a cache, with rows of every kind that is told of."""
    box = Box(tmp_path, tiny_model.parent)
    rows = [qa(i) for i in range(60)]
    rows[3]["output"] = "an <|im_end|> as text"
    rows[7]["weight"] = 0
    rows[9]["remark"] = "not read"
    box.put("a.jsonl", rows)
    box.cache = tmp_path / "outputs" / ".runner" / "tokens"
    return box


def prepare(box, spec="data: a.jsonl", **plan):
    """Prepare a run; give its result and its rows."""
    result = box.prepare(spec, try_model=False, token_cache=str(box.cache), **plan)
    return result, rows(box)


def rows(box):
    """Give the rows of the last run."""
    return [list(load_from_disk(str(box.run.prepared / name))) for name in ("train", "eval")]


@pytest.fixture
def no_flow(monkeypatch):
    """Give a function after which no row can be tokenised."""

    def stop():
        def flow(*_, **__):
            raise FlowedError

        monkeypatch.setattr(stage, "flow", flow)

    return stop


def test_the_second_run_has_the_tokens_and_words_of_the_first(box, no_flow):
    """Nothing is tokenised, nothing is told otherwise, and no space is taken twice."""
    first, tokens = prepare(box)
    earlier = box.run
    no_flow()
    second, again = prepare(box)
    assert (second, again) == (first, tokens)
    assert "columns not read: remark" in second.shortfalls
    for name in ("samples.json", "lengths.json", "findings.json"):
        assert (earlier.prepared / name).read_bytes() == (box.run.prepared / name).read_bytes()
    for name in ("rows.arrow", "train/data-00000-of-00001.arrow"):
        inodes = {(one.prepared / name).stat().st_ino for one in (earlier, box.run)}
        assert len(inodes) == 1


@pytest.mark.parametrize(
    "spec",
    [
        "data: a.jsonl\neval_split: 0.3",
        "data: a.jsonl\nsystem_prompt: Be brief.",
        "data: a.jsonl\nformat: alpaca",
        "data: a.jsonl\ntraining: {max_length: 400}",
        "data: b.jsonl",
    ],
)
def test_another_setting_takes_nothing(spec, box, no_flow):
    """Whatever a token or the split may follow from makes them anew."""
    prepare(box)
    box.put("b.jsonl", [qa(i) for i in range(61)])
    no_flow()
    with pytest.raises(FlowedError):
        prepare(box, spec)


def test_settings_that_change_no_token_keep_the_cache(box, no_flow):
    """Another learning rate trains on the same tokens."""
    prepare(box)
    no_flow()
    prepare(box, "data: a.jsonl\nlora: {r: 8}\ntraining: {learning_rate: 1e-4, epochs: 5}")


def test_the_second_run_reads_no_rows(box, monkeypatch):
    """The questions are those of the first run; other ones are looked up in the data."""
    prepare(box)
    earlier = box.run.prepared

    def read(*_, **__):
        raise FlowedError

    monkeypatch.setattr(leave_questions, "read_again", read)
    for module in (stage, leave_questions):
        monkeypatch.setattr(module, "first_rules", read)
    prepare(box)
    for name in ("questions.jsonl", "samples.json"):
        assert (box.run.prepared / name).read_bytes() == (earlier / name).read_bytes()
    with pytest.raises(FlowedError):
        prepare(box, "data: a.jsonl\nevaluation: {seed: 7}")


def test_rows_that_the_card_has_no_memory_for_are_no_part_of_it(box, no_flow):
    """An entry that would part the rows otherwise is not used."""
    long = [qa(i) for i in range(40)]
    long[6]["output"] = "word " * 6000
    box.put("a.jsonl", long)
    prepare(box, gpu_memory_bytes=80 * 2**30)
    no_flow()
    with pytest.raises(FlowedError):
        prepare(box, gpu_memory_bytes=2**30)


def test_the_second_run_loads_no_tokenizer(box, monkeypatch):
    """That takes a second and a half; what is written of it is what the first run wrote."""
    prepare(box)
    earlier = box.run.prepared

    def load(*_, **__):
        raise FlowedError

    monkeypatch.setattr(base, "_load_tokenizer", load)
    prepare(box)
    files = {path.relative_to(earlier) for path in earlier.rglob("*") if path.is_file()}
    now = box.run.prepared
    assert files == {path.relative_to(now) for path in now.rglob("*") if path.is_file()}
    own = {"plan.json", "result.json", "state.json"}  # of each run, and a random fingerprint
    for name in sorted(file for file in files if file.name not in own):
        assert (earlier / name).read_bytes() == (box.run.prepared / name).read_bytes(), name


@pytest.mark.parametrize(
    "name",
    [
        *("rows.arrow", "train.arrow", "checks.npz", "facts.json", "tokenizer--tokenizer.json"),
        *("questions.jsonl", "samples.json"),
    ],
)
@pytest.mark.parametrize("harm", ["torn", "gone", "other"])
def test_what_was_harmed_is_not_believed(name, harm, box, no_flow):
    """A torn, missing or foreign file of an entry is seen by its checksum."""
    prepare(box)
    (entry,) = box.cache.iterdir()
    content = (entry / name).read_bytes()
    (entry / name).unlink()
    if harm == "torn":
        (entry / name).write_bytes(content[: len(content) // 2])
    elif harm == "other":
        (entry / name).write_bytes(content.replace(b"1", b"2"))
    no_flow()
    with pytest.raises(FlowedError):
        prepare(box)


def test_the_cache_may_be_deleted_at_any_time(box):
    """A run without it is as one with it."""
    first = prepare(box)
    shutil.rmtree(box.cache)
    assert prepare(box) == first
    assert len(list(box.cache.iterdir())) == 1


def test_the_cache_may_be_deleted_while_a_run_takes_its_tokens(box, no_flow, monkeypatch):
    """Somebody makes room, or another job on the same rows writes the entry anew."""
    first = prepare(box)
    part = stage.part_rows

    def delete_first(*given):
        shutil.rmtree(box.cache)
        return part(*given)

    monkeypatch.setattr(stage, "part_rows", delete_first)
    no_flow()
    assert prepare(box) == first
    assert not list(box.run.prepared.glob(".tmp-*"))


def test_an_entry_goes_with_the_last_run_that_has_it(box):
    """What an erased run learned from is nowhere any more."""
    prepare(box)
    first = box.run
    prepare(box)
    shutil.rmtree(first.root)
    assert sweep_entries(box.cache) == 0
    shutil.rmtree(box.run.root)
    (box.cache / ".tmp-torn").mkdir()
    assert sweep_entries(box.cache) == 2
    assert not list(box.cache.iterdir())


def test_an_entry_that_another_run_is_making_is_left_alone(box):
    """Two runs are prepared at once; what a killed one has left goes with its run."""
    prepare(box)
    (entry,) = box.cache.iterdir()
    beside = box.cache / f"{TEMPORARY_PREFIX}0f3a"
    beside.mkdir()
    (beside / "rows.arrow").hardlink_to(entry / "rows.arrow")
    assert sweep_entries(box.cache) == 0
    shutil.rmtree(entry)
    shutil.rmtree(box.run.root)
    assert sweep_entries(box.cache) == 1
    assert not beside.exists()


def test_code_of_the_models_own_is_not_cached(box):
    """What its tokenizer does may change without a file that is known."""
    prepare(box, trust_remote_code=True)
    assert not box.cache.exists()


def test_an_entry_holds_no_text_of_a_row(box):
    """Tokens apart: they are in prepared/, too."""
    prepare(box)
    (entry,) = box.cache.iterdir()
    facts = json.loads((entry / "facts.json").read_text())
    assert "The answer is" not in json.dumps(facts)
    assert b"The answer is" not in (entry / "checks.npz").read_bytes()


def test_findings_stand_in_the_cache_as_long_as_nothing_else_decides_them(box, monkeypatch):
    """The checks look at the rows once; other epochs or wishes make them look again."""
    first, _ = prepare(box)

    def conclude(*_):
        raise FlowedError

    monkeypatch.setattr(stage, "conclude", conclude)
    second, _ = prepare(box)
    assert second.findings == first.findings != ()
    for spec in ("data: a.jsonl\ntraining: {epochs: 7}", "data: a.jsonl\nchecks: {few_rows: stop}"):
        with pytest.raises(FlowedError):
            prepare(box, spec)
