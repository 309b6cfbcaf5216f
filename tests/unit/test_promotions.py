"""What is current, and what the gate lets pass: decided by tables, kept in files."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import NOW, record

from runner.contract import promotions
from runner.contract.evaluation import Axis, Difference, Evaluation, ScoreSummary
from runner.contract.gate import (
    Decision,
    Measured,
    Promotion,
    Wish,
    after_asking,
    approved_by_marks,
    decide,
    promotion_in,
)
from runner.contract.layout import Outputs
from runner.contract.promotions import (
    GATE,
    Change,
    How,
    NotPromotableError,
    check_promotable,
    current_run,
    heal,
    known_current,
    promote,
    read_promotions,
    roll_back,
)
from runner.contract.rating import Rating
from runner.contract.record import write_record
from runner.contract.states import State
from runner.contract.verdict import Figures, Outcome, Verdict
from runner.daemon.promotion.at_end import judge_promotion
from runner.language.speaker import Language, Speaker
from runner.spec.read_spec import read_spec

A, B, C = (f"2026112{n}T020000Z-aaa{n}" for n in (1, 2, 3))
NOT_BETTER, BETTER = "not_better_than_current", "better_than_current"
WORDS = {
    "better": Outcome.BETTER,
    "worse": Outcome.WORSE,
    "same": Outcome.NO_DIFFERENCE,
    "unknown": Outcome.CANNOT_TELL,
}


def measured(
    verdict: str = "better",
    *,
    current: tuple[float, float, float] | None = None,
    compared: bool = True,
    same_base: bool = True,
) -> Measured:
    """Make what was measured: against the base, and against A where figures are given."""
    against = None
    if current is not None:
        difference, low, high = current
        against = Difference(difference=difference, low=low, high=high, rows=40)
    loss = ScoreSummary(
        name="loss", difference=1.5, low=1.2, high=1.8, rows=40, against_current=against
    )
    return Measured(
        verdict=Verdict(outcome=WORDS[verdict], reason="", figures=Figures(held_out_rows=40)),
        evaluation=Evaluation(scores=(loss,)),
        current=A if current is not None else None,
        compared_with=A if compared and current is not None else None,
        same_base=same_base,
    )


def unscored(verdict: str = "better", *, current: str | None = None) -> Measured:
    """Make what is known where no score was measured."""
    return Measured(
        verdict=Verdict(outcome=WORDS[verdict], reason="", figures=Figures(held_out_rows=40)),
        evaluation=None,
        current=current,
        compared_with=current,
    )


@pytest.mark.parametrize(
    ("wish", "found", "decision", "why"),
    [
        # A first run is compared with the base model.
        (Wish(), measured(), Decision.PROMOTED, "better_than_base"),
        (Wish(), measured("worse"), Decision.KEPT_OLD, "not_better_than_base"),
        (Wish(), measured("unknown"), Decision.KEPT_OLD, "cannot_tell"),
        (Wish(margin=2.0), measured(), Decision.KEPT_OLD, "margin"),
        # The next one with the one in use, by its whole interval.
        (Wish(), measured(current=(0.3, 0.1, 0.5)), Decision.PROMOTED, "better_than_current"),
        (Wish(), measured(current=(0.3, -0.1, 0.7)), Decision.KEPT_OLD, "not_better_than_current"),
        (
            Wish(),
            measured(current=(-0.3, -0.5, -0.1)),
            Decision.KEPT_OLD,
            "not_better_than_current",
        ),
        (Wish(margin=0.4), measured(current=(0.3, 0.1, 0.5)), Decision.KEPT_OLD, "margin"),
        (
            Wish(),
            measured(current=(0.3, 0.1, 0.5), compared=False),
            Decision.KEPT_OLD,
            "not_compared",
        ),
        (
            Wish(),
            measured(current=(0.3, 0.1, 0.5), same_base=False),
            Decision.KEPT_OLD,
            "other_base",
        ),
        (
            Wish(metric="exact"),
            measured(current=(0.3, 0.1, 0.5)),
            Decision.KEPT_OLD,
            "no_metric",
        ),
        # At least the margin, to the last digit; and where only the verdict is there.
        (Wish(margin=0.3), measured(current=(0.3, 0.1, 0.5)), Decision.PROMOTED, BETTER),
        (Wish(), unscored(), Decision.PROMOTED, "better_than_base"),
        (Wish(), unscored("same"), Decision.KEPT_OLD, "not_better_than_base"),
        (Wish(metric="exact"), unscored(), Decision.KEPT_OLD, "not_compared"),
        (Wish(margin=0.1), unscored(), Decision.KEPT_OLD, "not_compared"),
        (Wish(), unscored(current=A), Decision.KEPT_OLD, "not_compared"),
        # What the spec decides by itself.
        (Wish(when="always"), measured("worse"), Decision.PROMOTED, "always"),
        (Wish(when="never"), measured(), Decision.KEPT_OLD, "never"),
        (Wish(when="approved"), measured(), Decision.AWAITS, "approved"),
    ],
)
def test_the_gate(wish: Wish, found: Measured, decision: Decision, why: str) -> None:
    """Only what is surely better takes the place of what is in use; each answer has its reason."""
    made = decide(wish, found)
    assert (made.decision, made.why) == (decision, why)
    assert made.reason.startswith(
        {"PROMOTED": "Put into use", "KEPT_OLD": "Not put into use", "AWAITS": "Not in use yet"}[
            decision.name
        ]
    )


@pytest.mark.parametrize("current", [None, (0.3, 0.1, 0.5)])
@pytest.mark.parametrize(
    ("fallen", "decision"), [((), Decision.PROMOTED), (("text", "language"), Decision.KEPT_OLD)]
)
def test_what_was_forgotten_keeps_a_better_one_out(
    current: tuple[float, float, float] | None, fallen: tuple[str, ...], decision: Decision
) -> None:
    """Axes that hold do not; those that have fallen are named, whatever it is compared with."""
    found = measured(current=current)
    assert found.evaluation is not None
    axes = tuple(
        Axis(name=name, base=0.8, adapter=0.5, difference=-0.3, has_fallen=name in fallen)
        for name in ("knowledge", "text", "language")
    )
    found = replace(found, evaluation=found.evaluation.model_copy(update={"axes": axes}))
    made = decide(Wish(), found)
    assert made.decision is decision
    assert (made.why, made.names) == (("axes", "text, language") if fallen else (made.why, ""))


def test_a_score_that_was_not_compared_decides_nothing() -> None:
    """The spec asks for one that has no difference to the base: the run is not put into use."""
    found = measured()
    assert found.evaluation is not None
    scores = (*found.evaluation.scores, ScoreSummary(name="chrf", adapter=0.9))
    found = replace(found, evaluation=found.evaluation.model_copy(update={"scores": scores}))
    made = decide(Wish(metric="chrf"), found)
    assert (made.decision, made.why) == (Decision.KEPT_OLD, "not_compared")


def test_a_reason_of_another_version_is_said_as_it_was_written() -> None:
    """A record of a newer runner, with a reason that this one does not know."""
    said = Promotion(decision=Decision.AWAITS, why="moon_is_full", reason="It waits for the moon.")
    for language in Language:
        assert promotion_in(said, Speaker(language)) == "It waits for the moon."


def test_an_adapter_without_effect_is_not_put_into_use() -> None:
    """Whatever the intervals say: it changes nothing."""
    found = measured(current=(0.3, 0.1, 0.5))
    assert found.verdict is not None
    same = replace(found, verdict=found.verdict.model_copy(update={"changed": False}))
    assert decide(Wish(), same).why == "not_better_than_base"
    unjudged = replace(found, verdict=None)
    assert decide(Wish(), unjudged).why == "cannot_tell"


def test_the_reason_has_the_figures() -> None:
    """The difference with its interval and rows; of experts' marks the share of decided pairs."""
    made = decide(Wish(), measured(current=(0.3, 0.1, 0.5)))
    assert (
        "“loss of the expected answers”: +0.300 (+0.100 to +0.500 with 95% confidence, on 40 rows)"
        in made.reason
    )
    assert f"better than {A}," in made.reason
    bare = decide(Wish(), unscored())
    assert "confidence" not in bare.reason
    assert "measured were loss." in decide(Wish(metric="exact"), measured()).reason
    none = measured()
    none = replace(none, evaluation=Evaluation(scores=()))
    assert "measured were none." in decide(Wish(metric="exact"), none).reason
    rating = Rating(better=21, worse=9, ties=3, low=0.52, high=0.83, against="base", at=NOW)
    by_marks = approved_by_marks(rating, is_against_current=True)
    assert by_marks.rows == 30
    assert "52% to 83% with 95% confidence" in by_marks.reason


