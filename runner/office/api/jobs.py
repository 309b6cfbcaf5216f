"""Jobs: made, listed, followed and cancelled, as OpenAI's fine-tuning jobs.

A job is made by dropping its spec into the inbox, as `runner submit` does, and cancelled by the
request that `runner cancel` leaves. All that is told of it is read from its record.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from datetime import UTC, datetime
from typing import Any

from anyio import sleep, to_thread
from starlette.requests import Request

from runner.clock import now
from runner.commands.cancel import cancel as ask_to_cancel
from runner.commands.submit import SubmitError
from runner.contract.layout import RunFolder, job_name
from runner.contract.models import find_model
from runner.contract.progress import read_progress
from runner.contract.promotions import current_run
from runner.contract.record_head import RecordHead, read_head
from runner.contract.states import State
from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.files.plain import read_plain
from runner.files.unreadable import says_what_lies_there
from runner.office.api.checkpoints import checkpoint_object, read_checkpoints, train_losses
from runner.office.api.errors import ApiError, not_found
from runner.office.api.events import event_object, read_events
from runner.office.api.files import Files, OwnFile, idempotency_key
from runner.office.api.job_index import Found, JobIndex, Unclaimed, new_id, spec_name
from runner.office.api.job_object import Shown, job_object, status_of, without_record
from runner.office.api.job_request import JobRequest, read_kept, read_request, write_spec
from runner.office.api.paging import page, wanted
from runner.office.box import Box
from runner.office.drop import drop
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec
from runner.spec.spec_text import SPEC_LIMIT_BYTES

_PATIENCE_SECONDS = 10.0
"""A cancellation waits so long for the daemon to claim the job, and to carry it out."""
_LOOK_SECONDS = 0.2
_ADVICE = "GET /v1/fine_tuning/jobs lists the jobs."


class Jobs:
    """The jobs of a box."""

    def __init__(self, box: Box, files: Files, lock: threading.Lock) -> None:
        """Take the box; the lock keeps files from going while a job that names them is made."""
        self._box, self._files, self._lock = box, files, lock
        self._index = JobIndex(box.jobs_dir, box.outputs)

    async def create(self, request: Request) -> dict[str, Any]:
        """POST /v1/fine_tuning/jobs."""
        body = read_json(await request.body())
        return await to_thread.run_sync(self._create, body, idempotency_key(request))

    def _create(self, body: Any, key: str | None) -> dict[str, Any]:
        wish = read_request(body)
        job_id = new_id(key)
        with self._lock:
            if key is not None and (before := self._index.find(job_id)) is not None:
                return self._again(before, wish)
            find_model(self._box.models_dir, wish.model)
            data = self._file(wish.training_file, "training_file")
            held_out = wish.validation_file and self._file(wish.validation_file, "validation_file")
            job = wish.job or job_name(data.name.partition(".")[0])
            content = write_spec(
                wish, job=job, data=data.path, eval_data=held_out.path if held_out else None
            )
            name = spec_name(job, job_id)
            spec = read_spec(content, file_name=name)
            find_model(self._box.models_dir, spec.model, method=spec.named_method)
            try:
                drop(self._box, name, content)
            except SubmitError:
                # The same request through another process of the page, this moment.
                if key is None or (before := self._index.find(job_id)) is None:
                    raise
                return self._again(before, wish)
        return without_record(job_id, "validating_files", spec, content, created=now())

    def _again(self, before: Found | Unclaimed, wish: JobRequest) -> dict[str, Any]:
        """Answer a request that was carried out already."""
        content = self._spec_of(before)
        if read_kept(content).digest != wish.digest:
            raise ApiError(
                "This Idempotency-Key came with another request before.",
                advice="Send a new key with each new job.",
                status=409,
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        return self._shown(before)

    def _file(self, file_id: str, param: str) -> OwnFile:
        try:
            return self._files.find(file_id)
        except ApiError as error:
            raise ApiError(
                error.message,
                advice=error.advice or "",
                status=400,
                code="file_not_found",
                param=param,
            ) from None

    def list(self, request: Request) -> dict[str, Any]:
        """GET /v1/fine_tuning/jobs, the newest first; `metadata[KEY]=VALUE` chooses."""
        asked = wanted(request.query_params)
        chosen = {
            name.removeprefix("metadata[").removesuffix("]"): value
            for name, value in request.query_params.items()
            if name.startswith("metadata[") and name.endswith("]")
        }
        found = (one for one in self._index.all() if self._has(one, chosen))
        return page(found, asked, id_of=lambda one: one.id, shown=self._shown)

    def _has(self, one: Found | Unclaimed, chosen: dict[str, str]) -> bool:
        return not chosen or chosen.items() <= read_kept(self._spec_of(one)).metadata.items()

    def retrieve(self, request: Request) -> dict[str, Any]:
        """GET /v1/fine_tuning/jobs/ID."""
        return self._shown(self._find(request))

    def events(self, request: Request) -> dict[str, Any]:
        """GET /v1/fine_tuning/jobs/ID/events, the newest first."""
        asked, found = wanted(request.query_params), self._find(request)
        if isinstance(found, Unclaimed):
            return page([], asked, id_of=str, shown=dict)
        record = read_head(found.run.record)
        return page(
            read_events(found.run, record),
            asked,
            id_of=lambda event: event.id,
            shown=lambda event: event_object(event, total_steps=record.total_steps),
        )

    def checkpoints(self, request: Request) -> dict[str, Any]:
        """GET /v1/fine_tuning/jobs/ID/checkpoints, the newest first."""
        asked, found = wanted(request.query_params, default=10), self._find(request)
        if isinstance(found, Unclaimed):
            return page([], asked, id_of=str, shown=dict)
        run, record = found.run, read_head(found.run.record)
        spec = _read(self._spec_of(found), record.job)
        there = list(read_checkpoints(run, record, spec.model if spec else "unknown"))
        losses = train_losses(run, record) if there else {}
        return page(
            there,
            asked,
            id_of=lambda one: one.id,
            shown=lambda one: checkpoint_object(one, found.id, losses),
        )

    async def cancel(self, request: Request) -> dict[str, Any]:
        """POST /v1/fine_tuning/jobs/ID/cancel."""
        end = time.monotonic() + _PATIENCE_SECONDS
        asked = False
        while True:
            found = await to_thread.run_sync(self._find, request)
            asked = await to_thread.run_sync(self._ask, found, asked) or asked
            shown = await to_thread.run_sync(self._shown, found)
            if shown["status"] == "cancelled" or time.monotonic() > end:
                return shown
            if shown["status"] in ("succeeded", "failed"):  # while it was asked
                return shown
            await sleep(_LOOK_SECONDS)

    def _ask(self, found: Found | Unclaimed, asked: bool) -> bool:  # noqa: FBT001
        """Ask for a job to be cancelled; give whether somebody was asked."""
        status = found.status if isinstance(found, Unclaimed) else None
        if status is None and isinstance(found, Found):
            status = status_of(read_head(found.run.record))
        if status in ("succeeded", "failed", "cancelled"):
            if asked:
                return True
            raise ApiError(
                f"The job has ended already: {status}.",
                advice="Only a job that waits or runs can be cancelled.",
                code="job_ended",
                param="id",
            )
        if isinstance(found, Unclaimed):
            return self._take_back(found)
        if not asked:
            ask_to_cancel(self._box.outputs, found.run)
        return True

    def _take_back(self, found: Unclaimed) -> bool:
        """Move a spec that nobody has claimed to the cancelled ones; False: wait for its record."""
        if found.folder != ".":
            return False
        with Folder.open(self._box.jobs_dir) as inbox:
            inbox.make_folder("cancelled", mode=0o2770)
            with inbox.open_folder("cancelled") as cancelled:
                for name in (found.name, f"{secrets.token_hex(3)}.{found.name}"):
                    try:
                        inbox.move(found.name, cancelled, name)
                    except FileNotFoundError:  # claimed this moment
                        return False
                    except FileExistsError:  # one of that name was taken back before
                        continue
                    return True
        return False

    def _find(self, request: Request) -> Found | Unclaimed:
        job_id = request.path_params["job_id"]
        found = self._index.find(job_id)
        if found is None:
            raise not_found("job", job_id, advice=_ADVICE)
        return found

    def _shown(self, found: Found | Unclaimed) -> dict[str, Any]:
        content = self._spec_of(found)
        if isinstance(found, Unclaimed):
            error = None
            if found.status == "failed":
                said = "Its spec was refused; the text beside it in jobs/rejected/ says why."
                error = {"code": "rejected", "message": said, "param": None}
            spec = _read(content, found.name)
            return without_record(
                found.id, found.status, spec, content, created=self._dropped_at(found), error=error
            )
        spec = _read(content, found.run.job)
        try:
            record = read_head(found.run.record)
        except (OSError, RunnerError) as wrong:
            made = _time_of(found.run)
            if isinstance(wrong, OSError) and not says_what_lies_there(wrong):
                # "failed" would be its end: whoever waits for it would not ask again.
                said = f"Its record cannot be read now ({wrong.strerror})."
                error = {"code": "unreadable", "message": said, "param": None}
                return without_record(found.id, "queued", spec, content, created=made, error=error)
            said = wrong.message if isinstance(wrong, RunnerError) else "Its record is gone."
            error = {"code": "damaged", "message": said, "param": None}
            return without_record(found.id, "failed", spec, content, created=made, error=error)
        return job_object(self._of_run(found, record, content, spec))

    def _of_run(
        self, found: Found, record: RecordHead, content: bytes, spec: JobSpec | None
    ) -> Shown:
        is_training = record.state is State.TRAINING
        return Shown(
            job_id=found.id,
            run=found.run,
            record=record,
            content=content,
            spec=spec,
            progress=read_progress(found.run, record) if is_training else None,
            is_current=record.state is State.SUCCEEDED
            and current_run(self._box.outputs, record.job) == record.run_id,
        )

    def _spec_of(self, found: Found | Unclaimed) -> bytes:
        """Read a job's spec; empty where it is gone."""
        try:
            if isinstance(found, Found):
                return read_plain(found.run.spec, limit_bytes=SPEC_LIMIT_BYTES)
            with Folder.open(self._box.jobs_dir) as inbox:
                path = f"{found.folder}/{found.name}"
                return inbox.read_file(path, limit_bytes=SPEC_LIMIT_BYTES)
        except (OSError, RunnerError):
            return b""

    def _dropped_at(self, found: Unclaimed) -> datetime:
        try:
            with Folder.open(self._box.jobs_dir) as inbox:
                changed = inbox.stat(f"{found.folder}/{found.name}").st_mtime
        except (OSError, RunnerError):
            return now()
        return datetime.fromtimestamp(changed, UTC)


def read_json(content: bytes) -> Any:
    """Read a body.

    Raises:
        ApiError: it is no JSON.
    """
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise ApiError(
            "The body is not JSON.",
            advice="Send it as UTF-8, with content-type: application/json.",
            code="invalid_json",
        ) from None


def _no_number(name: str) -> Any:
    raise ValueError(name)


def _read(content: bytes, file_name: str) -> JobSpec | None:
    try:
        return read_spec(content, file_name=file_name)
    except RunnerError:
        return None


def _time_of(run: RunFolder) -> datetime:
    try:
        return datetime.strptime(run.run_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return now()
