"""Drop: a job spec goes into the inbox by the rules of `runner submit`, for page and API."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from runner.commands.submit import submit
from runner.commands.validate import Validated, validate
from runner.contract.layout import job_name
from runner.office.box import Box

_BREAKS = "\x85\u2028\u2029"
"""What YAML takes for the end of a line, beside \n, where a text stands in single quotes."""


class _Writer(SafeRepresenter):
    """Writes a text with such a sign in double quotes, where it is escaped."""

    def represent_str(self, data: str) -> Any:
        style = '"' if any(sign in data for sign in _BREAKS) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Writer.add_representer(str, _Writer.represent_str)


def as_yaml(fields: Mapping[str, Any]) -> bytes:
    """Write a spec as a person would; a field that is None is left out."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Writer
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
