"""GGUF files of a real run: seconds, bytes, and how far each form is from what it was made from.

    python benchmarks/gguf_files.py FOLDER [--rows 64] [--held-out 24] [--asked 12] [--method lora]

A spec is dropped into a box in FOLDER, the daemon trains SmolLM2-135M on annotated licences
(`licences.py`) and merges; each form is then made of that run and asked by llama.cpp, with the
stage's own code, about the first ``--asked`` held-out rows: the tolerances of
`runner/training/export/llama_proof.py` come from here. A table ends it. A run that lies in FOLDER
is measured again. The defaults take some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from licences import read_documents, split, write_rows
from one_box import OneBox

from runner.contract.handed_over import ADAPTER_GGUF
from runner.contract.llama_cpp import LlamaCpp, find_llama_cpp, missing_tools
from runner.contract.models import DEMO_MODEL, find_model
from runner.contract.stage_io import HandOverPlan
from runner.contract.states import State
from runner.spec.as_chosen import as_chosen
from runner.spec.export import GGUF
from runner.spec.read_spec import read_spec
from runner.training.export import llama_proof
from runner.training.export.llama_convert import (
    TRIAL_BASE,
    convert_adapter,
    convert_model,
    quantize,
)
from runner.training.export.llama_proof import Proof, prove
from runner.training.export.makers import WHOLE, Source
from runner.training.packaged_model import prepare_demo_model

_SPEC = """\
model: {model}
data: data/learned.jsonl
eval_data: data/held-out.jsonl
method: {method}
training: {{epochs: {epochs}, learning_rate: 5e-4, seed: {seed}}}
evaluation: {{samples: 1}}
export: {{merged: true}}
"""


def train(box: OneBox, given: argparse.Namespace) -> None:
    """Train and merge, where that was not done before."""
    documents = read_documents(None, longest=given.longest)
    learned, held_out = split(documents, rows=given.rows, held_out=given.held_out)
    write_rows(box.jobs / "data" / "learned.jsonl", learned)
    write_rows(box.jobs / "data" / "held-out.jsonl", held_out)
    values = {"model": DEMO_MODEL, "method": given.method, "epochs": given.epochs}
    box.drop("licences", _SPEC.format(**values, seed=given.seed))
    print(f"{box.work_off():.0f} s from the drop to merged/", flush=True)


def read_source(box: OneBox) -> Source:
    """Find what the forms are made from."""
    run, record = box.record("licences")
    if record.state is not State.SUCCEEDED or not run.merged.is_dir():
        sys.exit(f"{run.root}: {record.state.value}, {record.error} {record.shortfalls}")
    spec = as_chosen(read_spec(run.spec.read_bytes(), file_name=record.file_name), record)
    verdict = record.verdict
    print(f"{run.root}\n{verdict.reason if verdict else ''}", flush=True)
    for form in record.handed_over.forms if record.handed_over else ():
        print(f"{form.name}: {form.figures}", flush=True)
    plan = HandOverPlan(models_dir=str(box.models), device="auto", merged=True, gguf=GGUF)
    base = find_model(box.models, spec.model)
    return Source(run=run, spec=spec, plan=plan, base=base, adapter=run.adapter, model=run.merged)


def once(read: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what transformers says of the rows: it is the same for every form of the model."""
    known: dict[bool, Any] = {}

    def kept(source: Source, rows: Any, *, merged: bool) -> Any:
        if merged not in known:
            known[merged] = read(source, rows, merged=merged)
        return known[merged]

    return kept


def timed(made: Callable[[], object], target: Path) -> float:
    """Make a file and give its seconds."""
    at = time.monotonic()
    made()
    assert target.is_file()
    return time.monotonic() - at


