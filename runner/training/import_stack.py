"""Import the stack: torch and what stands on it, in a quarter less time than by the way.

Imports are most of what a short stage does, and two parts of them serve nobody. A seventh of the
time goes into looks for garbage, where nothing is garbage yet. An eighth goes into the compiler of
torch: bitsandbytes asks for it when it is imported, for functions that a stage seldom calls.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

TRAINS = ("bitsandbytes", "datasets", "accelerate", "peft", "trl.trainer.sft_trainer")
EVALUATES = ("bitsandbytes", "datasets", "peft", "transformers.generation.utils")
TRIES = ("bitsandbytes", "transformers.modeling_utils", "peft")
"""What stages import once the card's context was measured, which bitsandbytes makes."""


def import_stack(*names: str) -> None:
    """Import modules; no later look for garbage goes through what they made.

    One that cannot be imported is passed over: whoever needs it meets the same trouble, and tells.
    """
    missing = [name for name in names if name not in sys.modules]
    if not missing:
        return
    gc.disable()
    try:
        for name in missing:
            with contextlib.suppress(Exception):
                _import(name)
    finally:
        gc.freeze()
        gc.enable()


def _import(name: str) -> None:
    if name == "bitsandbytes":
        with compiled_when_called():
            importlib.import_module(name)
    else:
        importlib.import_module(name)


@contextlib.contextmanager
def compiled_when_called() -> Iterator[None]:
    """Let a function that a module decorates with `torch.compile` be compiled at its first call."""
    import torch

    compiles: Any = torch.compile

    def later(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(later, **options)

        @functools.cache
        def compiled() -> Callable[..., Any]:
            made: Callable[..., Any] = compiles(function, **options)
            return made

        @functools.wraps(function)
        def call(*given: Any, **more: Any) -> Any:
            return compiled()(*given, **more)

        return call

    torch.compile = later
    try:
        yield
    finally:
        torch.compile = compiles
