"""`runner export`: asks the daemon to make merged weights or GGUF files of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.commands.ask_daemon import ask_daemon
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, Run
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import read_record
from runner.contract.requests import leave_request
from runner.contract.states import State
from runner.errors import RunnerError
from runner.spec.export import GGUF, ExportWish, gguf_problem, plain_format
from runner.spec.read_spec import read_spec


def export(outputs: Outputs, run: RunFolder, wish: ExportWish) -> None:
    """Ask the daemon to export a run; without a wish, as its spec says, or else merged weights.

    Raises:
        RunnerError: it has no adapter, or is not at its end yet.
    """
    record = read_record(run.record)
    state, name = record.state, f"{run.job}/{run.run_id}"
    if not state.is_final:
        raise RunnerError(
            f"{name} is not over yet: {state.value}",
            advice="Ask again when it is: `runner status` shows how far it is.",
        )
    if record.erased is not None:
        raise RunnerError(
            f"The held-out rows of {name} were erased on {record.erased.at:%Y-%m-%d}",
            advice="What is exported is measured on them; drop its spec and data again.",
        )
    if state is not State.SUCCEEDED or not (run.adapter / "adapter_model.safetensors").is_file():
        raise RunnerError(
            f"{name} has no adapter that could be exported: {state.value}",
            advice="`runner status --all` lists the runs; those that succeeded have one.",
        )
    if not wish.asks:
        spec = read_spec(run.spec.read_bytes(), file_name=record.file_name)
        wish = spec.export if spec.export.asks else ExportWish(merged=True)
    leave_request(
        outputs,
        "export",
        run_id=run.run_id,
        merged=wish.merged,
        gguf=list(wish.gguf or ()),
        adapter_gguf=wish.adapter_gguf,
    )


def wish_of(*, merged: bool, gguf: list[str], adapter_gguf: bool) -> ExportWish:
    """Read the options.

    Raises:
        RunnerError: a format does not exist.
    """
    formats = [plain_format(part) for one in gguf for part in one.split(",") if part.strip()]
    for number, message, hint in gguf_problem(formats):
        raise RunnerError(f"--gguf {formats[number]}: {message}", advice=f"{hint.capitalize()}.")
    known = [one for one in GGUF if one in formats]
    return ExportWish(merged=merged, gguf=known or None, adapter_gguf=adapter_gguf)


def command(
    name: Run,
    merged: Annotated[
        bool, typer.Option("--merged", help="Base model and adapter as one model, in merged/.")
    ] = False,
    gguf: Annotated[
        list[str] | None,
        typer.Option("--gguf", help=f"A file for llama.cpp and Ollama: {', '.join(GGUF)}."),
    ] = None,
    adapter_gguf: Annotated[
        bool, typer.Option("--adapter-gguf", help="The adapter alone as a GGUF file.")
    ] = False,
    outputs_dir: OutputsDir = OUTPUTS,
    as_json: AsJson = False,
) -> None:
    """Make merged weights or GGUF files of a run.

    Without an option, what the run's spec asks for in `export`, or else merged weights. It begins
    as soon as the card is free. When no daemon runs, the next one does it. A run whose rows were
    removed because its job has newer ones is exported as well; nothing is measured then.

    \b
    Example:
        runner export contracts --merged --gguf q4_k_m
    """
    wish = wish_of(merged=merged, gguf=gguf or [], adapter_gguf=adapter_gguf)
    then = "`runner show {run}` shows what was made"
    ask_daemon(
        name,
        outputs_dir,
        ask=lambda outputs, run: export(outputs, run, wish),
        verb="export",
        then=then,
        as_json=as_json,
    )
