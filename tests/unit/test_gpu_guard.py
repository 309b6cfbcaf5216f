"""The GPU guard: tables of what the NVIDIA driver answers, and when, and what follows from it."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from runner.card import ask
from runner.card.answer import NO_ANSWER, Answer, Card, Gpu, Verdict, meaning
from runner.card.ask import ask_driver, expects_gpu
from runner.daemon import gpu_guard
from runner.daemon.gpu_guard import GpuGuard, Standing, decide
from runner.daemon.gpu_watch import StillAsking

WELL = Answer(driver="580.95.05", cards=(Card(name="NVIDIA RTX A4000", capability="8.6"),))
MISMATCH = Answer(code=18, text="Driver/library version mismatch")
DEVICES_GONE = Answer(code=999, text="Unknown Error")
NO_CARD = Answer(driver="580.95.05")
NO_DRIVER = Answer(code=12, text="NVML Shared Library Not Found")
PATIENCE = 300.0  # seconds

# --- what an answer means ------------------------------------------------------------------------

MEANINGS = [
    # the answer, whether there should be a card, what follows, what is said, what fixes it
    (WELL, True, Gpu.WELL, "", ""),
    (WELL, False, Gpu.WELL, "", ""),
    (Answer(code=3, text="Not Supported"), True, Gpu.WELL, "", ""),
    (NO_DRIVER, False, Gpu.NONE, "", ""),
    (NO_DRIVER, True, Gpu.LOST, "library is gone", "docker compose restart runner"),
    (NO_CARD, False, Gpu.NONE, "", ""),
    (NO_CARD, True, Gpu.LOST, "that this box was given is gone", "nvidia-smi -L"),
    (DEVICES_GONE, True, Gpu.LOST, "daemon-reload", "docker compose restart runner"),
    (
        Answer(code=9, text="Driver Not Loaded"),
        True,
        Gpu.LOST,
        "not loaded",
        "sudo modprobe nvidia",
    ),
    (Answer(code=15, text="GPU is lost"), False, Gpu.LOST, "fallen off the bus", "sudo reboot"),
    (Answer(code=NO_ANSWER), True, Gpu.LOST, "does not answer", "sudo reboot"),
    (Answer(code=12345, text="?"), True, Gpu.LOST, "cannot be reached", "restart runner"),
    (MISMATCH, True, Gpu.REBOOT, "reboot the machine", "sudo reboot"),
    (MISMATCH, False, Gpu.REBOOT, "reboot the machine", "sudo reboot"),
]


@pytest.mark.parametrize(("answer", "expected", "gpu", "says", "fix"), MEANINGS)
def test_what_an_answer_means(
    answer: Answer, *, expected: bool, gpu: Gpu, says: str, fix: str
) -> None:
    """A lost card is told from one that never was, and each loss is named with its fix."""
    verdict = meaning(answer, expected=expected)
    assert verdict.gpu is gpu
    assert says in verdict.message
    assert fix in verdict.fix
    assert bool(verdict.message) is bool(verdict.fix) is (gpu in (Gpu.LOST, Gpu.REBOOT))


def test_the_words_of_the_driver_are_passed_on() -> None:
    """Whoever searches for NVIDIA's own words finds them in ours."""
    assert "NVML: Unknown Error" in meaning(DEVICES_GONE, expected=True).message


@pytest.mark.parametrize(
    ("value", "expected"),
    [("all", True), ("0", True), ("GPU-8f", True), (None, False), ("", False), ("void", False)],
)
def test_a_container_that_was_given_a_card_should_have_one(value: Any, *, expected: bool) -> None:
    """A loss before the first look is a loss, too: the toolkit's variable says what was given."""
    assert expects_gpu({} if value is None else {"NVIDIA_VISIBLE_DEVICES": value}) is expected


# --- what is decided -----------------------------------------------------------------------------

LOST = Verdict(gpu=Gpu.LOST, message="gone", fix="docker compose restart runner")
REBOOT = Verdict(gpu=Gpu.REBOOT, message="reboot the machine", fix="sudo reboot")
IS_WELL, NONE = Verdict(gpu=Gpu.WELL), Verdict(gpu=Gpu.NONE)

