"""Leftovers: what is removed at a start, and what is not."""

from __future__ import annotations

from pathlib import Path

from runner.contract.layout import Outputs
from runner.daemon.leftovers import sweep_box


def test_a_jobs_own_folder_is_swept(tmp_path: Path) -> None:
    """HANDOVER.md and `current` lie beside the runs: what a kill left of them goes, no more."""
    outputs = Outputs(tmp_path / "outputs")
    job = outputs.root / "contracts"
    run = job / "20261123T221005Z-k3f9"
    run.mkdir(parents=True)
    (job / ".tmp-0123456789ab").write_text("half a page")
    (job / ".tmp-ba9876543210").symlink_to(run.name)
    kept = {job / ".tmp-of-a-person", job / "HANDOVER.md", run}
    for path in kept - {run}:
        path.write_text("whole")

    sweep_box(outputs)

    assert set(job.iterdir()) == kept
