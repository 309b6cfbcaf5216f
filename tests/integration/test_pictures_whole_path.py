"""Takes models that also read pictures through the real stages, each a child, up to the card."""

import json
import re

import pytest
from picture_models import save_whole
from train_box import start

from runner.contract.batch import BatchPlan
from runner.contract.checkpoints import newest_verified, sha256_of
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import (
    EvaluatePlan,
    EvaluateResult,
    ExportPlan,
    ExportResult,
    PreparePlan,
    PrepareResult,
    TrainPlan,
    TrainResult,
    read_message,
    write_message,
)
from runner.daemon.stages.adopt import adopt
from runner.exit_codes import ExitCode

WORDS = 300
TEXTS = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ' ' + message['content'] + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
)
PARTS = (  # as LLaVA's: a message that is a text alone would be dropped in silence
    "{% for message in messages %}{{ '<s>' + message['role'] + ' ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %}{{ '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
)


def save_bytes(folder):
    """Save a tokenizer that reads any text byte by byte, without a chat template."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = {token: number for number, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(BPE(vocab=names, merges=[]))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


class Stages:
    """One run, stage by stage."""

    def __init__(self, root, spec):
        self.run = RunFolder(root / "outputs" / "job" / "20261123T221005Z-k3f9")
        self.run.prepared.mkdir(parents=True)
        self.run.spec.write_text(spec)
        self.folders = {"models_dir": str(root / "models")}
        self.cpu = {**self.folders, "device": "cpu", "compute": "float32"}
        self.jobs = root / "jobs"

    def stage(self, name, folder, plan, result):
        """Run a stage to its end and give its result."""
        stage = StageFolder(folder)
        stage.root.mkdir(parents=True, exist_ok=True)
        write_message(stage.plan, plan)
        child = start(name, stage)
        status = child.wait()
        assert status == ExitCode.OK, stage.log(name).read_text()[-3000:]
        return read_message(stage.result, result)

    def go(self, *, fast):
        """Prepare, train, export and evaluate; give each result."""
        prepared = self.stage(
            "prepare",
            self.run.prepared,
            PreparePlan(jobs_dir=str(self.jobs), **self.folders),
            PrepareResult,
        )
        how = BatchPlan(per_device_batch_size=4, gradient_accumulation_steps=1)
        steps = prepared.total_steps
        plan = TrainPlan(number=1, batch_plan=how, total_steps=steps, fast=fast, **self.cpu)
        trained = self.stage("train", self.run.attempt(1), plan, TrainResult)
        adopt(self.run, StageFolder(self.run.attempt(1)), sha256_of)
        checkpoint = newest_verified(self.run.checkpoints)
        facts = {"model": prepared.model.model_dump(mode="json"), "method": "lora"}
        spec = self.run.spec.read_text()
        facts["method"] = "qlora" if "method: qlora" in spec else "lora"
        facts["environment"] = {"compute": "float32"}
        export = ExportPlan(checkpoint=checkpoint, facts=facts, **self.folders)
        self.stage("export", self.run.root / "export", export, ExportResult)
        expected = trained.metrics["eval_loss"]
        evaluate = EvaluatePlan(expected_eval_loss=expected, **self.cpu)
        measured = self.stage("evaluate", self.run.evaluation, evaluate, EvaluateResult)
        return prepared, trained, measured


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize(
    ("family", "method", "template", "path"),
    [
        ("gemma3", "qlora", TEXTS, "plain"),
        ("qwen3_5", "lora", TEXTS, "plain"),
        ("llava", "lora", PARTS, "plain"),
        ("mistral3", "lora", TEXTS, "fast"),
    ],
)
def test_a_picture_reader_is_trained_on_text_and_used_whole(
    family, method, template, path, tmp_path, capsys, monkeypatch
):
    """What training measured, the whole model reaches with the adapter; the card's lines run."""
    model = tmp_path / "models" / "m"
    sizes = {"head_dim": 16} if path == "fast" else {}
    if method == "qlora":
        # On a processor with AVX-512 for bf16, bitsandbytes computes in eval mode only with layers
        # whose widths are whole blocks of 64.
        sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
    save_whole(family, model, words=WORDS, **sizes)
    save_bytes(model)
    # Where processors keep it; the tokenizer's own files name no template.
    (model / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    (model / "preprocessor_config.json").write_text('{"image_processor_type": "Other"}')
    stages = Stages(
        tmp_path,
        f"model: m\ndata: d.jsonl\nmethod: {method}\neval_split: 0.2\n"
        "training: {max_steps: 3, effective_batch_size: 4, learning_rate: 1e-2}\n",
    )
    stages.jobs.mkdir()
    rows = [{"prompt": f"How high is wall {n}?", "completion": f"{n} feet."} for n in range(30)]
    (stages.jobs / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared, trained, measured = stages.go(fast=path == "fast")

    note = "the model also reads pictures: only its language part is trained, on text"
    assert note in prepared.shortfalls
    assert trained.metrics["path"] == path
    assert prepared.end_tokens == ("</s>",)
    assert trained.metrics["eval_loss"] == pytest.approx(measured.eval_loss_after, rel=1e-4)
    assert measured.eval_loss_after < measured.eval_loss_before

    samples = json.loads((stages.run.evaluation / "samples.json").read_text())
    card = (stages.run.adapter / "README.md").read_text()
    assert "only its language part was trained" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert "AutoModelForImageTextToText.from_pretrained(" in code
    code = code.replace('"Your question"', json.dumps(samples[0]["question"]))
    code = code.replace("max_new_tokens=200", "max_new_tokens=96")
    code = code.replace('device_map="auto"', 'device_map="cpu"')
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code, {})
    # Ours end at one and a half times the expected length, which is shown, perhaps within a letter.
    ours, printed = samples[0]["after"], capsys.readouterr().out.strip()
    begins = ours.removesuffix(" …").rstrip("\ufffd")
    assert printed == ours or (begins and printed.startswith(begins)), (printed, ours)