DECISIONS = [
    # the driver, what a stage said, for how long, is the queue held, does the daemon end
    (IS_WELL, "", 0, False, False),
    (NONE, "", 9999, False, False),
    (LOST, "", 0, True, False),
    (LOST, "", 299, True, False),
    (LOST, "", 300, True, True),
    (REBOOT, "", 300, True, False),
    (REBOOT, "CUDA error: unknown error", 9999, True, False),
    (IS_WELL, "CUDA error: unknown error", 299, True, False),
    (IS_WELL, "CUDA error: unknown error", 300, True, True),
    (NONE, "CUDA error: unknown error", 300, True, True),
]


@pytest.mark.parametrize(("verdict", "said", "seconds", "held", "ends"), DECISIONS)
def test_what_is_decided(
    verdict: Verdict, said: str, seconds: float, *, held: bool, ends: bool
) -> None:
    """A lost card holds the queue and, after five minutes, ends the daemon; a reboot is waited for.

    A new container would be refused while the machine waits for its reboot.
    """
    standing = decide(verdict, stage_said=said, lost_seconds=seconds, patience_seconds=PATIENCE)
    assert (bool(standing.problem), standing.must_end) == (held, ends)


# --- the guard over time -------------------------------------------------------------------------


class Driver:
    """A driver that answers what it is told to; the real question starts a process."""

    def __init__(self, answer: Answer | None) -> None:
        self.answer = answer
        self.asked = 0

    def __call__(self) -> Answer | None:
        self.asked += 1
        assert threading.current_thread() is not threading.main_thread()  # the loop's
        return self.answer


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with a card, and what is logged about it."""
    monkeypatch.setattr(gpu_guard, "signs_of_a_card", lambda _: True)
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    return []


class Guard(GpuGuard):
    """A guard whose tests let the driver's answer come in: the loop finds it in its next round."""

    answered: threading.Event

    def standing_at(self, at: float) -> Standing:
        """Ask, and look again once it is answered."""
        super().standing_at(at)
        return self._after_answer(at)

    def standing_to_start(self, at: float, *, on_card: bool) -> Standing:
        """Ask as before a start, and look again."""
        with contextlib.suppress(StillAsking):
            super().standing_to_start(at, on_card=on_card)
        self._after_answer(at)
        return super().standing_to_start(at, on_card=on_card)

    def _after_answer(self, at: float) -> Standing:
        if self._aside.is_asking:
            assert self.answered.wait(60)
            self.answered.clear()
        return super().standing_at(at)


def guard_of(driver: Driver, said: list[str], device: str = "auto") -> Guard:
    def say(event: str, **_: Any) -> None:
        said.append(event)

    answered = threading.Event()
    guard = Guard(device=device, patience_seconds=PATIENCE, say=say, done=answered.set, ask=driver)
    guard.answered = answered
    return guard


def test_a_card_that_comes_back_frees_the_queue(said: list[str]) -> None:
    """The loss and the return are logged once each, and the five minutes begin anew."""
    driver = Driver(WELL)
    guard = guard_of(driver, said)
    assert guard.standing_at(0.0) == Standing()
    assert guard.is_well
    driver.answer = DEVICES_GONE
    assert guard.standing_at(100.0).problem
    assert guard.standing_at(115.0).problem
    assert not guard.is_well
    driver.answer = WELL
    assert guard.standing_at(399.0) == Standing()
    driver.answer = DEVICES_GONE
    assert not guard.standing_at(500.0).must_end
    assert guard.standing_at(799.0).must_end is False
    assert guard.standing_at(800.0).must_end is True
    assert [line == "the GPU is back" for line in said] == [False, True, False]


def test_the_driver_is_asked_seldom_and_just_before_a_start(said: list[str]) -> None:
    """Once a minute while all is well, every 15 s while not; no answer older than 10 s starts."""
    driver = Driver(WELL)
    guard = guard_of(driver, said)
    for second in range(60):
        guard.standing_at(float(second))
    assert driver.asked == 1
    guard.standing_at(60.0)
    guard.standing_to_start(65.0, on_card=True)
    assert driver.asked == 2
    guard.standing_to_start(70.0, on_card=True)
    assert driver.asked == 3
    driver.answer = DEVICES_GONE
    for second in range(130, 160):
        guard.standing_at(float(second))
    assert driver.asked == 5


def test_a_stage_that_lost_the_card_is_believed(said: list[str]) -> None:
    """A driver that answers for a card on which nothing computes does not start the next job."""
    driver = Driver(WELL)
    guard = guard_of(driver, said)
    guard.standing_at(0.0)
    guard.stage_lost_it("CUDA error: unknown error", 10.0)
    assert guard.standing_to_start(11.0, on_card=True).problem == "CUDA error: unknown error"
    assert guard.standing_at(309.0).must_end is False
    assert guard.standing_at(310.0).must_end is True


