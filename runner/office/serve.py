"""`runner serve`: the page and the API, on a Unix socket or on this machine alone."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import (
    JOBS,
    MODELS,
    OUTPUTS,
    PAGE,
    JobsDir,
    ModelsDir,
    OutputsDir,
    PageDir,
)
from runner.contract.settings_table import read_settings, with_folders
from runner.errors import RunnerError
from runner.office.box import UPLOAD_BYTES, Box
from runner.office.limits import CONNECTIONS
from runner.words import GIB

_LEAVE_SECONDS = 5  # those that follow a run are cut off after so long


def command(
    socket: Annotated[
        Path | None, typer.Option(help="The Unix socket to listen on; its door has the network.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Without a socket: the port on 127.0.0.1.")
    ] = 8080,
    jobs_dir: JobsDir = JOBS,
    outputs_dir: OutputsDir = OUTPUTS,
    models_dir: ModelsDir = MODELS,
    page_dir: PageDir = PAGE,
    hosts: Annotated[
        str,
        typer.Option(
            envvar="RUNNER_PAGE_HOSTS",
            help="Names, with commas, that it is reached by, beside localhost and addresses.",
        ),
    ] = "",
    upload_gib: Annotated[
        float,
        typer.Option(envvar="RUNNER_PAGE_UPLOAD_GIB", min=0.001, help="The largest file taken."),
    ] = UPLOAD_BYTES / GIB,
) -> None:
    """Serve the page and the API.

    \b
    Example:
        runner serve
        runner serve --socket /run/page/page.sock
    """
    box = Box.of(
        with_folders(jobs_dir, outputs_dir, models_dir, **read_settings(os.environ)),
        page_dir=page_dir.absolute(),
        hosts=tuple(name.strip() for name in hosts.split(",") if name.strip()),
        upload_bytes=int(upload_gib * GIB),
    )
    serve(box, socket=socket, port=port)


def serve(box: Box, *, socket: Path | None, port: int) -> None:
    """Serve until asked to stop.

    Raises:
        RunnerError: the page's packages are not installed, or there is no inbox.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra of its own: only this command needs it

        from runner.office.app import make_app  # noqa: PLC0415
        from runner.office.upload import sweep_uploads  # noqa: PLC0415
    except ImportError as error:
        raise RunnerError(
            f"the page cannot be served: {error.name} is not installed",
            advice="pip install 'finetuning-box[page]'",
        ) from error
    if not box.jobs_dir.is_dir():
        raise RunnerError(
            f"there is no inbox at {box.jobs_dir}",
            advice="Start `runner watch` first, or name the inbox with --jobs-dir.",
        )
    app = make_app(box)
    if key := app.state.keys.make():
        print(f"The key to the page: {key}    (it lies in {box.page_dir})", flush=True)
    for problem in app.state.keys.problems():
        print(problem, flush=True)
    sweep_uploads(box.jobs_dir)
    aside = box.page_dir / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    # Copies of data that is looked at: on the disk, and nobody else's.
    tempfile.tempdir = os.environ["TMPDIR"] = str(aside)
    where = f"unix:{socket}" if socket else f"http://127.0.0.1:{port}"
    print(f"The page listens on {where}", flush=True)
    uvicorn.run(
        app,
        uds=str(socket) if socket else None,
        host="127.0.0.1",
        port=port,
        # On the socket only the door speaks: it says who asked, and whether by TLS.
        proxy_headers=socket is not None,
        forwarded_allow_ips="*" if socket else "",
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,  # who looked at which job is nobody's business
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_LEAVE_SECONDS,
        h11_max_incomplete_event_size=64 * 1024,
    )
