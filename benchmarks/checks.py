"""The checks of the data measured: time by part, memory; rensa beside datasketch on the same rows.

    .venv/bin/python benchmarks/checks.py [--rows 100000]          time of all parts, one process
    .venv/bin/python benchmarks/checks.py --minhash rensa|datasketch [--rows 100000]

The rows are those of benchmarks/prepare.py (1.6 kB each); for the comparison one in ten is a copy
of another in which some words were changed. datasketch is not installed with the product
(`pip install datasketch`). Seconds are of the processor, not of the clock.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from prepare import make_rows

from runner.training.checks import facts, language, mojibake, near, personal_data
from runner.training.checks.checks import Checks
from runner.training.checks.row import Kind, SeenRow
from runner.training.checks.say import End

_BATCH = 256
_PAIRS = 2000  # compared with exact Jaccard


def seen_rows(count: int) -> list[SeenRow]:
    """Make rows as the checks see them."""
    rows = []
    for number, row in enumerate(make_rows(count, 400)):
        question, answer = row.values()
        rows.append(
            SeenRow(
                number=number,
                file="rows.jsonl",
                line=number + 1,
                kind=Kind.QUESTION,
                question=question,
                answer=answer,
                tokens=400,
                read=400,
                learned=300,
                last=2,
            )
        )
    return rows


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Give the processor's seconds, and what came out."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def peak_mib() -> float:
    """Give the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parts(rows: Sequence[SeenRow]) -> dict[str, float]:
    """Time each part alone, in seconds for all rows."""
    texts = [f"{row.question}\n{row.answer}" for row in rows]
    folded = [facts._words(row.answer) for row in rows]  # noqa: SLF001
    words = [facts._words(text)[1] for text in texts]  # noqa: SLF001

    def each(work: Callable[..., Any], *columns: Sequence[Any]) -> Callable[[], None]:
        def run() -> None:
            for values in zip(*columns, strict=True):
                work(*values)

        return run

    def sign() -> None:
        for at in range(0, len(words), _BATCH):
            some = words[at : at + _BATCH]
            near.sign(some, range(len(some)), range(len(some)))

    def phrases(text: str) -> bool:
        return any(phrase in text for phrase in facts.ASSISTANT_PHRASES)

    whole = [text for text, _ in folded]
    named = {
        "small letters, blanks, words": each(facts._words, texts),  # noqa: SLF001
        "three hashes": each(lambda t: [facts._hash(t) for _ in range(3)], whole),  # noqa: SLF001
        "language": each(language.language, texts, words),
        "wrong encodings": each(mojibake.is_broken, texts),
        "personal data": each(personal_data.personal_data, texts),
        "assistant's phrases": each(phrases, whole),
        "MinHash": sign,
    }
    return {name: timed(work)[0] for name, work in named.items()}


def edited(count: int) -> list[list[str]]:
    """Make rows of which one in ten is a copy with some words changed."""
    dice = random.Random(11)
    made: list[list[str]] = []
    for row in make_rows(count, 400):
        words = " ".join(row.values()).casefold().split()
        if made and dice.random() < 0.1:
            words = list(dice.choice(made))
            for _ in range(dice.randrange(25)):
                words[dice.randrange(len(words))] = f"changed{dice.randrange(10**6)}"
        made.append(words)
    return made


def sign_all(rows: Sequence[list[str]], library: str) -> Any:
    """Give 128 minima of each row's three-word sequences."""
    if library == "rensa":
        signed = [
            near.sign(
                rows[at : at + _BATCH],
                range(len(rows[at : at + _BATCH])),
                range(len(rows[at : at + _BATCH])),
            )
            for at in range(0, len(rows), _BATCH)
        ]
        return np.concatenate(signed)["signature"]
    from datasketch import MinHash

    made = np.empty((len(rows), near.PERMUTATIONS), dtype=np.uint32)
    for place, words in enumerate(rows):
        sketch = MinHash(num_perm=near.PERMUTATIONS)
        sketch.update_batch([" ".join(words[i : i + 3]).encode() for i in range(len(words) - 2)])
        made[place] = sketch.hashvalues
    return made


