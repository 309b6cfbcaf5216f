"""Driver probe: a new process that prints the driver's cards, or its error, as JSON.

    python -m runner.card.probe

A new process each time: the daemon lives longer than a driver, and a library that was loaded before
an update tells of the past. The next stage is a new process, too: it will find the same.
"""

from __future__ import annotations

import json
import os
from typing import Any

from runner.card.answer import Answer, Card


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _visible(pynvml: Any, count: int) -> list[Any]:
    """Give the handles of the cards that a stage would see, in its order."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    handles = []
    for name in (part.strip() for part in chosen.split(",")):
        if name.startswith(("GPU-", "MIG-")):
            handles.append(pynvml.nvmlDeviceGetHandleByUUID(name))
        elif name.isdigit():
            handles.append(pynvml.nvmlDeviceGetHandleByIndex(int(name)))
        else:
            break  # as CUDA does: the first name that is none ends the list
    return handles


def _describe(pynvml: Any, handle: Any) -> Card:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Card(
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        capability=f"{major}.{minor}",
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
    )


def probe() -> Answer:
    """Ask the driver about the cards that a stage would see."""
    import pynvml  # noqa: PLC0415  whoever only reads answers does without

    driver, count = None, 0
    try:
        pynvml.nvmlInit()
        try:
            driver = _text(pynvml.nvmlSystemGetDriverVersion())
            count = int(pynvml.nvmlDeviceGetCount())
            cards = tuple(_describe(pynvml, handle) for handle in _visible(pynvml, count))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return Answer(code=int(error.value), text=str(error), driver=driver, count=count)
    return Answer(driver=driver, cards=cards, count=count)


if __name__ == "__main__":
    print(json.dumps(probe().as_json()))
