"""Tasks of lm-evaluation-harness as axes: what its own `simple_evaluate` finds is what they hold.

    make test-tasks

The harness is an extra of 340 MB: where it is not installed, these tests say so and are skipped.
"""

from __future__ import annotations

import importlib.util
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_answers import ROWS, measured, with_adapter
from test_answers import prepared as prepared_without

from runner.contract.evaluation import Axis
from runner.contract.layout import Outputs, RunFolder, StageFolder, new_run_id
from runner.contract.stage_io import EvaluateResult, PreparePlan, write_message
from runner.errors import InputError
from runner.training.data.prepare import prepare
from runner.training.evaluate import tasks as of_harness

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None,
        reason="lm-evaluation-harness is not installed here: `make test-tasks` does it",
    ),
    pytest.mark.filterwarnings("ignore"),  # of the stack: its stage runs in this process
]
ITEMS = 16
CHOICE = """\
task: office_words
dataset_path: json
dataset_kwargs: {data_files: {test: words.jsonl, train: shots.jsonl}}
test_split: test
fewshot_split: train
num_fewshot: 2
output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITTEN = """\
task: office_sums
dataset_path: json
dataset_kwargs: {data_files: {test: words.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: !function marks.target
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
process_results: !function marks.wrong
metric_list:
  - {metric: wrong, aggregation: mean, higher_is_better: false}
"""
MARKS = """\
def target(doc):
    return doc["choices"][doc["answer"]]

def wrong(doc, results):
    return {"wrong": len(results[0]) % 2}

def leave(doc, results):
    raise SystemExit(0)
"""
RANDOM_PROMPT = CHOICE.replace("office_words", "restless").replace(
    'doc_to_text: "{{question}}\\nAnswer:"', "doc_to_text: !function restless.text"
)
BROKEN = {
    "unread": ("task: unread\ndataset_path: [\n", "its file cannot be read"),
    "hub": (CHOICE.replace("json\n", "nobody/there\n").replace("office_words", "hub"), "its data"),
    "gone": (CHOICE.replace("words.jsonl", "gone.jsonl").replace("office_words", "gone"), "a file"),
    "code": (WRITTEN.replace("marks.wrong", "marks.gone").replace("office_sums", "code"), "Python"),
    "module": (
        WRITTEN.replace("marks.wrong", "no.gone").replace("office_sums", "module"),
        "Python",
    ),
    "perplexity": (
        CHOICE.split("doc_to_choice", maxsplit=1)[0]
        .replace("multiple_choice", "loglikelihood_rolling")
        .replace("num_fewshot: 2\n", "")
        .replace("office_words", "perplexity")
        + 'doc_to_target: "{{question}}"\nmetric_list:\n  - {metric: word_perplexity}\n',
        "none of its measures",
    ),
    "leaves": (
        WRITTEN.replace("marks.wrong", "marks.leave").replace("office_sums", "leaves"),
        "Sys",
    ),
    "restless": (RANDOM_PROMPT, "it asks something else each time"),
}


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The owner's folder: tasks, their data and their code beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    draw = random.Random(7)
    words = ["lease", "sale", "notice", "deposit", "rent", "term", "party", "clause"]
    rows = []
    for n in range(ITEMS + 6):
        choices = draw.sample(words, 3)
        question = f"{n}. Which of {', '.join(choices)} is a word for number {n % 3 + 1}?"
        rows.append({"question": question, "choices": choices, "answer": n % 3})
    for name, part in (("words", rows[:ITEMS]), ("shots", rows[ITEMS:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "choice.yaml").write_text(CHOICE)
    (folder / "below").mkdir()
    (folder / "below" / "written.yaml").write_text(WRITTEN)
    (folder / "below" / "marks.py").write_text(MARKS)
    (folder / "marks.py").write_text(MARKS)
    (folder / "restless.py").write_text(
        "import itertools\nturn = itertools.count()\ndef text(doc):\n    return str(next(turn))\n"
    )
    for name, (content, _) in BROKEN.items():
        (folder / f"{name}.yaml").write_text(content)
    return folder


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever asks for an address fails, as in the runner's container; nobody may even ask."""
    asked: list[object] = []

    def refuse(*args: Any, **_: Any) -> None:
        asked.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    yield
    assert not asked


def prepared(root: Path, models: Path, allowed: Path | None, names: list[str]) -> RunFolder:
    """Prepare a run whose spec asks for tasks."""
    spec = f"""\
model: {{}}
data: rows.jsonl
eval_split: 20%
method: lora
evaluation: {{{{samples: 0, minutes: 30, tasks: {json.dumps(names)}}}}}
"""
    inbox = root / "jobs"
    inbox.mkdir(exist_ok=True)
    (inbox / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    run = Outputs(root / "outputs").run("job", new_run_id())
    run.prepared.mkdir(parents=True)
    run.spec.write_text(spec.format("tiny"))
    plan = PreparePlan(
        models_dir=str(models),
        jobs_dir=str(inbox),
        device="cpu",
        evaluation_tasks=str(allowed or ""),
    )
    write_message(StageFolder(run.prepared).plan, plan)
    prepare(run.prepared)
    return run


def reference(run: RunFolder, model: Path, allowed: Path, name: str, *, base: bool) -> list[float]:
    """Ask lm_eval itself, with its defaults, on a model that transformers and PEFT loaded."""
    import contextlib

    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if not base:
        loaded = PeftModel.from_pretrained(loaded, run.adapter)
    with contextlib.chdir(allowed):
        found = simple_evaluate(
            model=HFLM(pretrained=loaded, tokenizer=AutoTokenizer.from_pretrained(model)),
            tasks=[name],
            task_manager=TaskManager(include_path=str(allowed), include_defaults=False),
            bootstrap_iters=0,
        )
    assert found is not None
    measure = {"office_words": "acc", "office_sums": "wrong"}[name]
    samples = sorted(found["samples"][name], key=lambda one: one["doc_id"])
    mean = found["results"][name][f"{measure},none"]
    scores = [float(one[measure]) for one in samples]
    assert sum(scores) / len(scores) == pytest.approx(mean)
    return scores


@pytest.fixture(scope="module")
def run(tiny_model: Path, allowed: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that is prepared and exported."""
    root = tmp_path_factory.mktemp("box")
    found = prepared(root, tiny_model.parent, allowed, ["office_words", "office_sums"])
    with_adapter(found, tiny_model, seed=1)
    return found


def axes_of(result: EvaluateResult) -> dict[str, Axis]:
    assert result.evaluation is not None
    return {axis.name: axis for axis in result.evaluation.axes}


def test_tasks_are_measured_as_the_harness_itself_does(
    run: RunFolder, tiny_model: Path, allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Item by item, before and after, with few-shot examples; the noise is kept."""
    judged: dict[str, tuple[list[float], list[float]]] = {}
    real = of_harness.judge_share

    def judge(name: str, base: list[float], adapter: list[float], **more: Any) -> Axis:
        judged[name] = (list(base), list(adapter))
        return real(name, base, adapter, **more)

    monkeypatch.setattr(of_harness, "judge_share", judge)
    found = axes_of(measured(run, tiny_model.parent, evaluation_tasks=str(allowed)))
    assert list(found) == ["task.office_words", "task.office_sums"]
    for name in ("office_words", "office_sums"):
        before = reference(run, tiny_model, allowed, name, base=True)
        after = reference(run, tiny_model, allowed, name, base=False)
        assert judged[f"task.{name}"] == (before, after)
        assert len(before) == ITEMS
        assert 0 < sum(before + after) < 2 * ITEMS  # it tells them apart
        axis = found[f"task.{name}"]
        assert axis.items == ITEMS
        assert axis.base == pytest.approx(sum(before) / ITEMS)
        assert axis.adapter == pytest.approx(sum(after) / ITEMS)
    assert not found["task.office_words"].lower_is_better
    worse = found["task.office_sums"]
    assert worse.lower_is_better
    assert worse.difference == pytest.approx(worse.base - worse.adapter)
    kept = sorted((run.root / "noise").glob("*.json"))
    noise = {name for file in kept for name in json.loads(file.read_text())}
    assert noise == set(found)


def test_noise_that_was_measured_is_not_measured_again(
    run: RunFolder, tiny_model: Path, allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is asked in other company once; a kept figure stands, whatever it is."""
    for file in (run.root / "noise").glob("*.json"):
        content = dict.fromkeys(json.loads(file.read_text()), 0.25)
        file.write_text(json.dumps(content))
    batches: list[int] = []
    real = of_harness._once

    def once(adapted: Any, name: str, task: Any, limit: int, batch: int) -> Any:
        batches.append(batch)
        return real(adapted, name, task, limit, batch)

    monkeypatch.setattr(of_harness, "_once", once)
    found = axes_of(measured(run, tiny_model.parent, evaluation_tasks=str(allowed)))
    assert [axis.noise for axis in found.values()] == [0.25, 0.25]
    assert set(batches) == {of_harness._BATCH}


def test_a_task_that_fails_takes_nothing_with_it(
    tmp_path: Path, tiny_model: Path, allowed: Path
) -> None:
    """Each is named with the reason in words; the one that works is measured all the same."""
    run = prepared(tmp_path, tiny_model.parent, allowed, [*BROKEN, "office_words"])
    with_adapter(run, tiny_model, seed=1)
    (tmp_path / "less").mkdir()
    result = measured(run, tiny_model.parent, evaluation_tasks=str(allowed))
    assert list(axes_of(result)) == ["task.office_words"]
    assert result.eval_loss_after is not None
    for name, (_, why) in BROKEN.items():
        (said,) = [one for one in result.shortfalls if one.startswith(f"The task {name} ")]
        assert said.startswith(f"The task {name} could not be run: {why}"), said
    gone = measured(run, tiny_model.parent, evaluation_tasks=str(tmp_path / "less"))
    assert not axes_of(gone)
    said = "The task office_words could not be run: no such task is allowed on this box."
    assert said in gone.shortfalls


def test_a_batch_that_does_not_fit_is_halved(
    run: RunFolder, tiny_model: Path, allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No card here: the error is the one that torch raises when its memory is out."""
    import torch

    batches: list[int] = []
    real = of_harness._once

    def once(adapted: Any, name: str, task: Any, limit: int, batch: int) -> Any:
        batches.append(batch)
        if batch > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(adapted, name, task, limit, batch)

    monkeypatch.setattr(of_harness, "_once", once)
    result = measured(run, tiny_model.parent, evaluation_tasks=str(allowed))
    assert list(axes_of(result)) == ["task.office_words", "task.office_sums"]
    assert batches[:3] == [16, 8, 4]


def test_too_little_time_is_said(
    run: RunFolder, tiny_model: Path, allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item that takes a minute leaves no room for ten."""
    monkeypatch.setattr(of_harness, "items_in_time", _none_in_time)
    result = measured(run, tiny_model.parent, evaluation_tasks=str(allowed))
    assert not axes_of(result)
    for name in ("office_words", "office_sums"):
        said = f"There was no time left for the task {name}: evaluation.minutes allows more."
        assert said in result.shortfalls


def _none_in_time(*_: Any, **__: Any) -> int:
    raise TimeoutError


def test_an_unknown_task_is_refused_in_prepare(
    tmp_path: Path, tiny_model: Path, allowed: Path
) -> None:
    """With the names that there are; what the harness has of its own is not allowed."""
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, tiny_model.parent, allowed, ["office_word", "hellaswag"])
    first, second = caught.value.problems
    assert (first.found, second.found) == ("office_word", "hellaswag")
    assert "office_sums, office_words" in str(first.allowed)
    with pytest.raises(InputError, match="has no tasks of lm-evaluation-harness"):
        prepared(tmp_path, tiny_model.parent, None, ["office_words"])


def test_without_tasks_the_harness_is_not_loaded(tmp_path: Path, tiny_model: Path) -> None:
    """Its import takes seconds: a run that asks for none does not wait for it."""
    import subprocess
    import sys

    run = prepared_without(
        tmp_path,
        tiny_model.parent,
        "model: tiny\ndata: rows.jsonl\nevaluation: {samples: 0}\n",
        ROWS,
    )
    with_adapter(run, tiny_model, seed=1)
    measured(run, tiny_model.parent)
    code = (
        "import sys; from pathlib import Path; from runner.training.evaluate.evaluate import "
        f"evaluate; evaluate(Path({str(run.evaluation)!r})); print('lm_eval' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def test_what_the_harness_brings_leaves_the_report_as_it_is() -> None:
    """It brings lxml, which pygal takes where it is: charts are the same with it and without."""
    import subprocess
    import sys

    code = (
        "import sys; sys.modules.update({'lxml': None} if 'without' in sys.argv else {})\n"
        "from runner.report.charts import Drawn, svg; from runner.report.curve import Series\n"
        "series = Series(name='loss', points=((1, 2.0), (2, 1.5), (3, 1.0)), count=3)\n"
        "print(svg('a', [Drawn(name='b', series=series)], title='c', description='d', say=str))\n"
        "print('lxml' in sys.modules and sys.modules['lxml'] is not None, file=sys.stderr)"
    )
    with_it, without = (
        subprocess.run(
            [sys.executable, "-c", code, *more], capture_output=True, text=True, check=True
        )
        for more in ([], ["without"])
    )
    assert (with_it.stderr.strip(), without.stderr.strip()) == ("True", "False")
    assert with_it.stdout == without.stdout
    assert "<path" in without.stdout
