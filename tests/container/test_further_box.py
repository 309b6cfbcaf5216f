"""A further box in containers: an agent without a network trains what the head's queue has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from container_box import ContainerBox, wait_until

from runner.contract.states import State


def test_an_agent_without_a_network_trains_by_the_share(
    make_box: Callable[..., ContainerBox], model: Path
) -> None:
    """`--profile cluster up -d agent` is all; the head evaluates what it has trained."""
    box = make_box(RUNNER_CLUSTER="others", RUNNER_LEASE_SECONDS="15", RUNNER_BOX="cellar")
    box.up()
    box.put_model(model)
    box.compose("--profile", "cluster", "up", "--detach", "--no-build", "agent")
    (agent,) = box.client.containers.list(
        filters={
            "label": [
                f"com.docker.compose.project={box.project}",
                "com.docker.compose.service=agent",
            ]
        }
    )
    assert agent.attrs["HostConfig"]["NetworkMode"] == "none"
    assert agent.attrs["HostConfig"]["ReadonlyRootfs"]
    wait_until(lambda: "box cellar is there" in box.runner.logs().decode())
    code, said = box.inside("runner", "status")
    assert (code, "cellar, CPU" in said) == (0, True), said
    box.drop("walls", "max_steps: 4, effective_batch_size: 8")
    record = box.wait_for_end("walls")
    assert record.state is State.SUCCEEDED, record.error
    assert [attempt.box for attempt in record.attempts] == ["cellar"]
    assert record.metrics["eval_loss_after"] is not None
    assert "walls: attempt 1" in agent.logs().decode()
    box.compose("--profile", "cluster", "stop", "agent")
    wait_until(lambda: not (box.root / "outputs/.runner/cluster/boxes/cellar.json").exists())
