"""Promotion under a real daemon: what is in use moves when a run is better, or somebody asks."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from daemon_box import Box, attempt_of, wait_until
from typer.testing import CliRunner

from runner.cli import app
from runner.contract.gate import Decision
from runner.contract.layout import StageFolder
from runner.contract.pick_rate import begin
from runner.contract.promotions import GATE, current_run, read_promotions
from runner.contract.record import RunRecord
from runner.contract.states import Stage, State
from runner.daemon.promotion.start_from import NOTHING_IN_USE, choose_start
from runner.spec.read_spec import read_spec


class PromotionBox(Box):
    """A box whose runs say how they compare with the adapter in use."""

    def run_one(self, **measured: Any) -> RunRecord:
        """Run the job once more and give its record."""
        count = len(self.records())
        self.drop("contracts", measured=measured)  # type: ignore[arg-type]

        def over() -> bool:
            found = self.records()
            return len(found) > count and found[-1].state.is_final

        wait_until(over)
        return self.records()[-1]

    def in_use(self) -> str:
        """Follow the link as whoever serves it does."""
        link = self.outputs.current("contracts")
        if not os.path.lexists(link):
            return ""
        assert (link / "adapter" / "adapter_model.safetensors").exists()
        return os.readlink(link)

    def ask(self, *words: str) -> str:
        """Call a command of the runner."""
        found = CliRunner().invoke(app, [*words, "--outputs-dir", str(self.outputs.root)])
        assert found.exit_code == 0, found.output
        return found.output


def against_current(difference: float) -> dict[str, Any]:
    """Give an evaluation: so much better than what is in use, by 0.2 either way."""
    against = {"difference": difference, "low": difference - 0.2, "high": difference + 0.2}
    score = {"name": "loss", "difference": 1.5, "low": 1.2, "high": 1.8, "rows": 40}
    return {"evaluation": {"scores": [{**score, "against_current": {**against, "rows": 40}}]}}


@pytest.fixture
def box(tmp_path: Path) -> PromotionBox:
    """An empty box."""
    return PromotionBox(tmp_path)


def test_what_is_better_comes_into_use_and_people_can_change_it(box: PromotionBox) -> None:
    """A first run against the base, the next against the one in use; asked for, it goes back."""
    with box.watching():
        worse = box.run_one(eval_loss_after=4.0, change_low=0.5, change_high=1.5)
        assert worse.promotion is not None
        assert worse.promotion.decision is Decision.KEPT_OLD
        assert not os.path.lexists(box.outputs.current("contracts"))
        first = box.run_one()
        wait_until(lambda: box.in_use() == first.run_id)
        second = box.run_one(**against_current(0.3))
        wait_until(lambda: box.in_use() == second.run_id)
        plan = StageFolder(box.outputs.run("contracts", second.run_id).evaluation).plan
        compared_with = json.loads(plan.read_bytes())["current_adapter"]
        adapter = box.outputs.run("contracts", first.run_id).adapter
        assert Path(compared_with) == adapter.resolve()
        third = box.run_one(**against_current(0.1))
        assert third.promotion is not None
        assert third.promotion.why == "not_better_than_current"
        assert box.in_use() == second.run_id
        answers = {path.name: path.read_text() for path in (box.jobs / "done").glob("*.txt")}
        wait_until(lambda: len(list((box.jobs / "done").glob("*.txt"))) == 4)
        answers = {path.name: path.read_text() for path in (box.jobs / "done").glob("*.txt")}
        told = answers[f"contracts--{second.run_id}.yaml.txt"]
        words = f"Put into use: it is better than {first.run_id}, which was in use"
        assert words in told
        assert "Not put into use" in answers[f"contracts--{third.run_id}.yaml.txt"]
        assert "Asked to put" in box.ask("rollback", "contracts")
        wait_until(lambda: box.in_use() == first.run_id)
        wait_until(lambda: not list(box.outputs.requests.iterdir()))
        told = (box.jobs / "done" / f"contracts--{second.run_id}.yaml.txt").read_text()
        assert "This run's adapter was in use until" in told
        assert f"in use is now {first.run_id}." in told
        told = (box.jobs / "done" / f"contracts--{first.run_id}.yaml.txt").read_text()
        assert "This run's adapter is in use, since" in told
    assert "leads to" in box.ask("promote", third.run_id)  # no daemon: at once
    assert box.in_use() == third.run_id
    assert "leads to" in box.ask("rollback", "contracts")
    assert box.in_use() == first.run_id
    with box.watching():  # what was changed while no daemon ran is said after its start
        answer = box.jobs / "done" / f"contracts--{third.run_id}.yaml.txt"
        wait_until(lambda: f"in use is now {first.run_id}." in answer.read_text())
    history = read_promotions(box.outputs, "contracts")
    assert [one.run_id for one in history] == [
        first.run_id,
        second.run_id,
        first.run_id,
        third.run_id,
        first.run_id,
    ]
    assert [one.by == GATE for one in history] == [True, True, False, False, False]
    assert "in use" in box.ask("status")
    assert "this run" in box.ask("show", first.run_id)


def test_a_spec_decides_itself(box: PromotionBox) -> None:
    """Never, or only with a person's word: nothing moves."""
    (box.jobs / "a.jsonl").write_text("{}")
    for when in ("never", "approved"):
        spec = f"model: m\ndata: a.jsonl\nname: {when}\npromote: {{when: {when}}}\n"
        (box.jobs / f"{when}.yaml").write_text(spec)
    box.once()
    assert [record.state for record in box.records()] == [State.SUCCEEDED] * 2
    found = {record.job: record.promotion for record in box.records()}
    assert {job: one and one.why for job, one in found.items()} == {
        "never": "never",
        "approved": "approved",
    }
    assert [current_run(box.outputs, job) for job in found] == [None, None]