def test_a_card_beside_a_well_one_is_tried_again_after_a_while(said: list[str]) -> None:
    """Nobody starts the box anew for it: it would take no job until somebody does."""
    driver = Driver(WELL)
    guard = guard_of(driver, said)
    guard.standing_at(0.0)
    guard.stage_lost_it("CUDA error: unknown error", 10.0)
    guard.try_again(309.0)
    assert guard.standing.problem
    guard.try_again(310.0)
    assert guard.standing == Standing()
    guard.stage_lost_it("CUDA error: unknown error", 320.0)
    driver.answer = DEVICES_GONE
    guard.standing_at(400.0)
    guard.try_again(1000.0)  # what the driver says itself only it takes back
    assert "daemon-reload" in guard.standing.problem


def test_what_the_stage_said_is_over_once_the_driver_lost_and_found_the_card(
    said: list[str],
) -> None:
    """The loss is explained by the driver, so its return ends it."""
    driver = Driver(WELL)
    guard = guard_of(driver, said)
    guard.standing_at(0.0)
    guard.stage_lost_it("CUDA error: unknown error", 10.0)
    driver.answer = DEVICES_GONE
    assert "daemon-reload" in guard.standing_at(30.0).problem
    driver.answer = WELL
    assert guard.standing_at(60.0) == Standing()


def test_a_mismatch_waits_for_the_reboot_however_long(said: list[str]) -> None:
    """The daemon stays to say what is needed."""
    driver = Driver(WELL)
    guard = guard_of(driver, said)
    guard.standing_at(0.0)
    driver.answer = MISMATCH
    for hour in range(1, 100):
        standing = guard.standing_at(hour * 3600.0)
        assert "reboot the machine" in standing.problem
        assert not standing.must_end
    assert len(said) == 1


def test_no_answer_to_be_had_changes_nothing(said: list[str]) -> None:
    """A machine that can start no process for the moment says nothing about its card."""
    driver = Driver(WELL)
    guard = guard_of(driver, said)
    guard.standing_at(0.0)
    driver.answer = None
    assert guard.standing_at(100.0) == Standing()
    assert guard.is_well


def test_a_box_without_a_card_asks_once(said: list[str]) -> None:
    """Cards do not come while a machine runs."""
    driver = Driver(NO_DRIVER)
    guard = guard_of(driver, said)
    for second in range(0, 10000, 60):
        assert guard.standing_to_start(float(second), on_card=True) == Standing()
    assert driver.asked == 1


def test_a_box_that_leaves_its_card_alone_never_asks(said: list[str]) -> None:
    """`--device cpu` holds no queue for a card that nobody uses."""
    driver = Driver(DEVICES_GONE)
    guard = guard_of(driver, said, device="cpu")
    assert guard.standing_to_start(0.0, on_card=True) == Standing()
    assert driver.asked == 0


def test_a_card_that_was_given_and_never_seen_is_lost(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that starts after the loss does not take itself for one without a card."""
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "0")
    assert guard_of(Driver(NO_DRIVER), said).standing_at(0.0).problem


def test_nothing_starts_before_the_driver_has_answered(said: list[str]) -> None:
    """The round goes on without an answer; a stage off the card waits for the first one only."""
    may_answer, answered = threading.Event(), threading.Event()

    def ask() -> Answer:
        assert may_answer.wait(60)
        return WELL

    guard = GpuGuard(
        device="auto", patience_seconds=PATIENCE, say=lambda *_: None, done=answered.set, ask=ask
    )
    for on_card in (True, False):
        assert guard.standing_at(0.0) == Standing()
        with pytest.raises(StillAsking):
            guard.standing_to_start(0.0, on_card=on_card)
    may_answer.set()
    assert answered.wait(60)
    assert guard.standing_to_start(3.0, on_card=True) == Standing()
    may_answer.clear()
    assert guard.standing_to_start(90.0, on_card=False) == Standing()
    with pytest.raises(StillAsking):
        guard.standing_to_start(90.0, on_card=True)
    may_answer.set()
    assert said == []


def test_a_driver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The daemon's loop does not hang with it."""
    (tmp_path / "pynvml.py").write_text("import time\ntime.sleep(3600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(ask, "_ANSWER_SECONDS", 0.2)
    assert ask_driver() == Answer(code=NO_ANSWER)
