"""The report: what a run's folder tells, on one page that is safe, small and always the same."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import (
    HALF,
    ID,
    NOW,
    PLAN,
    attempt,
    make_hostile_run,
    make_run,
    record,
    step,
    write_lines,
)

from runner.commands.page import Page
from runner.commands.status import read_overview
from runner.commands.status import render as render_status
from runner.contract.batch import describe_change
from runner.contract.ended import EndedRun, stamp_of, write_ended
from runner.contract.evaluation import Axis, Evaluation, Form, ScoreSummary
from runner.contract.findings import DataFinding, Level, Place
from runner.contract.gate import Decision, Promotion
from runner.contract.handed_over import HandedOver, ServedForm
from runner.contract.in_use import use_among
from runner.contract.layout import Outputs, RunFolder
from runner.contract.preview import Preview, PreviewRow, Token, write_preview
from runner.contract.promotions import GATE, promote, read_promotions
from runner.contract.record import ErrorFacts, write_record
from runner.contract.row_losses import MeasuredRow, RowLosses, write_row_losses
from runner.contract.states import State
from runner.contract.verdict import Outcome, Scored
from runner.language.speaker import ENGLISH, Language, Speaker
from runner.language.texts import table
from runner.report.charts import ticks
from runner.report.curve import read_curve, thinned
from runner.report.gather import gather
from runner.report.index import index_page
from runner.report.page import MOST_BYTES, page
from runner.report.preview import row_of
from runner.report.scores import improvement
from runner.training.checks.row_loss import RowLoss
from runner.training.checks.row_loss import judge as judge_losses

GERMAN = Speaker(Language.GERMAN)


class Parts(HTMLParser):
    """What a browser would see: tags with their attributes, and texts."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.foreign = 0
        self.native: list[str] = []
        self._open: list[bool] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def report(run: RunFolder, speak: Speaker = ENGLISH) -> str:
    """Write a run's report."""
    return page(gather(run), speak, now=NOW)


def test_the_first_screen_answers_both_questions(tmp_path: Path) -> None:
    """Is the model better, and would I use it? Both stand in the card, before anything else."""
    text = report(make_run(tmp_path))
    card = text[text.index('id="result"') : text.index("<nav")]
    assert "Is the model better?" in card
    assert ">Yes<" in card
    assert "The model has become better" in card
    assert "by more than chance explains with 120 rows" in card
    assert "2.7 times as likely" in card  # e to the power of 1


def test_the_first_screen_says_what_was_not_learned(tmp_path: Path) -> None:
    """Rows kept aside, rows that were too long, and where what else stood out is said."""
    run = make_run(tmp_path)
    asked = "What did it not learn?"
    card = report(run).partition("<nav")[0]
    assert card.index("Should I use it?") < card.index(asked) < card.index("Why")
    assert "120 rows that were kept aside to test it." in card
    assert 'More about the data: <a href="#happened">What happened</a>.' in card
    made = record()
    found = DataFinding(check="few_rows", level=Level.ADVISE, count=1, message="few")
    write_record(run.record, made.but(findings=(found,)))
    assert 'More about the data: <a href="#findings">What the checks found' in report(run)
    for metrics, said in (
        ({"eval_rows": 1, "left_out_rows": 3}, ("1 row that was kept aside", "3 rows that were")),
        ({"eval_rows": 0, "left_out_rows": 1}, ("1 row that was too long.",)),
        ({"eval_rows": 0, "left_out_rows": 0}, ("Every row was learned.",)),
    ):
        changed = made.but(metrics={**made.metrics, "train_rows": 1, **metrics})
        write_record(run.record, changed)
        card = report(run).partition("<nav")[0]
        assert all(one in card for one in said)
    ended = made.attempts[-1].model_copy(update={"last_step": 16})
    cut = made.but(
        metrics={**made.metrics, "train_rows": 488, "eval_rows": 15, "left_out_rows": 0},
        attempts=(ended,),
        effective_batch_size=8,
    )
    write_record(run.record, cut)
    card = report(run).partition("<nav")[0]
    assert "360 rows: it ended after 16 steps, before it came to them." in card
    assert "Every row was learned." not in card
    assert re.search(r">\s*128\s*<", card)
    assert "of 488" in card
    write_record(run.record, made.but(metrics={}))
    assert asked not in report(run).partition("<nav")[0], "it is not known"


