"""A card under the real daemon: what it forecasts, what it learns, and whom it waits for.

The driver is a stand-in, for no machine without a card has one; the daemon asks it as it asks
NVIDIA's, in a process of its own. What a real card takes is tested in tests/gpu.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from daemon_box import REPOSITORY, Box, attempt_of, wait_until

from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.exit_codes import ExitCode
from runner.forecast.work import GIB

DRIVER = Path(__file__).with_name("standin_driver")
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
LENGTHS = [400 + i for i in range(800)]
OOM = int(ExitCode.OUT_OF_GPU_MEMORY)


Held = dict[str, float]


def _card(held: Held) -> dict[str, Any]:
    return {
        "total": 24 * GIB,
        "free": int((24 - sum(held.values())) * GIB),
        "held": [(4000 + i, name, int(h * GIB)) for i, (name, h) in enumerate(held.items())],
    }


class CardBox(Box):
    """A box with a card of 24 GiB and the sizes of a model of 8 billion weights."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "models" / "m").mkdir(exist_ok=True)
        (root / "models" / "m" / "config.json").write_text(json.dumps(LLAMA_8B))
        self.hold({})

    def hold(self, held: Held, later: tuple[str, Held] | None = None) -> None:
        """Let programs hold so many GiB; others once a file of a pattern is there."""
        told: dict[str, Any] = _card(held)
        if later is not None:
            told |= {"when": str(self.root / later[0]), "then": _card(later[1])}
        beside = self.root / "driver.tmp"
        beside.write_text(json.dumps(told))
        beside.replace(self.root / "driver.json")

    @property
    def environment(self) -> dict[str, str]:
        """With the stand-in where Python looks first."""
        return {
            **super().environment,
            "PYTHONPATH": f"{DRIVER}{os.pathsep}{REPOSITORY}",
            "STANDIN_DRIVER": str(self.root / "driver.json"),
        }

    def run(self, name: str, spec: str = "", **script: Any) -> RunRecord:
        """Drop a spec and work it off."""
        self.drop(name, **{"lengths": LENGTHS, **script})
        if spec:
            self.drop_spec(name, spec)
        self.once(min_free_bytes=0)
        return next(record for record in self.records() if record.job == name)


@pytest.fixture
def box(tmp_path: Path) -> CardBox:
    """Give a box with a card."""
    return CardBox(tmp_path)


def test_the_record_holds_the_forecast_and_what_was_measured(box: CardBox) -> None:
    """Memory by part, host memory, disk, time and alternatives; the measured peak beside them."""
    record = box.run("contracts", peak=9 * GIB)
    assert record.state is State.SUCCEEDED, record.error
    told = record.forecast
    assert told["gpu"] == "NVIDIA GeForce RTX 4090"
    assert sorted(told["gpu_memory"]) == sorted(
        ["weights", "adapter", "gradients", "optimizer", "activations", "logits", "context"]
    )
    assert sum(told["gpu_memory"].values()) == pytest.approx(told["gpu_memory_bytes"], abs=8)
    for name in ("host_memory_bytes", "disk_bytes", "seconds"):
        assert told[name] > 0, name
    assert told["fits"]
    assert told["measured_gpu_memory_bytes"] == 9 * GIB
    assert record.batch_plan is not None
    assert told["batch_plan"] == record.batch_plan.model_dump()
    fits = {
        (one["batch_plan"]["per_device_batch_size"], one["fits"]) for one in told["alternatives"]
    }
    assert {(1, True), (16, False)} <= fits


def test_later_forecasts_learn_from_the_measured_peak(box: CardBox) -> None:
    """The same job again is forecast nearer to what it took, and so is another one of its kind."""
    spec = "training: {batch_size: 1}\n"
    before = box.run("first", spec).forecast["gpu_memory_bytes"]
    took = int(1.1 * before)
    told = [
        box.run(f"again{number}", spec, peak=took).forecast["gpu_memory_bytes"]
        for number in range(4)
    ]
    assert told[0] == before  # nothing was measured yet
    assert before < told[1] < told[2] < told[3] <= took
    assert took - told[3] < 0.3 * (took - before)


