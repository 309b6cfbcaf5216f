"""answers.txt: held-out questions with the answers before and after, to read without a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.words import visible_lines

_HEAD = """\
What the model answered before and after the training, to questions that were kept out of it.
The expected answer is the one in your data. Whether the new answers are better is for you to judge:
these are {count} of many.
"""
_PARTS = (
    ("before", "Before (the model as it was)"),
    ("after", "After (with the adapter)"),
    ("reference", "Expected"),
)


def answers_page(samples: Sequence[Mapping[str, str]]) -> str:
    """Write the samples of evaluation/samples.json for people."""
    parts = [_HEAD.format(count=len(samples))]
    for number, sample in enumerate(samples, start=1):
        parts.append(f"{'=' * 72}\nQuestion {number}\n\n{sample['question'].strip()}\n")
        for key, title in _PARTS:
            parts.append(f"--- {title}\n\n{sample[key].strip() or '(nothing)'}\n")
    return visible_lines("\n".join(parts))
