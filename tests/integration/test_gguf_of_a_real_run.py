"""A real job that asks for GGUF files: the real daemon, stages, model and llama.cpp."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from pathlib import Path

import pytest
from daemon_box import Box

from runner.contract.handed_over import forms_in
from runner.contract.layout import RunFolder
from runner.contract.llama_cpp import find_llama_cpp, missing_tools
from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.report.gather import gather

pytestmark = pytest.mark.long

SPEC = """\
model: real
data: walls.jsonl
name: walls
method: lora
eval_split: 0.2
system_prompt: You measure walls.
training: {max_steps: 12, effective_batch_size: 4, learning_rate: 5e-3, eval_steps: 12}
evaluation: {samples: 6, scores: [chrf, exact_match], forgetting: false, recital: false}
export: {gguf: [q8_0], adapter_gguf: true}
"""
MAGIC = b"GGUF"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Box:
    """A job that has run to its end."""
    if find_llama_cpp() is None:
        pytest.skip(f"NO LLAMA.CPP: {missing_tools()}")
    box = Box(tmp_path_factory.mktemp("box"))
    model = box.root / "models" / "real"
    model.mkdir()
    for file in tiny_model.iterdir():
        os.link(file, model / file.name)
    rows = [
        {"prompt": f"How high is wall {n}?", "completion": f"Wall {n} is {3 * n} feet high."}
        for n in range(40)
    ]
    (box.jobs / "walls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (box.jobs / "walls.yaml").write_text(SPEC)
    stage = [sys.executable, "-m", "runner.training"]
    done = box.once(stage_command=stage, device="cpu")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return box


@pytest.fixture(scope="module")
def finished(box: Box) -> tuple[RunFolder, RunRecord]:
    """Its run."""
    (run,) = box.outputs.runs()
    return run, box.record()


def test_the_record_has_each_file_with_its_figures(finished: tuple[RunFolder, RunRecord]) -> None:
    """Both files are there, whole, by their hashes; llama.cpp answered as what was trained does."""
    run, record = finished
    assert record.state is State.SUCCEEDED
    made = record.handed_over
    assert made is not None
    assert [one.name for one in made.forms] == ["q8_0", "adapter_gguf"], record.shortfalls
    assert not [one for one in record.shortfalls if "q8_0" in one or "adapter_gguf" in one]
    for form in made.forms:
        content = (run.root / form.path).read_bytes()
        assert content[:4] == MAGIC
        assert form.files == {Path(form.path).name: hashlib.sha256(content).hexdigest()}
        assert form.bytes == len(content)
        assert form.within is True
        assert form.figures is not None
        assert form.figures.kept is not None
        assert form.figures.kept > 0.9
        assert form.figures.stops is True
        assert form.figures.rows == 8
        assert form.figures.reference_loss is not None
        assert form.figures.loss is not None
        assert math.isclose(form.figures.loss, form.figures.reference_loss, rel_tol=0.05)


def test_each_file_answers_the_held_out_questions_and_is_scored_as_the_adapter_was(
    finished: tuple[RunFolder, RunRecord],
) -> None:
    """The job's own scores, of the same rows; the evaluation's stand beside them."""
    _, record = finished
    assert record.handed_over is not None
    assert record.evaluation is not None
    evaluated = {one.name: one.adapter for one in record.evaluation.scores}
    for form in record.handed_over.forms:
        assert form.figures is not None
        assert form.figures.score_rows == record.evaluation.answered_rows == 6
        assert form.figures.scores.keys() == {"chrf", "exact_match"}
        for name, theirs in form.figures.reference_scores.items():
            assert theirs == pytest.approx(evaluated[name], abs=1e-6)
        # 8 bits may write another letter; an adapter that is left out writes another text.
        assert form.figures.scores["chrf"] == pytest.approx(evaluated["chrf"], abs=0.1)
    assert all("6 held-out questions: " in said for said in forms_in(record.handed_over))


def test_the_folder_has_what_was_asked_for_and_nothing_half_written(
    finished: tuple[RunFolder, RunRecord],
) -> None:
    """Two files, each with its Modelfile; no merged/, which nobody asked for, nothing beside."""
    run, _ = finished
    assert {path.name for path in run.gguf.iterdir()} == {
        "walls-q8_0.gguf",
        "walls-q8_0.Modelfile",
        "walls-adapter_gguf.gguf",
        "walls-adapter_gguf.Modelfile",
    }
    assert not run.merged.exists()
    assert not [path.name for path in run.root.rglob(".tmp*")]
    assert not [path.name for path in run.root.rglob("*whole*")]


def test_the_report_has_what_each_file_answers(finished: tuple[RunFolder, RunRecord]) -> None:
    """To the questions that base and adapter were asked."""
    run, _ = finished
    samples = gather(run).samples
    assert samples
    for sample in samples[:3]:
        assert [form for form, _ in sample.served] == ["q8_0", "adapter_gguf"]
        assert all(answer.strip() for _, answer in sample.served)


def test_the_modelfile_serves_the_file_as_trained(finished: tuple[RunFolder, RunRecord]) -> None:
    """It names the file beside it, the spec's system prompt and the end token that was learned."""
    run, _ = finished
    lines = (run.gguf / "walls-q8_0.Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./walls-q8_0.gguf"
    assert 'SYSTEM """You measure walls."""' in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert "<|im_start|>assistant" in "\n".join(lines)
    adapter = (run.gguf / "walls-adapter_gguf.Modelfile").read_text().splitlines()
    assert adapter[:2] == ["FROM ./BASE.gguf", "ADAPTER ./walls-adapter_gguf.gguf"]
    assert adapter[2:] == lines[1:]


def test_people_are_told_how_it_is_served(box: Box, finished: tuple[RunFolder, RunRecord]) -> None:
    """HANDOVER.md has the commands, with paths that exist."""
    run, _ = finished
    page = (box.outputs.root / "walls" / "HANDOVER.md").read_text()
    assert "llama-server -m outputs/walls/current/gguf/walls-q8_0.gguf --jinja" in page
    assert "ollama create walls -f outputs/walls/current/gguf/walls-q8_0.Modelfile" in page
    current = box.outputs.root / "walls" / "current"
    assert (current / "gguf" / "walls-q8_0.gguf").samefile(run.gguf / "walls-q8_0.gguf")
