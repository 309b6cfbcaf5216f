"""Turns the tiny real model into what the tests of the train stage share, made once a session."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from small_model import keep_words
from train_box import ROWS, Run

from runner.exit_codes import ExitCode

HELD_OUT = 4


@pytest.fixture(scope="session")
def sentences(tiny_model: Path) -> list[dict[str, Any]]:
    """Rows that the model can learn, in the real tokenizer's tokens; the last ones held out."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    dice = random.Random(7)
    rows = []
    for index in range(ROWS + HELD_OUT):
        prompt = f"<|im_start|>user\nHow high is wall {index}?<|im_end|>\n<|im_start|>assistant\n"
        words = " and a half" * dice.randint(0, 6)
        answer = f"Wall {index} is {index * 3} feet{words} high.<|im_end|>"
        head, tail = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"]
        rows.append({"input_ids": head + tail, "labels": [-100] * len(head) + tail, "row": index})
    return rows


@pytest.fixture(scope="session")
def small_models(
    tiny_model: Path, sentences: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A models folder with ``small``: the tiny model with no other words than the sentences'."""
    models = tmp_path_factory.mktemp("models")
    words = {id_ for row in sentences for id_ in row["input_ids"]}
    keep_words(tiny_model, words, models / "small")
    return models


@pytest.fixture(scope="session")
def prepared(
    small_models: Path,
    sentences: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The prepare stage's folder, as `small` needs it."""
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(small_models / "small")
    folder = tmp_path_factory.mktemp("prepared")
    tokenizer.save_pretrained(folder / "tokenizer")
    new_ids = {int(word): id_ for word, id_ in tokenizer.get_vocab().items() if word.isdigit()}
    new_ids |= {0: 0, 1: 1, 2: 2, -100: -100}
    rows = [
        {
            **row,
            "input_ids": [new_ids[id_] for id_ in row["input_ids"]],
            "labels": [new_ids[id_] for id_ in row["labels"]],
        }
        for row in sentences
    ]
    Dataset.from_list(rows[:ROWS]).save_to_disk(str(folder / "train"))
    Dataset.from_list(rows[ROWS:]).save_to_disk(str(folder / "eval"))
    return folder


@pytest.fixture
def run(tmp_path: Path, prepared: Path, small_models: Path) -> Run:
    """Give a run that is prepared and has no attempt yet."""
    return Run(tmp_path, prepared, small_models)


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, prepared: Path, small_models: Path
) -> Run:
    """A run that nothing happened to, at 8 × 1."""
    run = Run(tmp_path_factory.mktemp("undisturbed"), prepared, small_models)
    status, result = run.train(8)
    assert (status, result.outcome) == (ExitCode.OK, "succeeded")
    return run
