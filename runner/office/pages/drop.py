"""New job: choose a model, bring data, say which columns are meant, look at it, start it."""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlencode

from anyio import to_thread
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from runner.contract.layout import job_name
from runner.contract.models import models_on_box
from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.language.speaker import Speaker
from runner.language.translate import in_words_of
from runner.office.box import Box
from runner.office.columns import columns_of
from runner.office.drop import as_yaml, drop, look_at, spec_name
from runner.office.look import Looks, Seen
from runner.office.render import page, reader_of
from runner.office.runs import box_of
from runner.office.upload import DATA_FOLDER, UploadError, receive_form
from runner.report.findings import finding_of
from runner.report.phrase import foreign
from runner.report.preview import row_of
from runner.spec.file_kinds import ROWS, ending
from runner.words import GIB, visible, visible_lines

_DATA_SHOWN = 200  # files that lie there already
_PREVIEW_TOKENS = 1500  # of one row
_FINDINGS = 50
EPOCHS = {"usual": None, "quick": 1, "thorough": 4}
"""How often the rows are gone through; None: as the box chooses by how many there are."""
SCHEDULES = {"once": None, "nightly": "0 2 * * *", "weekly": "0 2 * * sun"}
PROMOTE = ("better", "approved", "never")


def routes(box: Box) -> list[BaseRoute]:  # noqa: ARG001 - each part is given it
    """Give the routes."""
    return [
        Route("/drop", _choose),
        Route("/upload", _upload, methods=["POST"]),
        Route("/drop/job", _set_up),
        Route("/drop/look", _look, methods=["POST"]),
        Route("/drop/look/{id}", _looked),
        Route("/drop/look/{id}/start", _start, methods=["POST"]),
    ]


def _may_write(request: Request) -> None:
    """Keep those who may only read from forms that they could not send.

    Raises:
        HTTPException: 404.
    """
    if not request.state.may_write:
        raise HTTPException(404)


def _choose(request: Request) -> Response:
    """First: which model, which data."""
    _may_write(request)
    box = box_of(request)
    return page(
        request,
        "drop.html.j2",
        models=models_on_box(box.models_dir),
        there=data_files(box),
        kinds=",".join(ROWS),
        most=f"{box.upload_bytes / GIB:.0f} GiB",
        chosen=request.query_params.get("model", ""),
    )


def data_files(box: Box) -> list[str]:
    """List data files in jobs/data/, the newest first, as a spec names them; links are left out."""
    try:
        with Folder.open(box.jobs_dir) as inbox, inbox.open_folder(DATA_FOLDER) as folder:
            found = [
                (-status.st_mtime_ns, f"{DATA_FOLDER}/{entry.name}")
                for entry, status in folder.scan_status(lambda name: ending(name) in ROWS)
                if stat.S_ISREG(status.st_mode)
            ]
    except (OSError, RunnerError):
        return []
    return [path for _, path in sorted(found)[:_DATA_SHOWN]]


async def _upload(request: Request) -> Response:
    """Take the data in, and go on to what is to be done with it."""
    form = await receive_form(request, box_of(request))
    there = form.fields.get("there", "")
    data = form.files[0].path if form.files else there
    if not data:
        raise UploadError(
            "no data was chosen", advice="Choose a file, or one that is there already."
        )
    asked = urlencode({"model": form.fields.get("model", ""), "data": data})
    return RedirectResponse(f"/drop/job?{asked}", 303)


def _set_up(request: Request) -> Response:
    """Second: which columns are meant, and how it is trained."""
    _may_write(request)
    box, data = box_of(request), request.query_params.get("data", "")
    if PurePosixPath(data).parts[:1] != (DATA_FOLDER,) or ending(data) not in ROWS:
        raise HTTPException(404)
    try:
        columns = columns_of(box, data)
    except OSError as error:
        raise HTTPException(404) from error
    kind, speak = ending(data), reader_of(request).speak
    return page(
        request,
        "drop_job.html.j2",
        models=models_on_box(box.models_dir),
        model=request.query_params.get("model", ""),
        data=data,
        name=job_name(PurePosixPath(data).name[: -len(kind)]),
        columns=columns,
        epochs=[(one, speak(f"office_epochs_{one}")) for one in EPOCHS],
        schedules=[(one, speak(f"office_repeat_{one}")) for one in SCHEDULES],
        promote=[(one, speak(f"office_promote_{one}")) for one in PROMOTE],
    )


