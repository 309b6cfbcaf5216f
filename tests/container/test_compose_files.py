"""compose.yaml as Docker reads it: as it stands, without a GPU, and where Docker refuses one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from container_box import FILES, ContainerBox
from daemon_box import REPOSITORY

GPU = {"capabilities": ["gpu"], "device_ids": ["0"], "driver": "nvidia"}


@pytest.fixture(scope="module")
def unbuilt(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> ContainerBox:
    """The checkout itself, with no setting made: not even a .env is needed."""
    box = ContainerBox(engine, REPOSITORY, tmp_path_factory.mktemp("box"))
    box.settings = {}
    return box


def config(box: ContainerBox, *files: str) -> dict[str, Any]:
    done = box.compose("--profile", "tools", "config", "--format", "json", files=files)
    assert "warning" not in done.stderr.lower()
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def test_the_runner_alone_reserves_the_card(unbuilt: ContainerBox) -> None:
    """The doctor must start where the runner cannot, and fetch and init need none."""
    services = config(unbuilt, "compose.yaml")
    reserved = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in services.items()
        if "reservations" in service.get("deploy", {}).get("resources", {})
    }
    assert reserved == {"runner": [GPU]}
    assert services["runner"]["ulimits"] == {"memlock": {"single": -1}} or services["runner"][
        "ulimits"
    ] == {"memlock": -1}


def test_the_override_takes_the_card_away_and_nothing_else(unbuilt: ContainerBox) -> None:
    """Whoever tries the box without a GPU tries the same box."""
    usual = config(unbuilt, "compose.yaml")
    without = config(unbuilt, "compose.yaml", "compose.cpu.yaml")
    assert without["runner"].pop("deploy", None) is None
    assert usual["runner"].pop("deploy")
    assert without == usual


def test_every_setting_is_explained(unbuilt: ContainerBox) -> None:
    """.env.example names each variable of compose.yaml with its default, and no other."""
    text = (REPOSITORY / "compose.yaml").read_text()
    inner = re.findall(r"\$\{(\w+):-([^${}]*)\}", text)  # of one within another, the inner one
    used = dict(inner)
    explained = dict(
        re.findall(r"^(\w+)=(.*)$", (REPOSITORY / ".env.example").read_text(), re.MULTILINE)
    )
    assert explained == used


def test_docker_says_what_readme_quotes(engine: Any, image: str, make_box: Any, model: Any) -> None:
    """On a box without NVIDIA's toolkit `up` fails with the words that README mends."""
    box = make_box()
    files = (FILES[0], FILES[2])
    done = box.compose("up", "--detach", "--no-build", files=files, check=False)
    assert done.returncode != 0
    (said,) = re.findall(r"could not select device driver.*", done.stderr)
    assert said.strip() in (REPOSITORY / "README.md").read_text()
    doctor = box.compose("run", "--rm", "doctor", "--json", files=files, check=False)
    assert json.loads(doctor.stdout)["could_run"] is False  # it looked: there is no model yet