def test_a_lower_loss_alone_does_not_say_that_answers_are_right(tmp_path: Path) -> None:
    """Whether to use it is for who reads the answers, unless a score says how many are right."""
    run = make_run(tmp_path)
    card = report(run).partition("<nav")[0]
    assert "Not yet. Read its answers first: better than before does not mean right." in card
    assert "That is not a share of right answers." in card
    assert "success rates" not in card
    made = record()
    assert made.verdict is not None
    scored = Scored(name="exact_match", before=0.1, after=0.9)
    figures = made.verdict.figures.model_copy(update={"scores": (scored,)})
    verdict = made.verdict.model_copy(update={"figures": figures})
    write_record(run.record, made.but(verdict=verdict))
    card = report(run).partition("<nav")[0]
    assert "numbers alone do not judge wording" in card
    assert "success rates" in card


def test_the_curve_is_each_attempts_steps_that_count(tmp_path: Path) -> None:
    """The steps that ran again after an out-of-memory stand in the curve once, as they count."""
    run = make_run(tmp_path)
    curve = read_curve(run, record())
    assert curve.series["train"].points == tuple((n, 3.0 / n) for n in range(1, 7))
    assert curve.series["eval"].points == ((2, 1.75), (4, 1.25))
    text = report(run)
    assert "ran out of memory in attempt 1, after step 3" in text
    assert "the result is not affected" in text


def test_a_held_out_loss_that_was_owed_belongs_to_the_step_before(tmp_path: Path) -> None:
    """An attempt that begins with a measurement shows it; a step that ran before it does not."""
    run = make_run(tmp_path)
    owed = [{"step": 3, "eval_loss": 1.5}, {"step": 2, "eval_loss": 9.0}, step(3, loss=99.0)]
    write_lines(run, 2, [*owed, step(4), step(5), step(6)])
    curve = read_curve(run, record())
    assert curve.series["eval"].points == ((2, 1.75), (3, 1.5))
    assert curve.series["train"].points[2] == (3, 1.0)


def test_lines_that_are_not_ours_are_passed_over(tmp_path: Path) -> None:
    """A torn line, a line of a megabyte, NaN and lists cost the other points nothing."""
    run = make_run(tmp_path)
    metrics = run.attempt(2) / "metrics.jsonl"
    lines = [
        b"[1]",
        b'{"step": "x"}',
        b'{"step": 5, "loss": NaN}',
        b'{"a": "' + b"x" * 2**20,
        b"\xff",
    ]
    metrics.write_bytes(
        b"\n".join(lines) + b"\n" + json.dumps(step(6)).encode() + b'\n{"step": 6, "lo'
    )
    points = read_curve(run, record()).series["train"].points
    assert points == ((1, 3.0), (2, 1.5), (3, 1.0), (6, 0.5))


@pytest.mark.parametrize("speak", [ENGLISH, GERMAN], ids=["en", "de"])
def test_answers_of_served_files_stand_beside_the_adapters(tmp_path: Path, speak: Speaker) -> None:
    """For each GGUF file and question; an answer to another question, and a folder's, are none."""
    names = ("merged", "q8_0", "q4_k_m", "adapter_gguf", "../adapter/x")
    forms = tuple(ServedForm(name=name, path=f"gguf/{name}.gguf", bytes=1) for name in names)
    run = make_run(tmp_path, record(handed_over=HandedOver(forms=forms)))
    run.hand_over.mkdir()
    said = {"question": "How?", "answer": "So <served>."}
    (run.hand_over / "q8_0-answers.json").write_text(json.dumps([said]))
    (run.hand_over / "adapter_gguf-answers.json").write_text(json.dumps([{"question": "Why?"}]))
    (run.hand_over / "q4_k_m-answers.json").mkdir()
    (run.adapter / "x-answers.json").write_text(json.dumps([said]))
    text = report(run, speak)
    assert text.count("So &lt;served&gt;.") == 1
    assert "q8_0 in llama.cpp" in text
    assert "adapter_gguf in llama.cpp" not in text


