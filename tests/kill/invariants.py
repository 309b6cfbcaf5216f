"""Turns a box after its kills into a list of what was lost, which must be empty."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from daemon_box import attempt_of
from fast_stage import TOTAL_STEPS, as_safetensors, first_weights, loss_of, next_weights

from runner.contract.layout import STATE_FOLDERS, Outputs, RunFolder, claimed_name
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.errors import DamagedError
from runner.files.durable import TEMPORARY_PREFIX


def digest(path: Path) -> str:
    """Hash a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def records(outputs: Outputs) -> tuple[list[tuple[RunFolder, RunRecord]], list[str]]:
    """Read every record, and say which cannot be read."""
    found, lost = [], []
    for run in outputs.runs():
        try:
            found.append((run, read_record(run.record)))
        except (OSError, DamagedError) as error:
            lost.append(f"record of {run.run_id}: {error}")
    return found, lost


def specs_lost(
    jobs: Path, outputs: Outputs, dropped: Mapping[str, tuple[bytes, State]]
) -> list[str]:
    """Each dropped spec ends in exactly one final state, with its bytes and an answer."""
    found, lost = records(outputs)
    for name, (content, state) in dropped.items():
        of_spec = [
            path
            for path in jobs.rglob("*")
            if path.is_file() and path.suffix == ".yaml" and path.read_bytes() == content
        ]
        if [path.parent.name for path in of_spec] != [state.folder]:
            lost.append(f"{name} lies at {[str(p.relative_to(jobs)) for p in of_spec]}")
            continue
        if not of_spec[0].with_name(of_spec[0].name + ".txt").exists():
            lost.append(f"{name} has no answer")
        runs = [record for _, record in found if record.file_name == name]
        wanted = [] if state is State.REJECTED else [state]
        if [record.state for record in runs] != wanted:
            lost.append(f"{name} has runs {[str(record.state) for record in runs]}")
        elif runs and of_spec[0].name != claimed_name(name, runs[0].run_id):
            lost.append(f"{name} is shown as {of_spec[0].name}")
    answers = [path for folder in STATE_FOLDERS for path in (jobs / folder).glob("*.txt")]
    lost += [f"{p.name} answers nobody" for p in answers if not p.with_suffix("").exists()]
    pages = [path for folder in STATE_FOLDERS for path in (jobs / folder).glob("*.html")]
    lost += [f"{p.name} reports nobody" for p in pages if not p.with_suffix("").exists()]
    return lost


def curve_of(run: RunFolder, record: RunRecord) -> list[tuple[int, float]]:
    """Read a run's curve: each attempt's lines within first_step..last_step."""
    curve = []
    for attempt in record.attempts:
        metrics = attempt_of(run, attempt.number) / "metrics.jsonl"
        if not metrics.exists():
            continue
        lines = metrics.read_text().splitlines()
        for number, line in enumerate(lines):
            try:
                fields: dict[str, Any] = json.loads(line)
            except ValueError:
                assert number == len(lines) - 1, "a line in the midst of the metrics is torn"
                continue  # the disk was full, or the power went, in the midst of the last one
            if "loss" in fields and (attempt.first_step or 1) <= fields["step"] <= (
                attempt.last_step or 0
            ):
                curve.append((fields["step"], fields["loss"]))
    return curve


def training_lost(jobs: Path, run: RunFolder, record: RunRecord) -> list[str]:
    """The curve reads 1..N once with the losses of an undisturbed run; the adapter is the last."""
    if record.state is not State.SUCCEEDED:
        return []
    weights, wanted = first_weights((jobs / f"{record.job}.jsonl").read_bytes()), []
    for step in range(1, TOTAL_STEPS + 1):
        weights = next_weights(weights, step)
        wanted.append((step, loss_of(weights)))
    lost = []
    if (curve := curve_of(run, record)) != wanted:
        lost.append(f"{record.job}: its curve reads {[step for step, _ in curve]}")
    return lost + adapter_lost(run, record, as_safetensors(weights))


def adapter_lost(run: RunFolder, record: RunRecord, weights: bytes | None = None) -> list[str]:
    """A succeeded run has the adapter that its record names, and it loads."""
    from safetensors import deserialize

    files: dict[str, str] = record.metrics["adapter_files"]
    for name, sha256 in files.items():
        path = run.adapter / name
        if not path.exists() or digest(path) != sha256:
            return [f"{record.job}: {name} of its adapter is not what the record says"]
    there = {p.relative_to(run.adapter).as_posix() for p in run.adapter.rglob("*") if p.is_file()}
    content = (run.adapter / "adapter_model.safetensors").read_bytes()
    if there != set(files) or not deserialize(content):
        return [f"{record.job}: its adapter holds {sorted(there)}"]
    if weights is not None and content != weights:
        return [f"{record.job}: its adapter holds other weights"]
    return []


def repeated(journal: Path) -> tuple[list[str], int]:
    """No step that a checkpoint covers ran again, and no two processes trained one run at once."""
    sealed: dict[str, int] = defaultdict(int)
    done: dict[str, set[int]] = defaultdict(set)
    process: dict[str, str] = {}
    gone: set[tuple[str, str]] = set()
    lost, again = [], 0
    for line in journal.read_text().splitlines() if journal.exists() else []:
        job, pid, what, text = line.split()
        step = int(text)
        if process.get(job, pid) != pid:
            gone.add((job, process[job]))
        process[job] = pid
        if (job, pid) in gone:
            lost.append(f"{job}: two processes trained at once")
        if what == "sealed":
            sealed[job] = max(sealed[job], step)
        else:
            if step <= sealed[job]:
                lost.append(f"{job}: step {step} ran again behind checkpoint {sealed[job]}")
            again += step in done[job]
            done[job].add(step)
    return lost, again


def untold(outputs: Outputs, found: Sequence[tuple[RunFolder, RunRecord]]) -> list[str]:
    """Each run that ended by itself has the notice of how it did."""
    lost = []
    for _, record in found:
        if not record.state.is_final or record.state is State.CANCELLED:
            continue
        path = outputs.notices / f"{record.run_id}.json"
        if not path.exists() or json.loads(path.read_text())["state"] != record.state:
            lost.append(f"{record.job}: nobody is told that it has {record.state}")
    return lost


def leftovers(*folders: Path) -> list[str]:
    """Nothing unfinished stays."""
    return [
        f"left behind: {path.name}"
        for folder in folders
        for path in folder.rglob(f"{TEMPORARY_PREFIX}*")
    ]


def unreadable_logs(outputs: Path) -> list[str]:
    """Every line of every log is whole."""
    bad = []
    for path in outputs.rglob("*.jsonl"):
        if path.parent.name == "data" or path.name == "metrics.jsonl":
            continue  # a person's; and those that `curve_of` reads
        for line in path.read_text().splitlines():
            try:
                json.loads(line)
            except ValueError:
                bad.append(f"{path.name} has a line that cannot be read")
    return bad


def changed(files: Mapping[Path, str]) -> list[str]:
    """Files of people that are not as they were."""
    return [
        f"{path.name} is gone or changed"
        for path, sha256 in files.items()
        if not path.exists() or digest(path) != sha256
    ]


def all_of(parts: Sequence[Sequence[str]]) -> list[str]:
    """Join findings."""
    return [finding for part in parts for finding in part]