@pytest.mark.parametrize(
    ("difference", "is_older", "decision", "why"),
    [
        (0.3, False, Decision.PROMOTED, "better_than_current"),
        (0.3, True, Decision.AWAITS, "again"),
        (0.1, False, Decision.KEPT_OLD, "not_better_than_current"),
        (0.1, True, Decision.KEPT_OLD, "not_better_than_current"),
    ],
)
def test_measuring_again_undoes_nothing_newer(
    difference: float,
    is_older: bool,  # noqa: FBT001  a column of the table above
    decision: Decision,
    why: str,
) -> None:
    """What is better waits for a person where a newer run, or a person's choice, is in use."""
    figures = (difference, difference - 0.2, difference + 0.2)
    found = decide(Wish(), measured(current=figures))
    made = after_asking(found, is_older=is_older)
    assert (made.decision, made.why) == (decision, why)
    assert f"{difference:+.3f}" in made.reason
    assert (made.reason == found.reason) is (why != "again")


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    """Three runs of one job that have succeeded."""
    found = Outputs(tmp_path)
    for run_id in (A, B, C):
        run = found.run("job", run_id)
        run.adapter.mkdir(parents=True)
        (run.adapter / "adapter_model.safetensors").touch()
        write_record(run.record, record(job="job", run_id=run_id, state=State.SUCCEEDED))
    return found