@pytest.mark.parametrize(
    "hostile", ["folder", "link", "pipe", "garbage", "missing", "null", "numbers", "list"]
)
def test_any_file_may_be_hostile_or_missing(tmp_path: Path, hostile: str) -> None:
    """Whatever lies where a file should be, a report is written, and at once."""
    import os

    run = make_run(tmp_path)
    files = [
        run.spec,
        run.attempt(1) / "metrics.jsonl",
        run.evaluation / "samples.json",
        run.evaluation / "losses.json",
        run.extremes,
        run.findings,
        run.preview,
        run.adapter / "README.md",
    ]
    for path in files:
        path.unlink()
        if hostile == "folder":
            path.mkdir()
        elif hostile == "link":
            path.symlink_to("/etc/passwd")
        elif hostile == "pipe":
            os.mkfifo(path)
        elif hostile != "missing":
            contents = {"garbage": b"\xff{[", "null": b"null", "numbers": b"[1, null]"}
            path.write_bytes(contents.get(hostile, b'[{"question": 1, "row": "x"}]'))
    text = report(run)
    assert "The model has become better" in text
    assert "root:" not in text


@pytest.mark.parametrize("speak", [ENGLISH, GERMAN], ids=["en", "de"])
def test_user_data_stays_text(tmp_path: Path, speak: Speaker) -> None:
    """Scripts, styles, links and template marks in any field of a user's are shown, not obeyed."""
    run = make_hostile_run(tmp_path)
    text = report(run, speak)
    parts = Parts(text)
    assert not {tag for tag, _ in parts.tags} & {
        "script",
        "img",
        "iframe",
        "object",
        "link",
        "base",
    }
    assert not [a for _, given in parts.tags for a in given if a.startswith("on") or a == "style"]
    assert {given["href"][:1] for tag, given in parts.tags if tag == "a"} == {"#"}
    assert text.count("<style>") == 1
    assert text.count("</style>") == 1
    assert "{{ 7*7 }}" in text
    assert ">49" not in text
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", text)
    opened = re.findall(r"<(/?)(mark|pre|i|b|em)\b", text[text.index('class="tokens"') :])
    for name in ("mark", "pre", "i", "b"):
        kinds = [close for close, tag in opened if tag == name]
        assert kinds.count("/") == len(kinds) - kinds.count("/") + (name == "pre")


def test_a_german_page_has_no_english_leftovers(tmp_path: Path) -> None:
    """No text of the table stands on a German page in English."""
    run = make_run(tmp_path)
    texts = {text.strip() for text in Parts(report(run, GERMAN)).texts}
    english = {said["en"] for said in table().values() if said["en"] != said["de"]}
    assert texts & english == set()
    assert 'lang="de"' in report(run, GERMAN)
    assert '<span lang="en">2 rows longer than 9 tokens left out</span>' in report(run, GERMAN)


@pytest.mark.parametrize("speak", [ENGLISH, GERMAN], ids=["en", "de"])
def test_scores_and_what_was_forgotten_are_shown(tmp_path: Path, speak: Speaker) -> None:
    """Each score with base, base with examples and adapter; what has fallen is named so."""
    score = ScoreSummary(
        name="field.category",
        base=0.05,
        adapter=0.9,
        examples=0.4,
        difference=0.85,
        low=0.7,
        high=0.95,
        rows=40,
    )
    axis = Axis(name="knowledge", base=0.8, adapter=0.5, difference=-0.3, has_fallen=True)
    found = Evaluation(scores=(score,), axes=(axis,))
    page_ = report(make_run(tmp_path, record(evaluation=found)), speak)
    texts = [text.strip() for text in Parts(page_).texts]
    for name in (speak("score_field", name="category"), speak("scores_title")):
        assert name in texts
    shown = [speak.percent(0.05), speak.percent(0.4), speak.percent(0.9)]
    at = texts.index(shown[0])
    assert [text for text in texts[at:] if text][:3] == shown
    assert f"{speak('axis_knowledge')} ({speak('axis_fallen')})" in texts
    assert 'href="#scores"' in page_


