"""The method where a spec says `method: auto`: 16 bits where that fits and costs little time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.contract.layout import Outputs
from runner.contract.method_choice import MOST_TIMES, MethodChoice, method_in
from runner.contract.record import read_record, write_record
from runner.daemon.promotion.at_end import adapter_in_use
from runner.daemon.stages.choose_method import method_for
from runner.forecast.choose import choose
from runner.forecast.choose_method import choose_for_processor, choose_method
from runner.forecast.forecast import lesson_key
from runner.forecast.lengths import Lengths
from runner.forecast.lessons import Lesson
from runner.forecast.model_shape import read_shape
from runner.forecast.work import GIB, Box, Work
from runner.language.speaker import Language, Speaker
from runner.spec.as_chosen import as_chosen
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec

RECORD = Path(__file__).parent.parent / "data/records/v2-9-cleared.json"
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
WEIGHTS = 2 * 8.03e9  # bytes of Llama 3's 8B in 16 bits


def spec(text: str = "") -> JobSpec:
    """Read a spec that names no method unless ``text`` does."""
    return read_spec(f"model: m\ndata: d.jsonl\n{text}".encode(), file_name="job.yaml")


def work(**changes: Any) -> Work:
    """Describe the law firm's run of an 8B."""
    shape = read_shape(LLAMA)
    assert shape is not None
    given: dict[str, Any] = {
        "shape": shape,
        "method": "qlora",
        "rank": 16,
        "target_modules": "all-linear",
        "dropout": 0.0,
        "lengths": Lengths.of([2000] * 700 + [4096] * 100),
        "effective_batch_size": 16,
        "total_steps": 150,
        "fast": True,
    }
    return Work(**(given | changes))


def card(gib: float) -> Box:
    """Give a card with an RTX 4090's rate."""
    return Box(gpu_memory_bytes=int(gib * GIB), flops=165e12)


@pytest.mark.parametrize(
    ("gib", "method", "why"),
    [
        (12, "qlora", "no_room"),
        (16, "qlora", "no_room"),
        (24, "lora", "fits"),
        (80, "lora", "fits"),
    ],
)
def test_an_8b_on_the_cards_that_people_have(gib: int, method: str, why: str) -> None:
    """Its weights take 15 GiB in 16 bits, so 16 are too few, and 24 are enough."""
    found = choose_method(work(), card(gib))
    assert (found.method, found.why) == (method, why)
    assert found.needed_bytes is not None
    assert found.needed_bytes > WEIGHTS
    if why == "fits":
        assert found.needed_bytes <= card(gib).limit_bytes  # type: ignore[operator]
        assert 0.9 < found.times <= MOST_TIMES  # type: ignore[operator]


def test_what_would_take_too_long_is_not_chosen() -> None:
    """Between "does not fit" and "fits" lies a card on which every layer is made again."""
    whys = []
    for tenths in range(150, 260):
        found = choose_method(work(dropout=0.1, fast=False), card(tenths / 10))
        if found.why not in whys:
            whys.append(found.why)
        if found.times is not None:
            assert (found.times <= MOST_TIMES) is (found.method == "lora")
    assert whys[0] == "no_room"
    assert whys[-1] == "fits"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "ran_out"),
        ({"forecast_bytes": 1, "steady_bytes": 1}, "ran_out"),  # of less than is wanted now
        ({"forecast_bytes": 2**40}, "fits"),  # of more: it says nothing of this run
        ({"steady_bytes": 2**40}, "fits"),
        ({"measured_bytes": 1}, "fits"),  # it was allowed less of the card
        ({"key": "lora, checkpointing on"}, "fits"),
    ],
)
def test_what_ran_out_on_this_card_is_not_begun_again(changes: dict[str, Any], why: str) -> None:
    """Such a plan bounds all that want as much, in both parts, and no others."""
    box = card(24)
    plan = choose(work(method="lora"), box)
    parts = plan.gpu_memory
    fields: dict[str, Any] = {
        "key": lesson_key("lora", plan.batch_plan),
        "gpu": "card",
        "forecast_bytes": parts.total,
        "steady_bytes": parts.weights + parts.context,
        "measured_bytes": box.limit_bytes,
        "ran_out": True,
    }
    known = replace(box, too_large=(Lesson(**(fields | changes)),))
    found = choose_method(work(), known)
    assert (found.why, found.method) == (why, "qlora" if why == "ran_out" else "lora")
    assert ("ran out" in method_in(found)) is (why == "ran_out")


def test_slower_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the time decides, and the sentence names the figure."""
    monkeypatch.setattr("runner.forecast.choose_method.MOST_TIMES", 1.01)
    found = choose_method(work(), card(24))
    assert (found.method, found.why) == ("qlora", "slower")
    assert f"{found.times:.1f} times as long" in method_in(found)


def test_the_machines_own_memory_decides_without_a_card() -> None:
    """Weights may take half of it, counted in 32 bits."""
    assert choose_for_processor(work(), 128 * GIB).method == "lora"
    short = choose_for_processor(work(), 32 * GIB)
    assert (short.method, short.why) == ("qlora", "short")
    assert short.needed_bytes == pytest.approx(2 * WEIGHTS, rel=0.01)


def place(models: Path, **config: Any) -> Path:
    """Lay a model's config into a models folder."""
    (models / "m").mkdir(parents=True)
    (models / "m/config.json").write_text(json.dumps({**LLAMA, **config}))
    return models


