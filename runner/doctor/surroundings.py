"""Turns where this process runs into yes or no: inside a container?"""

from __future__ import annotations

from pathlib import Path


def in_container(root: Path = Path("/")) -> bool:
    """Whether an engine made the root file system: Docker leaves one mark, Podman another."""
    return (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
