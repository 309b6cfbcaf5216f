"""Says of settings that are allowed what their writer will hardly have meant."""

import pytest

from runner.language.speaker import Language, Speaker
from runner.language.translate import translated
from runner.spec.doubtful import doubtful
from runner.spec.read_spec import read_spec


def told(lines):
    """Give what is said of a spec with these lines."""
    content = f"model: m\ndata: d.jsonl\n{lines}\n"
    return list(doubtful(read_spec(content.encode(), file_name="a.yaml")))


SETTINGS = {
    "training: {learning_rate: 1}": "learning_rate 1 is very high: it most likely spoils",
    "training: {learning_rate: 1e-9}": "learning_rate 1e-09 is very low: hardly anything",
    "lora: {r: 1, alpha: 256}": "alpha 256 with r 1 weights the adapter by 2.6e+02: it most likely",
    "lora: {r: 512, alpha: 1}": "alpha 1 with r 512 weights the adapter by 0.002: hardly anything",
    "training: {warmup_ratio: 0.99}": "warmup_ratio 99%: for so much of the training",
    "training: {epochs: 0.01}": "epochs 0.01: only a part of the rows is learned",
}


@pytest.mark.parametrize("lines", SETTINGS)
def test_what_does_nothing_or_spoils_the_model_is_said(lines):
    """Before the night is spent on it, in the reader's language."""
    (note,) = told(lines)
    assert note.startswith(SETTINGS[lines])
    assert translated(note, Speaker(Language.GERMAN)) is not None


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "training: {learning_rate: 1e-3, warmup_ratio: 10%, max_steps: 1}",
        "training: {learning_rate: 1e-5, epochs: 1}",
        "lora: {r: 64, alpha: 16}",
        "lora: {r: 256, alpha: 32, use_rslora: true}",
    ],
)
def test_what_people_train_with_is_no_matter(lines):
    """A note that always stands there is read by nobody."""
    assert told(lines) == []
