"""Box of a benchmark: a model with random weights, and rows of given lengths, ready to train.

Memory and speed do not ask what the weights are. The attempts are the product's own train stage,
each a child of its own, forked from a process that imported most of the stack and touched no card.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runner.contract.batch import BatchPlan
from runner.contract.checkpoints import newest_verified, sha256_of
from runner.contract.layout import RunFolder, StageFolder, new_run_id
from runner.contract.stage_environment import FIXED
from runner.contract.stage_io import TrainPlan, TrainResult, read_message, write_message
from runner.daemon.stages.adopt import adopt
from runner.errors import DamagedError

WORDS = 64  # the language of the rows has so many
FIRST_WORD = 259  # the first one's token: three special ones and 256 bytes come before
SHAPES: dict[str, dict[str, Any]] = {
    # hidden size, MLP width, layers, heads, key/value heads, head size: Llama 3's family
    "tiny": {"sizes": (128, 384, 2, 4, 2, 32), "tied": True, "vocabulary": 512},
    # what a processor has time for, wide enough to round as wide models do
    "small": {"sizes": (512, 1536, 3, 8, 4, 64), "tied": False, "vocabulary": 512},
    # SmolLM2-135M in eight of its 30 layers: the benchmark of a processor
    "SmolLM2-8": {"sizes": (576, 1536, 8, 9, 3, 64), "tied": True, "vocabulary": 49152},
    "1B": {"sizes": (2048, 8192, 16, 32, 8, 64), "tied": True, "vocabulary": 128256},
    "3B": {"sizes": (3072, 8192, 28, 24, 8, 128), "tied": True, "vocabulary": 128256},
    "8B": {"sizes": (4096, 14336, 32, 32, 8, 128), "tied": False, "vocabulary": 128256},
    # CodeLlama's and Yi's largest; and the 70B's layers, a quarter of them
    "34B": {"sizes": (7168, 20480, 60, 56, 8, 128), "tied": False, "vocabulary": 64000},
    "70B-20": {"sizes": (8192, 28672, 20, 64, 8, 128), "tied": False, "vocabulary": 128256},
    # 8B's width in six layers, and few words: what 200 steps of a comparison have time for
    "8B-6": {"sizes": (4096, 14336, 6, 32, 8, 128), "tied": False, "vocabulary": 8192},
    "Qwen3-4B": {
        "sizes": (2560, 9728, 36, 32, 8, 128),
        "tied": True,
        "vocabulary": 151936,
        "family": ("Qwen3ForCausalLM", "qwen3"),
    },
    "MoE": {  # Qwen 3's, with half its experts in a quarter of its layers: 4B, 0.8B of them active
        "sizes": (2048, 6144, 12, 32, 4, 128),
        "tied": True,
        "vocabulary": 151936,
        "family": ("Qwen3MoeForCausalLM", "qwen3_moe"),
        "more": {
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": True,
        },
    },
    "Mistral-7B": {
        "sizes": (4096, 14336, 32, 32, 8, 128),
        "tied": False,
        "vocabulary": 32768,
        "family": ("MistralForCausalLM", "mistral"),
    },
    "Gemma-2B": {
        "sizes": (2048, 16384, 18, 8, 1, 256),
        "tied": True,
        "vocabulary": 256000,
        "family": ("GemmaForCausalLM", "gemma"),
    },
}
_MAKE = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.from_pretrained(sys.argv[1])
torch.manual_seed(0)
with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
model.save_pretrained(sys.argv[1])
"""

# As the daemon starts its stages: torch reads it when something first asks for memory, and what a
# benchmark does before the attempt (throughput.py's order of rows) asked, so that the train stage's
# own word came too late. Without it 3B by `lora` under 11 GiB had 0.9 GiB in holes.
os.environ.update(FIXED)
_warm = multiprocessing.get_context("forkserver")
# Not peft or what imports it: that imports bitsandbytes, which makes a CUDA context.
_warm.set_forkserver_preload(["torch", "torch._dynamo", "datasets", "accelerate"])

Trouble = Callable[[], None]


def config_of(shape: str) -> dict[str, Any]:
    """Give the config.json of a shape."""
    hidden, intermediate, layers, heads, kv_heads, head_size = SHAPES[shape]["sizes"]
    architecture, family = SHAPES[shape].get("family", ("LlamaForCausalLM", "llama"))
    return {
        "architectures": [architecture],
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_size,
        "vocab_size": SHAPES[shape]["vocabulary"],
        "tie_word_embeddings": SHAPES[shape]["tied"],
        "max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "bos_token_id": 1,
        "eos_token_id": 2,
        **SHAPES[shape].get("more", {}),
    }


