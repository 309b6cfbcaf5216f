"""Turns a temporary folder into a box with several cards, whose driver is a stand-in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from daemon_box import REPOSITORY, Box, attempt_of

from runner.contract.layout import RunFolder
from runner.forecast.work import GIB

DRIVER = Path(__file__).with_name("standin_driver")
UUIDS = ("GPU-aa11", "GPU-bb22")


class CardsBox(Box):
    """A box with two cards that the test takes away one by one."""

    def __init__(self, root: Path) -> None:
        """Begin with both of them well."""
        super().__init__(root)
        self.cards_say(0, 0)

    def cards_say(
        self, *codes: int, free_gib: tuple[float, ...] = (), total_gib: tuple[int, ...] = (24, 24)
    ) -> None:
        """Let each card answer so from now on; 0: it is well."""
        free = free_gib or (23.0,) * len(codes)
        cards = [
            {"uuid": uuid, "code": code, "total": total * GIB, "free": int(gib * GIB), "held": []}
            for uuid, code, gib, total in zip(UUIDS, codes, free, total_gib, strict=False)
        ]
        beside = self.root / "driver.new"
        beside.write_text(json.dumps({"cards": cards}))
        beside.rename(self.root / "driver.json")

    def command(self, **settings: Any) -> list[str]:
        """Build the command line of a daemon that works with both."""
        return super().command(**{"gpus": "all", **settings})

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon inherits: the stand-in where Python looks first."""
        return {
            **super().environment,
            "PYTHONPATH": f"{DRIVER}{os.pathsep}{REPOSITORY}",
            "STANDIN_DRIVER": str(self.root / "driver.json"),
        }

    def run_of(self, job: str) -> RunFolder:
        """Find the folder of a job's only run."""
        (run,) = [run for run in self.outputs.runs() if run.job == job]
        return run

    def hangs(self, job: str, attempt: int = 1) -> bool:
        """Whether the stand-in of a job's training stands still, as it was told to."""
        found = [run for run in self.outputs.runs() if run.job == job]
        return bool(found) and (attempt_of(found[0], attempt) / "hanging").exists()

    def card_of(self, job: str, attempt: int = 1) -> str:
        """Tell what a job's training found in CUDA_VISIBLE_DEVICES."""
        path = attempt_of(self.run_of(job), attempt) / "environment.json"
        return str(json.loads(path.read_text()).get("CUDA_VISIBLE_DEVICES"))

    def status(self) -> str:
        """Read what the share's users read first."""
        path = self.jobs / "STATUS.txt"
        return path.read_text() if path.exists() else ""
