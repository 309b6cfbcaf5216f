"""JSON Schema of a spec as people write it, which editors check specs against.

What people write is wider than what the code holds: one path instead of a list, hours as ``8h``,
no name. ``python -m runner.spec.schema > jobs/examples/job-spec.schema.json`` renews the
examples' copy.
"""

from __future__ import annotations

import json
from typing import Any

from runner.spec.spec import JobSpec, fields_of

_PATH = {"type": "string", "minLength": 1}
_WITH_UNIT = {
    "hours": "^[0-9._]+ *(h|hours?|min|minutes?|d|days?)$",
    "gpu_memory_gib": "^[0-9._]+ *(GiB|GB|G|MiB|MB|TiB|TB)$",
    "disk_gib": "^[0-9._]+ *(GiB|GB|G|MiB|MB|TiB|TB)$",
}
_SHARE = {"type": "string", "pattern": "^[0-9.]+ *%$"}


def schema() -> dict[str, Any]:
    """Give the JSON Schema of a job spec as people write it."""
    found = JobSpec.model_json_schema()
    _drop_titles(found)
    fields = found["properties"]
    for name, info in fields_of(JobSpec).items():
        fields[name].setdefault("description", info.description)  # dropped where a section says it
    for name in ("data", "eval_data"):
        paths = {"type": "array", "items": _PATH, "minItems": 1}
        fields[name] = {"description": fields[name]["description"], "anyOf": [_PATH, paths]}
    found["required"] = ["model", "data"]
    limits = found["$defs"]["Limits"]["properties"]
    for name, pattern in _WITH_UNIT.items():
        limits[name]["anyOf"].append({"type": "string", "pattern": pattern})
    found["$defs"]["Try"]["properties"]["hours"]["anyOf"].append(
        {"type": "string", "pattern": _WITH_UNIT["hours"]}
    )
    for holder, name in (
        (fields, "eval_split"),
        (found["$defs"]["Training"]["properties"], "warmup_ratio"),
        (found["$defs"]["Lora"]["properties"], "dropout"),
    ):
        number = holder.pop(name)
        outside = {key: number.pop(key) for key in ("description", "default")}
        holder[name] = {**outside, "anyOf": [number, _SHARE]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Job spec",
        **found,
        "description": "What to fine-tune, on what. Two fields are enough: model and data.",
    }


def schema_text() -> str:
    """Give the schema as the file that the examples point their editors at."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _drop_titles(node: Any) -> None:
    """Drop the titles that pydantic makes of names; a field that is called title stays."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for value in node.values():
            _drop_titles(value)
    elif isinstance(node, list):
        for value in node:
            _drop_titles(value)


if __name__ == "__main__":
    print(schema_text(), end="")
