"""Holds a run to the disk space that its spec allows."""

from pathlib import Path

import pytest

from runner.clock import now
from runner.contract.layout import Outputs
from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.daemon.book import Live
from runner.daemon.stages.space import over_disk_limit
from runner.spec.read_spec import read_spec


@pytest.mark.parametrize(
    ("limits", "advice"),
    [("", None), ("limits: {disk_gib: 2}", "at least 2.5"), ("limits: {disk_gib: 3}", None)],
)
def test_a_run_that_needs_more_disk_than_allowed_is_refused(
    limits: str, advice: str | None, tmp_path: Path
) -> None:
    """What is forecast and the data together count; the refusal says what would do."""
    run = Outputs(tmp_path).run("job", "20261123T221005Z-k3f9")
    run.data.mkdir(parents=True)
    with (run.data / "rows.jsonl").open("wb") as file:
        file.truncate(2**30)
    spec = read_spec(f"model: m\ndata: rows.jsonl\n{limits}\n".encode(), file_name="job.yaml")
    record = RunRecord(
        job="job",
        run_id=run.run_id,
        state=State.QUEUED,
        file_name="job.yaml",
        created_at=now(),
        spec_sha256="0" * 64,
    )
    error = over_disk_limit(Live(run=run, record=record, asked=spec), forecast=int(1.5 * 2**30))
    assert (error is None) is (advice is None)
    if error is not None:
        assert "needs 2.50 GiB" in error.message
        assert str(advice) in str(error.advice)
