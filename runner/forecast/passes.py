"""Passes of the fast path: how many tokens each takes and how many layers keep everything.

The plan of two numbers, its memory and its time, by arithmetic: the daemon forecasts with it before
a run, and the run chooses with it on the card. Small passes that keep everything beat large ones
that recompute, down to where a pass is too small for the card.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from runner.contract.batch import FEW_TOKENS
from runner.forecast.work import BF16, FP32, GIB, MIB, Box, Work

TILE = 4096
"""Tokens of a long row that go through projections and MLP at once: the smaller, the less the card
holds. One size was tried: 65,536 tokens of 8B made 5,403 tokens a second in 14.4 GiB with it."""
CAPPED_SCORES = 2**23
"""Scores of attention that exist at once where they are capped, which the card's fast attention
cannot do: few blocks for rows of 2,000 tokens, and little memory."""
_CAPPED_BYTES = 40 * CAPPED_SCORES  # six steps in 16 bits, and their way back, two in 32
MOST_TOKENS = 16_384  # a pass gains nothing from more: 8B at 13,000 is within 1% of its best
_STEP = 128  # tokens between the sizes that are compared
_RECOMPUTED = 0.31  # of a pass's time, when every layer is made again (8B on an H200: 17,542 tokens
# a second kept, 13,494 recomputed)
_FIXED_8B = (
    530.0  # tokens that could be computed in the time that a pass costs by itself: unpacking
)
# and launches (the same card: 15,038 tokens a second in passes of 2,450, 17,542 in 12,983)
_UNPACKING_8B = 280.0  # of them: 17 ms of a pass of 9,400 tokens that took 566
MOST_UNPACKED_BYTES = 16 * GIB
"""For weights that stay unpacked, where there is room: 8B's take 12.8 GiB, and without a cap they
gave 2.8 and 3.7%. A larger model's would take a whole card for as little."""
_WEIGHTS_8B = 7.0e9  # of its layers
LAYER_SECONDS = 0.0019
"""No pass is quicker, for each of its layers: 8B's pass of 64 tokens takes 0.054 to 0.066 s on an
H200's host, all of it Python."""
_GOOD_ENOUGH = 1.01  # of the best time: what is saved in memory beyond this is worth more
HOLES = 1.04
"""What the allocator is expected to reserve, times what is needed at once: passes of many sizes
leave holes. It was 1.003 to 1.037 times in eleven runs of 14 steps whose passes were forecast (1B
to 8B), 1.03 to 1.09 where the run chose them itself under a cap."""
MOST_HOLES = 1.08
"""What it may reserve. Without a limit it reserved 77 GiB of an H200 for 43 in use; with 1.12, 48
and was no slower. With 1.04, 8B ran out of memory at step 2 and 3 under 14.5 and 8.6 GiB."""
MOST_HOLES_FP8 = 1.16
"""The same with `speed: fp8`: with 1.08, 8B ran out of memory under 14.5 and 22.5 GiB, though not
without a cap. Lines have had one place since; that was not measured."""
MOMENTS = 2 * FP32  # bytes a trained number: AdamW's, made in the first optimizer step
_KEPT_FREE = 0.03  # of what may be allocated: what the allocator cannot use
_KEPT_FREE_BYTES = 400 * MIB  # the same under a small cap: with 200, 8B ran out at 8.6 GiB


_KEPT_FREE_FP8 = 0.05
"""More of it with `speed: fp8`, which ran out of memory under 14.5 and 22.5 GiB without. Lines have
had one place since; how much it needs with that was not measured, so this is generous."""


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
    unpacked: int
    """The weights of a layer, if they stay unpacked, whatever the tokens; 0: they cannot."""
    long: int
    """A row whose layers keep on the host, at its highest point: attention going backward."""
    tile: int
    """Beside that, a token of the tile that is worked on."""
    embedding: int = 0
    """The table of the words that go in, which can wait on the host, whatever the tokens; 0: it
    cannot, for it is that of the words that come out, too."""
    fixed: int = 0
    """Beside a layer on its way back, however many tokens there are."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How an effective batch is trained on: the plan of two numbers."""

    most_tokens: int
    """Tokens of a pass; a longer row goes alone, with the host's help."""
    layers_kept: int | None
    """At most so many keep everything; None: as many as there is room for."""
    budget_bytes: int | None
    """For what a pass keeps and makes; None: no limit (a CPU)."""
    chunk: int
    """Learned tokens whose logits exist at once."""
    layers_unpacked: int = 0
    """So many keep their weights unpacked, beside ``budget_bytes``."""
    embedding_on_host: bool = False
    """The table of the words that go in waits on the host; ``budget_bytes`` counts its room."""
    on_host: bool = False
    """A row that is too long for the card alone lets the host keep for its layers."""


