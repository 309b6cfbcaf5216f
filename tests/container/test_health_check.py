"""A daemon that hangs, or that lost its GPU: red first, then a new container's start."""

from __future__ import annotations

from collections.abc import Callable

from container_box import ContainerBox, wait_until
from daemon_box import REPOSITORY

HANG_SECONDS, GPU_LOST_SECONDS = 55, 20  # a hang shows after 35 s: three beats of the heartbeat


def restarts(box: ContainerBox) -> int:
    return int(box.runner.attrs["RestartCount"])


def said(box: ContainerBox) -> str:
    return str(box.runner.logs().decode())


def test_a_daemon_that_hangs_turns_red_and_is_started_anew(
    make_box: Callable[..., ContainerBox],
) -> None:
    """Docker restarts no container for being unhealthy: the daemon ends itself, saying where."""
    box = make_box(RUNNER_HANG_SECONDS=HANG_SECONDS)
    override = box.root / "planted.yaml"
    planted = REPOSITORY / "tests" / "planted"
    override.write_text(
        "services: {runner: {environment: {PYTHONPATH: /planted}, "
        f'volumes: ["{planted}:/planted:ro"]}}}}\n'
    )
    files = ("compose.yaml", "compose.cpu.yaml", "tests/container/compose.test.yaml", override)
    box.compose("up", "--detach", "--no-build", files=[str(file) for file in files])
    box.wait_for_health("healthy")
    hang = box.outputs.private / "hang"
    hang.touch()
    box.wait_for_health("unhealthy", seconds=HANG_SECONDS)
    checks = box.runner.attrs["State"]["Health"]["Log"]
    assert "the last heartbeat is" in checks[-1]["Output"]
    assert restarts(box) == 0
    wait_until(lambda: restarts(box) > 0, seconds=2 * HANG_SECONDS)
    hang.unlink()
    assert "in read_requests" in said(box)
    box.wait_for_health("healthy")


def test_a_lost_gpu_turns_red_and_the_container_is_started_anew(
    make_box: Callable[..., ContainerBox],
) -> None:
    """The real library finds no driver where the toolkit says that a card was given.

    That is what is left of a card after a driver's removal; a container that starts anew is given
    its devices again.
    """
    box = make_box(RUNNER_GPU_LOST_SECONDS=GPU_LOST_SECONDS)
    override = box.root / "given.yaml"
    override.write_text('services: {runner: {environment: {NVIDIA_VISIBLE_DEVICES: "0"}}}\n')
    files = ("compose.yaml", "compose.cpu.yaml", "tests/container/compose.test.yaml", override)
    box.compose("up", "--detach", "--no-build", files=[str(file) for file in files])
    wait_until((box.jobs / "STATUS.txt").exists, seconds=60)
    assert (
        "The queue is held: The NVIDIA driver's library is gone"
        in (box.jobs / "STATUS.txt").read_text()
    )
    code, reason = box.inside("runner", "health")
    assert (code, "The NVIDIA driver's library is gone" in reason) == (1, True)
    wait_until(lambda: restarts(box) > 0, seconds=90)
    assert "ending, to be started again with the GPU" in said(box)
