"""Held-out answers of a real small model: generated in batches, scored, and written down."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from runner.contract.evaluation import LOSS, read_row_scores
from runner.contract.layout import Outputs, RunFolder, StageFolder, new_run_id
from runner.contract.stage_io import (
    EvaluatePlan,
    EvaluateResult,
    PreparePlan,
    read_message,
    write_message,
)
from runner.errors import DataError
from runner.training.data.prepare import prepare
from runner.training.data.questions import ASKED, BEGUN, EXAMPLE, read_questions
from runner.training.evaluate import forgetting, recital
from runner.training.evaluate import generate as generating
from runner.training.evaluate.evaluate import evaluate
from runner.training.evaluate.forgetting import AXES, TEXT
from runner.training.evaluate.generate import Generator, Prompt
from runner.training.fit.model import Machine, find_machine, load_base
from runner.words import visible_lines

KINDS = ["Permissive", "Copyleft"]
ROWS = [
    {
        "instruction": f"Licence {n} says {'share alike' if n % 2 else 'as you like'}. Which kind?",
        "output": f"CATEGORY: {KINDS[n % 2]}\nNUMBER: {n}\nREMARK: of no further use to anybody "
        f"but those who read it {n} times",
    }
    for n in range(60)
]
SPEC = """\
model: tiny
data: rows.jsonl
eval_split: 20%
evaluation:
  samples: 8
  forgetting: true
  recital: true
  scores: [exact_match, chrf, stops_by_itself]
  sections: [category, number]
  taxonomy:
    category: [Permissive, Copyleft]
"""
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),  # of the stack: its stage runs in this process
]
CPU = {"device": "cpu", "compute": "float32"}


def prepared(root: Path, models: Path, spec: str, rows: list[dict[str, Any]]) -> RunFolder:
    """Prepare a run of a spec."""
    inbox = root / "jobs"
    inbox.mkdir(exist_ok=True)
    (inbox / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Outputs(root / "outputs").run("job", new_run_id())
    run.prepared.mkdir(parents=True)
    run.spec.write_text(spec)
    plan = PreparePlan(models_dir=str(models), jobs_dir=str(inbox), device="cpu")
    write_message(StageFolder(run.prepared).plan, plan)
    prepare(run.prepared)
    return run


def with_adapter(run: RunFolder, model: Path, *, seed: int) -> None:
    """Put a random adapter on a model into adapter/: it answers otherwise than its base."""
    import shutil

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False
    )
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    get_peft_model(base, config).save_pretrained(run.adapter)
    for file in (run.prepared / "tokenizer").iterdir():
        shutil.copy(file, run.adapter / file.name)


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that is prepared and exported."""
    found = prepared(tmp_path_factory.mktemp("box"), tiny_model.parent, SPEC, ROWS)
    with_adapter(found, tiny_model, seed=1)
    return found


def measured(run: RunFolder, models: Path, **plan: Any) -> EvaluateResult:
    """Run the evaluate stage."""
    stage = StageFolder(run.evaluation)
    stage.root.mkdir(exist_ok=True)
    noise = str(run.root / "noise")
    said = EvaluatePlan(models_dir=str(models), noise_folder=noise, **CPU, **plan)
    write_message(stage.plan, said)
    evaluate(stage.root)
    return read_message(stage.result, EvaluateResult)


@pytest.fixture(scope="module")
def result(run: RunFolder, tiny_model: Path) -> EvaluateResult:
    """What the stage found of it; of the many items that it measures, only some."""
    whole = forgetting.read_axis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forgetting, "read_axis", lambda name: whole(name)[:3])
        patch.setattr(recital, "RECITED", 5)
        return measured(run, tiny_model.parent)


@pytest.fixture(scope="module")
def generator(run: RunFolder, tiny_model: Path) -> Generator:
    """The small model as the evaluate stage has it, in fp32."""
    from transformers import AutoTokenizer

    machine = find_machine("cpu", "float32")
    model = load_base(tiny_model, method="lora", machine=machine).eval()
    return Generator(model, AutoTokenizer.from_pretrained(run.prepared / "tokenizer"), machine)


def prompts(generator: Generator) -> list[Prompt]:
    """Prompts of very different lengths, each with a limit of its own."""
    texts = ["Hello", "The notice period is " * 12, "One two three four", "Berlin is in"]
    limits = [9, 30, 17, 24]
    ids = [generator.tokenizer(text)["input_ids"] for text in texts]
    return [Prompt(ids=i, limit=n) for i, n in zip(ids, limits, strict=True)]


