"""A spec that goes away between the listing of the inbox and its reading."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.contract.layout import STATE_FOLDERS
from runner.contract.settings import Settings
from runner.daemon.daemon import Daemon
from runner.daemon.inbox.intake import Intake
from runner.files.beneath import Folder

SETTLED = 100.0  # seconds: far longer than a spec takes to settle


class Vanishing(Folder):
    """A real folder in which somebody deletes a file just after it was listed.

    The moment cannot be met with a second process: it lies between two calls.
    """

    victim: Path | None = None

    def scan_status(
        self, wanted: Callable[[str], bool]
    ) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        """List, then delete."""
        found = list(super().scan_status(wanted))
        if self.victim is not None:
            self.victim.unlink(missing_ok=True)
        yield from found


@pytest.mark.parametrize("seen_before", [False, True])
def test_a_spec_that_vanishes_after_the_listing_is_nobodys_trouble(
    tmp_path: Path,
    seen_before: bool,  # noqa: FBT001 - a row of the table
) -> None:
    """Before it settled or when it is taken: no run of it, no complaint, and the next one runs."""
    settings = Settings(
        jobs_dir=tmp_path / "jobs",
        outputs_dir=tmp_path / "outputs",
        models_dir=tmp_path / "models",
        device="cpu",
    )
    settings.outputs.private.mkdir(parents=True)
    for name in STATE_FOLDERS:
        (settings.jobs_dir / name).mkdir(parents=True)
    daemon = Daemon(settings)
    intake = Intake(daemon)
    gone, stays = settings.jobs_dir / "gone.yaml", settings.jobs_dir / "stays.yaml"
    for spec in (gone, stays):
        spec.write_text("model: m\ndata: d.jsonl\n")
    with Vanishing.open(settings.jobs_dir) as inbox:
        assert isinstance(inbox, Vanishing)
        if seen_before:
            intake.claim_settled(inbox, SETTLED)
        inbox.victim = gone
        for round_ in (1, 2, 3):
            intake.claim_settled(inbox, SETTLED * (1 + round_))
    assert [live.record.job for live in daemon.book.runs.values()] == ["stays"]
    assert intake.unclaimable == {}