@pytest.mark.parametrize("form", ["original", "as_trained"])
@pytest.mark.parametrize("speak", [ENGLISH, GERMAN], ids=["en", "de"])
def test_scores_on_the_other_form_are_a_table_of_their_own(
    tmp_path: Path, speak: Speaker, form: Form
) -> None:
    """An adapter that is served on another base than it was trained on shows both, told apart."""
    score = ScoreSummary(name="field.category", base=0.05, adapter=0.41, rows=40)
    there = score.model_copy(update={"adapter": 0.93})
    found = Evaluation(form=form, scores=(score,), other_form=(there,))
    texts = [
        t.strip() for t in Parts(report(make_run(tmp_path, record(evaluation=found)), speak)).texts
    ]
    caption = texts.index(speak(f"served_{form}_caption"))
    assert texts.index(speak.percent(0.41)) < caption < texts.index(speak.percent(0.93))
    alone = record(evaluation=found.model_copy(update={"other_form": ()}))
    assert speak(f"served_{form}_caption") not in report(make_run(tmp_path / "alone", alone), speak)


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    """Nothing of the hour or of chance is in the report of a run that is over."""
    run = make_run(tmp_path)
    later = page(gather(run), ENGLISH, now=NOW + timedelta(days=3))
    assert report(run) == later


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (State.QUEUED, "waits for its turn"),
        (State.PREPARING, "being checked"),
        (State.TRAINING, "being trained"),
        (State.EXPORTING, "being written"),
        (State.EVALUATING, "being tested"),
        (State.INTERRUPTED, "continues by itself"),
        (State.FAILED, "has failed"),
        (State.REJECTED, "was rejected"),
        (State.CANCELLED, "was cancelled"),
    ],
)
def test_every_state_has_its_page(tmp_path: Path, state: State, words: str) -> None:
    """A run that waits, works or ended badly says so, and why, before anything else."""
    error = ErrorFacts(kind="x", message="The disk was full.", advice="Free space.")
    made = record(state=state, verdict=None, error=error if state.is_final else None, attempts=())
    text = report(make_run(tmp_path, made))
    card = text[text.index('id="result"') : text.index("<nav")]
    assert words in card
    if state.is_final:
        assert "The disk was full." in card
        assert "Free space." in card
        assert "There is no new model." in card


def test_long_answers_and_curves_fit_on_a_page(tmp_path: Path) -> None:
    """Long data is cut with a note and long curves are thinned: a page has at most a megabyte."""
    run = make_run(tmp_path)
    samples = [dict.fromkeys(("question", "before", "after", "reference"), "x <y>" * 99_999)] * 9
    (run.evaluation / "samples.json").write_text(json.dumps(samples))
    write_lines(run, 1, [step(n) for n in range(1, 4)])
    many = record(attempts=(attempt(1, PLAN, first=1, last=5000, outcome="succeeded"),))
    write_record(run.record, many)
    write_lines(run, 1, [step(n) for n in range(1, 5001)])
    tokens = tuple(Token(text=f"<{n}>", learned=n % 2 == 0, special=True) for n in range(5_000))
    row = PreviewRow(row=0, tokens=5_000, learned_tokens=2_500, shown=tokens)
    write_preview(run.preview, Preview(rows=(row,) * 6, of=1))
    run.spec.write_text("# " + "y" * 99_999)
    text = report(run)
    assert len(text.encode()) <= MOST_BYTES
    assert "more characters left out here" in text
    assert "200 of 5,000 points are shown" in text
    assert re.search(r"… [\d,]+ more tokens of this row left out here …", text)


