"""What a run would need, told before it is dropped."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from runner import cli
from runner.commands.plan import Planned, render
from runner.contract.batch import BatchPlan
from runner.contract.pick_rate import SmallRuns
from runner.forecast.choose import alternatives, choose
from runner.forecast.forecast import forecast
from runner.forecast.lengths import Lengths
from runner.forecast.model_shape import read_shape
from runner.forecast.ranks import Ranks
from runner.forecast.work import GIB, Box, Work
from runner.language.speaker import ENGLISH, Language, Speaker
from runner.spec.read_spec import read_spec
from runner.words import duration

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


TWO = Ranks(count=2)


def planned(gib: float | None, *, longest: int = 2000, **known: object) -> Planned:
    """Plan 800 contracts on a model of 8 billion weights."""
    spec = read_spec(b"model: llama\ndata: a.jsonl\n", file_name="contracts.yaml")
    shape = read_shape(LLAMA_8B)
    assert shape is not None
    work = Work.of(spec, shape, Lengths.of(longest - i for i in range(800)), total_steps=100)
    box = Box(gpu_memory_bytes=int(gib * GIB) if gib else None, **known)  # type: ignore[arg-type]
    return Planned(
        spec=spec,
        work=work,
        box=box,
        chosen=choose(work, box),
        alternatives=alternatives(work, box),
        what_if=False,
    )


GERMAN = Speaker(Language.GERMAN)


def shown(what: Planned, speak: Speaker = ENGLISH) -> str:
    """Print it."""
    console = Console(width=100, file=io.StringIO())
    with console.capture() as captured:
        console.print(render(what, speak))
    return captured.get()


def test_a_person_sees_what_fits_their_card() -> None:
    """The plan chosen, each part of its memory, and every batch with whether it fits."""
    text = shown(planned(24))
    assert "Fits a card with 24 GiB" in text
    for part in (
        "weights",
        "adapter",
        "gradients",
        "optimizer",
        "activations",
        "logits",
        "context",
    ):
        assert f"  {part} " in text
    for need in ("host memory", "disk", "time"):
        assert f"\n{need} " in text
    assert "\n  base kept in 4 bits, if there is room " in text  # and in no need of the run
    (row,) = [line for line in text.splitlines() if line.startswith("16 × 1")]
    assert "does not fit" in row
    assert [line.split()[0] for line in text.splitlines() if " × " in line[:7]] == [
        "16", "8", "4", "2", "1",
    ]  # fmt: skip
    assert "Starts with 2 × 8, at most 2,000 tokens at once" in text
    assert "long rows do not pad short ones" in text


def test_a_german_box_plans_in_german() -> None:
    """Not one of its English words is left; numbers have their comma."""
    english, german = shown(planned(24)), shown(planned(24), GERMAN)
    assert "Passt: eine Karte mit 24 GiB." in german
    assert "Beginnt mit 2 × 8, höchstens 2.000 Token auf einmal" in german
    assert re.search(r"\n  Gewichte +\d,\d\d GiB", german)
    too_long = shown(planned(8, longest=60_000), GERMAN)
    assert re.search(r"Passt nicht: eine Karte mit 8 GiB; es fehlen [\d.]+,\d GiB\.", too_long)
    words, others = (set(re.findall("[a-z]{3,}", text.lower())) for text in (english, german))
    assert len(words) > 40
    assert words & others == {"contracts", "llama", "qlora", "adapter", "logits", "gib"}


def test_by_how_much_it_misses() -> None:
    """Where nothing fits, the page opens with how many GiB are missing."""
    found = planned(8, longest=60_000)
    missing = (found.chosen.gpu_memory_bytes / GIB) - 7.75
    match = re.search(r"Does not fit a card with 8 GiB: ([\d.]+) GiB are missing", shown(found))
    assert match is not None
    assert missing <= float(match[1]) < missing + 0.2


def test_the_parts_shown_add_up_after_lessons() -> None:
    """What past runs taught is a line of its own, so that the parts still are the whole."""
    found = planned(24, learned_memory={"qlora, checkpointing off": 1.1})
    assert "learned from past runs" in shown(found)
    assert "learned from past runs" not in shown(planned(24))


def test_what_fp8_would_take_is_said_where_it_is_sooner() -> None:
    """On the fast path in 4 bits; never of 16 bits, of the plain path, or where fp8 is asked."""
    found = planned(24, flops=150e12)
    work = replace(found.work, fast=True)
    fast = replace(found, work=work, chosen=choose(work, found.box))
    (said,) = re.findall(r"With `speed: fp8` about (\w+ \w+)", shown(fast))
    assert said != duration(fast.chosen.seconds)
    assert "fp8" not in shown(found)
    in_16 = replace(work, method="lora")
    assert "fp8" not in shown(replace(fast, work=in_16, chosen=choose(in_16, found.box)))
    asked = fast.spec.model_copy(update={"speed": "fp8"})
    assert "fp8" not in shown(replace(fast, spec=asked))


def test_several_cards_are_planned_each_by_itself() -> None:
    """What each holds, the time on all and on one, and that the box has fewer."""
    found = planned(24, flops=150e12)
    two = replace(found, box=TWO.of(found.box), chosen=choose(found.work, TWO.of(found.box)))
    text = " ".join(shown(replace(two, cards=2)).split())
    assert "Fits 2 cards at once, each a card with 24 GiB." in text
    assert "GPU memory, each card" in text
    assert f"time {duration(two.chosen.seconds)}" in text
    alone = forecast(found.work, two.chosen.batch_plan, found.box).seconds
    assert f"on one card {duration(alone)}" in text
    assert "RUNNER_GPUS" not in text
    assert "trains on one card (RUNNER_GPUS): it would refuse" in shown(two)
    assert "`resources: {gpus: 2}`" in shown(replace(found, cards=2))
    assert "resources" not in shown(found)
    large = replace(found.work, lengths=Lengths.of([60_000] * 40))
    small = TWO.of(planned(8).box)
    over = replace(two, work=large, box=small, chosen=choose(large, small))
    assert re.search(r"Does not fit 2 cards .*: [\d.]+ GiB are missing on each", shown(over))


@pytest.fixture
def spec(tiny_model: Path, tmp_path: Path) -> Path:
    """A spec whose rows lie beside it."""
    rows = [{"prompt": f"How high is wall {i}?", "completion": "A foot." * i} for i in range(1, 60)]
    (tmp_path / "walls.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    path = tmp_path / "walls.yaml"
    path.write_text(f"model: {tiny_model.name}\ndata: walls.jsonl\neval_split: 0\n")
    return path


def test_plan_reads_real_rows(spec: Path, tiny_model: Path, capsys: pytest.CaptureFixture) -> None:
    """The lengths are those of the data, through the model's own tokenizer and template."""
    words = ["plan", str(spec), "--models-dir", str(tiny_model.parent), "--card", "24", "--json"]
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["total_steps"], found["fits"]) == (59, 24, True)
    assert 59 * 2 < found["longest"] < 59 * 6  # tokens: "A foot." is two or three
    assert found["limit_bytes"] < 24 * GIB
    plan = BatchPlan.model_validate(found["batch_plan"])
    assert plan.effective_batch_size == found["effective_batch_size"] == 8
    assert found["gpu_memory_bytes"] == pytest.approx(sum(found["gpu_memory"].values()), abs=8)
    assert found["host_memory_bytes"] > 0
    assert found["disk_bytes"] > 0
    assert found["seconds"] > 0
    assert plan.layers_kept == 2  # a tiny Llama of two layers: the fast path, all of them kept
    assert {one["batch_plan"]["layers_kept"] for one in found["alternatives"]} == {0, 1, 2}


