"""Leftovers: what is removed at a start, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.contract.layout import Outputs, RunFolder, StageFolder
from runner.contract.requests import leave_request, read_requests
from runner.daemon.leftovers import sweep_box, sweep_run
from runner.files import durable


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


def test_a_request_that_is_being_left_meanwhile_is_left_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that starts takes what a command is writing for what a killed one left."""
    outputs = Outputs(tmp_path / "outputs")
    real, times = durable.replace, []

    def replace(beside: Path, path: Path) -> None:
        times.append(1)
        if len(times) == 1:
            sweep_box(outputs)
        real(beside, path)

    monkeypatch.setattr(durable, "replace", replace)
    left = leave_request(outputs, "promote", job="contracts", by="me")
    assert [request.path for request in read_requests(outputs)] == [left]
    assert list(outputs.requests.iterdir()) == [left]
    assert len(times) == 2
    with pytest.raises(FileNotFoundError):
        durable.write_bytes(tmp_path / "gone" / "file", b"")


def test_what_ranks_and_small_runs_left_of_their_attempts_is_swept(tmp_path: Path) -> None:
    """A rank whose launcher was killed had begun to write its result."""
    run = RunFolder(tmp_path / "contracts" / "20261123T221005Z-k3f9")
    homes = [run, run.rate(1)]
    for home in homes:
        rank = StageFolder(home.attempt(1)).ranks / "1"
        (home.attempt(1) / "work" / "checkpoint-5").mkdir(parents=True)
        rank.mkdir(parents=True)
        (rank / ".tmp-0123456789ab").write_text("half a result")
        (rank / "metrics.jsonl").write_text("{}\n")

    sweep_run(run)

    files = {path for path in tmp_path.rglob("*") if not path.is_dir()}
    kept = [StageFolder(home.attempt(1)).ranks / "1" / "metrics.jsonl" for home in homes]
    assert files == set(kept)
    assert not any((home.attempt(1) / "work").exists() for home in homes)
