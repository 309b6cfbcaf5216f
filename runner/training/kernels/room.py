"""How many tokens a pass takes and how many layers keep everything: memory, by arithmetic.

Small passes that keep everything beat large ones that recompute, down to where a pass is too small
for the card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.training.kernels.layer import Layer

MOST_TOKENS = 16_384  # a pass gains nothing from more: 8B at 13,000 is within 1% of its best
_STEP = 128  # tokens between the sizes that are compared
_RECOMPUTED = 0.31  # of a pass's time, when every layer is made again (8B on an H200: 17,542 tokens
# a second kept, 13,494 recomputed)
_FIXED_8B = (
    530.0  # tokens that could be computed in the time that a pass costs by itself: unpacking
)
# and launches (the same card: 15,038 tokens a second in passes of 2,450, 17,542 in 12,983)
_WEIGHTS_8B = 7.0e9  # of its layers
_GOOD_ENOUGH = 1.01  # of the best time: what is saved in memory beyond this is worth more


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a model's layers and head take, bytes a token."""

    layers: int
    lean: int
    """A layer that keeps its input alone."""
    full: int
    """A layer that keeps everything."""
    back: int
    """A layer on its way back, beside what it kept."""
    head: int
    """Beside the logits: the input, its gradient and a copy."""
    logits: int
    """One token's."""
    weights: int
    """In the layers."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How an effective batch is trained on: the plan of two numbers."""

    most_tokens: int
    """Tokens of a pass; a longer row goes alone."""
    layers_kept: int | None
    """At most so many keep everything; None: as many as there is room for."""
    budget_bytes: int | None
    """For what a pass keeps and makes; None: no limit (a CPU)."""
    chunk: int
    """Learned tokens whose logits exist at once."""


def measure(layers: Sequence[Layer], vocabulary: int, item_bytes: int) -> Sizes:
    """Count from the largest of the layers."""
    hidden = layers[0].qkv.inputs
    full = max(
        item_bytes
        * (
            2 * hidden  # its input and the middle of it
            + layer.heads.width
            + layer.heads.q_heads * layer.heads.size  # attention's output
            + layer.gate_up.outputs
        )
        + 4 * layer.heads.q_heads  # attention's row sums, fp32
        for layer in layers
    )
    widest = max(layer.down.inputs for layer in layers)
    of_heads = max(layer.heads.width for layer in layers)
    return Sizes(
        layers=len(layers),
        lean=item_bytes * hidden,
        full=full,
        # The MLP's way back holds its hidden gradient beside gradients of the residual; attention's
        # holds q, k and v's gradients twice while they are laid side by side.
        back=item_bytes * max(widest + 4 * hidden, 2 * of_heads + 4 * hidden),
        head=item_bytes * 3 * hidden,
        logits=item_bytes * (vocabulary + 3 * hidden),
        weights=sum(group.outputs * group.inputs for layer in layers for group in layer.groups),
    )


def peak_bytes(sizes: Sizes, tokens: int, kept: int, chunk: int) -> int:
    """Give what a pass needs at most, beside weights, gradients and the optimizer's state."""
    lean, full = tokens * sizes.lean, tokens * sizes.full
    held = (sizes.layers - kept) * lean + kept * full
    moments = [
        held + tokens * sizes.head + min(chunk, tokens) * sizes.logits,
        held + tokens * sizes.back,
    ]
    if kept < sizes.layers:  # a lean layer, the last to go back first if none is kept
        moments.append((sizes.layers - kept) * lean + full + tokens * sizes.back)
    return max(moments)


def layers_kept(sizes: Sizes, passes: Passes, tokens: int) -> int:
    """Give how many layers may keep everything in a pass of so many tokens."""
    most = sizes.layers if passes.layers_kept is None else min(sizes.layers, passes.layers_kept)
    if passes.budget_bytes is None:
        return most
    for kept in range(most, 0, -1):
        if peak_bytes(sizes, tokens, kept, passes.chunk) <= passes.budget_bytes:
            return kept
    return 0


def choose(
    sizes: Sizes,
    *,
    budget_bytes: int | None,
    longest: int,
    batch_tokens: int,
    most_tokens: int | None = None,
    most_kept: int | None = None,
) -> Passes:
    """Choose the passes that take the least time within the budget.

    Args:
        sizes: the model's.
        budget_bytes: what activations may take; None: no limit.
        longest: tokens of the longest row: no pass can be smaller.
        batch_tokens: tokens of the largest batch that is cut: no pass need be larger.
        most_tokens: a limit that an earlier lack of memory set.
        most_kept: likewise.
    """
    chunk = 2048
    if budget_bytes is not None:
        # An eighth of the room at most, so that logits do not push out layers.
        chunk = max(256, min(4096, 128 * (budget_bytes // (8 * 128 * sizes.logits))))
    top = max(longest, min(MOST_TOKENS, batch_tokens, most_tokens or MOST_TOKENS))
    tried = []
    for tokens in {top, longest, *range(longest, top, _STEP)}:
        passes = Passes(
            most_tokens=tokens, layers_kept=most_kept, budget_bytes=budget_bytes, chunk=chunk
        )
        kept = layers_kept(sizes, passes, tokens)
        fits = budget_bytes is None or peak_bytes(sizes, tokens, kept, chunk) <= budget_bytes
        tried.append((not fits, _cost(sizes, tokens, kept), tokens, passes))
    tried.sort(key=lambda one: one[:3])
    if tried[0][0]:  # nothing fits by this count: the smallest, and the card has the last word
        return min(tried, key=lambda one: one[2])[3]
    good = [one for one in tried if not one[0] and one[1] <= _GOOD_ENOUGH * tried[0][1]]
    return min(good, key=lambda one: one[2])[3]


def _cost(sizes: Sizes, tokens: int, kept: int) -> float:
    """Give the time of a token, as a multiple of what it takes in a large pass that keeps all."""
    fixed = _FIXED_8B * max(1.0, (_WEIGHTS_8B / max(1, sizes.weights)) ** 0.5)
    return 1 + fixed / tokens + _RECOMPUTED * (1 - kept / sizes.layers)
