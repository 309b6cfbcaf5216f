"""`served: original`: a qlora adapter is measured and judged on the base in 16 bits, and in 4."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from test_answers import ROWS, measured, prepared, with_adapter

from runner.contract.evaluation import read_row_scores
from runner.contract.layout import RunFolder
from runner.contract.stage_io import EvaluateResult
from runner.contract.verdict import judge
from runner.daemon.stages import outcome

SPEC = """\
model: tiny
data: rows.jsonl
eval_split: 20%
method: qlora
evaluation:
  samples: 4
  examples: 1
  forgetting: false
  recital: false
  served: original
  taxonomy: {category: [Permissive, Copyleft]}
"""
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),  # of the stack: its stage runs in this process
]


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that is prepared and exported."""
    found = prepared(tmp_path_factory.mktemp("box"), tiny_model.parent, SPEC, ROWS)
    with_adapter(found, tiny_model, seed=1)
    return found


@pytest.fixture(scope="module")
def result(run: RunFolder, tiny_model: Path) -> EvaluateResult:
    """What the stage found of it."""
    return measured(run, tiny_model.parent)


def plain_losses(run: RunFolder, model: Path) -> tuple[float, float]:
    """Measure base and adapter on the unquantised base with nothing but transformers and PEFT."""
    import torch
    from datasets import load_from_disk
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, run.adapter).eval()
    rows = list(load_from_disk(str(run.prepared / "eval")))

    def loss() -> float:
        total, count = 0.0, 0
        for row in rows:
            ids, labels = (torch.tensor([row[key]]) for key in ("input_ids", "labels"))
            with torch.no_grad():
                logits = adapted(input_ids=ids).logits[0, :-1]
            wanted = labels[0, 1:]
            total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
            count += int((wanted != -100).sum())
        return total / count

    with adapted.disable_adapter():
        before = loss()
    return before, loss()


def test_the_loss_is_that_of_the_base_in_16_bits(
    run: RunFolder, result: EvaluateResult, tiny_model: Path
) -> None:
    """Plain PEFT on the unquantised base gives the same; the 4-bit base gives something else."""
    before, after = plain_losses(run, tiny_model)
    assert result.eval_loss_before == pytest.approx(before, rel=1e-4)
    assert result.eval_loss_after == pytest.approx(after, rel=1e-4)
    assert result.evaluation is not None
    quantised = result.evaluation.other_form[0]
    assert quantised.name == "loss"
    assert quantised.base is not None
    assert abs(quantised.base - before) > 1e-3


def test_answers_are_scored_on_both_forms(run: RunFolder, result: EvaluateResult) -> None:
    """The same scores of base, base with examples and adapter; rows and answers of the served."""
    found = result.evaluation
    assert found is not None
    assert found.form == "original"
    assert [one.name for one in found.scores] == [one.name for one in found.other_form]
    for one in found.other_form[1:]:
        assert one.rows == 4
        assert None not in (one.base, one.examples, one.adapter)
    answers = (run.evaluation / "answers.jsonl").read_text().splitlines()
    by_row = [one for one in read_row_scores(run.row_scores) if one.score == "in_form"]
    assert len(answers) == len(by_row) == 4
    written = [json.loads(line)["scores"]["adapter"]["in_form"] for line in answers]
    in_form = found.score("in_form")
    assert in_form is not None
    assert in_form.adapter == math.fsum(written) / 4


def changes(result: EvaluateResult) -> dict[str, Any]:
    """Give what the daemon makes of a result in the record."""
    from runner.contract.record import RunRecord

    record = RunRecord.model_construct(shortfalls=(), findings=(), metrics={})
    return outcome.evaluated(record, result)


def test_the_verdict_goes_by_the_served_form(result: EvaluateResult) -> None:
    """Its figures are the served form's, whatever the other one shows; the sentence says so."""
    assert result.evaluation is not None
    verdict = changes(result)["verdict"]
    assert verdict.figures.form == "original"
    assert verdict.figures.loss_before == result.eval_loss_before
    assert "in 16 bits, as the job says that it will be served" in verdict.reason
    better = {"base": 0.0, "adapter": 1.0, "difference": 1.0, "low": 0.9, "high": 1.0}
    flattering = [one.model_copy(update=better) for one in result.evaluation.other_form]
    evaluation = result.evaluation.model_copy(update={"other_form": tuple(flattering)})
    again = judge(verdict.figures, adapter_is_zero=False, rows_changed=4, evaluation=evaluation)
    assert again.outcome is verdict.outcome