def one_by_one(generator: Generator, prompt: Prompt) -> list[int]:
    """Take the likeliest token each time, without a cache or a batch."""
    import torch

    ids = list(prompt.ids)
    for _ in range(prompt.limit):
        with torch.inference_mode():
            logits = generator.model(torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == generator.tokenizer.eos_token_id:
            break
    return ids[len(prompt.ids) :]


def test_answers_of_a_batch_are_those_given_one_by_one(generator: Generator) -> None:
    """Batched, padded and cached in fp32: the same words as a plain loop of the likeliest token."""
    for prompt, answer in zip(
        prompts(generator), generator.answers(prompts(generator)), strict=True
    ):
        ids = one_by_one(generator, prompt)
        assert answer is not None
        text = generator.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert answer.text == text
        assert answer.stopped == (ids[-1] == generator.tokenizer.eos_token_id)


def test_a_batch_that_does_not_fit_is_halved(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out makes the batch smaller, and no answer another."""
    whole = generator.answers(prompts(generator))
    real = Generator._batch
    tried: list[int] = []

    def batch(self: Generator, some: Any) -> Any:
        tried.append(len(some))
        if len(some) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return real(self, some)

    monkeypatch.setattr(Generator, "_batch", batch)
    smaller = Generator(
        generator.model, generator.tokenizer, Machine(device="cpu", compute="float32")
    )
    assert smaller.answers(prompts(generator)) == whole
    assert tried[:3] == [4, 4, 2]
    assert smaller.batch_size == 1


def test_the_time_is_kept(generator: Generator) -> None:
    """When the time is over nothing is begun, and what is half written is no answer."""
    late = Generator(
        generator.model,
        generator.tokenizer,
        Machine(device="cpu", compute="float32"),
        until=time.monotonic() - 1,
    )
    assert late.answers(prompts(generator)) == [None] * 4
    late.until = time.monotonic() + 0.3
    began = time.monotonic()
    ids = generator.tokenizer("one two three")["input_ids"]
    found = late.answers([Prompt(ids=ids, limit=100_000)] * 40)
    assert time.monotonic() - began < 20
    assert None in found
    assert generating.ON_CPU < 40


def test_a_batch_that_was_cut_off_counts_for_nobody(generator: Generator) -> None:
    """Answers that had ended by then are those of rows where a model stops early."""
    late = Generator(
        generator.model,
        generator.tokenizer,
        Machine(device="cpu", compute="float32"),
        until=time.monotonic() + 0.3,
    )
    ids = generator.tokenizer("one two three")["input_ids"]
    assert late.answers([Prompt(ids=ids, limit=1), Prompt(ids=ids, limit=100_000)]) == [None] * 2


def test_the_answers_lie_in_a_text_that_people_can_read(
    run: RunFolder, result: EvaluateResult
) -> None:
    """Question, both answers and the expected one, for whoever has no terminal."""
    assert result.eval_rows
    samples = json.loads((run.evaluation / "samples.json").read_text())
    page = run.answers.read_text()
    assert samples
    for sample in samples:
        assert all(visible_lines(text.strip()) in page for text in sample.values() if text)


def test_scores_are_those_of_the_answers(run: RunFolder, result: EvaluateResult) -> None:
    """Base, adapter and base with examples answer the same rows; the mean of the rows is shown."""
    found = result.evaluation
    assert found is not None
    assert (found.form, found.answered_rows, found.examples) == ("as_trained", 8, 3)
    assert found.deciding == ("in_form", "field.category", "exact_match", "chrf")
    assert [one.name for one in found.scores][:3] == [LOSS, "in_form", "field.category"]
    lines = [
        json.loads(line) for line in (run.evaluation / "answers.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 8
    chrf = found.score("chrf")
    assert chrf is not None
    for who in ("base", "adapter", "examples"):
        mean = sum(line["scores"][who]["chrf"] for line in lines) / 8
        assert getattr(chrf, who) == pytest.approx(mean)
    assert chrf.low <= chrf.difference <= chrf.high
    rows = read_row_scores(run.row_scores)
    assert len({one.row for one in rows if one.score == LOSS}) == result.eval_rows
    assert len([one for one in rows if one.score == "chrf"]) == 8
    assert "Licence" not in run.row_scores.read_text()
    assert "Licence" not in (run.evaluation / "scores.json").read_text()
    loss = found.score(LOSS)
    assert loss.base == pytest.approx(result.eval_loss_before)
    assert loss.difference == pytest.approx(result.eval_loss_before - result.eval_loss_after)


def test_what_was_forgotten_and_what_is_recited_are_measured(
    run: RunFolder, result: EvaluateResult
) -> None:
    """Every axis before and after, its noise kept for the box; rows begun, learned and held out."""
    found = result.evaluation
    assert found is not None
    assert [axis.name for axis in found.axes] == list(AXES)
    assert all(0 <= axis.base <= 1 for axis in found.axes if axis.name != TEXT)
    assert all(axis.noise < 1e-3 for axis in found.axes)
    assert any(axis.base != axis.adapter for axis in found.axes)
    (kept,) = (run.root / "noise").iterdir()
    assert set(json.loads(kept.read_text())) == set(AXES)
    assert found.recital is not None
    assert (found.recital.learned_rows, found.recital.held_out_rows) == (5, 5)


def test_examples_are_learned_rows(run: RunFolder) -> None:
    """What stands in the base's prompt, and what is begun, was never held out."""
    questions = read_questions(run.prepared)
    parts = {part: {q.row for q in questions if q.part == part} for part in (ASKED, EXAMPLE, BEGUN)}
    assert len(parts[ASKED]) == 8
    assert len(parts[EXAMPLE]) == 3
    assert not parts[ASKED] & (parts[EXAMPLE] | parts[BEGUN])
    from datasets import load_from_disk

    held = set(load_from_disk(str(run.prepared / "eval"))["row"])
    assert parts[ASKED] <= held
    assert not held & (parts[EXAMPLE] | parts[BEGUN])


def test_the_adapter_in_use_is_measured_on_rows_it_does_not_know(
    run: RunFolder, result: EvaluateResult, tiny_model: Path
) -> None:
    """The same adapter as in use differs in nothing; rows that it was trained on are left out."""
    root = run.root.parents[2]
    spec = SPEC.replace("20%", "10%").replace("true", "false")
    run.spec.write_text(SPEC.replace("true", "false"))  # measured in another test
    other = prepared(root, tiny_model.parent, spec, ROWS)
    with_adapter(other, tiny_model, seed=1)
    again = measured(run, tiny_model.parent, current_adapter=str(other.adapter))
    assert again.evaluation is not None
    loss = again.evaluation.score(LOSS)
    assert loss.against_current is not None
    assert loss.against_current.difference == pytest.approx(0, abs=1e-6)
    held = {q.identity for q in read_questions(other.prepared) if q.part == ASKED}
    assert 0 < loss.against_current.rows < result.eval_rows
    with_current = {one.row for one in read_row_scores(run.row_scores) if one.current is not None}
    assert with_current
    assert {q.identity for q in read_questions(run.prepared) if q.identity in with_current} <= held


def test_a_taxonomy_that_the_data_breaks_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    """Prepare names how many rows break it and which lines, before the card is touched."""
    rows = [dict(row) for row in ROWS]
    rows[4]["output"] = "CATEGORY: Secret\nNUMBER: 4"
    rows[9]["output"] = "NUMBER: 9"
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, tiny_model.parent, SPEC, rows)
    said = [str(problem) for problem in caught.value.problems]
    assert any(
        "line 5: the answer has a value in the field category that the taxonomy" in one
        for one in said
    )
    assert any("line 10: the answer lacks the field category" in one for one in said)
    assert "Secret" not in "".join(said)


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ("scores: [valid_json]", "evaluation.scores"),
        ("sections: [Parties]", "evaluation.sections"),
        ("pattern: '[0-9]+'", "evaluation.pattern"),
        ("json_schema: form.json", "evaluation.json_schema"),
    ],
)
def test_a_form_that_no_row_has_is_refused(
    tmp_path: Path, tiny_model: Path, wish: str, field: str
) -> None:
    """An adapter learns the form of its rows: what none of them has cannot come of it."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "form.json").write_text('{"type": "object"}')
    spec = f"model: tiny\ndata: rows.jsonl\nevaluation:\n  {wish}\n"
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, tiny_model.parent, spec, ROWS[:12])
    (problem,) = caught.value.problems
    assert problem.field == field
    assert "none of the 12 expected answers" in problem.message


def test_a_schema_file_that_is_none_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    """The file and the reason are named; a file that is not there, too."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "form.json").write_text('{"type": "objct"}')
    spec = "model: tiny\ndata: rows.jsonl\nevaluation: {json_schema: form.json}\n"
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, tiny_model.parent, spec, ROWS[:12])
    assert "not a JSON Schema" in str(caught.value.problems[0])
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, tiny_model.parent, spec.replace("form.json", "no.json"), ROWS[:12])
    assert "no.json" in str(caught.value.problems[0])
