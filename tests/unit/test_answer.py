"""The words that people read beside their specs."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runner.clock import now
from runner.contract.findings import DataFinding, Level, Place, in_short
from runner.contract.progress import Progress
from runner.contract.record import ErrorFacts, RunRecord, Waiting
from runner.contract.states import State
from runner.contract.verdict import Figures, judge, loss_meaning
from runner.daemon.inbox.answer import Beside, answer, shown_paths
from runner.daemon.inbox.status_txt import status_txt
from runner.language.speaker import Language, Speaker
from runner.training.checks.row_loss import RowLoss
from runner.training.checks.row_loss import judge as judge_losses
from runner.training.evaluate.answers_page import answers_page
from runner.words import local_time


def record(**changes: Any) -> RunRecord:
    """Make a record."""
    fields: dict[str, Any] = {
        "job": "contracts",
        "run_id": "20261123T221005Z-k3f9",
        "state": State.QUEUED,
        "file_name": "contracts.yaml",
        "created_at": now(),
        "spec_sha256": "0" * 64,
        **changes,
    }
    return RunRecord(**fields)


def test_a_queued_spec_learns_its_place() -> None:
    """Accepted, and when it is its turn."""
    assert "It is number 3 in the queue." in answer(record(), place=3)
    assert "It is next." in answer(record(), place=1)


def test_waiting_says_for_what() -> None:
    """A job that does not go on says why."""
    text = answer(record(waiting=Waiting(reason="waiting for a.jsonl", since=now())))
    assert "\nWaiting for a.jsonl (since " in text
    near = "there is an A.jsonl: did you mean that?"
    text = answer(record(waiting=Waiting(reason="waiting for a.jsonl", since=now(), advice=near)))
    assert f"\nWhat to do: {near}" in text


def test_an_answer_names_the_first_advice_about_the_data() -> None:
    """Three findings at most, with lines and what to do; information stays in the report."""

    def finding(name: str, level: Level, *lines: int) -> DataFinding:
        places = tuple(Place(file="a.jsonl", line=line) for line in lines)
        return DataFinding(
            check=name, level=level, count=9, message=f"Found {name}.", advice="Act.", places=places
        )

    found = [finding(f"advice {n}", Level.ADVISE, n, 40) for n in range(1, 6)]
    found += [finding("information", Level.INFORM, 1)]
    text = answer(record(findings=found))
    assert "About your data: Found advice 1. See a.jsonl, lines 1 and 40. Act.\n" in text
    assert "Found advice 3." in text
    assert "Found advice 4." not in text
    assert "2 more things to look at; report.html says which." in text
    assert "information" not in text
    assert "About your data" not in answer(record(findings=found[-1:]))


def test_training_shows_progress_and_eta() -> None:
    """Step, loss and the time that is left."""
    training = record(state=State.TRAINING, total_steps=120)
    text = answer(
        training, progress=Progress(step=20, total_steps=120, loss=1.25, eta_seconds=600.0)
    )
    assert "step 20 of 120, loss 1.250, about 10 min left" in text
    starting = answer(training, progress=Progress(total_steps=120))
    assert "step 0 of 120, loading the model" in starting


def test_an_end_says_what_to_do_next() -> None:
    """A failure comes with its advice, and with how to try again."""
    error = ErrorFacts(kind="diverged", message="The loss is NaN.", advice="Lower the rate.")
    text = answer(record(state=State.FAILED, error=error))
    assert "The loss is NaN.\nWhat to do: Lower the rate." in text
    assert "drop the spec into the inbox" in text


def test_status_opens_with_what_needs_a_person() -> None:
    """The first line of STATUS.txt is for the one who has to act."""
    text = status_txt(needs_person=["The queue is held: no GPU."], live=[record()], ended=[])
    assert text.startswith("Needs a person:\n  The queue is held: no GPU.\n")
    assert status_txt(needs_person=[], live=[], ended=[]).startswith("Nothing needs a person.")


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that stands in Berlin."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_times_are_those_of_the_box(berlin: None) -> None:
    """Nobody has to count hours: the zone is the box's, and another day is named."""
    assert local_time(datetime(2026, 1, 2, 12, 0, tzinfo=UTC)) == "2026-01-02 13:00"
    assert local_time(datetime(2026, 7, 2, 12, 0, tzinfo=UTC)) == "2026-07-02 14:00"
    waiting = Waiting(
        reason="waiting for jobs/data/x.jsonl",
        since=datetime(2026, 1, 2, 12, 0, tzinfo=UTC),
        until=datetime(2026, 1, 2, 12, 10, tzinfo=UTC),
    )
    assert (
        "Waiting for jobs/data/x.jsonl. If it has not arrived by 2026-01-02 13:10, the job is "
        "rejected." in answer(record(waiting=waiting))
    )


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        ("", "see outputs/a/b.log, and jobs/data/x y.jsonl."),
        (r"\\server", r"see \\server\outputs\a\b.log, and \\server\jobs\data\x y.jsonl."),
        ("\\\\srv\\", r"see \\srv\outputs\a\b.log, and \\srv\jobs\data\x y.jsonl."),
        ("/Volumes", "see /Volumes/outputs/a/b.log, and /Volumes/jobs/data/x y.jsonl."),
        ("smb://server", "see smb://server/outputs/a/b.log, and smb://server/jobs/data/x y.jsonl."),
    ],
)
def test_paths_are_those_of_the_share(share: str, shown: str) -> None:
    """With the share's name set, every path can be pasted into the Explorer or the Finder."""
    assert shown_paths("see outputs/a/b.log, and jobs/data/x y.jsonl.", share) == shown
    run = record(state=State.SUCCEEDED)
    assert (r"\\s\outputs\contracts" in answer(run, beside=Beside(share_name=r"\\s"))) is True


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (5.733, 5.638, "10% more likely"),
        (1.0, 1.2, "18% less likely"),
        (3.0, 1.0, "7.4 times as likely"),
        (1.0, 1.0001, "no more often"),
        (float("nan"), 1.0, None),
        (1000.0, 1.0, None),
    ],
)
def test_a_loss_says_what_it_means(before: float, after: float, says: str | None) -> None:
    """Which way is better, and how much it is, in words that need no training course."""
    meaning = loss_meaning(before, after)
    assert meaning is None if says is None else says in str(meaning)
    if says and "likely" in says:
        metrics = {"eval_loss_before": before, "eval_loss_after": after}
        text = answer(record(state=State.SUCCEEDED, metrics=metrics))
        assert f"{before:.3f} before, {after:.3f} after" in text
        assert "Lower is better." in text


