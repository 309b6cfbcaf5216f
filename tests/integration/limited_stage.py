"""Stands in for a machine with little memory: `python -m runner.training`, but training gets less.

    python limited_stage.py MEBIBYTES STAGE FOLDER

The limit is set when the model is loaded, relative to what the process has then; what runs into it
is the stack's own allocator, wherever it happens to be. fp32, so that the figure means the same on
every CPU.
"""

import resource
import sys
from pathlib import Path


def data_bytes() -> int:
    """What counts towards RLIMIT_DATA now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmData")


def main() -> int:
    """Run one stage."""
    training_bytes = int(sys.argv.pop(1)) * 2**20
    from runner.training.__main__ import main as stage
    from runner.training.fit import model

    model._cpu_has_bf16 = lambda: False
    if sys.argv[1] == "train":
        from runner.training.fit.callbacks import Conduct

        inner = Conduct.on_train_begin

        def on_train_begin(*given: object, **more: object) -> None:
            inner(*given, **more)
            limit = data_bytes() + training_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))

        Conduct.on_train_begin = on_train_begin
    return stage(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
