"""Schema: the JSON Schema of a job spec."""

from __future__ import annotations

from runner.commands.options import print_json
from runner.spec.schema import schema


def command() -> None:
    """Print the JSON Schema of a job spec, for editors.

    \b
    Example:
        runner schema > job-spec.schema.json
    """
    print_json(schema())
