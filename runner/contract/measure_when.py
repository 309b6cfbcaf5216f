"""When the held-out loss is measured: often enough to choose the best checkpoint from."""

from __future__ import annotations

ROWS_AT_ONCE = 8  # at least: nothing is kept for a backward pass, so more fit than are trained on
MOST, FEWEST = 10, 8  # measurements of a run: the best checkpoint is one of them
FORWARD_SHARE = 1 / 3  # of what a trained token costs: it goes forward, backward and forward again
CHEAP = 0.1  # of the training time: up to here as many as possible
DEAR = 0.5  # of the training time: beyond it fewer than a run should have


def measured_steps(
    total_steps: int, *, every: int | None, trained_tokens: float, held_out_tokens: int
) -> frozenset[int]:
    """Choose the steps after which it is measured: evenly spread, the last one among them.

    Args:
        total_steps: of the whole run.
        every: what the spec asks for; None: as often as it is worth.
        trained_tokens: of the whole run, repeated rows counted as often as they are trained on.
        held_out_tokens: of one measurement.
    """
    if every is not None:
        return frozenset({*range(every, total_steps + 1, every), total_steps})
    cost = held_out_tokens * FORWARD_SHARE / max(trained_tokens, 1)  # of one, in training time
    count = MOST if MOST * cost <= CHEAP else FEWEST
    if FEWEST * cost > DEAR:
        count = max(1, int(DEAR / cost))
    count = min(count, total_steps)
    return frozenset(-(-total_steps * place // count) for place in range(1, count + 1))