@pytest.mark.parametrize("most", [100, 3000])
def test_what_is_left_out_of_a_row_and_what_is_shown_make_the_whole_row(most: int) -> None:
    """Of 10,000 tokens, some are shown on the page; the sentence between counts the rest."""
    shown = tuple(Token(text=f"<{n}>") for n in range(3000))
    row = PreviewRow(
        row=0, tokens=10_000, learned_tokens=0, shown=shown, left_out=7000, left_out_after=1500
    )
    text = str(row_of(row, ENGLISH, most)["tokens"])
    (said,) = re.findall(r"… ([\d,]+) more tokens", text)
    assert text.count("&lt;") + int(said.replace(",", "")) == 10_000
    assert "&lt;0&gt;" in text
    assert "&lt;2999&gt;" in text


def test_thinning_keeps_the_ends() -> None:
    """The first and the last point are always shown, and none twice."""
    for count in (1, 2, 199, 200, 201, 399, 5000):
        kept = thinned(range(count))
        assert len(kept) == min(count, 200)
        assert (kept[0], kept[-1]) == (0, count - 1)
        assert len(set(kept)) == len(kept)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (1, 75), (0.3, 16.5), (1e-9, 3e-9), (5, 5), (-2, 9e9)]
)
def test_ticks_are_few_and_round(low: float, high: float) -> None:
    """An axis has two to seven numbers within its range."""
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-12 <= one <= high * (1 + 1e-9) for one in found)


def test_the_index_lists_ten_thousand_runs_in_a_second(tmp_path: Path) -> None:
    """From the index of ended runs, without reading their records, each with a link."""
    outputs = Outputs(tmp_path)
    outputs.private.mkdir()
    runs = []
    for number in range(10_000):
        run = outputs.run(f"job-{number % 50}", f"20261126T{number:06d}Z-k3f9")
        run.root.mkdir(parents=True)
        run.record.write_text("{}")
        stamp = stamp_of(run.record)
        assert stamp is not None
        ended = (
            f"2026-11-26T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}+00:00"
        )
        runs.append(EndedRun(run.job, run.run_id, "succeeded", number, ended, stamp))
    write_ended(outputs, runs)
    index_page(outputs, ENGLISH, now=NOW)  # the templates are compiled once
    began = time.process_time()  # others use this machine, too
    text = index_page(outputs, ENGLISH, now=NOW)
    assert time.process_time() - began < 1.0
    assert "10,000 runs of 50 jobs" in text
    assert text.count('<a href="job-') == 10_000 + 50


def test_the_index_says_what_came_out(tmp_path: Path) -> None:
    """Runs under way, ended ones with their verdicts; what has no readable record is left out."""
    make_run(tmp_path)
    going = record(
        run_id="20261126T110001Z-k3f9", state=State.TRAINING, ended_at=None, verdict=None
    )
    make_run(tmp_path, going)
    Outputs(tmp_path).run("x", "20261126T110002Z-k3f9").root.mkdir(parents=True)
    text = index_page(Outputs(tmp_path), ENGLISH, now=NOW)
    assert "2 runs of 1 jobs" in text
    assert ">Yes<" in text
    assert ">training<" in text
    assert f'href="contracts/{ID}/report.html"' in text


