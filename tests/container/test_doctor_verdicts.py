"""`runner doctor` in the image and on the host: it asks a real engine, and says what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from container_box import ContainerBox
from daemon_box import REPOSITORY

CHECKS = {
    *("Driver", "Host memory", "Disk", "Shared memory", "Folders", "Base models"),
    *("File events", "Clock", "Offline", "bitsandbytes", "NF4 product", "GGUF"),
    "Evaluation tasks",
}


def examined(done: subprocess.CompletedProcess[str]) -> tuple[int, dict[str, Any]]:
    answer: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, answer


def finding(answer: dict[str, Any], check: str) -> dict[str, str]:
    (found,) = (one for one in answer["findings"] if one["check"] == check)
    return dict(found)


def inside(box: ContainerBox) -> tuple[int, dict[str, Any]]:
    return examined(box.compose("run", "--rm", "doctor", "--json", check=False))


def on_host(box: ContainerBox) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "runner.cli", "doctor", "--json"]
    for name in ("jobs", "outputs", "models"):
        command += [f"--{name}-dir", str(box.root / name)]
    return examined(
        subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
        )
    )


@pytest.fixture(scope="module")
def bare(box: ContainerBox) -> tuple[int, dict[str, Any]]:
    """What the doctor says of a box on its first day, without a model."""
    return inside(box)


@pytest.fixture(scope="module")
def ready(box: ContainerBox, bare: object, model: Path) -> tuple[int, dict[str, Any]]:
    """What it says once there is one."""
    box.put_model(model)
    return inside(box)


def test_a_box_without_a_model_runs_no_job(bare: tuple[int, dict[str, Any]]) -> None:
    """Exit code 1, and the command that brings one, as it is typed on the host."""
    code, answer = bare
    assert (code, answer["could_run"]) == (1, False)
    troubles = [one["check"] for one in answer["findings"] if one["level"] == "trouble"]
    assert troubles == ["Base models"]
    assert finding(answer, "Base models")["fix"].startswith("docker compose run --rm fetch ")


def test_a_box_that_could_run_a_job_says_so(ready: tuple[int, dict[str, Any]]) -> None:
    """Exit code 0; every check of the page was made, within the image."""
    code, answer = ready
    assert (code, answer["could_run"]) == (0, True)
    assert {one["check"] for one in answer["findings"]} == CHECKS
    assert "arithmetic" in finding(answer, "NF4 product")["what"]
    assert "there is no network" in finding(answer, "Offline")["what"]


def test_whoever_runs_it_knows_what_why_and_the_command(
    ready: tuple[int, dict[str, Any]], bare: tuple[int, dict[str, Any]]
) -> None:
    """Each finding has all three, where something is to be done."""
    for one in (*ready[1]["findings"], *bare[1]["findings"]):
        assert one["what"]
        assert one["why"]
        assert bool(one["fix"]) == (one["level"] in ("advice", "trouble", "unknown")), one


def test_the_start_says_what_the_doctor_would(box: ContainerBox, bare: object) -> None:
    """`docker compose logs` has what is not well, with its fix."""
    said = box.runner.logs().decode()
    assert "doctor: Base models: There is no base model on the box yet." in said


def test_on_the_host_it_asks_the_engine(
    box: ContainerBox, ready: tuple[int, dict[str, Any]]
) -> None:
    """Whether the engine, the image and the runner are there, through the Docker SDK."""
    code, answer = on_host(box)
    assert (code, answer["could_run"]) == (0, True)
    said = [one["what"] for one in answer["findings"] if one["check"] == "Docker"]
    assert said[0].startswith("Engine ")
    assert said[1].startswith("The runner of finetuning-box:")
    assert said[1].endswith(" is healthy.")
    box.compose("stop", "--timeout", "20")
    _, answer = on_host(box)
    stopped = next(one for one in answer["findings"] if "not running" in one["what"])
    assert stopped["fix"].startswith("docker compose up -d")
    box.up()


def test_without_an_engine_it_still_looks(
    box: ContainerBox, ready: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`runner watch` needs none; that there is none is told, and is no trouble."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    code, answer = on_host(box)
    assert code == 0
    assert finding(answer, "Docker")["what"] == "No Docker engine runs here."


def test_what_docker_says_without_the_toolkit_is_understood(engine: Any, image: str) -> None:
    """The real engine's refusal of a card is turned into the commands that set the toolkit up."""
    from runner.doctor.engine import Engine, _try_gpu, judge_engine

    refused = _try_gpu(engine, image)
    assert "could not select device driver" in refused
    found = judge_engine(
        Engine(version="26.1", card_on_host=True, gpu_refused=refused, image=image)
    )
    gpu = next(one for one in found if one.check == "Docker's GPU")
    assert "toolkit is not set up" in gpu.what
    assert "nvidia-ctk runtime configure" in gpu.fix
