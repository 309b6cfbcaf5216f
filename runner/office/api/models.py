"""Models: the base models on the box, and the adapters that its jobs have in use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

from runner.contract.layout import RUN_ID
from runner.contract.models import models_on_box
from runner.contract.promotions import current_run
from runner.contract.record_head import RecordHead, read_head
from runner.contract.states import State
from runner.errors import RunnerError
from runner.files.plain import read_plain
from runner.office.api.errors import ApiError, not_found
from runner.office.api.job_object import model_id
from runner.office.box import Box
from runner.spec.read_spec import read_spec
from runner.spec.spec_text import SPEC_LIMIT_BYTES

_TUNED = re.compile(rf"ft:(?P<base>.+):(?P<job>[^:/]+):(?P<run>{RUN_ID.pattern})")
_MOST_JOBS = 1000  # whose adapters in use are listed


def list_models(request: Request, box: Box) -> dict[str, Any]:  # noqa: ARG001
    """GET /v1/models: OpenAI's has no pages."""
    return {"object": "list", "data": [*_bases(box), *_in_use(box)]}


def retrieve_model(request: Request, box: Box) -> dict[str, Any]:
    """GET /v1/models/ID: also of an adapter that is not in use.

    Raises:
        ApiError: there is none.
    """
    name = request.path_params["model"]
    if match := _TUNED.fullmatch(name):
        if (match["job"], match["run"]) in box.outputs.run_names():
            found = _adapter(box, match["job"], match["run"])
            if found is not None and found["id"] == name:
                return found
    else:
        for one in _bases(box):
            if one["id"] == name:
                return one
    raise not_found("model", name, advice="GET /v1/models lists the models.")


def refuse_deletion(request: Request, box: Box) -> dict[str, Any]:  # noqa: ARG001
    """DELETE /v1/models/ID.

    Raises:
        ApiError: always: what others use is not deleted from afar.
    """
    raise ApiError(
        "The API deletes no models.",
        advice="`runner rollback JOB` on the box takes an adapter out of use.",
        status=405,
        code="not_supported",
    )


def base_of(run_spec: bytes) -> str | None:
    """Give the base model that a run's spec names; None: it is no spec."""
    try:
        return read_spec(run_spec, file_name="spec.yaml").model
    except RunnerError:
        return None


def _bases(box: Box) -> Iterator[dict[str, Any]]:
    for name in models_on_box(box.models_dir):
        try:
            changed = (box.models_dir / name / "config.json").stat().st_mtime
        except OSError:
            continue
        yield {"id": name, "object": "model", "created": int(changed), "owned_by": "base-model"}


def _in_use(box: Box) -> Iterator[dict[str, Any]]:
    for job in box.outputs.jobs_with_promotions()[:_MOST_JOBS]:
        run_id = current_run(box.outputs, job)
        if run_id is not None and RUN_ID.fullmatch(run_id):
            found = _adapter(box, job, run_id)
            if found is not None:
                yield found


def _adapter(box: Box, job: str, run_id: str) -> dict[str, Any] | None:
    run = box.outputs.run(job, run_id)
    try:
        record: RecordHead = read_head(run.record)
        base = base_of(read_plain(run.spec, limit_bytes=SPEC_LIMIT_BYTES))
    except (OSError, RunnerError):
        return None
    if record.state is not State.SUCCEEDED or base is None or not run.adapter.is_dir():
        return None
    return {
        "id": model_id(base, job, run_id),
        "object": "model",
        "created": int((record.ended_at or record.created_at).timestamp()),
        "owned_by": "finetuning-box",
        "box": {
            "base_model": base,
            "job": job,
            "run_id": run_id,
            "adapter": f"outputs/{job}/{run_id}/adapter",
            "in_use": current_run(box.outputs, job) == run_id,
            "verdict": record.verdict.outcome.value if record.verdict else None,
        },
    }
