"""Other people's memory: when a run waits for it, when it lives beside it, and whom it names."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from runner.card.memory import GpuMemory, Holder, ask_driver, from_json
from runner.card.wait_for_memory import why_wait
from runner.daemon.gpu_watch import WHENEVER, GpuWatch, StillAsking
from runner.forecast.work import GIB


def card(free: float, *holders: tuple[str, float], total: float = 24) -> GpuMemory:
    """Give a card with so many GiB free."""
    return GpuMemory(
        name="NVIDIA GeForce RTX 4090",
        total_bytes=int(total * GIB),
        free_bytes=int(free * GIB),
        flops=165e12,
        holders=tuple(
            Holder(pid=100 + i, name=name, held_bytes=int(held * GIB))
            for i, (name, held) in enumerate(holders)
        ),
    )


@pytest.mark.parametrize(
    ("gpu", "needed", "waits"),
    [
        (card(24), 20, None),
        (card(24), 30, None),  # nobody is in the way: waiting would not help
        (card(22, ("Xorg", 1.8)), 23, None),  # a desktop stays: the plan is cut to live beside it
        (card(12, ("ollama", 11.8)), 11, None),  # beside each other they fit
        (card(12, ("ollama", 11.8)), 13, "held by ollama (process 100) 11.8 GiB"),
        (
            card(4, ("vllm", 15), ("python3", 5), ("driver's own", 0.01)),
            6,
            "held by vllm (process 100) 15.0 GiB, python3 (process 101) 5.0 GiB",
        ),
        (card(4), 6, "the driver does not show by whom"),  # as in a container
    ],
)
def test_when_a_run_waits(gpu: GpuMemory, needed: float, waits: str | None) -> None:
    """It waits only for memory that another program holds and that it needs."""
    found = why_wait(gpu, int(needed * GIB))
    if waits is None:
        assert found is None
    else:
        assert found is not None
        assert found.endswith(waits)
        assert f"{needed:.1f} GiB needed, {gpu.free_bytes / GIB:.1f} of 24.0 free" in found


@pytest.mark.parametrize(
    ("gpu", "cap", "limit"),
    [
        (card(24), None, 23.75),
        (card(22), None, 21.75),  # small holders are lived with
        (card(8), None, 23.75),  # large ones are waited for
        (card(24), 10, 10),
        (card(8), 10, 10),
        (card(24), 80, 23.75),  # a cap gives no card more memory
    ],
)
def test_what_a_run_may_use(gpu: GpuMemory, cap: float | None, limit: float) -> None:
    """The card without what stays there, and never more than limits.gpu_memory_gib."""
    box = gpu.box(budget_bytes=int(cap * GIB) if cap else None)
    assert box.limit_bytes == int(limit * GIB)


class _NVMLError(Exception):
    pass


def driver(**answers: Any) -> SimpleNamespace:
    """Stand in for nvidia-ml-py; an answer that is an error is raised."""

    def give(name: str, default: Any) -> Any:
        answer = answers.get(name, default)

        def call(*_: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    usual = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetHandleByIndex": "card",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 * GIB, free=20 * GIB),
        "nvmlDeviceGetName": b"NVIDIA GeForce RTX 4090",
        "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=7, usedGpuMemory=3 * GIB)],
        "nvmlDeviceGetGraphicsRunningProcesses": [
            SimpleNamespace(pid=7, usedGpuMemory=None),
            SimpleNamespace(pid=8, usedGpuMemory=GIB),
        ],
        "nvmlSystemGetProcessName": "/opt/bin/serve --customer secret",
        "nvmlDeviceGetCudaComputeCapability": (8, 9),
        "nvmlDeviceGetNumGpuCores": 16384,
        "nvmlDeviceGetMaxClockInfo": 2520,
    }
    functions = {name: give(name, default) for name, default in usual.items()}
    return SimpleNamespace(NVMLError=_NVMLError, NVML_CLOCK_SM=1, **functions)


def test_what_the_driver_says() -> None:
    """Who holds memory is named once, the largest first, by the program's name alone."""
    found = ask_driver(driver())
    assert found is not None
    assert (found.name, found.total_bytes) == ("NVIDIA GeForce RTX 4090", 24 * GIB)
    assert [(h.pid, h.name, h.held_bytes) for h in found.holders] == [
        (7, "serve", 3 * GIB),
        (8, "serve", GIB),
    ]
    assert found.flops == pytest.approx(165e12, rel=0.01)  # as its maker says: dense, fp32 sums


@pytest.mark.parametrize(
    "refused",
    [
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetGraphicsRunningProcesses",
        "nvmlSystemGetProcessName",
        "nvmlDeviceGetNumGpuCores",
    ],
)
def test_a_driver_that_does_not_tell_everything(refused: str) -> None:
    """Cards and containers hide some of it; free memory is known all the same."""
    found = ask_driver(driver(**{refused: _NVMLError("Not Supported")}))
    assert found is not None
    assert found.free_bytes == 20 * GIB


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetMemoryInfo"])
def test_no_driver_no_card(refused: str) -> None:
    """Where nobody answers there is no card to wait for."""
    assert ask_driver(driver(**{refused: _NVMLError("Unknown Error")})) is None
    assert from_json(None) is None


def test_a_box_told_to_leave_its_card_alone_never_asks() -> None:
    """With --device cpu no process is started to ask a driver."""

    def ask() -> GpuMemory | None:
        raise AssertionError

    watch = GpuWatch("cpu", ask=ask)
    watch.ask_if_old(0.0)
    assert watch.memory_at(0.0) is None
    assert watch.memory_at(1e9, since=1e9) is None


class SlowDriver:
    """A driver that answers when the test lets it; it notes which threads asked."""

    def __init__(self) -> None:
        self.free, self.asked_by = 20.0, list[int]()
        self.may_answer = threading.Event()
        self.answered = threading.Event()
        self.watch = GpuWatch("auto", done=self.answered.set, ask=self)

    def __call__(self) -> GpuMemory:
        """Answer, sooner or later."""
        self.asked_by.append(threading.get_ident())
        assert self.may_answer.wait(60)
        return card(self.free)

    def lets(self, **asked: float) -> GpuMemory | None:
        """Ask, let it answer, and take the answer up."""
        self.answered.clear()
        with pytest.raises(StillAsking):
            self.watch.memory_at(**asked)
        self.may_answer.set()
        assert self.answered.wait(60)
        self.may_answer.clear()
        return self.watch.memory_at(**asked)


def test_the_loop_never_waits_for_a_driver_that_takes_its_time() -> None:
    """It asks once, in another thread, and goes on until there is an answer."""
    driver = SlowDriver()
    for second in range(20):
        with pytest.raises(StillAsking):
            driver.watch.memory_at(float(second))
    assert len(driver.asked_by) == 1
    assert driver.asked_by != [threading.get_ident()]
    driver.may_answer.set()
    assert driver.answered.wait(60)
    assert driver.watch.memory_at(20.0) == card(20)
    assert driver.watch.memory_at(24.9) == card(20)
    assert len(driver.asked_by) == 1


def test_an_answer_is_asked_for_again_when_it_is_old() -> None:
    """What is asked after an out-of-memory is answered by nothing from before it."""
    driver = SlowDriver()
    assert driver.lets(at=10.0) == card(20)
    driver.free = 12.0
    assert driver.watch.memory_at(12.0, since=WHENEVER) == card(20)
    assert driver.lets(at=12.0, since=11.0) == card(12)
    driver.free = 8.0
    assert driver.lets(at=17.0) == card(8)
