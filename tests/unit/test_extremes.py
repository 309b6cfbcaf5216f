"""Best and worst held-out rows: chosen by the change of the loss per token, shown as text."""

from __future__ import annotations

from pathlib import Path

from runner.training.data.tokenizer_folder import load_tokenizer
from runner.training.evaluate.extremes import extremes


def test_the_rows_at_both_ends_are_given_with_question_and_answer(tiny_model: Path) -> None:
    """Three that fell most, then three that fell least; the answer is what is learned."""
    from datasets import Dataset

    tokenizer = load_tokenizer(tiny_model)
    examples = []
    for row in range(10, 18):
        head = tokenizer(f"<|im_start|>user\nWhy {row}?<|im_end|>\n<|im_start|>assistant\n")
        tail = tokenizer(f"Because {row}.<|im_end|>")["input_ids"]
        ids = head["input_ids"] + tail
        labels = [-100] * len(head["input_ids"]) + tail
        examples.append({"input_ids": ids, "labels": labels, "row": row})
    rows = list(range(10, 18))
    before = [8.0] * 8
    after = [9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 12.0, 30.0]
    tokens = [4, 4, 4, 4, 4, 4, 4, 40]  # the last one rose most in all, and not per token
    found = extremes(
        Dataset.from_list(examples), tokenizer, rows=rows, before=before, after=after, tokens=tokens
    )
    assert [one["row"] for one in found] == [11, 13, 15, 10, 17, 16]
    assert found[0]["answer"] == "Because 11."
    assert found[0]["question"] == "Why 11?"
    assert extremes(
        Dataset.from_list(examples[:1]), tokenizer, rows=[10], before=[1.0], after=[2.0], tokens=[1]
    )
