"""Output head: log-probabilities in tiles where that is exact, else from the model's own logits.

TRL's fused head multiplies the last hidden state by the head's weight and never makes all logits at
once. It knows Gemma's soft cap and a scale, and nothing else a model may do to its logits
(RecurrentGemma and xLSTM cap them under other names, RoBERTa has layers in its head). So it is
compared with the model's own logits once, and where they differ those are used: right, with more
memory.
"""

from __future__ import annotations

import functools
import types
from typing import Any

_TOKENS = 32  # enough for a mean difference, few enough to cost nothing
_DIFFERS = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
"""Mean difference of a log-probability that is no rounding: bf16 keeps a logit of 16 to 0.06."""


def give_head(base: Any) -> bool:
    """Let ``base(..., fused_lm_head=True)`` give log-probabilities; say whether by TRL's head."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    return mend_head(base)


def mend_head(base: Any) -> bool:
    """Replace TRL's head, which ``base`` has, where it is not what the model computes."""
    try:
        right = not _unknown_cap(base.config) and _difference(base) <= _tolerance(base)
    except (AttributeError, TypeError, KeyError, IndexError):
        right = False  # TRL's head does not find its way: Llama 4's text part has no backbone
    if not right:
        _use_own_logits(base)
    return right


def _unknown_cap(config: Any) -> bool:
    """Whether the config names a cap that TRL does not read; small logits would hide it."""
    settings = config.get_text_config().to_dict()
    known = ("final_logit_softcapping", "attn_logit_softcapping")
    return any(
        value and "logit" in name and "soft" in name and "cap" in name and name not in known
        for name, value in settings.items()
        if isinstance(value, (int, float))
    )


def _tolerance(base: Any) -> float:
    return _DIFFERS.get(str(base.dtype).removeprefix("torch."), _DIFFERS["bfloat16"])


def _difference(base: Any) -> float:
    """Compare both ways on a few tokens; the model's mode is left as it was."""
    import torch

    words = base.get_input_embeddings().weight.shape[0]
    ids = torch.arange(_TOKENS, device=base.device)[None] * 7919 % words  # spread, always the same
    was_training = base.training
    base.eval()
    try:
        with torch.no_grad():
            told = base(input_ids=ids, labels=ids, fused_lm_head=True).log_probs.float()
            logits = base(input_ids=ids, use_cache=False).logits.float()
    finally:
        base.train(was_training)
    own = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return float((told - own).abs().mean())


def _use_own_logits(base: Any) -> None:
    """Give the answer of TRL's head from the model's own logits."""
    from torch.nn.functional import cross_entropy
    from trl.trainer.utils import FusedCausalLMOutput

    before = base.forward  # TRL's: without fused_lm_head it is the model's own

    @functools.wraps(type(base).forward)
    def forward(
        self: Any,  # noqa: ARG001  (bound to the model, as TRL's is)
        *args: Any,
        fused_lm_head: bool = False,
        labels: Any = None,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            more = {"labels": labels, "num_items_in_batch": num_items_in_batch}
            return before(*args, **kwargs, **{k: v for k, v in more.items() if v is not None})
        kwargs["use_cache"] = False
        logits = before(*args, **kwargs).logits[:, :-1].float()
        wanted = labels[:, 1:].to(logits.device)
        mask = wanted != -100
        log_probs = -cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="none"
        ).view(mask.shape)
        with_all = logits.detach().log_softmax(-1)
        return FusedCausalLMOutput(
            loss=-log_probs.sum() / (num_items_in_batch or mask.sum().clamp(min=1)),
            log_probs=log_probs,
            entropy=-(with_all.exp() * with_all).sum(-1).masked_fill(~mask, 0),
            is_top1=((logits.argmax(-1) == wanted) & mask).float(),
            label_mask=mask,
        )

    base.forward = types.MethodType(forward, base)