def measure(source: Source, tools: LlamaCpp, folder: Path) -> list[dict[str, Any]]:
    """Make and ask each form; a line of JSON each, which are given as well."""
    lines = []
    llama_proof.reference_places = once(llama_proof.reference_places)
    log, whole = folder / "log", folder / "whole.gguf"
    assert source.model is not None
    model = source.model
    seconds = timed(lambda: convert_model(model, whole, tools, log=log), whole)
    for form in GGUF:
        file = whole
        if form != WHOLE:
            file = folder / f"{form}.gguf"
            seconds = timed(lambda: quantize(whole, file, tools, form=form, log=log), file)  # noqa: B023
        proof = Proof(model=file, adapter=None, log=log)
        lines.append(tell(form, source, tools, proof, file, seconds))
    base, adapter = folder / "base.gguf", folder / "adapter.gguf"
    from_base = folder / "base-whole.gguf"
    at = time.monotonic()
    convert_adapter(source.adapter, source.base, adapter, tools, log=log)
    seconds = time.monotonic() - at
    convert_model(source.base, from_base, tools, log=log)
    quantize(from_base, base, tools, form=TRIAL_BASE, log=log)
    for name, below in ((ADAPTER_GGUF, base), (f"{ADAPTER_GGUF} on {WHOLE}", from_base)):
        proof = Proof(model=below, adapter=adapter, log=log)
        lines.append(tell(name, source, tools, proof, adapter, seconds))
    return lines


def tell(
    name: str, source: Source, tools: LlamaCpp, proof: Proof, file: Path, seconds: float
) -> dict[str, Any]:
    """Ask one form, print what came of it and give it."""
    at = time.monotonic()
    made = prove(name.partition(" ")[0], source, tools, proof)
    figures = made.figures
    assert figures is not None
    size = file.stat().st_size
    line = {
        "form": name,
        "bytes": size,
        "seconds": round(seconds, 2),
        "bytes_per_second": round(size / seconds),
        "proof_seconds": round(time.monotonic() - at, 1),
        "kept": figures.kept,
        **figures.model_dump(exclude={"scores", "score_rows"}),
        "shortfalls": made.shortfalls,
    }
    print(json.dumps(line), flush=True)
    return line


_COLUMNS = {
    "form": "",
    "bytes": ",",
    "seconds": "",
    "proof_seconds": "",
    "kl": ".4f",
    "same_top": ".1%",
    "loss": ".3f",
    "kept": ".1%",
    "stops": "",
    "ends": ".0%",
}
"""Of the table, with the format of the figures."""


def table(lines: list[dict[str, Any]]) -> str:
    """Set the lines as a Markdown table."""
    rows = [" | ".join(_COLUMNS), " | ".join("---" for _ in _COLUMNS)]
    for line in lines:
        cells = ((line[key], form) for key, form in _COLUMNS.items())
        rows.append(" | ".join("" if one is None else format(one, form) for one, form in cells))
    return "\n".join(f"| {row} |" for row in rows)


def main() -> None:
    """Train where nothing lies there, then measure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--rows", type=int, default=64)
    options.add_argument("--held-out", type=int, default=24)
    options.add_argument("--asked", type=int, default=12, help="held-out rows")
    options.add_argument("--longest", type=int, default=800, help="characters of a document")
    options.add_argument("--epochs", type=float, default=1.5)
    options.add_argument("--method", default="lora", choices=["lora", "qlora"])
    options.add_argument("--seed", type=int, default=42)
    given, began = options.parse_args(), time.monotonic()
    tools = find_llama_cpp()
    if tools is None:
        sys.exit(missing_tools())
    given.folder.mkdir(parents=True, exist_ok=True)
    models = (given.folder / "models").absolute()
    prepare_demo_model(models / DEMO_MODEL)
    box = OneBox(given.folder.absolute(), models)
    if not (box.outputs / "licences").exists():
        train(box, given)
    llama_proof.ROWS = given.asked
    source = read_source(box)
    source.run.hand_over.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        lines = measure(source, tools, Path(folder))
    print(f"{table(lines)}\n{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