def peak_bytes(sizes: Sizes, tokens: int, kept: int, chunk: int) -> int:
    """Give what a pass needs at most, beside weights, gradients and the optimizer's state."""
    lean, full = tokens * sizes.lean, tokens * sizes.full
    held = (sizes.layers - kept) * lean + kept * full
    moments = [
        held + tokens * sizes.head + min(chunk, tokens) * sizes.logits,
        held + tokens * sizes.back + sizes.fixed,
    ]
    if kept < sizes.layers:  # a lean layer, the last to go back first if none is kept
        moments.append((sizes.layers - kept) * lean + full + tokens * sizes.back + sizes.fixed)
    return max(moments)


def long_bytes(sizes: Sizes, tokens: int, chunk: int) -> int:
    """Give what a row needs at most whose layers keep on the host."""
    head = tokens * sizes.head + min(chunk, tokens) * sizes.logits
    return max(tokens * sizes.long + min(TILE, tokens) * sizes.tile + sizes.fixed, head)


def goes_long(sizes: Sizes, passes: Passes, tokens: int) -> bool:
    """Whether a pass of so many tokens lets the host keep for its layers."""
    if not passes.on_host or tokens > passes.most_tokens:
        return passes.on_host
    room = passes.budget_bytes
    return room is not None and peak_bytes(sizes, tokens, 0, passes.chunk) > room


def fixed_bytes(*, capped: bool) -> int:
    """Give what attention takes on its way back, however many tokens there are."""
    return _CAPPED_BYTES if capped else 0


def layers_kept(sizes: Sizes, passes: Passes, tokens: int) -> int:
    """Give how many layers may keep everything in a pass of so many tokens."""
    most = sizes.layers if passes.layers_kept is None else min(sizes.layers, passes.layers_kept)
    if passes.budget_bytes is None:
        return most
    for kept in range(most, 0, -1):
        if peak_bytes(sizes, tokens, kept, passes.chunk) <= passes.budget_bytes:
            return kept
    return 0


def choose_place(sizes: Sizes, *, budget_bytes: int | None, **known: int | None) -> Passes:
    """Choose passes, with the table of the words that go in on the host if none fit otherwise.

    Only then: under 8.6 and 14.5 GiB its room gave 8B larger passes by count, and on a card steps
    that took 2 to 5% longer (docs/measurements.md, 27 November 2026). Args as in `choose_passes`.
    """
    here = choose_passes(sizes, budget_bytes=budget_bytes, **known)  # type: ignore[arg-type]
    if budget_bytes is None or not sizes.embedding or fits(sizes, here):
        return here
    more = budget_bytes + sizes.embedding
    there = choose_passes(sizes, budget_bytes=more, **known)  # type: ignore[arg-type]
    return replace(there, embedding_on_host=True) if fits(sizes, there) else here


def fits(sizes: Sizes, passes: Passes) -> bool:
    """Whether the largest pass is within the budget, without the host's help."""
    room, tokens = passes.budget_bytes, passes.most_tokens
    kept = layers_kept(sizes, passes, tokens)
    return room is None or peak_bytes(sizes, tokens, kept, passes.chunk) <= room


