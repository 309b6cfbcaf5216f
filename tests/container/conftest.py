"""Turns a checkout into an image and boxes of it, on a real engine; without one, into skips."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from container_box import IMAGE, ContainerBox  # the path above comes first
from daemon_box import REPOSITORY
from small_model import keep_bytes

MARKER = "zqxdatathatnobodymayseezqx"
SECRET = "zqxpasswordoftheindexzqx"


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """The engine that the environment names, through the Docker SDK."""
    import docker

    if os.geteuid() != 0:
        pytest.skip(
            "NOT ROOT: dropping files as another user, and reading others' results, takes it"
        )
    try:
        # An image of gigabytes is saved in silence at first, on a busy disk for over a minute.
        client = docker.from_env(timeout=600)
        client.ping()
        subprocess.run(["docker", "compose", "version"], check=True, capture_output=True)
    except (docker.errors.DockerException, OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"NO DOCKER ENGINE WITH COMPOSE: no test of the container was made ({error})")
    yield client
    client.close()


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it would be cloned, somebody's data, model and results beside the code."""
    target = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    for place in (
        "jobs/contracts.jsonl",
        "jobs/queued/contracts.yaml",
        "outputs/contracts/adapter/README.md",
        "models/private/config.json",
        "runner/.secret",
        ".env",
    ):
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_text(f"# {MARKER}\n")
    return target


@pytest.fixture(scope="session")
def image(engine: Any, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The true image, built by Compose with a password for the package index as a build secret.

    The secret is always the same: layers that an earlier session built were given it as well.
    """
    folder = tmp_path_factory.mktemp("build")
    (folder / "pip.conf").write_text(f"[global]\n# {SECRET}\ntimeout = 60\n")
    box = ContainerBox(engine, checkout, folder, PIP_CONF=folder / "pip.conf")
    box.compose("build", "runner")
    return IMAGE


@pytest.fixture(scope="session")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of SmolLM2, reading byte by byte: a step takes a fraction of a second."""
    target = tmp_path_factory.mktemp("model") / "tiny"
    keep_bytes(tiny_model, target)
    return target


@pytest.fixture(scope="module")
def make_box(
    engine: Any, checkout: Path, image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., ContainerBox]]:
    """Give a maker of boxes, whose containers are removed when the module is done."""
    made: list[ContainerBox] = []

    def make(**settings: Any) -> ContainerBox:
        folder = tmp_path_factory.mktemp("box")
        for path in (folder, folder.parent, folder.parent.parent):  # a colleague may come in
            path.chmod(0o755)
        made.append(ContainerBox(engine, checkout, folder, **settings))
        return made[-1]

    yield make
    for box in made:
        box.down()


@pytest.fixture(scope="module")
def box(make_box: Callable[..., ContainerBox]) -> ContainerBox:
    """A box that was started in an empty folder, and is healthy."""
    made = make_box()
    made.up()
    return made
