"""Gradients of a tiny model on the fast path, in fp32, written to a file.

With ``TRITON_INTERPRET=1`` and Triton on the path they are made by the kernels' own code, run on a
processor number by number; without, by the torch references beside the kernels.

    python tests/older/interpret_kernels.py FAMILY DROPOUT KEPT FILE
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from kernel_models import learned, make, rows, take_grads

from runner.forecast.passes import Passes
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.recognise import recognise


def main(family: str, dropout: str, kept: str, file: str) -> None:
    """Make one optimizer step's gradients."""
    model = make(family, lora_dropout=float(dropout))
    parts = recognise(model, dtype=torch.float32, longest=64)
    passes = Passes(most_tokens=40, layers_kept=int(kept), budget_bytes=None, chunk=16)
    batch = rows(21, 9, 30)
    torch.manual_seed(3)  # of what is dropped
    loss = FastModel(parts=parts, passes=passes).train_on(batch, learned(batch))
    torch.save({"loss": loss, **take_grads(model)}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
