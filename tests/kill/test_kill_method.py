"""Kills while a run changes from 16 bits to 4: no step in 16 bits gets into the adapter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fast_stage import TOO_WIDE, TOTAL_STEPS
from figures import Figures
from kill_box import AtPoint, KillBox

from runner.contract.memory_story import IN_4_BITS
from runner.contract.states import State
from runner.daemon.stages.change_method import SAID

SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 512,
}


class WideBox(KillBox):
    """A box with one job that by the forecast fits in 16 bits, and does not."""

    extra = ""

    def fill(self) -> None:
        """Drop it."""
        (self.root / TOO_WIDE).touch()
        (self.root / "models/m/config.json").write_text(json.dumps(SMALL))
        (self.jobs / "job0.jsonl").write_text("rows")
        self.drop_bytes("job0", f"model: m\ndata: job0.jsonl\n{self.extra}", State.SUCCEEDED)


class WideRatesBox(WideBox):
    """The same where learning rates are tried first."""

    extra = "try: {learning_rate: [1e-4, 2e-4, 4e-4]}\n"


def changed(box: KillBox) -> None:
    """Hold what is true of a run that changed once, wherever it was killed."""
    record = box.record()
    assert record.method is not None
    assert (record.method.method, record.method.why) == ("qlora", "did_not_fit")
    assert record.shortfalls.count(SAID) == 1
    wide = [one.reason == IN_4_BITS for one in record.attempts]
    narrow = record.attempts[wide.index(True) + 1 if any(wide) else 0 :]
    assert (narrow[0].first_step, narrow[-1].last_step) == (1, TOTAL_STEPS)
    # Killed between the loss of the checkpoints and the record, 16 bits are tried once more.
    again = re.compile(r"-in-16-bits: step \d+ ran again")
    assert [one for one in box.lost() if not again.search(one)] == []


KILLS: list[tuple[str, str | None, int]] = [
    ("stage ended", None, 2),  # the first is prepare's
    ("checkpoints dropped", None, 1),
    ("file written", "run.json", 0),
    ("file renamed", "run.json", 0),
    ("stage recorded", None, 3),
]
"""Points of the daemon; number 0 is the write of the record that changes the method."""


def writes_before(box: KillBox) -> int:
    """Count how often an undisturbed run's record is written before it changes."""
    box.live([])
    changed(box)
    visits = box.all_visits()
    point = ("daemon", "checkpoints dropped", "")
    return visits[: visits.index(point)].count(("daemon", "file written", "run.json"))


@pytest.mark.parametrize(
    ("kind", "kills"), [(WideBox, KILLS), (WideRatesBox, KILLS[1:4])], ids=["train", "rates"]
)
def test_a_kill_while_the_method_changes(
    tmp_path: Path, kind: type[WideBox], kills: list[Any], figures: Figures
) -> None:
    """The adapter is an undisturbed 4-bit run's, and the sentence stands once."""
    at_change = writes_before(kind(tmp_path / "undisturbed")) + 1
    for number, (point, what, index) in enumerate(kills):
        box = kind(tmp_path / f"box{number}")
        at = AtPoint(
            side="daemon", point=point, what=what, index=index or at_change, victims="both"
        )
        box.live([at])
        assert box.kills == 1, at
        changed(box)
        figures.count("kills while a run changes to 4 bits")