def test_pages_and_status_mark_the_run_in_use(tmp_path: Path) -> None:
    """The index lists what each job uses, the reports say it of each run, and so does status."""
    outputs, later = Outputs(tmp_path), "20261127T110000Z-k3f9"
    runs = [make_run(tmp_path, record(run_id=run_id)) for run_id in (ID, later)]
    page_of_first = page(gather(runs[0]), ENGLISH, now=NOW)
    assert "No adapter of this job is in use." in page_of_first
    for run in runs:
        promote(outputs, run, why="it is better", by=GATE)
    text = index_page(outputs, ENGLISH, now=NOW)
    section = text.partition('id="in-use"')[2].partition("</section>")[0]
    assert f'href="contracts/{later}/report.html"' in section
    assert ID not in section
    assert text.count("succeeded · In use") == 2  # among the newest, and in the job's own list
    assert "in use is now " + later in page(gather(runs[0]), ENGLISH, now=NOW)
    assert "adapter is in use, since" in unescape(page(gather(runs[1]), ENGLISH, now=NOW))
    overview = read_overview(outputs)
    assert overview.as_json()["in_use"] == {"contracts": later}
    assert {one.run.run_id: one.in_use for one in overview.finished} == {ID: False, later: True}
    shown = render_status(overview, Page(width=120, colors=False))
    assert "In use" in shown


def test_a_run_that_was_never_in_use_says_what_is(tmp_path: Path) -> None:
    """Nothing ended for it; for the one that was in use twice, the last end counts."""
    outputs, later, third = Outputs(tmp_path), "20261127T110000Z-k3f9", "20261128T110000Z-k3f9"
    runs = [make_run(tmp_path, record(run_id=run_id)) for run_id in (ID, later, third)]
    for run in (runs[0], runs[1], runs[0], runs[1]):
        promote(outputs, run, why="alice asked for it", by="alice")
    changes = read_promotions(outputs, "contracts")
    never = use_among(changes, third)
    assert (never.current, never.is_this, never.until) == (later, False, None)
    assert f"In use is {later}, since" in never.said(ENGLISH)
    assert use_among(changes, ID).until == changes[-1].time


def test_the_report_says_what_the_gate_decided(tmp_path: Path) -> None:
    """In words, in the reader's language."""
    kept = Promotion(decision=Decision.KEPT_OLD, why="never", reason="Not put into use: never.")
    run = make_run(tmp_path, record(promotion=kept))
    assert "Not put into use:" in page(gather(run), ENGLISH, now=NOW)
    assert "Nicht in Gebrauch genommen:" in page(gather(run), GERMAN, now=NOW)


def test_the_best_and_the_worst_rows_are_shown_with_their_texts(tmp_path: Path) -> None:
    """What got better and what got worse can be read, not only counted."""
    text = report(make_run(tmp_path))
    assert "4 of 9 held-out rows got better, 4 got worse." in text
    assert text.index("Question 0?") < text.index("Question 8?")
    assert re.search(r"<dt>Expected</dt><dd[^>]*>Yes\.<", text)


def test_the_best_and_the_worst_row_are_shown_with_their_answers(tmp_path: Path) -> None:
    """Before and after, where they were asked; an answer of nothing says so."""
    run = make_run(tmp_path)
    rows = json.loads(run.extremes.read_text())
    rows[0] |= {"before": "Perhaps.", "after": "Yes <b>indeed</b>."}
    rows[-1] |= {"before": "Yes.", "after": ""}
    run.extremes.write_text(json.dumps(rows))
    text = report(run)
    best, worst = text.index("Question 0?"), text.index("Question 8?")
    assert best < text.index(">Perhaps.<") < text.index(">Yes &lt;b&gt;") < worst
    assert worst < text.index(">(nothing)<")
    assert "no time left" not in text
    del rows[-1]["before"], rows[-1]["after"]
    run.extremes.write_text(json.dumps(rows))
    assert "There was no time left to ask this question." in report(run).partition("Question 8?")[2]