def test_what_rules_16_bits_out(tmp_path: Path) -> None:
    """A base that comes in 4 bits, fp8, a card that says nothing, a model of unknown sizes."""
    models = place(tmp_path / "a")
    packed = place(
        tmp_path / "b", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
    )

    def why(text: str = "", **changes: Any) -> str:
        given = {"what": work(), "box": card(80), "at": models, **changes}
        found = method_for(
            spec(text), given["what"], given["box"], models_dir=given["at"], on_card=True
        )
        assert found is not None
        assert found.method == ("lora" if found.why == "fits" else "qlora")
        return found.why

    assert why() == "fits"
    assert why("speed: fp8") == "fp8"
    assert why(at=packed) == "base"
    assert why(what=None) == "unknown"
    assert why(box=Box()) == "unknown"
    for named in ("qlora", "lora"):
        text = f"method: {named}\n"
        assert method_for(spec(text), work(), card(80), models_dir=models, on_card=True) is None


@pytest.mark.parametrize("before", ["lora", "qlora"])
def test_it_goes_on_as_it_began(tmp_path: Path, before: str) -> None:
    """With start_from: current, whatever fits: the adapter stands on the base it was trained on."""
    models, outputs = place(tmp_path / "models"), Outputs(tmp_path / "outputs")
    record = read_record(RECORD)
    run = outputs.run(record.job, record.run_id)
    run.root.mkdir(parents=True)
    choice = MethodChoice(method=before, why="fits")  # type: ignore[arg-type]
    write_record(run.record, record.but(method=choice))
    run.spec.write_text("model: m\ndata: d.jsonl\n")
    found = method_for(
        spec(),
        work(),
        card(12 if before == "lora" else 80),
        models_dir=models,
        on_card=True,
        goes_on_from=run,
    )
    assert found == MethodChoice(method=before, why="goes_on")  # type: ignore[arg-type]


@pytest.mark.parametrize(("before", "why"), [("qlora", "as_in_use"), ("lora", "fits")])
def test_it_is_compared_on_the_base_of_the_one_in_use(
    tmp_path: Path, before: str, why: str
) -> None:
    """An adapter trained in 4 bits would lose on 16; what is left to the box stays as it was."""
    models, outputs = place(tmp_path / "models"), Outputs(tmp_path / "outputs")
    record = read_record(RECORD)
    run = outputs.run(record.job, record.run_id)
    run.adapter.mkdir(parents=True)
    choice = MethodChoice(method=before, why="fits")  # type: ignore[arg-type]
    write_record(run.record, record.but(method=choice))
    run.spec.write_text("model: m\ndata: d.jsonl\n")
    found = method_for(spec(), work(), card(80), models_dir=models, on_card=True, in_use=run)
    assert found is not None
    assert (found.method, found.why) == (before, why)


def test_an_adapter_of_other_bits_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless both are measured on the base in 16 bits."""
    outputs, record = Outputs(tmp_path), read_record(RECORD)
    run = outputs.run(record.job, record.run_id)
    run.adapter.mkdir(parents=True)
    write_record(run.record, record.but(method=MethodChoice(method="qlora", why="fits")))
    run.spec.write_text("model: m\ndata: d.jsonl\n")
    monkeypatch.setattr("runner.daemon.promotion.at_end.current_run", lambda *_: record.run_id)
    later = record.but(run_id="20261128T221005Z-k3f9")
    there = str(run.adapter.resolve())
    for text, wanted in (
        ("method: qlora", there),
        ("method: lora", None),
        ("method: lora\nevaluation: {served: original}", there),
    ):
        assert adapter_in_use(outputs, later, spec(text)) == wanted


def test_what_a_run_is_trained_with() -> None:
    """The record has the last word; a run of an older runner was in 4 bits, and stays so."""
    asked, record = spec(), read_record(RECORD)
    assert record.attempts
    old, fresh = record.but(method=None), record.but(method=None, attempts=())
    chosen = record.but(method=MethodChoice(method="lora", why="fits"))
    assert as_chosen(asked, fresh).method == "auto"
    assert as_chosen(asked, old).method == "qlora"
    assert as_chosen(asked, chosen).method == "lora"
    assert as_chosen(spec("method: qlora\n"), chosen).method == "qlora"


def test_why_in_words() -> None:
    """Every reason has its sentence, in both languages, with the figures it speaks of."""
    for why in MethodChoice.model_fields["why"].annotation.__args__:  # type: ignore[union-attr]
        choice = MethodChoice(
            method="qlora", why=why, needed_bytes=17 * GIB, limit_bytes=16 * GIB, times=1.75
        )
        for language in Language:
            said = method_in(choice, Speaker(language))
            assert said
            assert "{" not in said
    assert "1,8-mal" in method_in(
        MethodChoice(method="qlora", why="slower", times=1.75), Speaker(Language.GERMAN)
    )
