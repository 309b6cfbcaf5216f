"""Judging: faults in what says whether an adapter is better, puts it into use and trains it anew.

Run `OMP_NUM_THREADS=1 python tests/mutation/run.py --list judging` (``--only WORD`` for some).
Intervals, verdict, gate, history of what is in use, schedule, the card's hours, replay, rates,
experts' marks.
"""

from __future__ import annotations

from mutation import Mutation

_UNIT = "tests/unit/"
INTERVALS = (_UNIT + "test_intervals.py",)
VERDICT = (_UNIT + "test_verdict.py",)
GATE = (_UNIT + "test_promotions.py",)
GATE_OF_OTHERS = (_UNIT + "test_gate_of_others.py",)
CRON = (_UNIT + "test_cron.py",)
HOURS = (_UNIT + "test_hours.py",)
SAME = (_UNIT + "test_same_data.py",)
RATES = (_UNIT + "test_pick_rate.py",)
RATING = (_UNIT + "test_rating.py",)
SCORES = (_UNIT + "test_scores.py",)
FORGETTING = (_UNIT + "test_forgetting.py",)
REPLAY = ("tests/integration/test_replay.py",)
CHOICE = (_UNIT + "test_start_choice.py",)
START = ("tests/integration/test_start_auto.py",)

_INTERVALS, _VERDICT = "contract/intervals.py", "contract/verdict.py"
_GATE, _PROMOTIONS = "contract/gate.py", "contract/promotions.py"
_DUE, _CRON, _HOURS = "daemon/schedule/due.py", "spec/cron.py", "contract/hours.py"
_SAME, _REPLAY = "daemon/schedule/same_data.py", "training/data/replay.py"
_CHOICE, _START = "contract/start_choice.py", "training/data/start.py"
_RATES, _RATING = "contract/pick_rate.py", "contract/rating.py"