def test_experts_marks_put_an_adapter_into_use(box: PromotionBox) -> None:
    """`when: approved`: the table lies on the share, the key does not, and the marks decide."""
    spec = "model: m\ndata: contracts.jsonl\npromote: {when: approved}\n"
    (box.jobs / "contracts.jsonl").write_text("{}")
    (box.jobs / "contracts.yaml").write_text(spec)
    with box.watching():
        wait_until(lambda: box.in_state(State.SUCCEEDED))
        wait_until(lambda: list((box.jobs / "done").glob("*.txt")))
        run = box.outputs.run("contracts", box.record().run_id)
        lines = [{"question": f"Q{n}", "adapter": f"A{n}", "base": f"B{n}"} for n in range(30)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run.evaluation / "answers.jsonl").write_text(text)
        box.ask("rate", "contracts", "--jobs-dir", str(box.jobs))
        (table,) = (box.jobs / "rate").glob("rate-contracts--*.csv")
        told = table.with_name(f"{table.name}.txt")
        wait_until(lambda: told.exists() and "30 of 30 pairs have no mark yet" in told.read_text())
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(rows[0])
            writer.writerows([*row[:-1], "1" if row[2][0] == "A" else "2"] for row in rows[1:])
        wait_until(lambda: box.in_use() == run.run_id)
        wait_until(lambda: "found its answer the better one 30 times" in told.read_text())
    record = box.record()
    assert record.rating is not None
    assert (record.rating.better, record.rating.is_better) == (30, True)
    assert read_promotions(box.outputs, "contracts")[0].why.startswith(
        "Put into use: experts found"
    )
    assert "promoted" in str(record.promotion)


