"""Copy the files of a spec: its data, and beside them a JSON Schema and general questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.contract.layout import RunFolder
from runner.contract.stage_io import PreparePlan
from runner.spec.spec import JobSpec
from runner.training.data.conversation import Conversation
from runner.training.data.findings import Findings
from runner.training.data.form import read_schema
from runner.training.data.general import read_general
from runner.training.data.snapshot import Copied, take_snapshot


def copies_of(spec: JobSpec, plan: PreparePlan, run: RunFolder, findings: Findings) -> list[Copied]:
    """Take the snapshot."""
    return take_snapshot(
        list(dict.fromkeys([*spec.data, *(spec.eval_data or ())])),
        inbox=Path(plan.jobs_dir),
        spec_folder=plan.spec_folder,
        target=run.data,
        findings=findings,
        known=[Path(known) for known in plan.known_data],
    )


def _copies_beside(
    named: str, plan: PreparePlan, run: RunFolder, findings: Findings
) -> list[Copied]:
    """Copy a file that is no data; the data's files are named after it as before."""
    files = findings.files
    copies = take_snapshot(
        [named],
        inbox=Path(plan.jobs_dir),
        spec_folder=plan.spec_folder,
        target=run.data,
        findings=findings,
    )
    findings.files = (*files, named)
    return copies


def schema_of(
    spec: JobSpec, plan: PreparePlan, run: RunFolder, findings: Findings
) -> dict[str, Any] | None:
    """Read the JSON Schema that answers are held to; its file is copied as the data are."""
    named = spec.evaluation.schema_file
    file = None
    if named is not None:
        copies = _copies_beside(named, plan, run, findings)
        if not copies:
            return None
        file = copies[0].path
    return read_schema(spec.evaluation.json_schema, file, named=named)


def general_of(
    spec: JobSpec, plan: PreparePlan, run: RunFolder, findings: Findings
) -> list[Conversation]:
    """Read the questions that the model has to go on knowing, where the spec names a file."""
    named = spec.evaluation.general
    if named is None:
        return []
    copies = _copies_beside(named, plan, run, findings)
    return read_general(copies, spec, findings) if copies else []
