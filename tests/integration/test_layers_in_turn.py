"""A base that no card holds is evaluated layer by layer: each number as of a whole one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from train_box import SPEC, Run, in_a_child, start

from runner.contract.checkpoints import sha256_of
from runner.contract.layout import StageFolder
from runner.contract.stage_io import (
    EvaluatePlan,
    EvaluateResult,
    ExportPlan,
    read_message,
    write_message,
)
from runner.daemon.stages.adopt import adopt
from runner.exit_codes import ExitCode
from runner.training.fit import layers_in_turn

pytestmark = pytest.mark.long

LAYERS = 7
WAITING = [2, 4, 5]  # of three cards each keeps every third layer, and the first two stay as well
BRIEFLY = "evaluation: {served: SERVED, samples: 0, forgetting: false, recital: false}\n"


def counts_what_arrives() -> None:
    """Say at each layer's turn that it had its weights from the host."""
    arrive = layers_in_turn._arrive

    def told(rooms: Any, number: int, weights: Any, *more: Any) -> None:
        print(f"layer {number} had its turn", flush=True)
        arrive(rooms, number, weights, *more)

    layers_in_turn._arrive = told


@pytest.fixture
def deep_models(tmp_path: Path, small_models: Path) -> Path:
    """Make the small model again, with more layers than stay where they are."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path / "models" / "small"
    shutil.copytree(small_models / "small", folder)
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = LAYERS
    config.layer_types = None
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder.parent


def test_losses_and_answers_are_those_of_a_whole_base(
    tmp_path: Path, prepared: Path, deep_models: Path
) -> None:
    """The stage's files are equal byte for byte; a base served in 16 bits is named as missing."""
    asked = SPEC + "method: qlora\n" + BRIEFLY
    run = Run(tmp_path, prepared, deep_models, asked.replace("SERVED", "as_trained"))
    status, trained = run.train(8, total_steps=3)
    assert status == ExitCode.OK, run.log()
    adopt(run.run, run.stage(), sha256_of)
    models = {"models_dir": str(deep_models), "device": "cpu", "compute": "float32"}
    run.run.export.mkdir()
    plan = ExportPlan(checkpoint=trained.best_checkpoint or "", **models)
    write_message(StageFolder(run.run.export).plan, plan)
    assert start("export", StageFolder(run.run.export)).wait() == ExitCode.OK

    def evaluate(
        shared_by: int, trouble: Any = None
    ) -> tuple[EvaluateResult, dict[str, bytes], str]:
        shutil.rmtree(run.run.evaluation, ignore_errors=True)
        run.run.evaluation.mkdir()
        stage = StageFolder(run.run.evaluation)
        write_message(stage.plan, EvaluatePlan(base_shared_by=shared_by, **models))
        status, log = start("evaluate", stage, trouble).wait(), stage.log("evaluate").read_text()
        assert status == ExitCode.OK, log
        names = ("losses.json", "scores.json", "scores.jsonl", "extremes.json")
        files = {name: (run.run.evaluation / name).read_bytes() for name in names}
        return read_message(stage.result, EvaluateResult), files, log

    whole, wanted, _ = evaluate(1)
    in_turn, found, log = evaluate(3, counts_what_arrives)
    assert found == wanted
    assert in_turn.eval_loss_after == whole.eval_loss_after != whole.eval_loss_before
    for number in range(LAYERS):
        assert (f"layer {number} had its turn" in log) is (number in WAITING)
    assert in_turn.shortfalls == whole.shortfalls == ()
    run.run.spec.write_text(asked.replace("SERVED", "original"))
    served, _, _ = evaluate(3)
    assert served.evaluation is not None
    assert served.evaluation.form == "as_trained"
    assert [text for text in served.shortfalls if "in 16 bits; the verdict goes by" in text]
    in_a_child(answers_alike, str(deep_models / "small"), str(run.run.adapter))


def answers_alike(base: str, adapter: str) -> None:
    """Generate three texts with a cache, whole and in turn, and look at the base alone between."""
    import torch
    from peft import PeftModel

    from runner.training.fit.model import Machine, load_base

    found = []
    for shared_by in (1, 3):
        machine = Machine(device="cpu", compute="float32")
        model = PeftModel.from_pretrained(
            load_base(Path(base), method="qlora", machine=machine), adapter
        ).eval()
        rooms = None
        if shared_by > 1:
            rooms = layers_in_turn.run_in_turn(model, shared_by=shared_by, device="cpu")
        ids = torch.arange(30).view(3, 10) % model.config.vocab_size
        asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
        ways = []
        with torch.inference_mode():
            out = model.generate(input_ids=ids, use_cache=True, pad_token_id=0, **asked)
            ways += [out, model(out).logits]
            with model.disable_adapter():
                ways.append(model(out).logits)
            ways.append(model(out).logits)  # nothing is left of the base alone
        found.append(ways)
        # A pass goes forward alone: each layer that waits is brought once, but one that lies there.
        assert rooms is None or rooms.copies >= len(WAITING) * len(ways) - 2
    for whole, in_turn in zip(*found, strict=True):
        assert torch.equal(whole, in_turn)
    assert not torch.equal(found[0][1], found[0][2])
