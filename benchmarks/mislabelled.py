"""Rows that the base finds next to impossible: how many planted wrong answers the check names.

    .venv/bin/python benchmarks/mislabelled.py [--models models] [--model NAME] [--licences FOLDER]
                                               [--rows 150] [--share 0.1] [--losses FILE]

Four data sets of real texts, each with a share of its answers exchanged among rows: the category of
a question on building law, the category of a licence, a licence's summary of five fields, and whole
answers on building law that slipped into another row. The loss per row is the base's own, as the
train stage measures it before its first step: the mean of -log p over the answer and its end.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zaragoza_construction_faq
from licences import CATEGORIES, read_documents

from runner.contract.findings import Place
from runner.contract.models import DEMO_MODEL
from runner.training.checks.row_loss import RowLoss, judge
from runner.training.checks.say import robust_z
from runner.training.checks.thresholds import SURPRISING_LOSS, SURPRISING_Z

_PROMPT_CHARS = 400  # of a licence: a CPU takes seconds for more
_CATEGORIES = 10  # of building law: the most frequent ones
_TOP = 10  # rows that the report lists


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One row, with whether its answer was exchanged."""

    question: str
    answer: str
    is_wrong: bool = False


def faq() -> list[dict[str, Any]]:
    """Read the packaged questions on building law."""
    folder = Path(zaragoza_construction_faq.__file__).parent / "data"
    return [json.loads(line) for line in (folder / "faq-en.jsonl").read_text().splitlines()]


def data_sets(licences: Path | None) -> Iterator[tuple[str, list[Labelled]]]:
    """Give each data set by its name, with every answer right."""
    rows = faq()
    common = [name for name, _ in Counter(row["category"] for row in rows).most_common(_CATEGORIES)]
    names = ", ".join(sorted(common))
    ask = f"Name the category of this question, one of: {names}.\n\n"
    yield (
        "category of a question",
        [
            Labelled(question=ask + row["q"], answer=row["category"])
            for row in rows
            if row["category"] in common
        ],
    )
    yield "answers", [Labelled(question=row["q"], answer=row["a"]) for row in rows]
    if licences is None:
        return
    documents = read_documents(licences, longest=6_000)
    kinds = ", ".join(sorted(set(CATEGORIES.values())))
    ask = f"Name the category of this licence, one of: {kinds}.\n\n"
    yield (
        "category of a licence",
        [
            Labelled(question=ask + d.text[:_PROMPT_CHARS], answer=_category(d.summary))
            for d in documents
        ],
    )
    yield (
        "summary of a licence",
        [Labelled(question=d.row["prompt"][:_PROMPT_CHARS], answer=d.summary) for d in documents],
    )


def _category(summary: str) -> str:
    return summary.splitlines()[1].removeprefix("Category: ")


def planted(rows: Sequence[Labelled], *, count: int, share: float, seed: int) -> list[Labelled]:
    """Take so many rows, and give a share of them the answer of another row, never the same one."""
    dice = random.Random(seed)
    chosen = dice.sample(list(rows), min(count, len(rows)))
    wrong = set(dice.sample(range(len(chosen)), round(share * len(chosen))))
    made = []
    for place, row in enumerate(chosen):
        if place in wrong:
            others = [one.answer for one in chosen if one.answer != row.answer]
            made.append(Labelled(question=row.question, answer=dice.choice(others), is_wrong=True))
        else:
            made.append(row)
    return made


def losses(model: Any, tokenizer: Any, rows: Sequence[Labelled], *, until: float) -> list[float]:
    """Measure -log p of each answer and its end, per token; fewer rows where time is over."""
    import torch

    found = []
    for row in rows:
        if time.monotonic() > until:
            break
        turn = [{"role": "user", "content": row.question}]
        head = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(head, add_special_tokens=False)["input_ids"]
        tail = tokenizer(row.answer, add_special_tokens=False)["input_ids"]
        tail = [*tail, tokenizer.eos_token_id]
        with torch.inference_mode():
            hidden = model.model(input_ids=torch.tensor([[*ids, *tail]])).last_hidden_state
            logits = model.lm_head(hidden[0, len(ids) - 1 : -1])  # of the answer alone
        chances = logits.float().log_softmax(dim=-1)
        found.append(float(-chances[range(len(tail)), tail].mean()))
    return found


def figures(measured: np.ndarray, wrong: np.ndarray, z: float, least: float) -> tuple[int, int]:
    """Count the wrong rows that are named, and the right ones."""
    named = (robust_z(measured) > z) & (measured > least)
    return int((named & wrong).sum()), int((named & ~wrong).sum())


def tell(name: str, measured: np.ndarray, wrong: np.ndarray) -> None:
    """Print what the thresholds name, what others would, and what the ten hardest rows are."""
    by_loss = wrong[np.argsort(-measured)]
    medians = [float(np.median(measured[which])) for which in (~wrong, wrong)]
    print(f"\n{name}: {len(wrong)} rows, {int(wrong.sum())} with another row's answer")
    print(f"  median loss: right {medians[0]:.2f}, exchanged {medians[1]:.2f}")
    print(f"  among the {_TOP} hardest: {int(by_loss[:_TOP].sum())} exchanged")
    rows = [
        RowLoss(place=Place(file="rows.jsonl", line=n + 1), loss=float(loss))
        for n, loss in enumerate(measured)
    ]
    said = [one.count for one in judge(rows, {}, learned=len(rows)) if one.check.startswith("surp")]
    hit, false = figures(measured, wrong, SURPRISING_Z.value, SURPRISING_LOSS.value)
    assert sum(said) == hit + false, "the product's own check names the same"
    print(f"  named by the check: {hit} exchanged, {false} right")
    for z in (3.0, 3.5, 4.0, 5.0):
        cells = [
            f"{hit}+{false}"
            for least in (0.0, 0.5, 1.0, 1.5, 2.0)
            for hit, false in [figures(measured, wrong, z, least)]
        ]
        print(f"  z > {z}, loss > 0, 0.5, 1, 1.5, 2: {', '.join(cells)}", flush=True)


def main() -> None:
    """Measure each data set and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument(
        "--licences", type=Path, help="folder of licensedcode-data's .LICENSE files"
    )
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=3600, help="for each data set")
    parser.add_argument("--only", default="", help="data sets whose name holds this")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--losses", type=Path, help="where the losses are written, as JSON")
    asked = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = asked.models / asked.model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    kept = {}
    for name, rows in data_sets(asked.licences):
        if asked.only not in name:
            continue
        made = planted(rows, count=asked.rows, share=asked.share, seed=asked.seed)
        until = time.monotonic() + asked.seconds
        measured = losses(model, tokenizer, made, until=until)
        wrong = [one.is_wrong for one in made[: len(measured)]]
        kept[name] = {"losses": measured, "wrong": wrong}
        tell(name, np.array(measured), np.array(wrong))
        if asked.losses:
            asked.losses.write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
