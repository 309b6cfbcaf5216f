"""A scheduled run goes on from the adapter in use by itself, or begins afresh and says why."""

import hashlib
import json
import shutil

import pytest
from datasets import load_from_disk
from test_prepare import Box

from runner.clock import now
from runner.commands.prepare_aside import prepared_from
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.promotions import Change, How
from runner.contract.record import ModelFacts, RunRecord, read_record, write_record
from runner.contract.stage_io import PrepareResult, read_message
from runner.contract.start_choice import MOST_GOINGS_ON, sentence
from runner.contract.states import State
from runner.training.data.token_table import KNOWN, read_part

SPEC = 'data: "{data}"\nschedule: "0 2 * * sun"\n{more}'
NONE_HELD = "eval_split: 0"


def rows(first, last, answer="The answer is"):
    """Make rows with numbers that tell them apart."""
    return [
        {"instruction": f"Question {n}?", "output": f"{answer} {n}."} for n in range(first, last)
    ]


class StartBox(Box):
    """A box with an adapter in use."""

    in_use: RunFolder | None = None

    def run_of(self, data="*.jsonl", more=NONE_HELD, **plan):
        """Prepare a run as the daemon asks for it, and record what came of it."""
        asked = {"try_model": False, **plan}
        if self.in_use is not None:
            asked["replay_from"] = str(self.in_use.root)
        result = self.prepare(SPEC.format(data=data, more=more), **asked)
        self.record(
            started_from=result.start.run_id if result.start and result.start.goes_on else None,
            model=result.model,
        )
        return result

    def record(self, **fields):
        """Write what a daemon would have written of the newest run."""
        known = {
            "job": self.run.job,
            "run_id": self.run.run_id,
            "state": State.SUCCEEDED,
            "file_name": "job.yaml",
            "created_at": now(),
            "spec_sha256": hashlib.sha256(self.run.spec.read_bytes()).hexdigest(),
        }
        write_record(self.run.record, RunRecord(**{**known, **fields}))

    def put_into_use(self):
        """Let the newest run have an adapter, which is in use from now on."""
        self.in_use = self.run
        self.in_use.adapter.mkdir()
        config = {"r": 16, "lora_alpha": 32, "use_rslora": False, "target_modules": ["q_proj"]}
        (self.in_use.adapter / "adapter_config.json").write_text(json.dumps(config))
        (self.in_use.adapter / "adapter_model.safetensors").write_bytes(b"weights")

    def change_in_use(self, **changes):
        """Change the record of the run whose adapter is in use."""
        write_record(self.in_use.record, read_record(self.in_use.record).but(**changes))

    def learned(self):
        """Give the numbers of the rows that the newest run learns, one for each time."""
        table = load_from_disk(str(self.run.prepared / "train"))
        return sorted(table["row"])


def test_a_preview_shows_the_rows_that_a_run_of_now_would_have(box):
    """The spec on schedule, looked at aside: the same choice, in words; elsewhere none is made."""
    spec = box.inbox / "job.yaml"
    spec.write_bytes(box.in_use.spec.read_bytes())
    where = (spec, box.models, box.inbox)
    with open(box.outputs.promotions("job"), "x") as history:
        change = Change(time=now(), how=How.PROMOTED, run_id=box.in_use.run_id, why="", by="anna")
        history.write(change.model_dump_json() + "\n")
    with prepared_from(*where, outputs=box.outputs) as run:
        result = read_message(StageFolder(run.prepared).result, PrepareResult)
    assert (result.start.why, result.train_rows) == ("grown", 32)
    assert sentence(result.start) in result.shortfalls
    with prepared_from(*where) as run:
        result = read_message(StageFolder(run.prepared).result, PrepareResult)
    assert (result.start, result.train_rows) == (None, 60)


@pytest.fixture
def box(tmp_path, tiny_model):
    """A box where a run on 40 rows is in use, and 20 more rows have come."""
    box = StartBox(tmp_path, tiny_model.parent)
    box.put("a.jsonl", rows(0, 40))
    first = box.run_of()
    assert first.start is None  # nothing was in use
    box.put_into_use()
    box.put("b.jsonl", rows(100, 120))
    return box


