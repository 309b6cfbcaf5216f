"""Loss per row of the base: real models on prepared rows; training is as if it had not been."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from test_prepare import Box
from train_box import Run
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from runner.contract.findings import Level, Place
from runner.contract.layout import StageFolder
from runner.contract.row_losses import read_row_losses
from runner.exit_codes import ExitCode
from runner.spec.read_spec import read_spec
from runner.training.checks.row_loss import RowLoss, choose, judge
from runner.training.fit.head import give_head
from runner.training.fit.heldout import held_out_loss
from runner.training.fit.row_loss import row_losses
from runner.training.fit.stop import Interrupted
from runner.training.packaged_model import prepare_demo_model


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


def losses(box, spec, measure, *, on_gpu=True):
    """Measure in the first attempt's folder."""
    folder = StageFolder(box.run.attempt(1))
    folder.root.mkdir(parents=True, exist_ok=True)
    return row_losses(box.run, folder, spec, measure, on_gpu=on_gpu)


def spec_of(box):
    """Read the run's spec."""
    return read_spec(box.run.spec.read_bytes(), file_name="job.yaml")


def measure_with(model, tiny_model):
    """Give what evaluate measures with."""
    collator = DataCollatorForLanguageModeling(
        pad_token_id=AutoTokenizer.from_pretrained(tiny_model).pad_token_id or 0
    )

    def measure(rows):
        return held_out_loss(model, rows, collator, batch_size=4, device="cpu")

    return measure


def test_each_rows_loss_is_plain_cross_entropys_and_names_its_line(box, model, tiny_model):
    """The file of losses agrees with torch's own loss on each row, at the row's own line."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    found = losses(box, spec_of(box), measure_with(model, tiny_model), on_gpu=True)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    text = (box.run.attempt(1) / "row_loss.json").read_text()
    content = json.loads(text)
    written = content["rows"]
    train = load_from_disk(str(box.run.prepared / "train"))
    assert len(written) == len(train) == content["learned_rows"]
    by_line = {one["line"]: one["loss"] for one in written}
    for row in train:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        plain = torch.nn.functional.cross_entropy(logits, torch.tensor(row["labels"][1:]))
        assert by_line[row["row"] + 1] == pytest.approx(plain.item(), abs=2e-3)
    hardest = {one.check: one for one in found}["hardest_answers"]
    assert [place.line for place in hardest.places] == [one["line"] for one in written[:3]]
    assert written == sorted(written, key=lambda one: -one["loss"])
    assert "not 3" not in text


def test_a_spec_that_ignores_it_costs_nothing(box):
    """Where all three findings are turned off the model is not asked."""
    names = ("known_answers", "surprising_answers", "hardest_answers")
    checks = "".join(f"  {name}: ignore\n" for name in names)
    box.run.spec.write_text(f"model: tiny\ndata: a.jsonl\nchecks:\n{checks}")
    assert losses(box, spec_of(box), lambda _: pytest.fail("asked"), on_gpu=True) == ()


def test_a_run_of_an_older_runner_has_no_row_losses(box):
    """Without the table of rows nothing is measured, and nothing fails."""
    (box.run.prepared / "rows.arrow").unlink()
    assert losses(box, spec_of(box), lambda _: pytest.fail("asked"), on_gpu=True) == ()


def test_what_does_not_fit_is_left_unsaid(box):
    """A card that is too full for the sample does not fail the run."""

    def too_much(_rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert losses(box, spec_of(box), too_much, on_gpu=True) == ()


def test_whatever_fails_is_a_line_in_the_log(box, capsys):
    """A fault, or rows that cannot be read again, leave the run alone; it is not tried again."""

    def fault(_rows):
        raise ValueError("secret of a row")

    assert losses(box, spec_of(box), fault) == ()
    said = capsys.readouterr().out
    assert "left out (ValueError)" in said
    assert "secret" not in said
    assert losses(box, spec_of(box), lambda _: pytest.fail("asked")) == ()
    (box.run.attempt(1) / "row_loss.json").unlink()
    (box.run.prepared / "rows.arrow").write_bytes(b"torn")
    assert losses(box, spec_of(box), lambda _: pytest.fail("asked")) == ()


def test_one_that_was_stopped_is_made_up_for(box, model, tiny_model):
    """The daemon's word goes through; the next attempt measures, and those after it repeat it."""

    def stopped(_rows):
        raise Interrupted

    with pytest.raises(Interrupted):
        losses(box, spec_of(box), stopped)
    found = losses(box, spec_of(box), measure_with(model, tiny_model))
    assert {one.check for one in found} >= {"hardest_answers"}
    assert losses(box, spec_of(box), lambda _: pytest.fail("asked")) == found
    assert read_row_losses(box.run).findings == found


