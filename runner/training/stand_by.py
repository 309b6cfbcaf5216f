"""Stand by: a process that has imported what every stage needs, until the daemon hands it a stage.

Imports take longer than anything else between a drop and the first step: 14 of 23 seconds for an 8B
model on an H200. So on a box with a card the daemon has processes ready for the next stages
(daemon/stages/keep_standing_by.py). They have touched no card and read no file of a run.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import socket
import sys

from runner.contract.standing_by import HandOver

IMPORTED = (
    "torch",
    "transformers.modeling_utils",
    "transformers.generation.candidate_generator",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "datasets",
    "accelerate",
    "torch.distributed.tensor",
    "torch._inductor.compile_fx",
    "bitsandbytes",
    "peft",
    "trl.trainer.sft_trainer",
    "runner.spec.read_spec",
    "runner.training.fit.callbacks",
    "runner.training.fit.cut",
    "runner.training.fit.set_up_check",
    "runner.training.fit.fast_path",
    "runner.training.data.prepare",
    "runner.training.evaluate.evaluate",
    "runner.training.export.export",
    "runner.training.export.hand_over",
)
"""None makes a CUDA context, which would take half a gigabyte of a card on which another stage is
at work: tests/gpu looks."""


def stand_by() -> list[str]:
    """Import, wait for the daemon, and become the stage that it names; it speaks on stdin.

    Returns:
        The stage's name and its folder. The process stands in that folder then, by which a later
        daemon knows whose orphan it is, and its output goes to the stage's log.

    Raises:
        SystemExit: nothing is to be done: the daemon has closed its end.
    """
    for name in IMPORTED:
        with contextlib.suppress(Exception):  # the stage meets the same trouble, and can tell of it
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what was imported stays: no later look for garbage need go through it
    with socket.socket(fileno=os.dup(0)) as daemon:
        told, handed, _, _ = socket.recv_fds(daemon, HandOver.BYTES, HandOver.DESCRIPTORS)
    if not told:
        raise SystemExit(0)
    given = HandOver.from_bytes(told)
    log, *held = handed
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, becomes in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, becomes)
    for descriptor in (nothing, log):
        os.close(descriptor)
    for descriptor in held:  # a lock among them is held by the helpers of the stage, too
        os.set_inheritable(descriptor, True)
    os.chdir(given.folder)
    if os.getppid() != given.daemon:
        raise SystemExit(0)  # it died meanwhile, and has not seen this process in its folder
    sys.argv[1:] = [given.stage, given.folder]
    return sys.argv[1:]