def test_data_that_has_grown_is_gone_on_with(box):
    """All new rows, and three in ten of the old ones; the record and the notes say so."""
    result = box.run_of()
    assert result.start is not None
    assert (result.start.why, result.start.run_id) == ("grown", box.in_use.run_id)
    assert (result.start.old, result.start.count) == (40, 20)
    assert (result.replay.share, result.replay.old, result.replay.replayed) == (0.3, 40, 12)
    assert result.train_rows == 32
    learned = box.learned()
    assert learned[-20:] == list(range(40, 60))
    assert len(set(learned)) == 32
    assert (read_part(box.run.prepared / "rows.arrow") == KNOWN).sum() == 28
    assert sentence(result.start) in result.shortfalls
    assert result.replay.sentence() in result.shortfalls


def afresh(box, why, count=0, learned=60, **how):
    """Prepare a run and see that it begins afresh, on all rows, and says why."""
    result = box.run_of(**how)
    assert (result.start.why, result.start.count) == (why, count)
    assert result.replay is None
    assert sentence(result.start) in result.shortfalls
    assert result.train_rows == learned == len(box.learned())


def test_a_row_that_was_taken_out_is_not_kept_by_going_on(box):
    """Of an old file two rows are gone: what was learned of them is in the adapter in use."""
    box.put("a.jsonl", rows(2, 40))
    afresh(box, "rows_gone", 2, learned=58)


def test_a_corrected_row_is_learned_afresh(box):
    """The same question with another answer is a row that stands there no more."""
    box.put("a.jsonl", [*rows(0, 1, answer="Corrected, it is"), *rows(1, 40)])
    afresh(box, "rows_gone", 1)


def test_a_copy_of_an_old_row_is_no_new_one(box):
    """Rows that say the same count once: nothing new has come."""
    box.put("b.jsonl", rows(0, 20))
    afresh(box, "nothing_new")
    box.put("b.jsonl", [*rows(100, 119), *rows(100, 119)])
    afresh(box, "growth", 19, learned=78)


def test_less_or_more_growth_than_was_measured_begins_afresh(box):
    """Half as many new rows up to as many: 19 and 41 beside 40 are outside, 40 is within."""
    box.put("b.jsonl", rows(100, 119))
    afresh(box, "growth", 19, learned=59)
    box.put("b.jsonl", rows(100, 141))
    afresh(box, "growth", 41, learned=81)
    box.put("b.jsonl", rows(100, 140))
    assert box.run_of().start.goes_on


def test_an_old_row_that_is_held_out_now_begins_afresh(box):
    """An adapter that has learned a row cannot be measured on it."""
    held = "eval_data: held.json"
    (box.inbox / "held.json").write_text(json.dumps(rows(0, 3, answer="Otherwise it is")))
    box.change_in_use(spec_sha256=sha256_of(SPEC.format(data="*.jsonl", more=held)))
    result = box.run_of(more=held)
    assert (result.start.why, result.start.count) == ("held_out", 3)
    assert result.train_rows == 60


def test_a_row_held_out_before_counts_as_new(box):
    """What the adapter in use did not learn is learned whole, whoever held it out."""
    (box.inbox / "b.jsonl").unlink()
    box.in_use, more = None, "eval_split: 0.3"
    first = box.run_of(more=more)
    assert first.eval_rows > 5
    box.put_into_use()
    box.put("b.jsonl", rows(100, 140))
    result = box.run_of(more=more)
    assert result.start.goes_on
    assert result.start.old == first.train_rows
    assert result.start.count == result.replay.new


def sha256_of(spec):
    """Give the hash of a spec as a run's folder has it."""
    return hashlib.sha256(f"model: tiny\n{spec}\n".encode()).hexdigest()


def test_an_edited_spec_begins_afresh(box):
    """Whoever changes how a job is trained wants it trained so, whatever the change is."""
    afresh(box, "other_spec", more=f"{NONE_HELD}\ntraining: {{learning_rate: 1e-3}}")