def put(outputs: Outputs, run_id: str) -> bool:
    """Promote a run as the gate does."""
    return promote(outputs, outputs.run("job", run_id), why="it is better", by=GATE)


def leads_to(outputs: Outputs) -> str:
    """Follow `current` as whoever serves it does."""
    assert (outputs.current("job") / "adapter").is_dir()
    return os.readlink(outputs.current("job"))


def test_history_and_link_say_the_same(outputs: Outputs) -> None:
    """Who, when, why, and what was before; a second time is no change."""
    assert put(outputs, A)
    assert put(outputs, B)
    assert not put(outputs, B)
    assert leads_to(outputs) == current_run(outputs, "job") == B
    first, second = read_promotions(outputs, "job")
    assert (first.run_id, first.before, first.how) == (A, None, How.PROMOTED)
    assert (second.run_id, second.before, second.by) == (B, A, GATE)


def test_rolling_back_goes_back_step_by_step(outputs: Outputs) -> None:
    """Two rollbacks go two promotions back, and a request that is asked again goes one."""
    for run_id in (A, B, C):
        put(outputs, run_id)
    assert roll_back(outputs, "job", by="alice", request="1.json") == B
    assert roll_back(outputs, "job", by="alice", request="1.json") is None
    assert leads_to(outputs) == B
    assert roll_back(outputs, "job", by="alice") == A
    assert leads_to(outputs) == A
    with pytest.raises(NotPromotableError, match="no earlier run"):
        roll_back(outputs, "job", by="alice")
    put(outputs, C)
    assert roll_back(outputs, "job", by="alice") == A
    assert [one.how.value for one in read_promotions(outputs, "job")][-1] == "rolled back"