def test_a_plus_is_an_improvement_everywhere(tmp_path: Path) -> None:
    """A loss that fell has a plus on the first screen, among the scores and row by row."""
    score = ScoreSummary(
        name="loss", base=2.5, adapter=1.5, is_share=False, difference=1.0, low=0.9, high=1.1
    )
    made = record(evaluation=Evaluation(scores=(score,)))
    losses = {"eval_loss_before": 2.5, "eval_loss_after": 1.5}
    run = make_run(tmp_path, made.but(metrics={**made.metrics, **losses}))
    card, rest = report(run).split("<nav")
    assert "2.500 → 1.500" in card
    assert "+1.000 better" in card
    assert "+1.00 better (+0.90 to +1.10)" in rest
    changes = re.findall(r'<td class="number">([^<]*)</td></tr>\n(?:<tr><td col|<tr|\n|</t)', rest)
    assert [one for one in changes if "better" in one][1:] == [
        "+1.000 better",
        "+0.750 better",
        "+0.500 better",
    ]
    assert [one for one in changes if "worse" in one] == [
        "-1.000 worse",
        "-0.750 worse",
        "-0.500 worse",
    ]


def test_a_change_that_rounds_to_nothing_is_called_none() -> None:
    """No "+0.00 better", and no "-0.00 worse"."""
    for difference in (0.0049, -0.0049, 0.0):
        assert improvement(difference, ENGLISH, ".2f") == "0.00 (no change)"
    assert improvement(0.0051, ENGLISH, ".2f") == "+0.01 better"
    assert improvement(-0.0051, ENGLISH, ".2f") == "-0.01 worse"


def test_what_may_be_chance_is_not_called_better(tmp_path: Path) -> None:
    """An interval with zero in it says so instead."""
    score = ScoreSummary(name="chrf", base=0.4, adapter=0.5, difference=0.1, low=-0.1, high=0.3)
    text = report(make_run(tmp_path, record(evaluation=Evaluation(scores=(score,)))))
    assert "+0.10 (-0.10 to +0.30), may be chance" in text
    assert "+0.10 better" not in text


def test_an_adapter_in_use_is_not_said_to_be_unfit_for_it(tmp_path: Path) -> None:
    """Whether to use it agrees with whether it is in use, and names the way back."""
    run = make_run(tmp_path)
    before = report(run).partition("<nav")[0]
    assert "Not yet." in before
    assert '<a href="#before-after">' in before
    promote(Outputs(tmp_path), run, why="better", by=GATE)
    card = report(run).partition("<nav")[0]
    assert "Not yet" not in card
    assert "It is in use already." in card
    assert "<code>runner rollback contracts</code> takes it back." in card
    made = record()
    assert made.verdict is not None
    worse = made.verdict.model_copy(update={"outcome": Outcome.WORSE})
    write_record(run.record, made.but(verdict=worse))
    assert "It is in use all the same;" in report(run).partition("<nav")[0]


def test_words_of_the_trade_are_explained_before_they_are_used(tmp_path: Path) -> None:
    """Base model, adapter, held-out rows, loss: one line each, on pages that have a result."""
    text = report(make_run(tmp_path))
    words = text[text.index("<aside") : text.index("</aside>")]
    assert text.index("</aside>") < text.index('id="asked"')
    for word in ("Base model:", "Adapter:", "Held-out rows:", "Loss:", "Token:", "Step:"):
        assert f"<dt>{word}</dt>" in words


def test_a_single_measurement_is_seen(tmp_path: Path) -> None:
    """One held-out loss makes no line; it is a dot."""
    run = make_run(tmp_path)
    lines = [step(1), step(2), {"step": 2, "eval_loss": 1.75}, step(3)]
    write_lines(run, 1, lines)
    write_lines(run, 2, [])
    text = report(run)
    chart = text[text.index("<svg", text.index('id="loss"')) :]
    chart = chart[: chart.index("</svg>")]
    assert chart.count("<circle") == 1
    assert "style=" not in chart


def write_losses_of_rows(run: RunFolder, losses: list[float]) -> None:
    """Write what a first attempt measured: row n of ``c.jsonl`` has the n-th loss."""
    rows = [RowLoss(place=Place(file="c.jsonl", line=n), loss=x) for n, x in enumerate(losses, 1)]
    by_loss = sorted(rows, key=lambda one: -one.loss)
    found = RowLosses(
        learned_rows=1200,
        rows=tuple(MeasuredRow(**one.place.model_dump(), loss=one.loss) for one in by_loss),
        findings=tuple(judge_losses(rows, {}, learned=1200)),
    )
    write_row_losses(run.attempt(1), found)


