"""Change the method: a run that the box trains in 16 bits and that does not fit begins again in 4.

It begins again because an adapter learns to correct the base that it is trained on: steps on the
base in 16 bits are no beginning of an adapter for the one in 4. What it had trained goes before the
record says so. A daemon that is killed in between finds 16 bits without checkpoints: they do not
fit a second time, and are changed then.
"""

from __future__ import annotations

import os
from typing import Any

from runner.contract.layout import RunFolder
from runner.contract.memory_story import IN_4_BITS
from runner.contract.method_choice import MethodChoice
from runner.contract.record import RunRecord
from runner.contract.states import Stage, State
from runner.daemon.stages.outcome import joined
from runner.daemon.stages.resume_point import count_up_to
from runner.exit_codes import ExitCode
from runner.files.crash_points import reached
from runner.files.sweep import discard_folder

SAID = (
    "In 16 bits this run did not fit, not even at the smallest plan: it began again with the base "
    "model in 4 bits (method: qlora)."
)


def may_change(record: RunRecord, code: int) -> bool:
    """Whether 4 bits come next: 16 were chosen by their size, and memory ran out all the same.

    Not where the spec names 16 bits, nor where the run goes on from an adapter trained in them.

    Args:
        record: as it was while the stage ran.
        code: what the end of its stage means.
    """
    chosen = record.method
    if chosen is None or chosen.method != "lora" or record.started_from is not None:
        return False
    if code == ExitCode.OUT_OF_HOST_MEMORY:  # with a card the weights do not stay on the machine
        return chosen.why == "no_card"
    return code == ExitCode.OUT_OF_GPU_MEMORY and chosen.why in ("fits", "no_card")


def in_4_bits(record: RunRecord) -> dict[str, Any]:
    """Give what the record says of a run that begins again in 4 bits.

    Learning rates that were compared in 16 bits are compared anew; one that was chosen stays.

    Args:
        record: with the end of its stage, which may change its method.
    """
    chosen, rates = record.method, record.rates
    assert chosen is not None
    changes: dict[str, Any] = {
        "state": State.INTERRUPTED,
        "method": MethodChoice(method="qlora", why="did_not_fit", limit_bytes=chosen.limit_bytes),
        "batch_plan": None,
        "shortfalls": joined(record.shortfalls, (SAID,)),
    }
    if record.attempts:
        *earlier, last = count_up_to(record.attempts, 0)
        changes["attempts"] = (*earlier, last.model_copy(update={"reason": IN_4_BITS}))
    if rates is not None and rates.chosen is None:
        for at in range(len(rates.trials)):
            rates = rates.with_trial(at, outcome=None, eval_loss=None)
        changes["rates"] = rates
        changes["tries"] = {**record.tries, Stage.RATES.value: 0}
    return changes


def drop_what_was_trained(run: RunFolder) -> None:
    """Take away every checkpoint of a run and of its small runs.

    Raises:
        OSError: one of the folders cannot be taken away.
    """
    homes = [run, *(RunFolder(run.rates / name) for name in _names(run))]
    for home in homes:
        if home.checkpoints.is_dir():
            discard_folder(home.checkpoints)
    reached("checkpoints dropped")


def _names(run: RunFolder) -> list[str]:
    try:
        return os.listdir(run.rates)
    except FileNotFoundError:
        return []
