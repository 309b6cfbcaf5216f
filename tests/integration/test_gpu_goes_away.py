"""A card that is taken away, or a slow driver, under a real daemon: the queue is held, or goes on.

The driver is a stand-in (its file says why); everything that hears it is real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from daemon_box import Box, wait_until

from runner.commands.health import health
from runner.contract.states import State
from runner.exit_codes import ExitCode
from runner.notices.notice import Kind, read_notice

DRIVER = Path(__file__).with_name("standin_driver")
WELL, DEVICES_GONE, MISMATCH = 0, 999, 18


class GpuBox(Box):
    """A box whose card the test takes away."""

    def __init__(self, root: Path) -> None:
        """Begin with a card that is well."""
        super().__init__(root)
        self.says(WELL)

    def says(self, code: int, **more: Any) -> None:
        """Let the driver end every call so from now on."""
        beside = self.root / "driver.new"
        beside.write_text(json.dumps({"code": code, **more}))
        beside.rename(self.root / "driver.json")

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon inherits: a card that the container toolkit gave it."""
        inherited = super().environment
        return inherited | {
            "PYTHONPATH": f"{DRIVER}:{inherited['PYTHONPATH']}",
            "STANDIN_DRIVER": str(self.root / "driver.json"),
            "NVIDIA_VISIBLE_DEVICES": "0",
        }

    def status(self) -> str:
        """Read what the share's users read first."""
        path = self.jobs / "STATUS.txt"
        return path.read_text() if path.exists() else ""

    def beat(self) -> dict[str, Any]:
        """Read what the health check reads."""
        content: dict[str, Any] = json.loads(self.outputs.heartbeat.read_bytes())
        return content


@pytest.fixture
def box(tmp_path: Path) -> GpuBox:
    """A box with a card."""
    return GpuBox(tmp_path)


def test_a_lost_card_holds_the_queue_until_it_is_back(box: GpuBox) -> None:
    """No job is failed for it: they wait, the share and the health check say why, and go on."""
    box.says(DEVICES_GONE)
    box.drop("first")
    box.drop("second")
    with box.watching():
        wait_until(lambda: "The queue is held: The container lost the right" in box.status())
        wait_until(lambda: "daemon-reload" in health(box.outputs).reason)
        wait_until(lambda: any(record.waiting for record in box.records()))
        assert not any(record.attempts or record.state.is_final for record in box.records())
        (told,) = box.outputs.notices.glob("*.json")  # before any run has ended
        assert read_notice(told).kind is Kind.CARD_LOST
        box.says(WELL)
        wait_until(lambda: {r.state for r in box.records()} == {State.SUCCEEDED}, seconds=40)
        wait_until(lambda: health(box.outputs).well)
        assert "queue is held" not in box.status().lower()
    assert all(len(record.attempts) == 1 for record in box.records())


def test_a_card_that_stays_away_ends_the_daemon_and_the_next_one_goes_on(box: GpuBox) -> None:
    """Docker starts the container anew, which gives it the devices back."""
    box.says(DEVICES_GONE)
    box.drop("contracts")
    with box.watching(gpu_lost_seconds=2) as daemon:
        assert daemon.wait(timeout=30) == ExitCode.GPU_LOST
    assert not box.record().state.is_final
    assert "ending, to be started again with the GPU" in (box.root / "daemon.out").read_text()
    box.says(WELL)
    assert box.once().returncode == 0
    assert box.in_state(State.SUCCEEDED)


def test_a_card_lost_under_a_stage_costs_no_attempt(box: GpuBox) -> None:
    """The run goes on from its checkpoint in the next container; twenty jobs are not failed."""
    box.drop("contracts", train=["train 3 then 14", "ok"])
    box.drop("after")
    with box.watching(gpu_lost_seconds=2) as daemon:
        assert daemon.wait(timeout=30) == ExitCode.GPU_LOST
    assert not any(record.state.is_final for record in box.records())
    assert box.once().returncode == 0
    first, after = box.records()
    assert [attempt.last_step for attempt in first.attempts] == [3, 8]
    assert (first.state, after.state) == (State.SUCCEEDED, State.SUCCEEDED)


def test_a_machine_that_waits_for_its_reboot_keeps_its_daemon(box: GpuBox) -> None:
    """A new container would be refused: the daemon stays, long after it would have ended."""
    box.says(MISMATCH)
    box.drop("contracts")
    with box.watching(gpu_lost_seconds=1, rescan_seconds=0.1) as daemon:
        wait_until(lambda: "reboot the machine" in box.status())
        wait_until(box.outputs.heartbeat.exists)
        first = box.beat()["time"]
        wait_until(lambda: box.beat()["time"] != first)  # ten seconds later
        assert daemon.poll() is None
        assert "reboot the machine" in health(box.outputs).reason
    assert not box.record().state.is_final


def test_a_driver_that_takes_its_time_holds_no_round_of_the_loop(box: GpuBox) -> None:
    """It answers after 3 s each time it is asked; the job is trained, and no round waits for it."""
    slow = 3
    box.says(WELL, seconds=slow, total=24 * 1024**3, free=23 * 1024**3, held=[])
    box.drop("contracts")
    with box.watching():
        wait_until(lambda: box.records() and box.in_state(State.SUCCEEDED))
        first = box.beat()["time"]
        wait_until(lambda: box.beat()["time"] != first)
        longest = box.beat()["longest_round"]
    assert longest["seconds"] + longest["waited_seconds"] < slow, longest