def test_an_answer_opens_with_the_verdict_and_what_the_numbers_mean() -> None:
    """Whether it is better comes first, then what so many rows can show, then how much it is."""
    figures = Figures(
        loss_before=3.0, loss_after=1.5, held_out_rows=40, change_low=-1.7, change_high=-1.3
    )
    verdict = judge(figures, adapter_is_zero=False, rows_changed=40)
    metrics = {"eval_loss_before": 3.0, "eval_loss_after": 1.5}
    text = answer(record(state=State.SUCCEEDED, verdict=verdict, metrics=metrics))
    headline, reason, points, meaning, *_ = text.splitlines()
    assert headline == "contracts: succeeded"
    assert reason == verdict.reason
    assert "40 held-out rows can show a difference of about 24 percentage points" in points
    assert "4.5 times as likely" in meaning  # e to the power of 1.5


def test_a_run_that_did_no_good_is_not_headed_as_a_success() -> None:
    """Beside the spec and in STATUS.txt: the first words already ask to read on."""
    verdict = judge(Figures(held_out_rows=40), adapter_is_zero=True, rows_changed=0)
    did_no_good = record(state=State.SUCCEEDED, verdict=verdict, ended_at=now())
    said = "finished, but please read this before you use the adapter"
    assert answer(did_no_good).splitlines()[:2] == [f"contracts: {said}", verdict.reason]
    assert said in status_txt(needs_person=(), live=(), ended=[did_no_good])