def test_a_rollback_passes_over_an_adapter_that_is_gone(outputs: Outputs) -> None:
    """What was deleted by hand cannot be served."""
    for run_id in (A, B, C):
        put(outputs, run_id)
    (outputs.run("job", B).adapter / "adapter_model.safetensors").unlink()
    assert roll_back(outputs, "job", by="alice") == A


@pytest.mark.parametrize(
    ("noted", "there", "lacks"),
    [
        ({"a.json": "1", "b.json": "2"}, ("a.json", "b.json"), None),
        ({"a.json": "1", "b.json": "2", "c.json": "3"}, ("a.json",), "b.json"),
        ({"a.json": "1"}, ("adapter_model.safetensors",), "a.json"),
        ({"7": "1"}, ("7",), None),
        # An older run, or one whose note is damaged: the weights have to be there.
        ({}, ("adapter_model.safetensors",), None),
        ({}, ("a.json",), "adapter_model.safetensors"),
        (["a.json"], ("a.json",), "adapter_model.safetensors"),
        (None, (), "adapter_model.safetensors"),
        ({"folder": "1"}, ("folder/x",), "folder"),
    ],
)
def test_a_run_is_promoted_with_a_whole_adapter_only(
    tmp_path: Path, noted: object, there: tuple[str, ...], lacks: str | None
) -> None:
    """Each file that the record notes is there; the first that is not is named."""
    run = Outputs(tmp_path).run("job", A)
    run.adapter.mkdir(parents=True)
    for name in there:
        (run.adapter / name).parent.mkdir(exist_ok=True)
        (run.adapter / name).touch()
    metrics = {} if noted is None else {"adapter_files": noted}
    write_record(run.record, record(job="job", run_id=A, state=State.SUCCEEDED, metrics=metrics))
    if lacks is None:
        assert check_promotable(run).run_id == A
        return
    with pytest.raises(NotPromotableError, match=f"adapter/ lacks {re.escape(lacks)}$"):
        check_promotable(run)


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.EXPORTING])
def test_a_run_that_has_not_succeeded_is_not_promoted(tmp_path: Path, state: State) -> None:
    """Whatever lies in its folder; its state is named."""
    run = Outputs(tmp_path).run("job", A)
    run.adapter.mkdir(parents=True)
    (run.adapter / "adapter_model.safetensors").touch()
    write_record(run.record, record(job="job", run_id=A, state=state))
    with pytest.raises(NotPromotableError, match=f"it is {state.value}"):
        check_promotable(run)


def test_a_torn_line_and_a_wrong_link_are_healed(outputs: Outputs) -> None:
    """A power cut leaves half a line; somebody's hand leaves another link, a folder or nothing."""
    put(outputs, A)
    put(outputs, B)
    with outputs.promotions("job").open("ab") as file:
        file.write(b'{"time": "2026-11-2')
    link = outputs.current("job")
    for wrong in ("link", "folder", "nothing"):
        link.unlink()
        if wrong == "link":
            link.symlink_to("/etc")
        if wrong == "folder":
            link.mkdir()
            (link / "mine").touch()
        assert heal(outputs, "job") is None
        assert leads_to(outputs) == B
    (aside,) = (outputs.root / "job").glob("current.set-aside-*/mine")
    assert aside.exists()
    put(outputs, C)
    assert [one.run_id for one in read_promotions(outputs, "job")] == [A, B, C]


