"""A spec goes in and an adapter comes out: the real daemon, stages, model and commands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_box import attempt_of

from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.words import visible_lines

pytestmark = pytest.mark.long

CANARY = "zqxcanaryzqx"
REPOSITORY = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"  # as README names it; here only its first layers
QUESTIONS = [
    {"instruction": f"What is {n} plus {n}, {CANARY}?", "output": f"It is {2 * n}, {CANARY}."}
    for n in range(60)
]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one command as a newcomer would, in the folder that holds jobs/ and models/."""
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    if words[0] == "runner":
        words = [sys.executable, "-m", "runner.cli", *words[1:]]
    return subprocess.run(
        words,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def readme_commands() -> list[str]:
    """List every command that README shows."""
    blocks = re.findall(r"```console\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ").split("  #")[0].strip() for line in lines]


@pytest.fixture(scope="module")
def box(tmp_path_factory, tiny_model):
    """A newcomer's folder: a model, a spec and its data."""
    folder = tmp_path_factory.mktemp("box")
    model = folder / "models" / MODEL
    model.mkdir(parents=True)
    for file in tiny_model.iterdir():
        os.link(file, model / file.name)
    (folder / "jobs").mkdir()  # a checkout has one
    (folder / "data").mkdir()
    rows = "".join(json.dumps(row) + "\n" for row in QUESTIONS)
    (folder / "data" / "contracts.jsonl").write_text(rows)
    (folder / "contracts.yaml").write_text(
        f"model: {MODEL}\ndata: data/contracts.jsonl\neval_split: 0.1\n"
        "training: {max_steps: 4, effective_batch_size: 4, learning_rate: 1e-3, eval_steps: 2}\n"
    )
    return folder


@pytest.fixture(scope="module")
def walked(box):
    """What README's commands printed, run in their order, once."""
    printed = {}
    for command in readme_commands():
        if not command.startswith("runner ") or command == "runner fetch demo":
            continue  # make targets are CI's own; the demo's model is made by other tests
        words = command.replace('"', "").split(" ", 4) if " try " in command else command.split()
        printed[command] = run(words, box)
    return printed


@pytest.fixture(scope="module")
def finished(box, walked) -> tuple[RunFolder, RunRecord]:
    """The run that README's commands made."""
    (folder,) = Outputs(box / "outputs").runs()
    return folder, read_record(folder.record)


def test_every_command_of_the_readme_works(walked):
    """What README tells people to type works when it is typed in that order."""
    assert len(walked) >= 8
    for command, result in walked.items():
        assert result.returncode == 0, (command, result.stdout[-2000:], result.stderr[-2000:])