@pytest.mark.parametrize(
    "setting", ["training: {max_steps: 9}", "try: {learning_rate: [1e-4, 2e-4]}"]
)
def test_settings_that_were_not_measured_begin_afresh(box, setting):
    """Whatever else fits."""
    more = f"{NONE_HELD}\n{setting}" if "max" in setting else f"eval_split: 0.2\n{setting}"
    box.change_in_use(spec_sha256=sha256_of(SPEC.format(data="*.jsonl", more=more)))
    assert box.run_of(more=more).start.why == "settings"


def test_another_base_or_shape_or_a_torn_adapter_begins_afresh(box):
    """Where going on is not possible it is not tried: no run is refused for it."""
    model = read_record(box.in_use.record).model
    box.change_in_use(model=ModelFacts(id=model.id, sha256="0" * 64))
    afresh(box, "does_not_fit")
    box.change_in_use(model=model)
    config = box.in_use.adapter / "adapter_config.json"
    whole = config.read_text()
    config.write_text(whole.replace("16", "8"))
    afresh(box, "does_not_fit")
    config.write_text("{")
    afresh(box, "does_not_fit")
    config.write_text(whole)
    weights = box.in_use.adapter / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".gone"))
    afresh(box, "does_not_fit")
    weights.with_suffix(".gone").rename(weights)
    assert box.run_of().start.goes_on


def test_a_run_that_is_gone_begins_afresh(box):
    """The history names it, and its folder was deleted by hand."""
    shutil.rmtree(box.in_use.root)
    afresh(box, "does_not_fit")


def test_rows_that_are_not_known_begin_afresh(box):
    """They were erased, or cleared, or an older runner prepared them: nobody can compare them."""
    shutil.rmtree(box.in_use.prepared)
    afresh(box, "unknown_rows")


def test_as_often_in_a_row_as_was_measured(box):
    """An adapter that has gone on so often is trained afresh the next time."""
    for number in range(MOST_GOINGS_ON):
        assert box.run_of().start.goes_on
        box.put_into_use()
        old = 60 * 2**number
        box.put(f"c{number}.jsonl", rows(1000 * (number + 1), 1000 * (number + 1) + old // 2))
    result = box.run_of()
    assert (result.start.why, result.start.count) == ("due", MOST_GOINGS_ON)


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        (State.SUCCEEDED, True),
        (State.FAILED, True),
        (State.REJECTED, True),
        (State.CANCELLED, False),
        (State.QUEUED, False),
    ],
)
def test_a_continued_run_that_did_not_come_into_use_is_not_tried_again(box, state, counts):
    """Not better, or failed: the next one begins afresh. Nor does a run count against itself."""
    assert box.run_of().start.goes_on
    model = read_record(box.run.record).model
    box.record(started_from=box.in_use.run_id, model=model, state=state)
    if counts:
        afresh(box, "went_on")
    else:
        assert box.run_of().start.goes_on


def test_without_a_schedule_or_with_fresh_nothing_is_chosen(box):
    """A spec that a person drops again is trained from nothing, as it always was."""
    for spec in ('data: "*.jsonl"\neval_split: 0', SPEC.format(data="*.jsonl", more=NONE_HELD)):
        fresh = f"{spec}\nstart_from: fresh" if "schedule" in spec else spec
        result = box.prepare(fresh, try_model=False, replay_from=str(box.in_use.root))
        assert (result.start, result.replay, result.train_rows) == (None, None, 60)
        assert not any("adapter in use" in note for note in result.shortfalls)


def test_the_token_cache_has_no_run_that_goes_on(box, tmp_path):
    """Whoever begins afresh on the same data has all of its rows, before and after."""
    cache = {"token_cache": str(tmp_path / "tokens")}
    assert box.run_of(**cache).start.goes_on
    box.record(state=State.CANCELLED)
    assert not list((tmp_path / "tokens").glob("*/facts.json"))
    in_use, box.in_use = box.in_use, None
    assert box.run_of(**cache).train_rows == 60
    box.in_use = in_use
    assert box.run_of(**cache).train_rows == 32
    assert len(box.learned()) == 32
    box.change_in_use(spec_sha256="0" * 64)
    afresh(box, "other_spec", **cache)