def exact(one: list[str], other: list[str]) -> float:
    """Give the exact similarity of two rows."""
    a, b = ({tuple(w[i : i + 3]) for i in range(len(w) - 2)} for w in (one, other))
    return len(a & b) / len(a | b)


def compare(library: str, count: int) -> dict[str, Any]:
    """Sign all rows, find the near ones, and compare a sample with exact Jaccard."""
    rows = edited(count)
    before = peak_mib()
    seconds, signatures = timed(lambda: sign_all(rows, library))
    after = peak_mib()
    chance = 1 / 256 if library == "rensa" else 0.0  # only the lowest bytes are kept of rensa's
    if library == "rensa":
        signed = np.zeros(count, dtype=near.SIGNED)
        signed["signature"] = signatures
        finding, pairs = timed(lambda: near.similar_pairs(signed, np.zeros(count, dtype=bool)))
    else:
        finding, pairs = timed(lambda: _lsh(signatures))
    sample = random.Random(3).sample(range(len(pairs)), min(_PAIRS, len(pairs)))
    dice = random.Random(4)
    compared = [tuple(pairs[n]) for n in sample]
    compared += [(dice.randrange(count), dice.randrange(count)) for _ in range(_PAIRS)]
    errors = []
    for one, other in compared:
        agreed = float(np.mean(signatures[one] == signatures[other]))
        errors.append((agreed - chance) / (1 - chance) - exact(rows[one], rows[other]))
    below = [exact(rows[a], rows[b]) < 0.80 for a, b in compared[: len(sample)]]
    return {
        "library": library,
        "rows": count,
        "sign_seconds": round(seconds, 1),
        "find_seconds": round(finding, 1),
        "signatures_mib": round(signatures.nbytes / 1024**2, 1),
        "peak_more_mib": round(after - before, 1),
        "pairs": len(pairs),
        "pairs_below_0.80": round(float(np.mean(below)), 4) if below else None,
        "mean_absolute_error": round(float(np.mean(np.abs(errors))), 4),
        "largest_error": round(float(np.max(np.abs(errors))), 3),
    }


def _lsh(signatures: Any) -> Any:
    """Find near rows with datasketch's own index; each pair once."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=0.85, num_perm=near.PERMUTATIONS)
    pairs = []
    for place, values in enumerate(signatures):
        sketch = MinHash(
            num_perm=near.PERMUTATIONS, hashvalues=values, scheme=MinHash(num_perm=1).scheme
        )
        found = index.query(sketch)
        pairs += [(o, place) for o in found if np.mean(signatures[o] == values) >= 0.85]
        index.insert(place, sketch)
    return np.array(pairs).reshape(-1, 2)


def main() -> None:
    """Measure, and print JSON."""
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--minhash", choices=["rensa", "datasketch"])
    chosen = options.parse_args()
    if chosen.minhash:
        print(json.dumps(compare(chosen.minhash, chosen.rows), indent=2))
        return
    rows = seen_rows(chosen.rows)
    before = peak_mib()
    checks = Checks()

    def see() -> None:
        for row in rows:
            checks.see(row)
        checks.flush()

    seconds, _ = timed(see)
    end = End(
        held_out=np.arange(0, len(rows), 20), max_length=2048, epochs=2, ending=frozenset({2})
    )
    saying, found = timed(lambda: checks.findings(end))
    more = peak_mib() - before
    alone = {name: round(value, 2) for name, value in parts(rows[: len(rows) // 10]).items()}
    told = {
        "rows": len(rows),
        "seconds": round(seconds, 1),
        "findings_seconds": round(saying, 2),
        "more_mib": round(more, 1),
        "parts_seconds_of_a_tenth": alone,
        "found": {one.check: one.count for one in found},
    }
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