_PLANTED = [
    (
        "a normal's ends instead of Student's",
        _INTERVALS,
        "_students_t(count - 1)",
        "1.96",
        INTERVALS,
    ),
    (
        "one degree of freedom more",
        _INTERVALS,
        "_students_t(count - 1)",
        "_students_t(count)",
        INTERVALS,
    ),
    (
        "no jackknife",
        _INTERVALS,
        "(c - ratio * w) / (total - w)",
        "(c - ratio * w) / total",
        INTERVALS,
    ),
    (
        "each row for itself",
        _INTERVALS,
        "clusters or range(len(changes))",
        "range(len(changes))",
        INTERVALS,
    ),
    (
        "nothing counted in",
        _INTERVALS,
        "[*found, (most * size, size), (-most * size, size)]",
        "found",
        INTERVALS,
    ),
    (
        "unchanged shares are sure",
        _INTERVALS,
        "        most = 1.0",
        "        most = 0.0",
        INTERVALS,
    ),
    (
        "graded scores widen as shares do",
        _INTERVALS,
        "if not most and {*before, *after} <= {0.0, 1.0}:",
        "if not most:",
        INTERVALS,
    ),
    ("five are enough", _INTERVALS, "FEWEST_CLUSTERS = 6", "FEWEST_CLUSTERS = 2", INTERVALS),
    ("files never belong together", "training/data/clusters.py", ">= _FILES", "> 10**9", INTERVALS),
    (
        "nine files belong together",
        "training/data/clusters.py",
        "_FILES = 10",
        "_FILES = 9",
        INTERVALS,
    ),
    (
        "better where half is above zero",
        "contract/evaluation.py",
        "self.low is not None and self.low > 0",
        "self.difference > 0",
        GATE,
    ),
    (
        "a much higher loss may be chance",
        _VERDICT,
        "if after > before * FAR_WORSE:",
        "if False:",
        VERDICT,
    ),
    (
        "a higher loss may be chance",
        _VERDICT,
        "if after > before and (low is None or low > 0):",
        "if after > before and low is not None and low > 0:",
        VERDICT,
    ),
    (
        "a lower loss is better",
        _VERDICT,
        "if low is not None and high is not None and high < 0:",
        "if after < before:",
        VERDICT,
    ),
    (
        "higher scores are better",
        _VERDICT,
        '    if low is not None and low > 0:\n        return "score_better"',
        '    if difference > 0:\n        return "score_better"',
        VERDICT,
    ),
    (
        "worse answers are no matter",
        _VERDICT,
        '    if high is not None and high < 0:\n        return "score_worse"',
        '    if False:\n        return "score_worse"',
        VERDICT,
    ),
    (
        "the base with examples is not told of",
        _VERDICT,
        "examples.difference <= AS_GOOD and not",
        "False and not",
        VERDICT,
    ),
    ("guessing is better", _VERDICT, "after >= figures.uniform_loss", "False", VERDICT),
    ("a fallen axis passes", _GATE, "    if fallen:", "    if False:", GATE),
    ("what was not measured has held", _GATE, "    if unknown:", "    if False:", GATE_OF_OTHERS),
    ("another base passes", _GATE, "not measured.same_base:", "False:", GATE),
    (
        "what came into use meanwhile is not asked",
        _GATE,
        "measured.compared_with != current:",
        "False:",
        GATE,
    ),
    ("no margin", _GATE, "found.difference >= wish.margin", "True", GATE),
    (
        "against the base though one is in use",
        _GATE,
        "    if against_current:\n",
        "    if False:\n",
        GATE,
    ),
    (
        "a worse one passes the gate",
        _GATE,
        "verdict.changed is False or verdict.outcome is Outcome.WORSE",
        "False",
        GATE,
    ),
    (
        "measuring undoes a person's choice",
        _GATE,
        "not found.is_promoted or not is_older",
        "True",
        GATE,
    ),
    (
        "marks against another count",
        _GATE,
        "    elif not is_against_current:\n",
        "    elif False:\n",
        RATING,
    ),
    (
        "a request is carried out twice",
        _PROMOTIONS,
        'if done or (before or "") == run_id:',
        'if (before or "") == run_id:',
        GATE,
    ),
    (
        "a rollback goes to what was rolled back",
        _PROMOTIONS,
        "if one.how is How.ROLLED_BACK and one.run_id in found:",
        "if False:",
        GATE,
    ),
    (
        "a rollback to what is gone",
        _PROMOTIONS,
        "            check_promotable(outputs.run(job, run_id))\n            return run_id",
        "            return run_id",
        GATE,
    ),
    (
        "a run that failed is promoted",
        _PROMOTIONS,
        "if record.state is not State.SUCCEEDED:",
        "if False:",
        GATE,
    ),
    (
        "the link is not replaced in one step",
        _PROMOTIONS,
        "        os.rename(beside, link)\n",
        "        link.unlink(missing_ok=True)\n",
        GATE,
    ),
    ("a time is dealt with twice", _DUE, "due == known.last.due", "False", CRON),
    ("two of a job at once", _DUE, "    if busy:\n", "    if False:\n", CRON),
    ("each missed time is made up for", _DUE, "if late and not makes_up:", "if False:", CRON),
    (
        "a clock far behind is believed at once",
        _DUE,
        "if behind_seconds < BEHIND_SECONDS:",
        "if False:",
        CRON,
    ),
    (
        "a clock far behind is waited for",
        _DUE,
        "        return Decision(action=Action.SET_BACK)",
        "        return Decision(action=Action.WAIT)",
        CRON,
    ),
    (
        "an hour that comes twice counts twice",
        _CRON,
        "        if moment > after:\n            return moment\n    raise",
        "        return moment\n    raise",
        CRON,
    ),
    (
        "hours end a minute later",
        _HOURS,
        "self.begin <= minute < self.end",
        "self.begin <= minute <= self.end",
        HOURS,
    ),
    (
        "yesterday evening's hours end at midnight",
        _HOURS,
        "((day - 1) % 7 in self.days and minute < self.end)",
        "False",
        HOURS,
    ),
    ("an edited spec is the same", _SAME, "last.spec_sha256 != spec_sha256", "False", SAME),
    ("a new file is the same", _SAME, "not before or found != before", "not before", SAME),
    ("another model is the same", _SAME, "and _same_model(models_dir, spec, last)", "", SAME),
    (
        "held-out rows are replayed",
        _REPLAY,
        "here = np.unique(rows.content[is_old & ~np.isin(rows.place, rows.place[held])])",
        "here = np.unique(rows.content[is_old])",
        REPLAY,
    ),
    (
        "corrected rows come back",
        _REPLAY,
        "            & ~np.isin(there.place, asked)\n",
        "",
        REPLAY,
    ),
    ("the same old rows each time", _REPLAY, 'key=f"{seed} {run.run_id}"', 'key=f"{seed}"', REPLAY),
    ("a row that was taken out stays learned", _CHOICE, "if facts.gone:", "if False:", CHOICE),
    ("goes on again and again", _CHOICE, "if facts.went_on:", "if False:", CHOICE),
    (
        "one new row is growth enough",
        _CHOICE,
        "if not LEAST_GROWTH * facts.old <= facts.new",
        "if not 0 < facts.new",
        CHOICE,
    ),
    (
        "a run that somebody cancelled counts",
        _START,
        " and record.state is not State.CANCELLED",
        "",
        START,
    ),
    (
        "an adapter is measured on rows that it knows",
        _START,
        "kept = np.isin(old, rows.content[learned_now])",
        "kept = there",
        START,
    ),
    (
        "rows that nobody knows do not count",
        _START,
        "rows_known=not gone",
        "rows_known=True",
        START,
    ),
    (
        "another base will do",
        _START,
        "(other_base(run, model) or other_shape(run, spec))",
        "other_shape(run, spec)",
        START,
    ),
    (
        "chance chooses a rate",
        _RATES,
        "is_shown = best.low is not None and best.low > 0",
        "is_shown = True",
        RATES,
    ),
    ("the worst rate is chosen", _RATES, "best = min(measured", "best = max(measured", RATES),
    (
        "a third of the steps is all of them",
        _RATES,
        "STEP_SHARE = 1 / 3",
        "STEP_SHARE = 1.0",
        RATES,
    ),
    (
        "marks the wrong way round",
        _RATING,
        "(mark == 1) is new_first",
        "(mark == 2) is new_first",
        RATING,
    ),
    (
        "ties count",
        _RATING,
        "wilson(better, better + worse)",
        "wilson(better, len(key.new_first))",
        RATING,
    ),
    (
        "a section may stand anywhere",
        "training/evaluate/scores.py",
        "_section(line).startswith(left[0])",
        "any(_section(line).startswith(n) for n in left)",
        SCORES,
    ),
    (
        "a fall within chance is a finding",
        "training/evaluate/forgetting.py",
        "high is not None and high < -noise and",
        "",
        FORGETTING,
    ),
    (
        "a fall within the noise is a finding",
        "training/evaluate/forgetting.py",
        "high < -noise",
        "high < 0",
        FORGETTING,
    ),
]
JUDGING = tuple(Mutation(*one) for one in _PLANTED)
