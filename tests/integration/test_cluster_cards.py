"""Further boxes with cards: a training goes where it fits, and sees that card alone.

The drivers are stand-ins, one for each box: no machine without a card has one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_box import ClusterBox, standin_cards
from daemon_box import attempt_of, wait_until
from test_card_daemon import LENGTHS, LLAMA_8B

from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.exit_codes import ExitCode
from runner.forecast.work import GIB

GPU_LOST = str(int(ExitCode.GPU_LOST))


def card(uuid: str, gib: int) -> dict[str, Any]:
    """Tell of a card that nobody else uses."""
    return {"uuid": uuid, "total": gib * GIB, "free": gib * GIB - GIB // 4}


@pytest.fixture
def box(tmp_path: Path) -> Iterator[ClusterBox]:
    """A head with a card of 4 GiB, the sizes of a model of 8 billion weights, and no other box."""
    made = ClusterBox(tmp_path)
    (made.root / "models" / "m" / "config.json").write_text(json.dumps(LLAMA_8B))
    with made.ending_agents():
        yield made


def head(box: ClusterBox) -> dict[str, Any]:
    """Give how the head is started."""
    found = standin_cards(box.root / "driver.json", [card("GPU-head", 4)])
    return {"environment": found, "device": "auto", "gpus": "all", "lease_seconds": 10}


def plan_of(box: ClusterBox, job: str, attempt: int = 1) -> tuple[dict[str, Any], str]:
    """Read an attempt's plan, and the cards that its stage saw."""
    (run,) = box.outputs.runs_of(job)
    folder = attempt_of(run, attempt)
    seen = json.loads((folder / "environment.json").read_text())
    return json.loads((folder / "plan.json").read_text()), str(seen.get("CUDA_VISIBLE_DEVICES"))


def ended(box: ClusterBox, job: str) -> RunRecord:
    """Wait for a job's end."""
    wait_until(lambda: box.attempts(job) and box.of(job).state.is_final)
    assert box.of(job).state is State.SUCCEEDED, box.of(job).error
    return box.of(job)


def test_a_training_goes_to_the_card_that_holds_it(box: ClusterBox) -> None:
    """Of three boxes, one has the memory; one that has no card is no choice where jobs need one.

    What a card of that box is found by is all that the stage sees, and the head alone fills the
    cache of bases.
    """
    with box.watching(**head(box)):
        box.agent("attic", cards=[card("GPU-small", 4)])
        box.agent("barn")
        box.agent("cellar", cards=[card("GPU-tiny", 4), card("GPU-large", 80)])
        log = box.root / "daemon.out"
        for name in ("attic", "barn", "cellar"):
            wait_until(lambda name=name: f"box {name} is there" in log.read_text())
        box.drop("one", lengths=LENGTHS)
        record = ended(box, "one")
    (attempt,) = record.attempts
    assert (attempt.box, [one.uuid for one in attempt.cards]) == ("cellar", ["GPU-large"])
    plan, seen = plan_of(box, "one")
    assert (plan["device"], plan["base_cache"], seen) == ("cuda", None, "GPU-large")


def test_a_head_without_a_card_has_a_further_box_train_on_its_own(box: ClusterBox) -> None:
    """The plan names the card, and never the processor in its place: that would take days."""
    box.drop("one", lengths=LENGTHS)
    with box.watching():
        box.agent("cellar", cards=[card("GPU-large", 80)])
        ended(box, "one")
    assert plan_of(box, "one")[0]["device"] == "cuda"


def test_a_card_that_a_training_lost_rests(box: ClusterBox) -> None:
    """Its box takes nothing for a while: another one goes on from the last step saved."""
    box.drop("one", lengths=LENGTHS, train=[f"train 3 then {GPU_LOST}", "ok"])
    with box.watching(**head(box)):
        box.agent("attic", cards=[card("GPU-large", 80)])
        wait_until(lambda: any(one.outcome == "gpu lost" for one in box.attempts("one")))
        box.agent("cellar", cards=[card("GPU-other", 80)])
        record = ended(box, "one")
    first, second = record.attempts
    assert (first.box, second.box, second.first_step) == ("attic", "cellar", 4)


def test_runs_of_one_job_go_one_after_the_other_on_further_boxes(box: ClusterBox) -> None:
    """Each is compared with the adapter in use: a second free box does not change that."""
    for name in ("a", "b"):
        box.drop(name, lengths=LENGTHS, train=["train 8 then held 0"])
        box.drop_spec(name, "name: contracts\n")
    with box.watching(**head(box)):
        box.agent("attic", cards=[card("GPU-one", 80)])
        box.agent("cellar", cards=[card("GPU-two", 80)])

        def held() -> list[Path]:
            return list(box.outputs.root.glob("contracts/*/attempts/01-*/hanging"))

        def why() -> str:
            second = box.records()[1]
            return second.waiting.reason if second.waiting else ""

        wait_until(lambda: len(box.records()) == 2 and held())
        wait_until(lambda: "another run of this job" in why())
        assert [len(record.attempts) for record in box.records()] == [1, 0]
        held()[0].with_name("go").touch()
        wait_until(lambda: box.records()[1].attempts)
        assert box.records()[0].state.is_final

        def has_ended() -> bool:
            for mark in held():
                mark.with_name("go").touch()
            return all(record.state.is_final for record in box.records())

        wait_until(has_ended)
