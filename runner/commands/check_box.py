"""Check the box: the volumes of this Compose project must lie in the folder that BOX_DIR names.

Docker keeps a volume under its old folder when BOX_DIR changes, and shares it with a second
checkout whose project has the same name. `compose.yaml` runs this before anything uses a volume.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from runner.errors import RunnerError
from runner.files.mounts import place_of

VOLUMES = {
    "jobs": "jobs",
    "outputs": "outputs",
    "models": "models",
    "page": "page",
    "tls": "door",
    "outputs/.runner/requests": "outputs/.runner/requests",
    "notices": "outputs/.runner/notices",
    "notices/sent": "outputs/.runner/notices/sent",
}
"""Where `check` has each volume mounted, from ``/`` → the folder of the box that it must be."""


def check_box(box: Path, root: Path = Path("/"), *, mountinfo: str | None = None) -> None:
    """Compare each volume with its folder in the box.

    Args:
        box: where BOX_DIR is mounted.
        root: where the volumes are mounted: ``/jobs`` and the others.
        mountinfo: the kernel's list of mounts; None: this process's.

    Raises:
        RunnerError: a volume lies in another folder; its advice says both ways out.
    """
    for mounted_at, name in VOLUMES.items():
        wanted = place_of(box / name, mountinfo=mountinfo)
        found = place_of(root / mounted_at, mountinfo=mountinfo)
        if wanted == found or os.path.islink(box / name.partition("/")[0]):
            continue
        raise RunnerError(
            f"BOX_DIR is {wanted.path.removesuffix(f'/{name}')}, but this project's volumes lie in "
            f"{found.path.removesuffix(f'/{name}')}. This box was not started.",
            advice="If that folder is another team's box, give this one a name of its own: set "
            "COMPOSE_PROJECT_NAME in .env, and start theirs again by `docker compose up -d` in "
            "its folder.\nIf this box has moved: docker compose down -v && docker compose up -d  "
            "(removes no data).",
        )


def command(
    box: Annotated[Path, typer.Argument(readable=False, help="Where BOX_DIR is mounted.")],
) -> None:
    """Refuse volumes that lie outside BOX_DIR: Compose's `check` service."""
    check_box(box)
