"""Which box a command looks at, and whether a container on this machine watches another one.

`runner status` on the host looks at ./outputs unless told otherwise: next to a running container
whose folders lie elsewhere that is an empty box, and the job somebody looks for is in the other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from runner.contract.layout import Outputs
from runner.doctor.surroundings import in_container
from runner.files.lock import Lock

_LIMIT_SECONDS = 2  # a courtesy: an engine that is slower is not waited for
_SOCKET = Path("/var/run/docker.sock")


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """A container that watches a box."""

    name: str
    outputs: str
    """Its outputs folder on this machine."""


def hint(outputs: Outputs) -> str:
    """Say which box was looked at, where nobody watches it; empty: its daemon runs."""
    if Lock.is_held(outputs.lock):
        return ""
    return describe(outputs.root, watchers() if _may_ask() else ())


def describe(looked_at: Path, found: tuple[Watcher, ...]) -> str:
    """Word it: the folder, and the containers that watch other folders."""
    folder = looked_at.absolute()
    others = [one for one in found if Path(one.outputs).resolve() != folder.resolve()]
    said = f"No daemon watches the box of {folder}."
    if not others:
        return f"{said} Start one: `runner watch`, or `docker compose up -d`."
    for one in others:
        said += (
            f"\nThe container {one.name} watches another box: {Path(one.outputs).parent}. To look "
            f"at that one: docker exec {one.name} runner status"
        )
    return said


def _may_ask() -> bool:
    """Whether an engine could answer: without its socket the SDK is not even imported."""
    host = os.environ.get("DOCKER_HOST") or f"unix://{_SOCKET}"
    there = not host.startswith("unix://") or os.path.exists(host.removeprefix("unix://"))
    return there and not in_container()


def watchers() -> tuple[Watcher, ...]:
    """Ask the Docker engine for running containers of the project's image that watch a box."""
    import docker  # noqa: PLC0415  only here, and only where an engine is
    from docker.errors import DockerException  # noqa: PLC0415

    from runner.doctor.engine import TITLE  # noqa: PLC0415

    try:
        client = docker.from_env(timeout=_LIMIT_SECONDS)
    except DockerException:
        return ()
    try:
        asked = {"label": [TITLE, "com.docker.compose.service=runner"], "status": "running"}
        found = []
        for container in client.containers.list(filters=asked):
            for mount in container.attrs.get("Mounts", ()):
                if mount.get("Destination") != "/outputs":
                    continue
                place = mount.get("Source", "")
                if mount.get("Type") == "volume":
                    options = client.volumes.get(mount["Name"]).attrs.get("Options") or {}
                    place = options.get("device", place)
                found.append(Watcher(name=str(container.name), outputs=str(place)))
        return tuple(found)
    except (DockerException, OSError, KeyError):  # requests' errors are OSErrors
        return ()
    finally:
        client.close()