def test_marks_that_are_changed_later_do_not_contradict_what_is_in_use(box: PromotionBox) -> None:
    """A table saved again leaves a run in use; taken out, only a person brings it back."""
    spec = "model: m\ndata: contracts.jsonl\npromote: {when: approved}\n"
    (box.jobs / "contracts.jsonl").write_text("{}")
    (box.jobs / "contracts.yaml").write_text(spec)
    with box.watching():
        wait_until(lambda: box.in_state(State.SUCCEEDED))
        wait_until(lambda: list((box.jobs / "done").glob("*.txt")))
        first = box.outputs.run("contracts", box.record().run_id)
        box.ask("promote", "contracts")
        wait_until(lambda: box.in_use() == first.run_id)
        (box.jobs / "contracts.yaml").write_text(spec)
        wait_until(lambda: len(box.records()) == 2 and box.records()[-1].state.is_final)
        run = box.outputs.run("contracts", box.records()[-1].run_id)
        lines = [{"question": f"Q{n}", "adapter": f"A{n}", "current": f"B{n}"} for n in range(30)]
        (run.evaluation / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
        box.ask("rate", "contracts", "--jobs-dir", str(box.jobs))
        (table,) = (box.jobs / "rate").glob("rate-contracts--*.csv")

        def mark(better: int) -> None:
            """Prefer the new one in so many pairs, and wait for the answer."""
            with table.open(encoding="utf-8-sig", newline="") as file:
                titles, *rows = csv.reader(file)
            with table.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(titles)
                for n, row in enumerate(rows):
                    new = "1" if row[2][0] == "A" else "2"
                    writer.writerow([*row[:-1], new if n < better else "="])
            said = f"the better one {better} times"
            told = table.with_name(f"{table.name}.txt")
            wait_until(lambda: told.exists() and said in told.read_text())

        mark(30)
        wait_until(lambda: box.in_use() == run.run_id)
        mark(29)
        found = box.records()[-1].promotion
        assert found is not None
        assert (found.decision, found.why) == (Decision.PROMOTED, "marks_better")
        box.ask("rollback", "contracts")
        wait_until(lambda: box.in_use() == first.run_id)
        mark(28)
        found = box.records()[-1].promotion
        assert found is not None
        assert (found.decision, found.why) == (Decision.AWAITS, "marks_again")
        assert box.in_use() == first.run_id


def test_a_run_goes_on_from_what_is_in_use_or_is_refused_with_the_numbers(
    box: PromotionBox,
) -> None:
    """The stage is told whose adapter to start from; another rank is refused before the card."""
    (box.jobs / "contracts.jsonl").write_text("{}")

    def run(extra: str) -> RunRecord:
        spec = f"model: m\ndata: contracts.jsonl\nstart_from: current\n{extra}"
        (box.jobs / "contracts.yaml").write_text(spec)
        box.once()
        return box.records()[-1]

    first = run("")
    assert first.started_from is None
    assert any("it began afresh" in note for note in first.shortfalls)
    adapter = box.outputs.run("contracts", first.run_id).adapter
    config = {"r": 16, "lora_alpha": 32, "use_rslora": False, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    second = run("")
    assert second.started_from == first.run_id
    plan = StageFolder(attempt_of(box.outputs.run("contracts", second.run_id), 1)).plan
    assert json.loads(plan.read_bytes())["start_adapter"] == str(adapter.resolve())
    third = run("lora: {r: 4, alpha: 8}\n")
    assert third.state is State.REJECTED
    assert third.error is not None
    assert "r is 16 there and 4 here; lora_alpha is 32 there and 8.0 here" in third.error.message


def test_old_rows_come_from_the_run_that_training_then_goes_on_from(box: PromotionBox) -> None:
    """With `replay`, what is in use is looked up once, before the rows are chosen, and recorded."""
    (box.jobs / "contracts.jsonl").write_text("{}")

    def run(extra: str) -> RunRecord:
        spec = f"model: m\ndata: contracts.jsonl\nstart_from: current\n{extra}"
        (box.jobs / "contracts.yaml").write_text(spec)
        box.once()
        return box.records()[-1]

    def plan(record: RunRecord) -> Any:
        run = box.outputs.run("contracts", record.run_id)
        return json.loads(StageFolder(run.prepared).plan.read_bytes())["replay_from"]

    first = run("replay: 30%\n")
    assert (plan(first), first.started_from) == (None, None)
    folder = box.outputs.run("contracts", first.run_id)
    config = {"r": 16, "lora_alpha": 32, "use_rslora": False, "target_modules": ["q_proj"]}
    (folder.adapter / "adapter_config.json").write_text(json.dumps(config))
    second = run("replay: 30%\n")
    assert second.started_from == first.run_id
    assert plan(second) == str(folder.root.resolve())
    third = run("")
    assert (plan(third), third.started_from) == (None, first.run_id)


def test_rows_chosen_with_nothing_in_use_are_trained_from_nothing(box: PromotionBox) -> None:
    """Whatever comes into use meanwhile: its rows are not among them."""
    (box.jobs / "contracts.jsonl").write_text("{}")
    box.drop_spec("contracts")
    box.once()
    in_use = box.record()
    lines = b"model: m\ndata: a.jsonl\nstart_from: current\nreplay: 0.3\n"
    spec = read_spec(lines, file_name="a.yaml")
    config = {"r": 16, "lora_alpha": 32, "use_rslora": False}
    adapter = box.outputs.run("contracts", in_use.run_id).adapter
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    later = in_use.but(run_id="20261126T000000Z-aaaa", next_stage=Stage.PREPARE)
    assert choose_start(box.outputs, later, spec).run_id == in_use.run_id
    trained = choose_start(box.outputs, later.but(next_stage=Stage.TRAIN), spec)
    assert (trained.run_id, trained.note) == (None, NOTHING_IN_USE)
    # Nor do small runs of one comparison begin with different adapters.
    fresh = read_spec(b"model: m\ndata: a.jsonl\nstart_from: current\n", file_name="a.yaml")
    tried = begin((1e-4, 2e-4), wanted=2e-4)
    for steps, run_id in ((0, in_use.run_id), (20, None)):
        rates = tried.model_copy(update={"steps": steps})
        small = later.but(next_stage=Stage.RATES, attempts=(), rates=rates)
        assert choose_start(box.outputs, small, fresh).run_id == run_id
