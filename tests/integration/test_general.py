"""`evaluation.general`: what the model has to go on knowing, from a file of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_answers import ROWS, measured, prepared, with_adapter

from runner.contract.layout import RunFolder
from runner.errors import InputError
from runner.training.data.general import general_questions

SPEC = """\
model: tiny
data: rows.jsonl
eval_split: 20%
method: lora
evaluation: {samples: 0, general: general.jsonl}
"""
GENERAL = [
    {"prompt": "What is the capital of France?", "completion": "It is Paris."},
    {"prompt": "What is ice made of?", "completion": "It is frozen water."},
    {"prompt": "Who wrote Hamlet?", "completion": "William Shakespeare did."},
] * 4
pytestmark = pytest.mark.filterwarnings("ignore")  # of the stack: its stage runs in this process


def run_with(root: Path, models: Path, content: str) -> RunFolder:
    """Prepare a run whose spec names such a file."""
    (root / "jobs").mkdir(exist_ok=True)
    (root / "jobs" / "general.jsonl").write_text(content)
    return prepared(root, models, SPEC, ROWS)


def losses(run: RunFolder, model: Path) -> tuple[float, float]:
    """Measure base and adapter with nothing but transformers and PEFT: the mean over questions."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, run.adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)

    def mean() -> float:
        found = []
        for row in GENERAL:
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": row["prompt"]}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )["input_ids"]
            said = tokenizer(row["completion"], return_tensors="pt")["input_ids"]
            ids = torch.cat([asked, said], dim=1)
            with torch.no_grad():
                logits = adapted(input_ids=ids).logits[0, asked.shape[1] - 1 : -1]
            found.append(float(torch.nn.functional.cross_entropy(logits, said[0])))
        return sum(found) / len(found)

    with adapted.disable_adapter():
        before = mean()
    return before, mean()


def test_the_loss_of_the_own_questions_is_measured(tmp_path: Path, tiny_model: Path) -> None:
    """On any machine, and alone where ours are for a card: plain PEFT finds the same losses."""
    content = "".join(json.dumps(row) + "\n" for row in GENERAL)
    run = run_with(tmp_path, tiny_model.parent, content)
    assert len(general_questions(run.prepared)) == len(GENERAL)
    with_adapter(run, tiny_model, seed=1)
    found = measured(run, tiny_model.parent).evaluation
    assert found is not None
    (axis,) = found.axes
    assert (axis.name, axis.items, axis.lower_is_better) == ("general", len(GENERAL), True)
    before, after = losses(run, tiny_model)
    assert axis.base == pytest.approx(before, rel=1e-3)
    assert axis.adapter == pytest.approx(after, rel=1e-3)
    assert axis.has_fallen is (after - before > 0.1 and (axis.high or 0) < 0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "Paris is in France."}\n', "line 1: a row of evaluation.general has to be"),
        ("", "general.jsonl"),
        ('{"prompt": "Who?", "completion": "', "general.jsonl, line 1"),
    ],
)
def test_a_file_of_anything_else_is_refused(
    tmp_path: Path, tiny_model: Path, content: str, says: str
) -> None:
    """The line is named, before the card is touched, and no word of the row."""
    with pytest.raises(InputError) as caught:
        run_with(tmp_path, tiny_model.parent, content)
    said = "\n".join(str(problem) for problem in caught.value.problems)
    assert says in said
    assert "Paris" not in said