def test_every_make_target_of_the_readme_is_run_by_ci():
    """README's make targets exist, and CI calls them."""
    targets = {c.split()[1] for c in readme_commands() if c.startswith("make ")}
    makefile = (REPOSITORY / "Makefile").read_text()
    ci = (REPOSITORY / ".ci" / "run").read_text()
    assert targets == {"demo", "check", "setup"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "make demo" in ci
    assert "make check" in ci  # both need setup


def test_the_run_succeeded_with_its_evidence(finished):
    """An adapter, its losses before and after, the data's hash, and answers beside references."""
    folder, record = finished
    assert record.state is State.SUCCEEDED
    assert record.total_steps == 4
    assert record.metrics["eval_loss_after"] < record.metrics["eval_loss_before"]
    assert [file.rows for file in record.data] == [60]
    assert record.model is not None
    assert record.model.id == MODEL
    why = "no_card" if record.environment["device"] == "cpu" else "fits"
    assert record.method is not None
    assert (record.method.method, record.method.why) == ("lora", why)
    assert not record.attempts[0].peak_gpu_memory_bytes or record.environment["device"] != "cpu"
    extremes = json.loads(folder.extremes.read_text())
    assert {"before", "after"} <= set.intersection(*map(set, extremes)), "all of them were asked"
    measured = json.loads(folder.measured_rows.read_text())
    asked = {row["instruction"] for row in QUESTIONS}
    assert measured
    assert all(one["question"] in asked for one in measured)
    samples = json.loads((folder.evaluation / "samples.json").read_text())
    page = folder.answers.read_text()
    assert all(visible_lines(one["question"].strip()) in page for one in samples)
    assert samples
    assert set(samples[0]) == {"question", "reference", "before", "after"}


def test_the_curve_reads_every_step_once(finished):
    """metrics.jsonl has each optimizer step once, in order, with the rows that it learned."""
    folder, _record = finished
    lines = [
        json.loads(s) for s in (attempt_of(folder, 1) / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(len(line["rows"]) == 4 for line in steps)
    assert [line["step"] for line in lines if "eval_loss" in line] == [2, 4]


def test_nothing_in_the_adapter_is_a_pickle(finished):
    """The product holds text and safetensors, and names no path of this box."""
    folder, _record = finished
    names = {path.name for path in folder.adapter.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= names
    assert all(name.endswith((".safetensors", ".json", ".md", ".jinja", ".txt")) for name in names)
    assert str(folder.root) not in (folder.adapter / "adapter_config.json").read_text()


def where_the_canary_sings(box: Path) -> list[str]:
    """List the files outside its permitted places that hold the canary."""
    found = []
    for path in [*(box / "outputs").rglob("*"), *(box / "jobs").rglob("*")]:
        parts = path.relative_to(box).parts
        told = path.name.endswith((".log", ".txt")) or path.name in ("result.json", "plan.json")
        told = told and parts[-2:] != ("evaluation", "answers.txt")  # answers, for people to read
        cached = parts[:3] == ("outputs", ".runner", "tokens")  # what a second run links to
        may_hold_rows = (cached or {"data", "prepared", "evaluation"} & set(parts)) and not told
        if path.suffix == ".html":  # reports show rows, but not those that were rejected
            may_hold_rows = parts[:2] in (("outputs", "contracts"), ("jobs", "done"))
        if path.is_file() and not may_hold_rows and CANARY.encode() in path.read_bytes():
            found.append("/".join(parts))
    return found


def test_no_row_of_data_leaves_its_place(box, finished, walked):
    """Rows stand in data/, prepared/, its cache, evaluation/ and reports, not in logs."""
    assert where_the_canary_sings(box) == []
    for command, result in walked.items():
        if command.split()[1] not in ("preview", "show", "try"):  # these are asked to show rows
            assert CANARY not in result.stdout + result.stderr, command


BROKEN = {
    "bad-json": f'{{"instruction": "{CANARY}", "output": "{CANARY}"}}\n{{"instruction": {CANARY}\n',
    "no-answer": json.dumps({"instruction": CANARY, "output": ""}) + "\n",
    "mixed": json.dumps({"instruction": "a", "output": CANARY})
    + "\n"
    + json.dumps({"messages": [{"role": "user", "content": CANARY}]})
    + "\n",
    "unknown-keys": json.dumps({"spalte1": CANARY, "spalte2": CANARY}) + "\n",
    "bad-role": json.dumps({"messages": [{"role": "narrator", "content": CANARY}]}) + "\n",
    "not-utf8": f'{{"instruction": "{CANARY}\xff"}}\n',
    "too-long": json.dumps({"instruction": CANARY, "output": f"{CANARY} " * 9000}) + "\n",
}


def test_bad_data_is_answered_without_quoting_it(box, finished):
    """Each kind of unusable data is rejected with file and reason, and no row is repeated."""
    jobs = box / "jobs"
    for name, content in BROKEN.items():
        (jobs / "data" / f"{name}.jsonl").write_bytes(content.encode("latin-1"))
        (jobs / f"{name}.yaml").write_text(f"model: {MODEL}\ndata: data/{name}.jsonl\n")
    result = run(["runner", "watch", "--once"], box)
    assert result.returncode == 1
    answers = {p.name.split("--")[0]: p.read_text() for p in (jobs / "rejected").glob("*.txt")}
    assert set(answers) == set(BROKEN)
    for name, answer in answers.items():
        assert f"data/{name}.jsonl" in answer, answer
    assert where_the_canary_sings(box) == []
    assert CANARY not in result.stdout + result.stderr


def test_erased_rows_are_nowhere(box, finished):
    """Nothing under outputs/, caches included, nor beside the specs has a word of the data then.

    The files that people dropped are theirs. It is the last test here: nothing is left for others.
    """
    folder, _record = finished
    erased = run(["runner", "erase", "contracts", "--yes"], box)
    assert erased.returncode == 0, erased.stderr
    run(["runner", "watch", "--once"], box)
    dropped = box / "jobs" / "data"
    held = [
        path
        for root in (box / "outputs", box / "jobs")
        for path in root.rglob("*")
        if path.is_file() and dropped not in path.parents and CANARY.encode() in path.read_bytes()
    ]
    assert [path for path in held if folder.job in path.name or folder.root in path.parents] == []
    assert (folder.adapter / "adapter_model.safetensors").is_file()
    tried = run(["runner", "try", "contracts", "-q", "What?", "--max-new-tokens", "2"], box)
    assert tried.returncode == 0, tried.stderr
    assert "were erased on" in folder.report.read_text()
