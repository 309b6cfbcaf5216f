"""The law firm's benchmark as a whole, on few documents and a tiny model: it runs and adds up."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from licences import TAXONOMY, read_documents, split  # noqa: E402  (a folder of scripts)

from runner.contract.layout import Outputs  # noqa: E402
from runner.contract.record import read_record  # noqa: E402
from runner.contract.states import State  # noqa: E402

CLAUSES = (
    "The software is provided as is.",
    "The authors are not liable for damages.",
    "You get a patent licence.",
    "The source must be given along.",
    "You may copy it and give it to others.",
)


@pytest.fixture(scope="module")
def licences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made licence texts in the form of licensedcode-data: forty families of two."""
    folder = tmp_path_factory.mktemp("licences")
    dice = random.Random(3)
    for number in range(80):
        category = dice.choice(["Permissive", "Copyleft Limited", "Commercial"])
        clauses = dice.sample(CLAUSES, 3) * 3
        text = f"Licence number {number}.\n" + "\n".join(clauses)
        head = f"key: f{number // 2}-{number}\ncategory: {category}\n"
        (folder / f"{number}.LICENSE").write_text(f"---\n{head}---\n\n{text}\n")
    odd = "---\nkey: x-1\ncategory: {}\n{}---\n" + "word " * 60
    (folder / "rare.LICENSE").write_text(odd.format("CLA", ""))
    (folder / "french.LICENSE").write_text(odd.format("Permissive", "language: fr\n"))
    return folder


def test_documents_are_annotated_and_no_family_is_on_both_sides(licences: Path) -> None:
    """Every summary is in the firm's form; what is held out is no sister of what is learned."""
    documents = read_documents(licences, longest=600)
    assert len(documents) == 80
    for one in documents:
        values = dict(line.split(": ") for line in one.summary.splitlines()[1:])
        assert values.keys() == TAXONOMY.keys()
        assert all(values[field] in allowed for field, allowed in TAXONOMY.items())
        assert (values["Patents"] == "mentioned") is ("patent" in one.text)
        assert (values["Liability"] == "limited") is ("liable" in one.text)
    learned, held_out = split(documents, rows=60, held_out=10)
    assert (len(learned), len(held_out)) == (60, 10)
    assert not {one.family for one in learned} & {one.family for one in held_out}


@pytest.mark.long
def test_the_firm_reads_who_keeps_to_its_form(
    licences: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Spec, daemon, stages and verdict: tables for both forms of the base, and the aims missed."""
    words = [sys.executable, str(REPOSITORY / "benchmarks" / "law_firm.py")]
    words += ["--models", str(tiny_model.parent), "--model", tiny_model.name]
    words += ["--licences", str(licences), "--longest", "600", "--method", "qlora"]
    words += ["--rows", "16", "--held-out", "3", "--epochs", "1", "--box", str(tmp_path)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-3000:]
    assert "On the base in 16 bits, as served:" in done.stdout
    assert "On the base in 4 bits, as trained on:" in done.stdout
    assert "in_form: 0.0% of at least 90%" in done.stdout
    (run,) = Outputs(tmp_path / "outputs").runs()
    record = read_record(run.record)
    assert record.state is State.SUCCEEDED
    assert record.evaluation is not None
    assert record.evaluation.form == "original"
    names = [one.name for one in record.evaluation.scores]
    assert names == [one.name for one in record.evaluation.other_form]
    assert {f"field.{field}" for field in TAXONOMY} < set(names)
    assert record.verdict is not None
    assert "in 16 bits, as the job says that it will be served" in record.verdict.reason
    assert "Licence number" not in run.record.read_text()
    answers = (run.evaluation / "answers.jsonl").read_text().splitlines()
    assert {who for line in answers for who in json.loads(line)} >= {"base", "adapter", "examples"}