def spec_of(fields: FormData) -> dict[str, Any]:
    """Make a spec of what was chosen; what is as the box would have it is left out."""

    def text(name: str) -> str | None:
        value = fields.get(name)
        return value.strip() or None if isinstance(value, str) else None

    columns = {name: text(name) for name in ("prompt", "completion")}
    epochs = EPOCHS.get(text("epochs") or "usual")
    wish = text("promote")
    return {
        "name": job_name(text("name") or "job"),
        "model": text("model") or "",
        "data": text("data") or "",
        "columns": {name: value for name, value in columns.items() if value} or None,
        "system_prompt": text("system_prompt"),
        "training": {"epochs": epochs} if epochs else None,
        "promote": {"when": wish} if wish in PROMOTE[1:] else None,
        "schedule": SCHEDULES.get(text("schedule") or "once"),
        "notes": text("notes"),
    }


async def _look(request: Request) -> Response:
    """Third: check the spec at once, and begin to look at the rows."""
    async with request.form(max_files=0, max_fields=50) as form:
        fields = spec_of(form)
    box, looks = box_of(request), looks_of(request)
    name, content = spec_name(fields["name"]), as_yaml(fields)
    found = await to_thread.run_sync(look_at, box, name, content)
    if found.problems:
        raise RunnerError("\n".join(map(str, found.problems)))
    look = looks.begin(box, name, content)
    return RedirectResponse(f"/drop/look/{look.id}", 303)


def looks_of(request: Request) -> Looks:
    """Give the looks of this box."""
    looks: Looks = request.app.state.looks
    return looks


def _looked(request: Request) -> Response:
    """Show what was seen; while it goes on, a page that loads itself again."""
    _may_write(request)
    look = looks_of(request).get(request.path_params["id"])
    if look is None:
        raise HTTPException(404)
    speak = reader_of(request).speak
    way = f"/drop/look/{look.id}"
    if look.seen is None:
        answer = page(request, "drop_wait.html.j2", name=visible(look.file_name), way=way)
        answer.headers["refresh"] = "2"
        return answer
    seen = look.seen
    rows = seen.preview.rows if seen.preview else ()
    return page(
        request,
        "drop_look.html.j2",
        way=way,
        name=visible(look.file_name),
        spec=visible_lines(look.spec.decode()),
        message=in_words_of(visible_lines(seen.message), speak),
        advice=in_words_of(visible_lines(seen.advice), speak),
        findings=[finding_of(one, speak) for one in seen.findings[:_FINDINGS]],
        notes=[foreign(note, speak) for note in seen.notes],
        rows=[row_of(one, speak, _PREVIEW_TOKENS) for one in rows],
        facts=facts_of(seen, speak),
        fits=fits_of(seen),
        no_plan=in_words_of(visible_lines(seen.no_plan), speak),
    )


def facts_of(seen: Seen, speak: Speaker) -> list[tuple[str, str, str]]:
    """Say what a run would take: name, value and a note for each."""
    found = []
    if seen.result is not None:
        held = speak("office_held_out", count=seen.result.eval_rows)
        found.append((speak("rows_trained"), speak.whole(seen.result.train_rows), held))
    if seen.planned is None:
        return found
    chosen, box = seen.planned.chosen, seen.planned.box
    limit = speak("office_of_card", memory=speak.memory(box.limit_bytes)) if box.limit_bytes else ""
    card = " ".join(part for part in (limit, visible(box.gpu_name or "")) if part)
    card = card if chosen.ranks == 1 else speak("office_each_card", count=chosen.ranks, card=card)
    found.append((speak("office_needs_memory"), speak.memory(chosen.gpu_memory_bytes), card))
    known = chosen.seconds is not None
    time = speak("about", time=speak.lasting(chosen.seconds)) if known else "–"
    found.append((speak("office_needs_time"), time, "" if known else speak("office_time_unknown")))
    found.append((speak("office_needs_disk"), speak.memory(chosen.disk_bytes), ""))
    return found


def fits_of(seen: Seen) -> bool | None:
    """Tell whether it fits this box's card; None: the card is not known."""
    return seen.planned.chosen.fits if seen.planned else None


def _start(request: Request) -> Response:
    """Last: drop it, as `runner submit` does; once, and only what was seen to be usable.

    Raises:
        RunnerError: it cannot start as it is.
    """
    look = looks_of(request).get(request.path_params["id"])
    if look is None:
        raise HTTPException(404)
    if look.seen is None:
        return RedirectResponse(f"/drop/look/{look.id}", 303)
    if not look.seen.is_usable:
        raise RunnerError(look.seen.message, advice=look.seen.advice)
    with look.lock:
        if look.dropped is None:
            look.dropped = drop(box_of(request), look.file_name, look.spec)
    job = os.path.splitext(look.dropped.name)[0]
    return RedirectResponse(f"/?{urlencode({'dropped': job})}", 303)
