"""The volumes of a box lie in BOX_DIR, or nothing is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from runner.commands.check_box import VOLUMES, check_box
from runner.errors import RunnerError
from runner.files.mounts import place_of

REPOSITORY = Path(__file__).parents[2]
ROOT = "22 1 0:50 / / rw - overlay overlay rw\n"


def mounts(*lines: tuple[str, str, str]) -> str:
    """Write mounts as the kernel lists them: device, root within it, mount point."""
    return ROOT + "".join(
        f"{number} 22 {device} {root} {point} rw,relatime shared:1 - ext4 /dev/vda rw\n"
        for number, (device, root, point) in enumerate(lines, 30)
    )


def volumes(device: str, box: str) -> list[tuple[str, str, str]]:
    return [
        (device, f"{box}/{folder}", f"/{mounted_at}")
        for mounted_at, folder in {
            "jobs": "jobs",
            "outputs": "outputs",
            "models": "models",
            "page": "page",
            "tls": "door",
            "outputs/.runner/requests": "outputs/.runner/requests",
            "notices": "outputs/.runner/notices",
            "notices/sent": "outputs/.runner/notices/sent",
        }.items()
    ]


def test_volumes_in_the_box_are_accepted() -> None:
    """The usual box: three folders of BOX_DIR."""
    listed = mounts(("8:1", "/srv/box", "/box"), *volumes("8:1", "/srv/box"))
    check_box(Path("/box"), mountinfo=listed)


def test_volumes_of_another_folder_are_refused_with_both_ways_out() -> None:
    """A second team, or a box that moved: both folders are named, and what to do about either."""
    listed = mounts(("8:1", "/srv/second", "/box"), *volumes("8:1", "/srv/first"))
    with pytest.raises(RunnerError, match=r"BOX_DIR is /srv/second.*lie in /srv/first") as refused:
        check_box(Path("/box"), mountinfo=listed)
    assert "COMPOSE_PROJECT_NAME" in str(refused.value.advice)
    assert "docker compose down -v" in str(refused.value.advice)


@pytest.mark.parametrize("left", ["/page", "/tls", "/notices/sent", "/outputs/.runner/requests"])
def test_a_volume_of_the_page_that_stayed_behind_is_found(left: str) -> None:
    """Also where those of the runner are right: a key of another box, or requests to another."""
    listed = mounts(
        ("8:1", "/srv/new", "/box"),
        *(
            (device, root.replace("/srv/new", "/srv/old") if point == left else root, point)
            for device, root, point in volumes("8:1", "/srv/new")
        ),
    )
    with pytest.raises(RunnerError, match=r"BOX_DIR is /srv/new, .* lie in /srv/old\."):
        check_box(Path("/box"), mountinfo=listed)


def test_check_mounts_what_it_compares() -> None:
    """Each volume that lies in BOX_DIR, and it may write into none."""
    read = YAML(typ="safe", pure=True).load(REPOSITORY / "compose.yaml")
    mounted = {one["source"]: one for one in read["services"]["check"]["volumes"] if one}
    lie = {
        name: volume["driver_opts"]["device"].removeprefix("${BOX_DIR:-.}/")
        for name, volume in read["volumes"].items()
        if volume and "BOX_DIR" in volume["driver_opts"]["device"]
    }
    assert {mounted[name]["target"][1:]: folder for name, folder in lie.items()} == VOLUMES
    assert all(mounted[name]["read_only"] for name in lie)


def test_the_same_path_on_another_disk_is_another_folder() -> None:
    """A new disk mounted over the old path does not hide that the volumes lie on the old one."""
    listed = mounts(("8:17", "/box", "/box"), *volumes("8:1", "/box"))
    with pytest.raises(RunnerError):
        check_box(Path("/box"), mountinfo=listed)


def test_a_share_mounted_within_the_box_is_no_stranger() -> None:
    """jobs/ may be a network mount of its own: the volume then lies on it, too."""
    rest = [entry for entry in volumes("8:1", "/srv/box") if entry[2] != "/jobs"]
    listed = mounts(
        ("8:1", "/srv/box", "/box"), ("0:61", "/", "/box/jobs"), ("0:61", "/", "/jobs"), *rest
    )
    check_box(Path("/box"), mountinfo=listed)


@pytest.mark.parametrize("folder", ["/srv/my box", "/srv/ä\tb"])
def test_names_with_blanks_are_read_as_the_kernel_writes_them(folder: str) -> None:
    """The kernel escapes blanks in its list of mounts."""
    written = folder.replace(" ", r"\040").replace("\t", r"\011")
    listed = mounts(("8:1", written, "/box"))
    assert place_of(Path("/box/jobs"), mountinfo=listed).path == f"{folder}/jobs"


def test_a_neighbour_with_a_longer_name_is_not_the_mount() -> None:
    """/box-old is no part of /box."""
    listed = mounts(("8:1", "/srv/a", "/box-old"), ("8:2", "/srv/b", "/box"))
    assert place_of(Path("/box/jobs"), mountinfo=listed).device == "8:2"


def test_nothing_uses_a_volume_before_the_check() -> None:
    """Each service of compose.yaml that mounts the box waits for it; only init comes before."""
    services = YAML(typ="safe", pure=True).load(REPOSITORY / "compose.yaml")["services"]
    ended = {"condition": "service_completed_successfully"}
    assert services["check"]["depends_on"] == {"init": ended}
    mounting = {
        name
        for name, service in services.items()
        if {"jobs", "outputs", "models"} & {one["source"] for one in service["volumes"] if one}
    }
    assert mounting >= {"runner", "doctor", "fetch", "check"}
    for name in mounting - {"check"}:
        assert services[name]["depends_on"] == {"check": ended}, name