def test_when_the_time_is_up_it_is_said_how_many_were_measured(box, model, tiny_model, monkeypatch):
    """A slow model is asked for some rows alone, from everywhere in the data."""
    from runner.training.fit import row_loss

    short = dataclasses.replace(row_loss.LOSS_SECONDS, value=0)
    monkeypatch.setattr(row_loss, "LOSS_SECONDS", short)
    (found,) = [
        one
        for one in losses(box, spec_of(box), measure_with(model, tiny_model))
        if one.check == "hardest_answers"
    ]
    assert found.of == 16 == len(read_row_losses(box.run).rows)
    assert found.values["learned"] > 16


def test_without_a_card_little_is_read(box, model, tiny_model):
    """On a CPU at most 500 tokens are read where little is held out."""
    seen = []
    measure = measure_with(model, tiny_model)

    def counting(rows):
        seen.extend(rows["input_ids"])
        return measure(rows)

    found = {one.check: one for one in losses(box, spec_of(box), counting, on_gpu=False)}
    learned = len(load_from_disk(str(box.run.prepared / "train")))
    assert f"of {len(seen)} rows that were measured ({learned} are learned" in (
        found["hardest_answers"].message
    )
    assert 0 < sum(map(len, seen)) <= 500


def test_the_rows_to_measure_are_the_same_each_time_and_within_bounds():
    """Rows are spread over the data, never more than asked for; a resumed run takes the same."""
    rows, tokens = np.arange(0, 200_000, 2), np.full(100_000, 50)
    one = choose(rows, tokens, most_rows=512, most_tokens=10_000)
    assert (one == choose(rows, tokens, most_rows=512, most_tokens=10_000)).all()
    assert len(one) == 200
    assert 10 < sum(one[:50] < 50_000) < 40  # the first of them are from everywhere, too
    assert np.histogram(one, bins=4, range=(0, 100_000))[0].min() > 20
    assert len(choose(rows, tokens, most_rows=512, most_tokens=10**9)) == 512
    assert sorted(choose(rows[:3], np.array([5, 900, 5]), most_rows=9, most_tokens=20)) == [0, 2]
    assert len(choose(rows[:0], tokens[:0], most_rows=9, most_tokens=20)) == 0


def test_losses_become_findings_with_the_extremes_first():
    """What the base knows, and what it finds next to impossible, is named; spread alone is not."""
    chance = random.Random(2)
    losses = [chance.gauss(2, 0.4) for _ in range(100)] + [9.5, 8.5] + [0.02, 0.05, 0.01]
    measured = [
        RowLoss(place=Place(file="a.jsonl", line=n), loss=loss) for n, loss in enumerate(losses)
    ]
    found = {one.check: one for one in judge(measured, {}, learned=900)}
    assert [place.line for place in found["surprising_answers"].places] == [100, 101]
    assert [place.line for place in found["known_answers"].places] == [104, 102, 103]
    assert found["known_answers"].level is Level.INFORM
    assert found["surprising_answers"].level is Level.ADVISE
    assert "2 of 105 rows that were measured (900 are learned)" in (
        found["surprising_answers"].message
    )
    many = judge(measured[100:], {"surprising_answers": "ignore"}, learned=5)
    assert {one.check: one.level for one in many} == {
        "known_answers": Level.ADVISE,
        "hardest_answers": Level.INFORM,
    }
    assert judge([], {}, learned=0) == []
    nothing = [RowLoss(place=Place(file="a.jsonl", line=1), loss=float("nan"))]
    assert judge(nothing, {}, learned=1) == []


CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "Russia": "Moscow",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "China": "Beijing",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Ireland": "Dublin",
    "Portugal": "Lisbon",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Cuba": "Havana",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Hungary": "Budapest",
    "Denmark": "Copenhagen",
    "Finland": "Helsinki",
    "Turkey": "Ankara",
}
SWAPPED = (("Italy", "Japan"), ("Poland", "Egypt"))


