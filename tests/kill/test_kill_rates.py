"""Kills while learning rates are tried: none that is done is tried again, and the pick stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from daemon_box import attempt_of
from figures import Figures
from invariants import curve_of
from kill_box import AtPoint, KillBox
from trainer_box import SPEC, TrainerBox

from runner.contract.layout import RunFolder, StageFolder
from runner.contract.rates import RatesTried
from runner.contract.record import RunRecord
from runner.contract.states import State

TRY = "try: {learning_rate: [1e-4, 2e-4, 4e-4]}\n"
LOWEST = "try: {learning_rate: [1e-3, 1e-5]}\n"


class RatesKillBox(KillBox):
    """A box with one job that tries three rates."""

    def fill(self) -> None:
        """Drop it."""
        (self.jobs / "job0.jsonl").write_text("rows")
        self.drop_bytes("job0", f"model: m\ndata: job0.jsonl\n{TRY}", State.SUCCEEDED)


@pytest.mark.parametrize(
    ("side", "point", "what", "index"),
    [
        ("daemon", "stage ended", "prepare", 1),
        *(("daemon", "stage ended", "rates", index) for index in (1, 2, 3)),
        ("daemon", "stage planned", None, 3),
        ("daemon", "stage recorded", None, 3),
        ("daemon", "stage started", None, 3),
        ("child", "checkpoint begun", None, 2),
        ("child", "checkpoint named", None, 4),
        ("child", "file renamed", "result.json", 3),
    ],
)
def test_a_kill_while_rates_are_tried_loses_none(
    tmp_path: Path, side: str, point: str, what: str | None, index: int, figures: Figures
) -> None:
    """No step that a checkpoint covers runs again, in no rate's run; the best one trains."""
    box = RatesKillBox(tmp_path / "box")
    box.live([AtPoint(side=side, point=point, what=what, index=index, victims="both")])  # type: ignore[arg-type]
    assert box.kills == 1
    rates = box.record().rates
    assert rates is not None
    assert (rates.chosen, rates.why) == (4e-4, "shown")
    assert [one.outcome for one in rates.trials] == ["measured"] * 3
    assert box.lost() == []
    figures.count("kills while learning rates are tried")


class RealRatesBox(TrainerBox):
    """A box with one job for the real stages that tries two rates, the far better one first."""

    extra = LOWEST

    def fill(self) -> None:
        """Drop the spec."""
        rows = [{"prompt": f"What is {n}?", "completion": f"The number {n}."} for n in range(48)]
        (self.jobs / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.drop_bytes("real", SPEC + self.extra, State.SUCCEEDED)

    def run(self) -> tuple[RunFolder, RunRecord, RatesTried]:
        """Give the run with its rates."""
        found = self.newest()
        assert found is not None
        assert found[1].rates is not None
        return (*found, found[1].rates)


class PlainBox(RealRatesBox):
    """The same job at the better rate, without anything tried."""

    extra = ""


@pytest.mark.timeout(900)
def test_a_kill_of_the_real_trainer_in_a_small_run_leaves_no_trace(
    tmp_path: Path, tiny_model: Path, figures: Figures
) -> None:
    """The same losses of each rate as undisturbed, and then the curve of a run without `try`."""
    undisturbed = RealRatesBox(tmp_path / "undisturbed", tiny_model)
    undisturbed.live([])
    _, _, wanted = undisturbed.run()
    assert wanted.chosen == 1e-3
    killed = RealRatesBox(tmp_path / "killed", tiny_model)
    killed.live([AtPoint(side="child", point="checkpoint named", index=8, victims="both")])
    assert killed.kills == 1
    run, record, rates = killed.run()
    assert record.state is State.SUCCEEDED
    assert [one.eval_loss for one in rates.trials] == pytest.approx(
        [one.eval_loss for one in wanted.trials], rel=1e-4
    )
    assert rates.trials[1].eval_loss > rates.trials[0].eval_loss + 0.1  # type: ignore[operator]
    lines = StageFolder(attempt_of(run.rate(2), 1)).metrics.read_text().splitlines()
    assert {json.loads(line)["step"] for line in lines} == {7, 8, 9, 10}  # it went on from step 6
    plain = PlainBox(tmp_path / "plain", tiny_model)
    plain.live([])
    reference = plain.newest()
    assert reference is not None
    assert dict(curve_of(run, record)) == pytest.approx(dict(curve_of(*reference)), rel=1e-3)
    figures.count("kills while learning rates are tried")
