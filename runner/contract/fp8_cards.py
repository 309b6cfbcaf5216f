"""FP8 cards: which can compute `speed: fp8`, and what is said of one that cannot."""

from __future__ import annotations

FP8_HINT = "Leave speed out (or write speed: exact): the run then computes in 16 bits."
_SINCE = (8, 9)  # compute capability: Ada (RTX 4090), then Hopper and Blackwell


def fp8_obstacle(name: str | None, capability: str | None) -> str | None:
    """Say why a box cannot compute in fp8; None: it can, or its card does not say what it is.

    Args:
        name: of the card; None: there is none.
        capability: its compute capability, such as ``8.6``.
    """
    if name is None:
        return "fp8 needs an NVIDIA card of compute capability 8.9 or newer, and this box has none"
    try:
        major, _, minor = (capability or "").partition(".")
        found = int(major), int(minor)
    except ValueError:
        return None
    if found >= _SINCE:
        return None
    return (
        f"this box's card ({name}, compute capability {capability}) has no fp8: that needs 8.9 or "
        "newer, such as an RTX 4090 or an H100"
    )
