"""Loss per row of the base: a real model on prepared rows, against plain cross entropy."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from test_prepare import Box
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from runner.contract.findings import Level, Place
from runner.spec.read_spec import read_spec
from runner.training.checks.row_loss import RowLoss, choose, judge
from runner.training.evaluate.row_loss import row_losses
from runner.training.fit.head import give_head
from runner.training.fit.heldout import held_out_loss


@pytest.fixture(scope="module")
def model(tiny_model):
    """Give the small model with the head that evaluate uses."""
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    give_head(loaded)
    return loaded.eval()


@pytest.fixture
def box(tmp_path, tiny_model):
    """Give an inbox with forty prepared rows."""
    box = Box(tmp_path, tiny_model.parent)
    rows = [
        {"instruction": f"What is {n}?", "output": f"It is {n + 1}, not {n}."} for n in range(40)
    ]
    box.put("a.jsonl", rows)
    box.prepare("data: a.jsonl\neval_split: 0.1")
    return box


def measure_with(model, tiny_model):
    """Give what evaluate measures with."""
    collator = DataCollatorForLanguageModeling(
        pad_token_id=AutoTokenizer.from_pretrained(tiny_model).pad_token_id or 0
    )

    def measure(rows):
        inputs = rows.remove_columns(["row"])
        return held_out_loss(model, inputs, collator, batch_size=4, device="cpu")

    return measure


def test_each_rows_loss_is_plain_cross_entropys_and_names_its_line(box, model, tiny_model):
    """The file of losses agrees with torch's own loss on each row, at the row's own line."""
    spec = read_spec(box.run.spec.read_bytes(), file_name="job.yaml")
    box.run.evaluation.mkdir()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    found = row_losses(box.run, spec, measure_with(model, tiny_model), on_gpu=True)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    written = json.loads((box.run.evaluation / "row_loss.json").read_text())
    train = load_from_disk(str(box.run.prepared / "train"))
    assert len(written) == len(train)
    losses = {one["line"]: one["loss"] for one in written}
    for row in train:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        plain = torch.nn.functional.cross_entropy(logits, torch.tensor(row["labels"][1:]))
        assert losses[row["row"] + 1] == pytest.approx(plain.item(), abs=2e-3)
    hardest = {one.check: one for one in found}["hardest_answers"]
    assert [place.line for place in hardest.places] == [one["line"] for one in written[:3]]
    assert written == sorted(written, key=lambda one: -one["loss"])
    assert "not" not in (box.run.evaluation / "row_loss.json").read_text()


def test_a_spec_that_ignores_it_costs_nothing(box):
    """Where all three findings are turned off the model is not asked."""
    names = ("known_answers", "surprising_answers", "hardest_answers")
    checks = "".join(f"  {name}: ignore\n" for name in names)
    content = f"model: tiny\ndata: a.jsonl\nchecks:\n{checks}".encode()
    spec = read_spec(content, file_name="job.yaml")
    assert row_losses(box.run, spec, lambda _: pytest.fail("asked"), on_gpu=True) == ()


def test_a_run_of_an_older_runner_has_no_row_losses(box):
    """Without the table of rows nothing is measured, and nothing fails."""
    (box.run.prepared / "rows.arrow").unlink()
    spec = read_spec(box.run.spec.read_bytes(), file_name="job.yaml")
    assert row_losses(box.run, spec, lambda _: pytest.fail("asked"), on_gpu=True) == ()


def test_what_does_not_fit_is_left_unsaid(box):
    """A card that is too full for the sample does not fail the run."""
    spec = read_spec(box.run.spec.read_bytes(), file_name="job.yaml")

    def too_much(_rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert row_losses(box.run, spec, too_much, on_gpu=True) == ()


def test_without_a_card_little_is_read(box, model, tiny_model):
    """On a CPU at most 500 tokens are read where little is held out."""
    spec = read_spec(box.run.spec.read_bytes(), file_name="job.yaml")
    box.run.evaluation.mkdir()
    seen = []
    measure = measure_with(model, tiny_model)

    def counting(rows):
        seen.extend(rows["input_ids"])
        return measure(rows)

    row_losses(box.run, spec, counting, on_gpu=False)
    assert 0 < sum(map(len, seen)) <= 500


def test_the_rows_to_measure_are_the_same_each_time_and_within_bounds():
    """Rows are spread over the data, never more than asked for; a resumed run takes the same."""
    rows, tokens = np.arange(0, 200_000, 2), np.full(100_000, 50)
    one = choose(rows, tokens, most_rows=512, most_tokens=10_000)
    assert (one == choose(rows, tokens, most_rows=512, most_tokens=10_000)).all()
    assert len(one) == 200
    assert np.histogram(one, bins=4, range=(0, 100_000))[0].min() > 20
    assert len(choose(rows, tokens, most_rows=512, most_tokens=10**9)) == 512
    assert choose(rows[:3], np.array([5, 900, 5]), most_rows=9, most_tokens=20).tolist() == [0, 2]
    assert len(choose(rows[:0], tokens[:0], most_rows=9, most_tokens=20)) == 0


def test_losses_become_findings_with_the_extremes_first():
    """What the base knows, and what it finds next to impossible, is named; spread alone is not."""
    chance = random.Random(2)
    losses = [chance.gauss(2, 0.4) for _ in range(100)] + [9.5, 8.5] + [0.02, 0.05, 0.01]
    measured = [
        RowLoss(place=Place(file="a.jsonl", line=n), loss=loss) for n, loss in enumerate(losses)
    ]
    found = {one.check: one for one in judge(measured, {})}
    assert [place.line for place in found["surprising_answers"].places] == [100, 101]
    assert [place.line for place in found["known_answers"].places] == [104, 102, 103]
    assert found["known_answers"].level is Level.INFORM
    many = judge(measured[100:], {"surprising_answers": "ignore"})
    assert {one.check: one.level for one in many} == {
        "known_answers": Level.ADVISE,
        "hardest_answers": Level.INFORM,
    }
    assert judge([], {}) == []
    nothing = [RowLoss(place=Place(file="a.jsonl", line=1), loss=float("nan"))]
    assert judge(nothing, {}) == []