def make_model(models: Path, shape: str) -> None:
    """Make a model folder, on the card where there is one; a child's work, so it leaves nothing."""
    folder = models / shape
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(shape)))
    subprocess.run([sys.executable, "-c", _MAKE, str(folder)], check=True)
    make_tokenizer().save_pretrained(folder)
    (folder / "done").touch()


def quantise(model: Any, compute: Any) -> None:
    """Turn a model's linear layers but its head into NF4 ones, where they are: no file is written.

    Args:
        model: in 16 bits or fp32, without an adapter.
        compute: what its products are computed in.
    """
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is not torch.nn.Linear or name == "lm_head":
                continue
            new = Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=compute,
                quant_type="nf4",
                device="meta",
            )
            weight = Params4bit(linear.weight.data.cpu(), requires_grad=False, quant_type="nf4")
            new.weight = weight.to(linear.weight.device)
            new.bias = linear.bias
            new.support_avx512bf16_for_cpu = False  # as the product loads them
            setattr(parent, name, new)
    model.is_loaded_in_4bit = True


def make_tokenizer() -> Any:
    """Make a tokenizer that knows the rows' words, and anything else byte by byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(BPE({name: n for n, name in enumerate(names)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_tokens([AddedToken(word_of(n), normalized=False) for n in range(WORDS)])
    assert inner.token_to_id(word_of(0)) == FIRST_WORD
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def word_of(number: int) -> str:
    """Spell a word: one token, needing no space beside it."""
    return f"<w{number}>"


def learnable_words(length: int, dice: random.Random) -> list[int]:
    """Write so many words of a language that can be learned: each has a usual successor."""
    word = dice.randrange(WORDS)
    words = []
    for _ in range(length):
        words.append(word)
        word = (word * 5 + 3) % WORDS if dice.random() < 0.9 else dice.randrange(8)
    return words


def prepare_rows(folder: Path, lengths: Sequence[int]) -> None:
    """Write the folder that the prepare stage would leave: rows of these lengths, all learned."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    dice = random.Random(1)
    rows = []
    for number, length in enumerate(lengths):
        ids = [FIRST_WORD + word for word in learnable_words(length, dice)]
        rows.append({"input_ids": ids, "labels": [-100, *ids[1:]], "row": number})
    Dataset.from_list(rows).save_to_disk(str(folder / "train"))
    (folder / "lengths.json").write_text(json.dumps(list(lengths)))
    make_tokenizer().save_pretrained(folder / "tokenizer")


def _attempt(stage: str, log: str, trouble: Trouble | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if trouble is not None:
        trouble()
    from runner.training.__main__ import main

    sys.exit(main(["train", stage]))


class TrainBox:
    """A run whose rows are prepared, and the attempts made in it."""

    def __init__(self, root: Path, models: Path, spec: str, lengths: Sequence[int]) -> None:
        self.run = RunFolder(root / "job" / new_run_id())
        self.run.prepared.mkdir(parents=True)
        self.run.spec.write_text(spec)
        self.models = models
        self.number = 0
        if lengths:
            prepare_rows(self.run.prepared, lengths)

    def train(
        self,
        plan: BatchPlan,
        *,
        trouble: Trouble | None = None,
        seconds: float = 300,
        **wishes: Any,
    ) -> tuple[int, TrainResult | None]:
        """Run the next attempt to its end; its status, and its result where it left one."""
        self.number += 1
        stage = self.stage()
        stage.root.mkdir(parents=True)
        given = {"total_steps": 2, "resume_from": newest_verified(self.run.checkpoints), **wishes}
        write_message(
            stage.plan,
            TrainPlan(models_dir=str(self.models), number=self.number, batch_plan=plan, **given),
        )
        child = _warm.Process(
            target=_attempt, args=(str(stage.root), str(stage.log("train")), trouble)
        )
        child.start()
        child.join(seconds)
        if child.exitcode is None:
            child.kill()
            child.join()
        adopt(self.run, stage, sha256_of)  # what the daemon does at its end
        try:
            result = read_message(stage.result, TrainResult)
        except (FileNotFoundError, DamagedError):  # of an unexpected end it holds the error alone
            result = None
        return child.exitcode or 0, result

    def stage(self) -> StageFolder:
        """Give the newest attempt's folder."""
        return StageFolder(self.run.attempt(self.number))

    def log(self) -> str:
        """Give the end of the newest attempt's log."""
        return self.stage().log("train").read_text()[-3000:]

    def lines(self) -> list[dict[str, Any]]:
        """Give the steps of the newest attempt."""
        text = self.stage().metrics.read_text()
        return [line for line in map(json.loads, text.splitlines()) if "loss" in line]
