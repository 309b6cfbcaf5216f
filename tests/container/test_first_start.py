"""`docker compose up` in an empty folder, a file copied in by a colleague: an adapter for all."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from container_box import COLLEAGUE, PGID, PUID, ContainerBox, wait_until
from daemon_box import REPOSITORY

from runner.contract.record import RunRecord


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


@pytest.fixture(scope="module")
def finished(box: ContainerBox, model: Path) -> RunRecord:
    """A job that a colleague dropped, at its end."""
    box.put_model(model)
    box.drop("walls", "max_steps: 3, effective_batch_size: 4")
    return box.wait_for_end("walls")


def test_missing_folders_are_made_for_their_owner(box: ContainerBox) -> None:
    """The first start makes them for PUID:PGID; the folder around them keeps its owner."""
    assert owner_and_mode(box.jobs) == (PUID, PGID, 0o2770)
    assert owner_and_mode(box.outputs.root) == (PUID, PGID, 0o2750)
    assert owner_and_mode(box.root / "models") == (PUID, PGID, 0o2750)
    assert owner_and_mode(box.root)[:2] == (0, 0)


def test_the_adapter_belongs_to_the_share(box: ContainerBox, finished: RunRecord) -> None:
    """A colleague's spec, copied in from the host, gives files that the group may read."""
    run = box.outputs.run("walls", finished.run_id)
    files = [path for path in run.adapter.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert {owner_and_mode(path) for path in files} == {(PUID, PGID, 0o640)}
    folders = [run.root, run.root.parent, run.adapter]
    assert {owner_and_mode(path) for path in folders} == {(PUID, PGID, 0o2750)}


def test_nothing_in_outputs_is_anybody_elses(box: ContainerBox, finished: RunRecord) -> None:
    """No file of a run is left to root, or open to those outside the group."""
    for path in box.outputs.root.rglob("*"):
        uid, gid, mode = owner_and_mode(path)
        assert (uid, gid, mode & 0o7) == (PUID, PGID, 0), path


def test_the_spec_stays_its_droppers(box: ContainerBox, finished: RunRecord) -> None:
    """It is moved, not copied: its owner still owns it; the answer beside it is for the group."""
    # The record is the truth, and its view follows it.
    (spec,) = wait_until(lambda: list((box.jobs / "done").glob("walls--*.yaml")))
    (answer,) = (box.jobs / "done").glob("walls--*.txt")  # written before the spec moves
    assert spec.stat().st_uid == COLLEAGUE
    assert spec.stat().st_gid == PGID  # the inbox's set-group bit
    assert owner_and_mode(answer)[:2] == (PUID, PGID)
    wait_until(lambda: "walls" in (box.jobs / "STATUS.txt").read_text())


def test_the_drop_was_told_of_and_not_found_by_looking(box: ContainerBox) -> None:
    """Events of the host arrive through the bind mount: the inbox is not polled."""
    done = box.compose("run", "--rm", "doctor", "--json", check=False)
    assert "is noticed immediately" in done.stdout


def test_a_second_start_finds_everything_in_place(box: ContainerBox, finished: RunRecord) -> None:
    """`down` and `up` change no owner and lose no run."""
    before = owner_and_mode(box.jobs)
    box.compose("down", "--timeout", "20")
    box.up()
    assert owner_and_mode(box.jobs) == before
    assert box.record("walls") == finished


def test_a_folder_in_a_private_home_does_as_well(make_box: Callable[..., ContainerBox]) -> None:
    """Mode 0700 keeps out root that has only CHOWN: `init` manages, and hides it again."""
    private: Any = make_box()
    private.root.chmod(0o700)
    home = (31000, 31000, 0o700)
    os.chown(private.root, *home[:2])
    private.up()
    assert owner_and_mode(private.root) == home
    assert owner_and_mode(private.jobs) == (PUID, PGID, 0o2770)


def test_a_box_folder_that_is_missing_is_an_error(make_box: Callable[..., ContainerBox]) -> None:
    """A mistyped BOX_DIR, or a disk that is not mounted, is said: Docker makes no empty folder."""
    lost = make_box()
    lost.settings["BOX_DIR"] = str(lost.root / "not-mounted")
    done = lost.compose("up", "--detach", "--no-build", check=False)
    assert done.returncode != 0
    (said,) = re.findall(r"invalid mount config.*not exist", done.stderr)
    assert said in (REPOSITORY / "README.md").read_text()
    assert not (lost.root / "not-mounted").exists()


def test_a_second_checkout_of_the_same_name_is_refused(
    make_box: Callable[..., ContainerBox],
) -> None:
    """Its `up` fails with both folders' names and both ways out; the first box comes back whole."""
    first, second = make_box(), make_box()
    first.up()
    second.project = first.project
    refused = second.compose("up", "--detach", "--no-build", check=False)
    assert refused.returncode != 0
    said = second.compose("logs", "check").stdout
    assert f"BOX_DIR is {second.root}" in said
    assert f"lie in {first.root}" in said
    assert "COMPOSE_PROJECT_NAME" in said
    first.up()


def as_compose_reads_it(folder: Path) -> dict[str, Any]:
    """Make a checkout's compose.yaml and the settings that are offered, as Compose reads them."""
    folder.mkdir()
    shutil.copy(REPOSITORY / "compose.yaml", folder)
    shutil.copy(REPOSITORY / ".env.example", folder / ".env")
    given = {k: v for k, v in os.environ.items() if not k.startswith(("COMPOSE_", "BOX_"))}
    words = ["docker", "compose", "--profile", "*", "config", "--format", "json"]
    done = subprocess.run(words, cwd=folder, env=given, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_two_checkouts_have_names_of_their_own(tmp_path: Path) -> None:
    """Without a name in .env the project is called after the folder: two folders, two boxes.

    Nothing that is one for the whole host, a volume's or a container's name or a port, is in both;
    only whoever opens the page of a second box gives it a port of its own, as .env.example says.
    """
    try:
        subprocess.run(["docker", "compose", "version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"NO COMPOSE: nothing reads the file as it will be read ({error})")
    of_host: list[set[str]] = []
    for name in ("litigation", "tax"):
        config = as_compose_reads_it(tmp_path / name)
        assert config["name"] == name
        services = config["services"].values()
        names = {volume["name"] for volume in config["volumes"].values()}
        names |= {one["container_name"] for one in services if "container_name" in one}
        always = [one for one in services if "page" not in one.get("profiles", ())]
        names |= {port["published"] for one in always for port in one.get("ports", ())}
        assert len(names) >= 4
        of_host.append(names)
    assert not of_host[0] & of_host[1]


def test_commands_in_the_running_container(box: ContainerBox, finished: RunRecord) -> None:
    """README's `docker compose exec runner runner …` look at the box that the container watches."""
    status = box.compose("exec", "-T", "runner", "runner", "status").stdout
    assert "walls" in status
    shown = box.compose("exec", "-T", "runner", "runner", "show", "walls").stdout
    assert finished.run_id in shown
    asked = ("exec", "-T", "runner", "runner", "try", "walls", "-q", "How high?", "--json")
    assert "How high?" in box.compose(*asked).stdout