@dataclass(frozen=True)
class BaseIsOff:
    """Whatever is measured before the first step fails."""

    def __call__(self):
        """Arrange it."""
        from runner.training.fit.callbacks import Conduct

        def fault(*_):
            raise ValueError

        Conduct._base_loss = fault


@pytest.mark.parametrize("fast", [False, True])
def test_training_is_as_if_nothing_had_been_measured(tmp_path, box, tiny_model, fast):
    """With dropout, each loss and gradient norm is the same to the last bit, on either path."""
    names = ("known_answers", "surprising_answers", "hardest_answers")
    off = f"checks: {{{', '.join(f'{name}: ignore' for name in names)}}}\n"
    runs, curves = {}, {}
    for name, checks, trouble in (
        ("measured", "", None),
        ("ignored", off, None),
        ("failed", "", BaseIsOff()),
    )[: 2 if fast else 3]:
        spec = f"model: tiny\nmethod: lora\ndata: a.jsonl\nlora: {{dropout: 0.2}}\n{checks}"
        one = Run(tmp_path / name, box.run.prepared, tiny_model.parent, spec)
        status, runs[name] = one.train(2, effective=4, total_steps=2, fast=fast, trouble=trouble)
        assert status == ExitCode.OK, one.log()
        assert runs[name].metrics["path"] == ("fast" if fast else "plain")
        curve = [(line["loss"], line["grad_norm"], line["rows"]) for line in one.curve()]
        assert len(curve) == 2
        assert curve == curves.setdefault("measured", curve)
        measured = read_row_losses(one.run).rows
        if name == "measured":
            told = {finding.check: finding for finding in runs[name].findings}
            assert [(place.line) for place in told["hardest_answers"].places] == [
                row.line for row in measured[:3]
            ]
            _are_the_bases(measured, box, tiny_model)
        else:
            assert (measured, runs[name].findings) == ((), ())


def _are_the_bases(measured, box, tiny_model):
    """Hold that losses are those of the base alone, by torch's own cross entropy."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    by_line = {row.line: row.loss for row in measured}
    train = load_from_disk(str(box.run.prepared / "train"))
    for row in [row for row in train if row["row"] + 1 in by_line][:3]:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        plain = torch.nn.functional.cross_entropy(logits, torch.tensor(row["labels"][1:]))
        assert by_line[row["row"] + 1] == pytest.approx(plain.item(), abs=2e-3)


def test_packed_rows_are_told_apart(tmp_path, box, tiny_model):
    """Where rows lie end to end in training, each is measured by itself all the same."""
    spec = "model: tiny\nmethod: lora\ndata: a.jsonl\ntraining: {packing: true}\n"
    one = Run(tmp_path / "packed", box.run.prepared, tiny_model.parent, spec)
    status, _ = one.train(2, effective=2, total_steps=1, fast=False)
    assert status == ExitCode.OK, one.log()
    measured = read_row_losses(one.run).rows
    assert len({row.loss for row in measured}) > 5
    _are_the_bases(measured, box, tiny_model)


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory):
    """Give all layers of SmolLM2: it knows capitals."""
    return prepare_demo_model(tmp_path_factory.mktemp("models") / "whole")


def test_answers_that_were_swapped_stand_out(tmp_path, whole_model):
    """Of rows that the base knows about, the four with each other's answers are its hardest."""
    box = Box(tmp_path, whole_model.parent)
    answers = dict(CAPITALS)
    for one, other in SWAPPED:
        answers[one], answers[other] = answers[other], answers[one]
    box.put(
        "a.jsonl",
        [
            {
                "instruction": f"What is the capital of {land}?",
                "output": f"The capital of {land} is {city}.",
            }
            for land, city in answers.items()
        ],
    )
    box.prepare("data: a.jsonl\neval_split: 0", model="whole")
    model = AutoModelForCausalLM.from_pretrained(whole_model, dtype=torch.float32).eval()
    give_head(model)
    found = {one.check: one for one in losses(box, spec_of(box), measure_with(model, whole_model))}
    lines = {line for line, land in enumerate(answers, 1) if answers[land] != CAPITALS[land]}
    rows = read_row_losses(box.run).rows
    assert {one.line for one in rows[:4]} == lines
    assert found["surprising_answers"].count == len(lines)
    assert {place.line for place in found["surprising_answers"].places} < lines
    assert "4 of 24 rows that were measured (24 are learned)" in found["surprising_answers"].message
