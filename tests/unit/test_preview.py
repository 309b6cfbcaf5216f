"""Preview: every token of a row, exactly, with its kind; the same for terminal and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.contract.preview import Why
from runner.training.data.preview import choose, row_of, tokens_of
from runner.training.data.tokenizer_folder import load_tokenizer

TEXTS = [
    "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\nWell.<|im_end|>\n",
    "Grüße aus Köln, 北京 and 🙂🙃 or 👩‍👩‍👧 or 𝔘nusual \u202etext\u202c.",
    " leading and  double  blanks\t\tand tabs\r\n",
    "\x00\x01 nul",
    "",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    """The real tokenizer of the small model."""
    return load_tokenizer(tiny_model)


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_together_are_the_row(tokenizer: Any, text: str) -> None:
    """No character is lost, added or shown twice, and each token is counted once."""
    ids = tokenizer(text)["input_ids"]
    shown = tokens_of(tokenizer, ids, [-100] * len(ids))
    assert "".join(token.text for token in shown) == tokenizer.decode(ids)
    assert sum(token.count for token in shown) == len(ids)
    assert "\ufffd" not in "".join(token.text for token in shown)


def test_each_token_says_what_it_is(tokenizer: Any) -> None:
    """Control tokens and learned tokens are those of the labels, one by one."""
    ids = tokenizer(TEXTS[0])["input_ids"]
    ends = [n for n, id_ in enumerate(ids) if id_ == tokenizer.convert_tokens_to_ids("<|im_end|>")]
    labels = [id_ if ends[0] < n <= ends[1] else -100 for n, id_ in enumerate(ids)]
    shown = tokens_of(tokenizer, ids, labels)
    assert len(shown) == len(ids)  # plain English: each token is whole characters
    assert [token.learned for token in shown] == [label != -100 for label in labels]
    special = [token.text for token in shown if token.special]
    assert special == ["<|im_start|>", "<|im_end|>"] * 2


def test_a_character_that_is_half_learned_is_not_shown_as_either(tokenizer: Any) -> None:
    """Where learning begins within a character, its halves stay apart: nothing is hidden."""
    ids = tokenizer("🙃")["input_ids"]
    assert len(ids) > 1
    labels = [-100] * (len(ids) - 1) + [ids[-1]]
    shown = tokens_of(tokenizer, ids, labels)
    assert [token.learned for token in shown] == [False, True]
    assert sum(token.count for token in shown) == len(ids)


def test_a_long_row_shows_its_beginning_and_its_end(tokenizer: Any) -> None:
    """What is left out of a very long row is counted, and where it is missing is known."""
    ids = tokenizer("one two three four five six seven eight nine ten " * 30)["input_ids"]
    labels = [-100] * 100 + ids[100:]
    row = row_of(tokenizer, {"input_ids": ids, "labels": labels, "row": 5}, (Why.LONGEST,), most=40)
    assert sum(token.count for token in row.shown) + row.left_out == row.tokens == len(ids)
    assert (row.row, row.learned_tokens) == (5, len(ids) - 100)
    shown = [token.text for token in row.shown]
    assert "".join(shown[: row.left_out_after]) == tokenizer.decode(ids[:30])
    assert "".join(shown[row.left_out_after :]) == tokenizer.decode(ids[-10:])


@pytest.mark.parametrize("lengths", [[], [5], [5, 5], [3, 9, 2, 4], [7] * 500, list(range(1, 900))])
def test_the_first_the_longest_the_shortest_and_random_ones_are_chosen(lengths: list[int]) -> None:
    """Each row once, with every reason that it has, and the same ones each time."""
    chosen = choose(lengths)
    assert chosen == choose(lengths)
    assert len(chosen) == min(len(lengths), len(chosen))
    if lengths:
        why = {reason: place for place, reasons in chosen.items() for reason in reasons}
        assert why[Why.FIRST] == 0
        assert lengths[why[Why.LONGEST]] == max(lengths)
        assert lengths[why[Why.SHORTEST]] == min(lengths)
        random = [place for place, reasons in chosen.items() if Why.RANDOM in reasons]
        assert len(random) == min(3, len(lengths) - len(chosen) + len(random))