@pytest.mark.parametrize("state", [State.PREPARING, State.TRAINING, State.EXPORTING])
def test_a_running_job_says_how_long_it_takes(state: State) -> None:
    """Every answer of a running job speaks of the time that is left, or when it will be known."""
    running = record(state=state, total_steps=9)
    text = answer(running, progress=Progress() if state is State.TRAINING else None)
    assert "takes" in text or "time left" in text
    forecast = record(state=State.TRAINING, total_steps=9, forecast={"seconds": 7200.0})
    assert "The forecast is 2 h 00 min in all." in answer(forecast, progress=Progress())


def test_the_time_left_comes_with_the_time_of_day() -> None:
    """Whoever reads it at lunch knows whether it will be there before the evening."""
    training = record(state=State.TRAINING, total_steps=120)
    text = answer(training, progress=Progress(step=20, loss=1.25, eta_seconds=600.0))
    end = now() + timedelta(minutes=10)
    near = {local_time(end + timedelta(minutes=m)) for m in range(-2, 7)}
    assert any(f"(until about {time})" in text for time in near)


def test_the_answers_before_and_after_can_be_read_in_notepad() -> None:
    """Question, both answers and the expected one; control characters are shown, not obeyed."""
    page = answers_page(
        [
            {
                "question": "How long?\x1b[31m",
                "before": "",
                "after": "4 weeks",
                "reference": "4 w.",
            }
        ]
    )
    order = [page.index(part) for part in ("How long?", "(nothing)", "4 weeks\n", "4 w.")]
    assert order == sorted(order)
    assert "\x1b" not in page
    text = answer(
        record(state=State.SUCCEEDED), beside=Beside(answers="outputs/a/evaluation/answers.txt")
    )
    assert "Answers before and after, to compare: outputs/a/evaluation/answers.txt" in text


GERMAN = Speaker(Language.GERMAN)


@pytest.mark.parametrize("state", list(State))
def test_an_answer_in_german_has_no_english_line(state: State) -> None:
    """Frame, state, verdict, waiting and memory story are German; each line differs."""
    waiting = Waiting(reason="waiting for jobs/x.jsonl", since=now(), until=now())
    figures = Figures(loss_before=2.0, loss_after=1.0, held_out_rows=120)
    made = record(
        state=state,
        waiting=waiting,
        verdict=judge(figures, adapter_is_zero=False, rows_changed=9),
        metrics={"eval_loss_before": 2.0, "eval_loss_after": 1.0},
        started_at=now(),
        ended_at=now(),
    )
    beside = Beside(bad_rows="b.txt", report="r.html", answers="outputs/a/answers.txt")
    progress = Progress(step=3, loss=1.5, eta_seconds=99.0)
    how = {"place": 2, "progress": progress, "beside": beside}
    english, german = answer(made, **how), answer(made, **how, speak=GERMAN)
    assert len(english.splitlines()) == len(german.splitlines())
    same = {line for line in english.splitlines() if line.strip()} & set(german.splitlines())
    assert same == set()


def test_status_txt_in_german() -> None:
    """STATUS.txt opens with what needs a person, in the box's language."""
    live = [record(state=State.TRAINING)]
    text = status_txt(needs_person=["x"], live=live, ended=[record()], speak=GERMAN)
    assert text.startswith("Das braucht einen Menschen:\n  x\n")
    assert "wird trainiert" in text
    assert "Kürzlich beendet:" in text


@pytest.mark.parametrize(
    ("language", "told"),
    [
        (Language.ENGLISH, "far less likely than the others: 1 of 40 rows that were measured"),
        (Language.GERMAN, "weit weniger wahrscheinlich als die übrigen: 1 von 40 gemessenen"),
    ],
)
def test_an_answer_that_the_base_did_not_expect_is_named_beside_the_spec(
    language: Language, told: str
) -> None:
    """What stands out by its loss is advice, with its line, and of how many rows it was one."""
    losses = [0.01 * n for n in range(39)] + [7.5]
    rows = [RowLoss(place=Place(file="a.jsonl", line=n), loss=x) for n, x in enumerate(losses, 1)]
    found = in_short(judge_losses(rows, {}, learned=1200))
    text = answer(record(state=State.SUCCEEDED, findings=found), speak=Speaker(language))
    assert told in text
    assert "1.200 werden gelernt" in text or "1,200 are learned" in text
    assert "a.jsonl, Zeile 40" in text or "a.jsonl, line 40" in text
