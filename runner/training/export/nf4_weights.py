"""NF4 weights: which of a base model's weights `qlora` packs to 4 bits, found out without weights.

Asked of transformers itself, on a model of shapes alone: what it leaves out (the head, tied tables,
routers kept in fp32) differs by family.
"""

from __future__ import annotations

import warnings
from pathlib import Path


def nf4_weights(folder: Path, *, compute: str, trust_remote_code: bool = False) -> frozenset[str]:
    """Name the weights of a base that are in NF4 while `qlora` trains on it."""
    import bitsandbytes as bnb
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.quantizers import AutoHfQuantizer

    from runner.training.fit.base_config import training_config
    from runner.training.fit.language_part import class_of_whole, part_of
    from runner.training.fit.model import nf4

    config = training_config(folder, trust_remote_code=trust_remote_code)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # the same is said again where the model is loaded
        if part_of(config) is not None:
            model = class_of_whole(config)._from_config(config)  # noqa: SLF001  (no other way)
        else:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        quantizer = AutoHfQuantizer.from_config(nf4(compute))
        quantizer.preprocess_model(model=model, device_map={"": "cpu"})
    return frozenset(
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, bnb.nn.Linear4bit)
    )
