"""Run folders as a finished run leaves them, made from figures; for tests of the report."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runner.contract.batch import BatchPlan
from runner.contract.findings import DataFinding, Level, Place, write_findings
from runner.contract.layout import Outputs, RunFolder
from runner.contract.preview import Preview, PreviewRow, Token, Why, write_preview
from runner.contract.record import Attempt, DataFile, ErrorFacts, RunRecord, write_record
from runner.contract.states import State
from runner.contract.verdict import Figures, judge

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
ID = "20261126T110000Z-k3f9"
PLAN = BatchPlan(per_device_batch_size=8, gradient_accumulation_steps=1)
HALF = BatchPlan(per_device_batch_size=4, gradient_accumulation_steps=2)
HOSTILE = (
    "<script>document.title='x'</script><svg onload=alert(1)>'\"><img src=http://evil/x>"
    "{{ 7*7 }}{% raw %}</style></title></pre></mark>javascript:alert(1)\x00\x1b[2J\u202eabc&amp;"
)


def record(**changes: Any) -> RunRecord:
    """Make the record of a succeeded run."""
    figures = Figures(
        loss_before=2.0, loss_after=1.0, held_out_rows=120, change_low=-1.1, change_high=-0.9
    )
    fields: dict[str, Any] = {
        "job": "contracts",
        "run_id": ID,
        "state": State.SUCCEEDED,
        "file_name": "contracts.yaml",
        "created_at": NOW,
        "started_at": NOW,
        "ended_at": NOW + timedelta(minutes=90),
        "spec_sha256": "ab" * 32,
        "data": (DataFile(path="c.jsonl", sha256="cd" * 32, bytes=9, rows=600),),
        "effective_batch_size": 8,
        "batch_plan": HALF,
        "total_steps": 6,
        "attempts": (
            attempt(1, PLAN, first=1, last=3, outcome="out of memory"),
            attempt(2, HALF, first=4, last=6, outcome="succeeded"),
        ),
        "environment": {"torch": "2.13.0"},
        "metrics": {"train_rows": 480, "eval_rows": 120, "eval_loss_before": 2.0}
        | {"eval_loss_after": 1.0, "adapter_files": {"adapter_model.safetensors": "ef" * 32}},
        "verdict": judge(figures, adapter_is_zero=False, rows_changed=120),
        "shortfalls": ("2 rows longer than 9 tokens left out",),
    }
    return RunRecord.model_validate({**fields, **changes})


def attempt(
    number: int, plan: BatchPlan, *, first: int, last: int | None, outcome: str | None
) -> Attempt:
    """Make an attempt."""
    ended = NOW + timedelta(minutes=number) if outcome else None
    return Attempt(
        number=number,
        batch_plan=plan,
        started_at=NOW,
        ended_at=ended,
        outcome=outcome,
        first_step=first,
        last_step=last,
    )


def step(number: int, **more: Any) -> dict[str, Any]:
    """Make a line of metrics.jsonl."""
    return {
        "step": number,
        "loss": 3.0 / number,
        "learning_rate": 1e-4 * number,
        "gpu_memory_bytes": 2**30 * number,
        "tokens_per_second": 100.0 + number,
        **more,
    }


def make_run(root: Path, made: RunRecord | None = None) -> RunFolder:
    """Make a run's folder with everything in it."""
    made = made or record()
    run = Outputs(root).run(made.job, made.run_id)
    for folder in (run.prepared, run.evaluation, run.adapter, run.attempt(1), run.attempt(2)):
        folder.mkdir(parents=True, exist_ok=True)
    write_record(run.record, made)
    run.spec.write_text("model: m\ndata: c.jsonl\n")
    lines = [step(1), step(2), {"step": 2, "eval_loss": 1.75}, step(3), step(4, loss=99.0)]
    write_lines(run, 1, lines)
    write_lines(run, 2, [step(4), {"step": 4, "eval_loss": 1.25}, step(5), step(6)])
    samples = [{"question": "How?", "before": "No.", "after": "So.", "reference": "So!"}]
    (run.evaluation / "samples.json").write_text(json.dumps(samples))
    losses = [{"row": n, "before": 2.0, "after": 1.0 + n / 4, "tokens": 3} for n in range(9)]
    (run.evaluation / "losses.json").write_text(json.dumps(losses))
    texts = [{"row": n, "question": f"Question {n}?", "answer": "Yes."} for n in (0, 8)]
    run.extremes.write_text(json.dumps(texts))
    place = Place(file="c.jsonl", line=7)
    finding = {"check": "empty", "count": 3, "of": 600, "message": "3 answers are empty."}
    advise = DataFinding(level=Level.ADVISE, advice="Fill them in.", places=(place,), **finding)
    write_findings(run.findings, [advise])
    tokens = (
        Token(text="<|im_start|>", special=True),
        Token(text="How?"),
        Token(text="So", learned=True),
    )
    row = PreviewRow(row=0, why=(Why.FIRST,), tokens=3, learned_tokens=1, shown=tokens)
    write_preview(run.preview, Preview(rows=(row,), of=480))
    (run.adapter / "README.md").write_text("# x\n\n```python\nprint('<load>')\n```\n")
    (run.adapter / "adapter_model.safetensors").write_bytes(b"x")
    return run


def write_lines(run: RunFolder, number: int, lines: list[dict[str, Any]]) -> None:
    """Write an attempt's metrics."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.attempt(number) / "metrics.jsonl").write_text(text)


def make_hostile_run(root: Path) -> RunFolder:
    """Make a run in which every text of a user's tries to be something else."""
    made = record(
        data=(DataFile(path=HOSTILE, sha256="x", bytes=1, rows=1),),
        file_name=HOSTILE,
        trigger=HOSTILE,
        shortfalls=(HOSTILE,),
        error=ErrorFacts(kind="x", message=HOSTILE, advice=HOSTILE),
        environment={HOSTILE: HOSTILE},
        metrics={"adapter_files": {HOSTILE: HOSTILE}, "chat_template": HOSTILE},
        state=State.FAILED,
        attempts=(record().attempts[0].model_copy(update={"outcome": HOSTILE, "reason": HOSTILE}),),
    )
    run = make_run(root, made)
    run.spec.write_text(HOSTILE)
    samples = [dict.fromkeys(("question", "before", "after", "reference"), HOSTILE)] * 3
    (run.evaluation / "samples.json").write_text(json.dumps(samples))
    place = Place(file=HOSTILE, line=1)
    finding = DataFinding(
        check=HOSTILE, level=Level.STOP, count=1, message=HOSTILE, advice=HOSTILE, places=(place,)
    )
    write_findings(run.findings, [finding])
    tokens = tuple(Token(text=HOSTILE, learned=n % 2 == 0, special=n % 3 == 0) for n in range(7))
    row = PreviewRow(row=0, tokens=7, learned_tokens=4, shown=tokens)
    write_preview(run.preview, Preview(rows=(row,), of=1))
    (run.adapter / "README.md").write_text(f"```python\n{HOSTILE}\n```\n")
    return run
