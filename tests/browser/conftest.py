"""A browser, and the pages of real runs: made once by the real daemon, stages and a small model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit"))

from chromium import Browser, find
from made_runs import ID, NOW, make_hostile_run, make_run
from report_pages import MODEL, ROWS, SECONDS, SPECS, Pages

from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import read_record, write_record
from runner.contract.states import State
from runner.language.speaker import Language, Speaker
from runner.report.gather import gather
from runner.report.index import index_page
from runner.report.page import page


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a browser nothing here is proved, and that is said."""
    if find() is None:
        reason = "NOTHING WAS LOOKED AT: there is no Chromium (apt-get install chromium)"
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium."""
    program = find()
    assert program is not None
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def real_runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Real runs by job: one that helped, one that harmed, one rejected, one that failed."""
    if given := os.environ.get("BROWSER_BOX"):  # runs made before: for whoever works on the page
        return {run.job: run for run in Outputs(Path(given, "outputs")).runs()}
    folder = tmp_path_factory.mktemp("box")
    (folder / "models" / MODEL).mkdir(parents=True)
    for file in tiny_model.iterdir():
        os.link(file, folder / "models" / MODEL / file.name)
    (folder / "jobs").mkdir()
    for name, lines in SPECS.items():
        rows = ROWS if name == "contracts" else ROWS[:10]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        text += '{"instruction": "x"}\n{not json\n' if name == "broken" else ""
        (folder / "jobs" / f"{name}.jsonl").write_text(text)
        spec = f"model: {MODEL}\ndata: {name}.jsonl\n{lines}"
        (folder / "jobs" / f"{name}.yaml").write_text(spec)
    subprocess.run(
        [sys.executable, "-m", "runner.cli", "watch", "--once"],
        cwd=folder,
        capture_output=True,
        check=False,  # it says that not all runs succeeded
        timeout=SECONDS,
    )
    return {run.job: run for run in Outputs(folder / "outputs").runs()}


@pytest.fixture(scope="session")
def pages(real_runs: dict[str, RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """The pages that real runs left, and others that are hard to come by, in both languages."""
    folder = tmp_path_factory.mktemp("pages")
    files = {job: run.report for job, run in real_runs.items()}
    made = make_run(folder / "outputs")  # out of memory at step 3, then on to the end
    runs = {**real_runs, "out-of-memory": made, "hostile": make_hostile_run(folder / "hostile")}
    going = folder / "going" / "contracts" / ID
    shutil.copytree(real_runs["contracts"].root, going)
    shutil.rmtree(going / "evaluation")
    shutil.rmtree(going / "adapter")
    runs["training"] = RunFolder(going)
    record = read_record(runs["training"].record)
    attempts = [record.attempts[0].model_copy(update={"ended_at": None, "outcome": None})]
    write_record(
        runs["training"].record,
        record.but(
            state=State.TRAINING, attempts=attempts, ended_at=None, verdict=None, metrics={}
        ),
    )
    for name, run in runs.items():
        for language in Language:
            text = page(gather(run), Speaker(language), now=NOW)
            files[f"{name}-{language}"] = folder / f"{name}-{language}.html"
            files[f"{name}-{language}"].write_text(text, encoding="utf-8")
    files["index"] = folder / "index.html"
    outputs = Outputs(real_runs["contracts"].root.parent.parent)
    files["index"].write_text(index_page(outputs, Speaker(), now=NOW), encoding="utf-8")
    return Pages(files=files, runs=runs)