def test_where_there_are_no_links_a_text_names_the_run(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk formatted as exFAT, or a share without them."""

    def no_links(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(promotions.os, "symlink", no_links)
    put(outputs, A)
    put(outputs, B)
    assert outputs.current_text("job").read_text() == f"{B}\n"
    assert current_run(outputs, "job") == B


def test_ten_thousand_changes_hold_nothing_up(outputs: Outputs) -> None:
    """What is in use is read from the history's end, and a rollback follows it in one go."""
    names = [f"2026112{n % 10}T{n:06d}Z-aaa1" for n in range(10_000)]
    changes = [
        Change(time=NOW, how=How.PROMOTED, run_id=name, before=before, why="better", by=GATE)
        for before, name in zip([None, *names], names, strict=False)
    ]
    last = Change(time=NOW, how=How.PROMOTED, run_id=A, before=names[-1], why="better", by=GATE)
    text = "".join(f"{one.model_dump_json()}\n" for one in (*changes, last))
    outputs.promotions("job").write_text(text)
    began = time.process_time()
    assert current_run(outputs, "job") == A
    assert time.process_time() - began < 0.05
    put(outputs, B)
    began = time.process_time()
    assert roll_back(outputs, "job", by="alice") == A
    assert time.process_time() - began < 2.5  # 0.7 measured, of which 0.4 look for adapters


def test_a_history_that_is_gone_leaves_the_link(outputs: Outputs) -> None:
    """Deleted by hand, or torn lines alone: what `current` leads to is still compared with."""
    put(outputs, A)
    outputs.promotions("job").write_text("{\n")
    assert current_run(outputs, "job") == A
    outputs.promotions("job").unlink()
    assert current_run(outputs, "job") == A
    outputs.current("job").unlink()
    outputs.current("job").symlink_to("/etc")
    assert current_run(outputs, "job") is None


def test_a_text_of_a_disk_without_links_does_not_stay(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the outputs lie on a disk with links, two answers would contradict each other."""

    def no_links(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    with monkeypatch.context() as patched:
        patched.setattr(promotions.os, "symlink", no_links)
        put(outputs, A)
        assert current_run(outputs, "job") == A
    heal(outputs, "job")
    assert leads_to(outputs) == A
    assert not outputs.current_text("job").exists()


def judged(outputs: Outputs) -> Promotion:
    """Ask the gate about C, which was measured against the base model alone."""
    found = measured()
    after = record(job="job", run_id=C, verdict=found.verdict, evaluation=found.evaluation)
    spec = read_spec(b"model: m\ndata: d.jsonl\nname: job\n", file_name="job.yaml")
    return judge_promotion(outputs, outputs.run("job", C), after, spec)


def test_a_deleted_adapter_does_not_block_the_next(outputs: Outputs) -> None:
    """Nobody can be compared with what is gone, and nobody is served by it."""
    put(outputs, A)
    assert judged(outputs).why == "not_compared"
    shutil.rmtree(outputs.run("job", A).root)
    assert (judged(outputs).decision, judged(outputs).why) == (
        Decision.PROMOTED,
        "better_than_base",
    )


def test_an_unreadable_history_lets_nothing_pass(outputs: Outputs) -> None:
    """What is in use is not known: it is not taken for nothing."""
    put(outputs, A)
    outputs.promotions("job").unlink()
    outputs.promotions("job").mkdir()
    assert judged(outputs).why == "unknown_current"
    assert judged(outputs).decision is Decision.AWAITS


@pytest.mark.parametrize("named", ["../../etc", "current", "20261121T020000Z-aaa1/../x"])
def test_a_history_that_names_no_run_leads_nowhere(outputs: Outputs, named: str) -> None:
    """A path that somebody wrote into the last line leads no evaluation out of the job's folder."""
    put(outputs, A)
    with outputs.promotions("job").open("ab") as file:
        line = {"time": "2026-11-28T00:00:00Z", "how": "promoted", "run_id": named}
        file.write(json.dumps(line | {"why": "", "by": "me"}).encode() + b"\n")
    with pytest.raises(OSError, match="names no run"):
        known_current(outputs, "job")
    assert current_run(outputs, "job") is None
    assert judged(outputs).why == "unknown_current"
    assert "names no run" in str(heal(outputs, "job"))
    assert leads_to(outputs) == A


def test_a_request_is_carried_out_once(outputs: Outputs) -> None:
    """A daemon that is killed after a request asks again: what came into use since stays so."""
    run = outputs.run("job", A)
    assert promote(outputs, run, why="asked for", by="me", request="r1")
    assert put(outputs, B)
    assert not promote(outputs, run, why="asked for", by="me", request="r1")
    assert leads_to(outputs) == B
    assert [one.run_id for one in read_promotions(outputs, "job")] == [A, B]
