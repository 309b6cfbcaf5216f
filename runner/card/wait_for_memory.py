"""Wait for GPU memory: a run waits while another program holds what it needs, and says who."""

from __future__ import annotations

from runner.card.memory import GpuMemory
from runner.forecast.work import GIB


def why_wait(gpu: GpuMemory, needed_bytes: int) -> str | None:
    """Say who holds what a run needs; None when it is free, or when waiting would not help."""
    if needed_bytes <= gpu.free_bytes or not gpu.is_shared:
        return None
    return (
        f"the GPU's memory is held by another program: {needed_bytes / GIB:.1f} GiB needed, "
        f"{gpu.free_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f} free; {gpu.held_by()}"
    )
