"""Triton, where it is installed: a CPU build of torch has none, and launches no kernel.

``TRITON_INTERPRET=1`` runs the kernels on a CPU, slowly: a way to check them without a card.
"""

from __future__ import annotations

import os
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["INTERPRETED", "jit", "next_power_of_2", "runs_kernels", "tl", "triton", "warps_for"]

INTERPRETED = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"


def jit(function: Any) -> Any:
    """Compile for the card; without Triton the function stays what it is, and is never called."""
    return function if triton is None else triton.jit(function)


def runs_kernels(tensor: Any) -> bool:
    """Whether kernels run on this tensor; otherwise the torch reference beside each does."""
    return triton is not None and (tensor.is_cuda or INTERPRETED)


def next_power_of_2(number: int) -> int:
    """Give the width of a tile that holds a row: Triton's ranges are powers of two."""
    return 1 << (number - 1).bit_length()


def warps_for(width: int) -> int:
    """Choose the warps of a program that holds one row of this width in registers."""
    if width <= 2048:
        return 4
    return 8 if width <= 8192 else 16
