"""Turns heartbeats into well and not well, as the container's health check tells them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from runner.clock import this_boot, uptime_seconds
from runner.commands.health import health, judge
from runner.contract.layout import Outputs
from runner.files.durable import write_json
from runner.language.speaker import Language, Speaker
from runner.language.translate import translated

UPTIME, BOOT = 5000.0, "this start of the machine"
GERMAN = Speaker(Language.GERMAN)


def beat(seconds_ago: float, **more: Any) -> dict[str, Any]:
    """Write a heartbeat as the daemon does."""
    return {"uptime": UPTIME - seconds_ago, "boot": BOOT, "unwell": None, "running": [], **more}


@pytest.mark.parametrize(
    ("heartbeat", "well"),
    [
        (None, False),
        ({}, False),
        ({"uptime": "yesterday"}, False),
        ({"uptime": 7}, False),
        (beat(0), True),
        (beat(34), True),
        (beat(36), False),
        (beat(1, boot="an earlier one"), False),
        (beat(1, time="2036-01-01T00:00:00"), True),
        (beat(5, inbox="the inbox is unavailable"), True),
        (beat(5, held="the GPU was lost"), True),
        (beat(5, unwell="the GPU is lost"), False),
    ],
)
def test_the_last_heartbeat_decides(heartbeat: dict[str, Any] | None, *, well: bool) -> None:
    """Three missed beats are a hang, whatever time of day it is; a full queue is well."""
    assert judge(heartbeat, uptime=UPTIME, boot=BOOT).well is well


def test_every_verdict_has_a_reason() -> None:
    """`docker inspect` shows the reason: how old the heartbeat is, or what the daemon does."""
    at = {"uptime": UPTIME, "boot": BOOT}
    assert judge(beat(1169), **at).reason == "the last heartbeat is 19 min old"
    assert judge(beat(5, running=["a"], waiting=2), **at).reason == "running 1, waiting 2"
    assert judge(beat(5, unwell="the GPU is lost"), **at).reason == "the GPU is lost"


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"time": '])
def test_an_unreadable_heartbeat_is_not_well(tmp_path: Any, content: bytes) -> None:
    """Whatever lies there, the check answers and does not break."""
    outputs = Outputs(tmp_path)
    assert not health(outputs).well
    outputs.private.mkdir()
    outputs.heartbeat.write_bytes(content)
    assert health(outputs).reason == "the heartbeat cannot be read"


SCRIPT = Path(__file__).parents[2] / "runner" / "commands" / "health.sh"


def script(outputs: Outputs) -> tuple[int, str]:
    """Ask the script that the container asks."""
    environment = {"RUNNER_OUTPUTS_DIR": str(outputs.root), "PATH": os.environ["PATH"]}
    answer = subprocess.run(
        ["sh", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert not answer.stderr
    return answer.returncode, answer.stdout.strip()


@pytest.mark.parametrize(
    ("change", "well", "said"),
    [
        ({}, True, "well: the last heartbeat is"),
        ({"uptime": uptime_seconds() - 90}, False, "min old"),
        ({"boot": "another"}, False, "from before this machine started"),
        ({"unwell": "the GPU is lost"}, False, 'not well: "the GPU is lost"'),
        ({"uptime": "soon"}, False, "the heartbeat cannot be read"),
    ],
)
def test_the_container_asks_the_same_of_a_script(
    tmp_path: Path, change: dict[str, Any], *, well: bool, said: str
) -> None:
    """The shell script judges what the daemon writes as `runner health` does, without Python."""
    outputs = Outputs(tmp_path)
    assert script(outputs) == (1, f"not well: {health(outputs).reason}")
    outputs.private.mkdir()
    beat = {"uptime": uptime_seconds(), "boot": this_boot(), "running": [], "unwell": None}
    write_json(outputs.heartbeat, {**beat, **change})
    status, text = script(outputs)
    assert (status == 0) is well is health(outputs).well
    assert said in text
    outputs.heartbeat.write_bytes(b'\xff{"uptime": ')
    assert script(outputs)[0] == 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (50, "50 s"),
        (1169, "19 min"),
        (5000, "83 min"),
        (7500, "2 h 05 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_an_age_is_said_as_people_say_it(tmp_path: Path, seconds: int, said: str) -> None:
    """1169 s is nothing that anybody can picture; the script says the same as the command."""
    reason = f"the last heartbeat is {said} old"
    assert judge(beat(seconds), uptime=UPTIME, boot=BOOT).reason == reason
    assert translated(reason, GERMAN) == f"ihr letztes Lebenszeichen ist {said} alt"
    if (up := uptime_seconds()) > seconds + 60:  # a machine that has just started has no such beat
        outputs = Outputs(tmp_path)
        outputs.private.mkdir()
        write_json(outputs.heartbeat, {"uptime": up - seconds, "boot": this_boot()})
        assert script(outputs)[1] == f"not well: {reason}"


def test_the_containers_check_is_the_script_and_starts_no_python() -> None:
    """Every 15 seconds: Python and its imports cost a fifth of a second, the script 2 ms."""
    checkout = SCRIPT.parents[2]
    composed = YAML(typ="safe").load(checkout / "compose.yaml")
    assert composed["services"]["runner"]["healthcheck"]["test"] == ["CMD", "runner-health"]
    image = (checkout / "Dockerfile").read_text()
    assert "runner/commands/health.sh /usr/local/bin/runner-health" in image
    lines = [line for line in SCRIPT.read_text().splitlines() if not line.startswith("#")]
    assert not re.search(r"\b(python\d?|runner) ", "\n".join(lines))
