"""What a run's record is written for: a reason is, its figures alone hardly ever are."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.clock import now
from runner.contract.layout import Outputs
from runner.contract.record import RunRecord, read_record, write_record
from runner.contract.settings import Settings
from runner.contract.states import Stage, State
from runner.daemon import change_run
from runner.daemon.book import Live
from runner.daemon.change_run import keep_waiting
from runner.daemon.daemon import Daemon
from runner.daemon.stages.start import tell_data_that_came
from runner.files.beneath import Folder
from runner.spec.read_spec import read_spec

HELD = "the GPU's memory is held by another program: 11.0 GiB needed, {} of 24.0 free; held by vllm"


class Waits:
    """A run that waits, under a daemon whose clock the test moves."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        outputs = Outputs(root / "outputs")
        outputs.private.mkdir(parents=True)
        self.daemon = Daemon(
            Settings(jobs_dir=root / "jobs", outputs_dir=outputs.root, models_dir=root / "models")
        )
        run = outputs.run("job", "20261123T221005Z-k3f9")
        run.root.mkdir(parents=True)
        record = RunRecord(
            job="job",
            run_id=run.run_id,
            state=State.QUEUED,
            next_stage=Stage.TRAIN,
            file_name="job.yaml",
            created_at=now(),
            spec_sha256="",
        )
        write_record(run.record, record)
        spec = read_spec(b"model: m\ndata: d.jsonl\n", file_name="job.yaml")
        self.live = Live(run=run, record=record, asked=spec)
        self.time, self.writes = 1000.0, 0
        monkeypatch.setattr(change_run.time, "monotonic", lambda: self.time)
        written = change_run.write_record
        monkeypatch.setattr(change_run, "write_record", self._counted(written))

    def _counted(self, write: object) -> object:
        def counted(*given: object) -> None:
            self.writes += 1
            write(*given)  # type: ignore[operator]

        return counted

    def rounds(self, seconds: int, reason: str) -> None:
        """Go round once a second; in each the figure in the reason is another one."""
        for _ in range(seconds):
            self.time += 1
            keep_waiting(self.daemon, self.live, reason.format(f"{self.time / 7 % 9:.1f}"))

    @property
    def shown(self) -> str:
        """The reason in the record on disk."""
        waiting = read_record(self.live.run.record).waiting
        assert waiting is not None
        return waiting.reason


@pytest.fixture
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Waits:
    """A run that waits."""
    return Waits(tmp_path, monkeypatch)


def test_a_reason_whose_figures_change_is_written_once_a_minute(waits: Waits) -> None:
    """Free memory changes all the time; the record and the log do not grow by it."""
    waits.rounds(600, HELD)
    assert 9 <= waits.writes <= 11
    log = waits.daemon.outputs.daemon_log.read_text()
    assert log.count("the GPU's memory is held by another program") == 1
    assert waits.live.record.waiting is not None
    assert waits.shown == waits.live.record.waiting.reason


def test_another_reason_is_written_at_once(waits: Waits) -> None:
    """Who holds the memory is no figure, nor is a number in the name of a file."""
    waits.rounds(1, HELD)
    for number, reason in enumerate(
        ["waiting for jobs/data-1.jsonl", "waiting for jobs/data-2.jsonl", HELD + " and ollama"], 2
    ):
        waits.rounds(1, reason)
        assert waits.writes == number
    assert "ollama" in waits.shown


def test_a_run_whose_data_has_come_is_not_said_to_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training may keep it from its turn for hours; its answer must not send people searching."""
    waits = Waits(tmp_path, monkeypatch)
    daemon, live = waits.daemon, waits.live
    jobs = daemon.settings.jobs_dir
    jobs.mkdir()
    monkeypatch.setattr(daemon, "open_inbox", lambda: Folder.open(jobs))
    keep_waiting(daemon, live, "waiting for jobs/d.jsonl")
    live.waits_for_data_since = 0.0
    tell_data_that_came(daemon, [live], 100.0)
    assert read_record(live.run.record).waiting is not None
    (jobs / "d.jsonl").write_text("{}")
    tell_data_that_came(daemon, [live], 110.0)  # seen, and not settled
    assert read_record(live.run.record).waiting is not None
    tell_data_that_came(daemon, [live], 120.0)
    assert read_record(live.run.record).waiting is None
    assert live.waits_for_data_since is None
