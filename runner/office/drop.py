"""Drop: a job spec goes into the inbox by the rules of `runner submit`, for page and API."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from runner.commands.submit import submit
from runner.commands.validate import Validated, validate
from runner.contract.layout import job_name
from runner.office.box import Box


def as_yaml(fields: Mapping[str, Any]) -> bytes:
    """Write a spec as a person would; a field that is None is left out."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    written = io.StringIO()
    yaml.dump({name: value for name, value in fields.items() if value is not None}, written)
    return written.getvalue().encode()


def spec_name(job: str) -> str:
    """Give the file name of a job's spec."""
    return f"{job_name(job)}.yaml"


def look_at(box: Box, name: str, content: bytes) -> Validated:
    """Find every problem of a spec, as `runner validate` does, as if it lay in the inbox."""
    with tempfile.TemporaryDirectory(prefix="runner-drop-") as aside:
        path = Path(aside, name)
        path.write_bytes(content)
        return validate(path, box.models_dir, outputs_dir=box.outputs_dir, folder=box.jobs_dir)


def drop(box: Box, name: str, content: bytes) -> Path:
    """Check a spec and drop it whole; its data lies in the inbox already. Waits for the disk.

    Raises:
        SpecError: it cannot be used.
        SubmitError: its data is missing, or a spec of that name waits in the inbox already.
        UnsafePathError: a link in the inbox is in the way.
    """
    with tempfile.TemporaryDirectory(prefix="runner-drop-") as aside:
        path = Path(aside, name)
        path.write_bytes(content)
        return submit(path, box.jobs_dir, source=box.jobs_dir)[0]
