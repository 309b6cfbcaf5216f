"""Where this process runs: in a container, beside a Docker engine?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def in_container(root: Path = Path("/")) -> bool:
    """Whether an engine made the root file system: Docker leaves one mark, Podman another."""
    return (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()


def beside_engine(environment: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Whether an engine could be asked: on any host, and in a container that was given one.

    The box's own containers never are.
    """
    named = bool(environment.get("DOCKER_HOST")) or (root / "var/run/docker.sock").exists()
    return named or not in_container(root)
