"""Answers by a model in 4 bits against the same numbers unpacked: seconds, tokens a second, memory.

    python benchmarks/answers.py [--shape 8B] [--prompts 64] [--tokens 100] [--at-once 1 16 64]

Greedy answers by the evaluate stage's own `Generator`, with its cache of keys and values, over NF4
weights and a LoRA adapter (rank 16, all linear layers), random both; then the 4-bit layers are
replaced by plain ones of the same numbers. The product unpacks on a CPU and leaves a card's weights
as they are: this says whether that is right. On a card 8B's shape takes about three minutes.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from gpu_box import FIRST_WORD, SHAPES, config_of, learnable_words, make_tokenizer, quantise

_PROMPT = (150, 700)  # tokens, as a conversation with an extract of a document has


def build(shape: str, device: str, compute: Any) -> Any:
    """Make a model with an adapter in memory."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = config_of(shape)
    torch.manual_seed(0)
    with torch.device(device):
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        model = AutoModelForCausalLM.from_config(config, dtype=compute)
        quantise(model, compute)
        adapter = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear")
        model = get_peft_model(model, adapter)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.01)
    return model.eval()


def main() -> None:
    """Print a row for each of the two and each number of answers at once."""
    import torch

    from runner.training.evaluate.answers import unpack
    from runner.training.evaluate.generate import Generator, Prompt
    from runner.training.fit.memory import let_go
    from runner.training.fit.model import find_machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--at-once", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    machine = find_machine("auto", "auto")
    compute = getattr(torch, machine.compute)
    shape = asked.shape or ("8B" if machine.on_gpu else "SmolLM2-8")
    model, tokenizer = build(shape, machine.device, compute), make_tokenizer()
    dice = random.Random(1)
    prompts = [
        Prompt(
            ids=[FIRST_WORD + word for word in learnable_words(dice.randint(*_PROMPT), dice)],
            limit=asked.tokens,
        )
        for _ in range(asked.prompts)
    ]
    print(f"{shape}, {asked.prompts} prompts, {asked.tokens} new tokens, {machine.compute}")
    print("| weights | answers at once | seconds | new tokens a second | GiB allocated |")
    print("|---|---|---|---|---|")
    for kind in ("NF4", "unpacked"):
        if kind == "unpacked":
            unpack(model, compute)
            let_go()
        for at_once in asked.at_once:
            for number in range(asked.rounds + 1):  # the first compiles and fills caches
                chosen = prompts[: 2 * at_once] if number == 0 else prompts
                generator = Generator(model, tokenizer, machine)
                generator.batch_size = at_once
                if machine.on_gpu:
                    torch.cuda.reset_peak_memory_stats()
                began = time.monotonic()
                generator.answers(chosen)
                seconds = time.monotonic() - began
                peak = torch.cuda.max_memory_allocated() / 2**30 if machine.on_gpu else 0.0
                if number:
                    rate = len(prompts) * asked.tokens / seconds
                    held = generator.batch_size
                    line = f"| {kind} | {held} | {seconds:.1f} | {rate:.0f} | {peak:.1f} |"
                    print(line, flush=True)


if __name__ == "__main__":
    main()