@pytest.mark.parametrize(
    ("speak", "advised", "measured", "least"),
    [
        (ENGLISH, "far less likely than the others: 1 of 40", "40 of 1,200 rows", "under 1%"),
        (GERMAN, "weit weniger wahrscheinlich als die übrigen: 1 von 40", "40 von 1.200", "unter"),
    ],
)
def test_rows_that_the_base_did_not_expect_stand_by_file_and_line(
    tmp_path: Path, speak: Speaker, advised: str, measured: str, least: str
) -> None:
    """The ten hardest and the five easiest are listed, while the run goes on already."""
    run = make_run(tmp_path, record(state=State.TRAINING))
    assert 'id="row-losses"' not in report(run, speak)
    write_losses_of_rows(run, [0.01 * n for n in range(30)] + [7.5] + [0.31] * 9)
    text = report(run, speak)
    assert advised in text
    assert "far less likely" in text or speak is GERMAN
    section = text[text.index('<section id="row-losses"') : text.index('<section id="preview"')]
    assert measured in section
    assert least in section
    line = "Zeile" if speak is GERMAN else "line"
    named = re.findall(rf"c\.jsonl, {line} (\d+)<", section)
    assert len(named) == 15
    assert named[0] == "31"
    assert named[10:] == ["1", "2", "3", "4", "5"]


def test_the_rows_that_the_base_did_not_expect_are_shown_with_their_texts(tmp_path: Path) -> None:
    """Question and answer stand beside file and line, once the evaluation has read them."""
    run = make_run(tmp_path)
    rows = tuple(MeasuredRow(file="c.jsonl", line=n + 1, row=n, loss=9.0 - n) for n in range(3))
    write_row_losses(run.attempt(1), RowLosses(learned_rows=9, rows=rows))
    assert "asked" not in report(run).partition('id="row-losses"')[2].partition("preview")[0]
    texts = [{"row": 1, "question": "What was <i>asked</i>?", "answer": "This was said."}]
    run.measured_rows.write_text(json.dumps(texts))
    section = report(run).partition('id="row-losses"')[2].partition('id="preview"')[0]
    assert section.index("line 2") < section.index("What was &lt;i&gt;asked&lt;/i&gt;?")
    assert section.index("Expected: This was said.") < section.index("line 3")


def test_losses_of_rows_that_are_damaged_or_were_not_measured_are_left_out(tmp_path: Path) -> None:
    """A torn or hostile file, one that was only begun, or the figures of none: no section."""
    run = make_run(tmp_path)
    path = run.attempt(1) / "row_loss.json"
    for content in (
        "{",
        "[]",
        '{"rows": [{"file": "a", "loss": NaN}]}',
        '{"rows": []}',
        "[" * 9999,
    ):
        path.write_text(content)
        assert 'id="row-losses"' not in report(run)
    write_losses_of_rows(run, [2.0])
    assert 'id="row-losses-hardest"' in report(run)
    assert 'id="row-losses-easiest"' not in report(run)


def test_a_smaller_plan_is_said_in_german_where_the_attempts_are_listed(tmp_path: Path) -> None:
    """The record has it in English; the page makes it anew from the plans, figures and all."""
    english = describe_change(PLAN, HALF)
    tried = attempt(1, PLAN, first=1, last=3, outcome="out of memory")
    tried = tried.model_copy(update={"reason": english})
    last = attempt(2, HALF, first=4, last=6, outcome="succeeded")
    run = make_run(tmp_path, record(attempts=(tried, last)))
    text = unescape(report(run, GERMAN))
    table_of_attempts = text[text.index('<section id="attempts"') :]
    assert describe_change(PLAN, HALF, GERMAN) in table_of_attempts
    assert english not in table_of_attempts
    assert english in unescape(report(run))