def keep_unpacked(sizes: Sizes, passes: Passes, *, most: int | None = None) -> Passes:
    """Let layers keep their weights unpacked in the room that passes leave.

    Passes come first: the same memory gives more in them.

    Args:
        sizes: the model's.
        passes: as they were chosen.
        most: layers, a limit that an earlier lack of memory set.
    """
    room = passes.budget_bytes
    if room is None or not sizes.unpacked or passes.on_host or passes.embedding_on_host:
        return passes
    kept = layers_kept(sizes, passes, passes.most_tokens)
    left = min(
        room - peak_bytes(sizes, passes.most_tokens, kept, passes.chunk), MOST_UNPACKED_BYTES
    )
    layers = min(sizes.layers if most is None else most, left // sizes.unpacked)
    if 2 * layers < sizes.layers:
        layers = 0  # it would fill a card up for less than 2%
    return replace(passes, layers_unpacked=layers, budget_bytes=room - layers * sizes.unpacked)


def measured_at_once(sizes: Sizes, passes: Passes) -> int:
    """Give how many tokens are measured at once without a way back, in the room that training has.

    One layer's products are there at a time, so it is more than a pass of training takes.
    """
    if passes.budget_bytes is None:
        return max(passes.most_tokens, TILE)
    kept = layers_kept(sizes, passes, passes.most_tokens)
    room = peak_bytes(sizes, passes.most_tokens, kept, passes.chunk) - passes.chunk * sizes.logits
    return max(passes.most_tokens, min(MOST_TOKENS, room // (sizes.full + sizes.back)))


def choose_passes(
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
    chunk = chunk_for(sizes, budget_bytes)
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


def passes_within(
    sizes: Sizes,
    *,
    budget_bytes: int | None,
    longest: int,
    batch_tokens: int,
    most_tokens: int,
    most_kept: int,
    on_host: bool = False,
) -> Passes:
    """Give passes of just these limits where they fit; else choose smaller ones.

    ``on_host``: a row may be longer than a pass; then the host keeps for its layers.
    """
    shortest = min(longest, most_tokens) if on_host else longest
    tokens, chunk = max(shortest, most_tokens), chunk_for(sizes, budget_bytes)
    kept = min(sizes.layers, most_kept)
    passes = Passes(
        most_tokens=tokens,
        layers_kept=kept,
        budget_bytes=budget_bytes,
        chunk=chunk,
        on_host=on_host,
    )
    if budget_bytes is None or peak_bytes(sizes, tokens, kept, chunk) <= budget_bytes:
        return passes
    found = choose_passes(
        sizes,
        budget_bytes=budget_bytes,
        longest=min(shortest, FEW_TOKENS) if on_host else longest,
        batch_tokens=batch_tokens,
        most_tokens=most_tokens,
        most_kept=most_kept,
    )
    return replace(found, on_host=on_host)


def chunk_for(sizes: Sizes, budget_bytes: int | None) -> int:
    """Say how many tokens' logits exist at once: an eighth of the room, so that layers have it."""
    if budget_bytes is None:
        return 2048
    return max(256, min(4096, 128 * (budget_bytes // (8 * 128 * sizes.logits))))


def _cost(sizes: Sizes, tokens: float, kept: int, unpacked: int = 0) -> float:
    """Give the time of a token, as a multiple of what it takes in a large pass that keeps all."""
    fixed = _FIXED_8B - _UNPACKING_8B * unpacked / sizes.layers
    fixed *= max(1.0, math.sqrt(_WEIGHTS_8B / max(1, sizes.weights)))
    return float(1 + fixed / tokens + _RECOMPUTED * (1 - kept / sizes.layers))


def sizes_of(work: Work) -> Sizes:
    """Give the sizes of the common decoder layer: what a run counts on the model itself."""
    shape = work.shape
    of_heads = shape.attention + 2 * shape.kv
    behind = shape.hidden if shape.norms_behind else 0
    copies = 1 if work.dropout else 0  # of what an adapter reads
    apart = shape.hidden if shape.norms_behind or shape.factor_behind else 0
    # In fp8 what goes into a product is there in eight bits as well, and its place stays.
    eighth = max(2 * shape.intermediate, of_heads) if work.fp8 else 0
    return Sizes(
        layers=shape.layers,
        lean=BF16 * (shape.hidden + behind),
        full=BF16
        * (2 * (shape.hidden + behind) + of_heads + shape.attention + 2 * shape.intermediate)
        + FP32 * shape.heads,
        back=BF16
        * (4 * shape.hidden + apart + max((1 + copies) * shape.intermediate, 2 * of_heads))
        + eighth,
        head=BF16 * 3 * shape.hidden + eighth,
        logits=BF16 * (shape.vocabulary + 3 * shape.hidden),
        weights=shape.layers * shape.block_parameters,
        unpacked=_unpacked(work),
        embedding=0 if shape.tied else BF16 * shape.vocabulary * shape.hidden,
        fixed=fixed_bytes(capped=shape.capped_scores),
        long=BF16 * (6 * shape.hidden + 3 * shape.attention + 2 * of_heads)
        + FP32 * (shape.attention + shape.layers * shape.heads),
        tile=BF16 * ((3 + copies) * shape.intermediate + 6 * shape.hidden + 2 * apart) + eighth,
    )


@dataclass(frozen=True, kw_only=True)
class Steady:
    """Bytes that are there whatever the passes are."""

    weights: int
    """The base, the places where a layer's weights are unpacked to, and the positions' table."""
    adapter: int
    """In fp32, and the copies that the products read."""
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.adapter + self.gradients + self.optimizer


def steady(work: Work, box: Box) -> Steady:
    """Count what the fast path holds of a card beside its activations."""
    shape, trained = work.shape, work.adapter_parameters
    unpacked = BF16 * shape.block_parameters if work.method == "qlora" else 0
    positions = work.longest * shape.head_size * FP32
    return Steady(
        weights=work.weight_bytes_on(box) + unpacked + positions,
        adapter=FP32 * trained + BF16 * _copied(work),
        gradients=FP32 * trained + summed_bytes(work, box),
        optimizer=MOMENTS * trained,
    )


def summed_bytes(work: Work, box: Box) -> int:
    """Count the buffer in which several ranks sum their gradients, once a step."""
    return FP32 * work.adapter_parameters if box.ranks > 1 else 0


def _copied(work: Work) -> int:
    """Count the numbers in the copies of A and B."""
    each = sum(rank * (inputs + outputs) for rank, inputs, outputs in _copies(work))
    return each * work.shape.layers


def _unpacked(work: Work) -> int:
    """Count the bytes of a layer's weights that stay unpacked, B beside them."""
    if work.method != "qlora" or work.fp8:
        return 0
    beside = sum(rank * outputs for rank, _, outputs in _copies(work))
    return BF16 * (work.shape.block_parameters + beside)


def _copies(work: Work) -> Iterator[tuple[int, int, int]]:
    """Give rank, inputs and outputs of a layer's copies: layers that read one tensor share one.

    Their B lie on one diagonal.
    """
    groups = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
    alone = [(one.name,) for one in work.adapted if not any(one.name in group for group in groups)]
    for names in (*groups, *alone):
        here = [one for one in work.adapted if one.name in names]
        if here:
            outputs = sum(one.outputs for one in work.shape.linears if one.name in names)
            yield work.rank * len(here), here[0].inputs, outputs


def budget(allocatable_bytes: int, held_bytes: int, *, fp8: bool = False) -> int:
    """Give what activations may take.

    Args:
        allocatable_bytes: what the process may allocate: its cap without CUDA's context.
        held_bytes: what is there, or will be, whatever the passes are.
        fp8: products are in eight bits.
    """
    share = _KEPT_FREE + (_KEPT_FREE_FP8 if fp8 else 0.0)
    free = int(share * allocatable_bytes) + _KEPT_FREE_BYTES
    return max(0, allocatable_bytes - free - held_bytes)


def activation_room(work: Work, box: Box, *, embedding_on_host: bool = False) -> int | None:
    """Forecast what activations may take; None: no limit is known."""
    if box.limit_bytes is None:
        return None
    held = steady(work, box).total - (sizes_of(work).embedding if embedding_on_host else 0)
    return budget(box.limit_bytes - box.held_bytes, held, fp8=work.fp8)


def batch_tokens(work: Work, rows: int) -> int:
    """Count the tokens of the longest ``rows`` rows together, or of so many packed sequences."""
    if work.packed_to:
        return rows * work.packed_to
    total, left = 0, rows
    for tokens, count in work.lengths.steps:
        total += tokens * min(left, count)
        left -= min(left, count)
        if not left:
            break
    return total


def rank_tokens(work: Work, rows: int, ranks: int) -> int:
    """Count the tokens of one rank's share of the longest ``rows`` rows.

    They are dealt by their tokens: none has more than its part and one row.
    """
    whole = batch_tokens(work, rows)
    return min(whole, math.ceil(whole / ranks) + (work.longest if ranks > 1 else 0))


def pass_seconds(
    sizes: Sizes, tokens: float, kept: int, *, each_token: float, unpacked: int = 0
) -> float:
    """Say how long a pass takes.

    Args:
        sizes: the model's.
        tokens: of the pass.
        kept: layers that keep everything.
        each_token: seconds of a token in a large pass that keeps everything.
        unpacked: layers whose weights stay unpacked.
    """
    return max(
        tokens * each_token * _cost(sizes, tokens, kept, unpacked), sizes.layers * LAYER_SECONDS
    )


def count_passes(total: int, most_tokens: int, longest: int) -> int:
    """Say into how many passes a batch of so many tokens is cut."""
    return max(1, math.ceil(total / max(most_tokens, longest)))