def test_a_run_waits_for_memory_that_another_program_holds(box: CardBox) -> None:
    """It says who holds how much, its arguments left out, and starts by itself when they leave."""
    box.hold({"/usr/bin/ollama serve --key secret": 18.0})
    box.drop("contracts", lengths=LENGTHS)
    with box.watching():
        wait_until(lambda: box.records() and box.record().waiting)
        waiting = box.record().waiting
        assert waiting is not None
        assert "ollama (process 4000) 18.0 GiB" in waiting.reason
        assert "secret" not in waiting.reason
        assert "6.0 of 24.0 free" in waiting.reason
        wait_until(lambda: "ollama" in box.answer("queued"))
        box.hold({})
        wait_until(lambda: box.in_state(State.SUCCEEDED), seconds=40)
    assert "ollama" not in box.answer("done")


def test_a_cap_lets_a_run_live_beside_a_server(box: CardBox) -> None:
    """With limits.gpu_memory_gib the plan is chosen for the cap, and nothing is waited for."""
    box.hold({"vllm": 12.0})
    record = box.run("contracts", "limits: {gpu_memory_gib: 11}\n")
    assert record.state is State.SUCCEEDED
    assert record.forecast["limit_bytes"] == 11 * GIB
    assert record.forecast["gpu_memory_bytes"] <= 11 * GIB
    (run,) = box.outputs.runs()
    plan = json.loads((attempt_of(run, 1) / "plan.json").read_text())
    assert plan["gpu_memory_bytes"] == 11 * GIB


def test_the_honest_end(box: CardBox) -> None:
    """A run that no plan fits ends with its forecast, what it misses and what would fit."""
    record = box.run("contracts", lengths=[120_000, *LENGTHS], train=[OOM])
    assert record.state is State.FAILED
    assert record.batch_plan is not None
    assert str(record.batch_plan) == "1 × 16, activation checkpointing and offloading"
    assert record.forecast["fits"] is False
    assert record.error is not None
    needed = math.ceil(record.forecast["gpu_memory_bytes"] / GIB * 10) / 10
    for words in (f"needs {needed:.1f} GiB", "23.7 GiB may be used", "GiB are missing", "120,000"):
        assert words in record.error.message
    assert "training.max_length: " in str(record.error.advice)
    assert re.search(r"a card with \d+ GiB", str(record.error.advice))
    assert record.error.message in box.answer("failed")


def test_a_cap_that_is_too_low_for_the_rows(box: CardBox) -> None:
    """Where the cap is what is missing, the advice names one that would do."""
    record = box.run(
        "contracts", "limits: {gpu_memory_gib: 8}\n", lengths=[30_000, *LENGTHS], train=[OOM]
    )
    assert record.error is not None
    assert "8.0 GiB may be used" in record.error.message
    assert "limits.gpu_memory_gib: " in str(record.error.advice)


def test_what_others_took_meanwhile_costs_no_run(box: CardBox) -> None:
    """Memory that another program took in mid-run is waited for, at the smallest plan as well."""
    box.hold({}, later=("outputs/*/*/attempts/01-*/result.json", {"llama-server": 20.0}))
    box.drop("contracts", lengths=[36_000, *LENGTHS], train=[OOM, "ok"])
    with box.watching():
        wait_until(lambda: box.records() and box.record().attempts and box.record().waiting)
        record = box.record()
        assert record.state is State.INTERRUPTED
        assert "llama-server (process 4000) 20.0 GiB" in str(record.waiting)
        box.hold({})
        wait_until(lambda: box.in_state(State.SUCCEEDED), seconds=40)
    first, second = box.record().attempts
    assert first.batch_plan == second.batch_plan
    assert second.batch_plan.activation_offloading


def test_a_forecast_that_was_too_low_is_said_to_be(box: CardBox) -> None:
    """A run that was forecast to fit and did not is told so, with what needs surely less."""
    record = box.run("contracts", train=[OOM])
    assert record.state is State.FAILED
    plans = [str(attempt.batch_plan) for attempt in record.attempts]
    assert plans[-1].endswith("activation checkpointing and offloading"), plans
    assert record.error is not None
    assert "took more than the 23.8 GiB that may be used" in record.error.message