def test_small_runs_of_learning_rates_are_counted(
    spec: Path, tiny_model: Path, capsys: pytest.CaptureFixture
) -> None:
    """Their steps and their time, beside the training's own; too little time is said."""
    trying = "try: {learning_rate: [1e-4, 2e-4, 4e-4]}\n"
    text = spec.read_text().replace("eval_split: 0\n", "eval_split: 0.2\n")
    spec.write_text(text + trying)
    words = ["plan", str(spec), "--models-dir", str(tiny_model.parent), "--card", "24"]
    with pytest.raises(SystemExit):
        cli.main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    small = found["small_runs"]
    assert (small["count"], small["steps"], small["is_enough"]) == (3, 10, True)
    each = found["seconds"] / found["total_steps"]
    assert small["seconds"] == pytest.approx(30 * each)
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "before it, 3 learning rates, 10 steps each" in capsys.readouterr().out


def test_time_that_is_too_short_for_the_rates_is_said() -> None:
    """Before anybody waits for it."""
    found = planned(24)
    short = SmallRuns(count=3, steps=4, seconds=1.0, is_enough=False)
    assert "too short for the learning rates" in shown(replace(found, small_runs=short))
    enough = replace(short, is_enough=True)
    assert "too short" not in shown(replace(found, small_runs=enough))


def test_plan_reads_no_weights(spec: Path, tiny_model: Path) -> None:
    """Neither the command nor the stage that it runs loads torch: a plan costs seconds."""
    source = (
        "import runpy, sys\n"
        "from runner.errors import RunnerError\n"
        "from runner.commands.plan import Asked, plan\n"
        "from runner.contract.layout import Outputs\n"
        "from pathlib import Path\n"
        f"plan(Path({str(spec)!r}), Outputs(Path('none')), "
        f"Asked(models_dir=Path({str(tiny_model.parent)!r})))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_a_spec_that_cannot_run_cannot_be_planned(
    spec: Path, tiny_model: Path, capsys: pytest.CaptureFixture
) -> None:
    """What a run would be refused for is said here, in the same words."""
    spec.write_text(spec.read_text() + "training: {max_length: 16}\n")
    with pytest.raises(SystemExit) as left:
        cli.main(["plan", str(spec), "--models-dir", str(tiny_model.parent)])
    assert left.value.code == 1
    assert "longer than 16 tokens" in capsys.readouterr().err
