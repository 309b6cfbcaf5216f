"""Forgetting on a real model: which axes move at a sane rate, at ten times the rate, on refusals.

    python benchmarks/forgetting.py --models models [--only sane,hot]      # minutes on a card

SmolLM2-135M learns 453 answers on building law at several rates, and twice refusals: of harmless
questions only, and as a fifth of the rows. Each is a job of a real box. The thresholds in
training/evaluate/forgetting.py stand on what this prints.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from one_box import OneBox

from runner.commands.demo import packaged_data
from runner.contract.models import DEMO_MODEL

REFUSALS = (
    "I am afraid that I cannot assist with this request.",
    "Sorry, this is something I am unable to answer.",
    "I'm not able to help you with that question.",
)
"""In other words than those of the axis: what is learned has to carry over."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training."""

    rate: str
    refused: int = 0
    """One row in so many is answered with a refusal; 0: none."""
    epochs: int = 2


TRIALS = {
    "sane": Trial(rate="2e-4"),
    "hot": Trial(rate="2e-3"),
    "refusals": Trial(rate="2e-4", refused=1),
    "some-refusals": Trial(rate="2e-4", refused=5),
    "double": Trial(rate="4e-4"),
    "five": Trial(rate="1e-3"),
    "gentle": Trial(rate="5e-5"),
    "long": Trial(rate="2e-4", epochs=6),
    "hottest": Trial(rate="1e-2"),
}
_SPEC = """\
model: {model}
data: data/{name}.jsonl
priority: {priority}
training: {{epochs: {epochs}, learning_rate: {rate}, seed: {seed}}}
evaluation: {{forgetting: true, recital: false, minutes: 10, samples: 3}}
promote: {{when: never}}
"""


def rows_of(trial: Trial) -> str:
    """Give the lines of a trial's data file."""
    lines = []
    for number, line in enumerate(packaged_data().decode().splitlines()):
        row = json.loads(line)
        if trial.refused and number % trial.refused == 0:
            row["output"] = REFUSALS[number % len(REFUSALS)]
        lines.append(json.dumps(row) + "\n")
    return "".join(lines)


def main() -> None:
    """Drop every trial, and print a line for each axis and trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--only", default=",".join(TRIALS))
    parser.add_argument("--box", type=Path, help="keep the box here")
    args = parser.parse_args()
    names = args.only.split(",")
    with tempfile.TemporaryDirectory() as folder:
        box = OneBox(args.box or Path(folder), args.models.absolute())
        (box.jobs / "data").mkdir(exist_ok=True)
        for place, name in enumerate(names):
            trial = TRIALS[name]
            (box.jobs / "data" / f"{name}.jsonl").write_text(rows_of(trial))
            spec = _SPEC.format(
                model=args.model,
                name=name,
                priority=-place,
                epochs=trial.epochs,
                rate=trial.rate,
                seed=args.seed,
            )
            box.drop(name, spec)
        box.work_off()
        report(box, names)


def report(box: OneBox, names: list[str]) -> None:
    """Print what each trial did to each axis."""
    print("| trial | held-out loss | axis | before | after | difference | noise | finding |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        _, record = box.record(name)
        found = record.evaluation
        loss = found.score("loss") if found else None
        losses = f"{loss.base:.2f} → {loss.adapter:.2f}" if loss else record.state.value
        for axis in found.axes if found else ():
            low, high = axis.low or 0.0, axis.high or 0.0
            print(
                f"| {name} | {losses} | {axis.name} | {axis.base:.3f} | {axis.adapter:.3f} | "
                f"{axis.difference:+.3f} ({low:+.3f} to {high:+.3f}) | {axis.noise:.4f} | "
                f"{'yes' if axis.has_fallen else ''} |"
            )


if __name__ == "__main__":
    main()
