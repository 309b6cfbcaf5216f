"""`runner try`: the base model's and the adapter's answers side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from runner.card.ask import ask_driver
from runner.card.find_cards import NamedCard, find_cards
from runner.commands.fetch import quieten
from runner.commands.find_run import find_run
from runner.commands.options import MODELS, OUTPUTS, AsJson, Device, ModelsDir, OutputsDir, Run
from runner.contract.layout import Outputs, RunFolder
from runner.contract.models import find_model
from runner.contract.record import read_record
from runner.errors import BusyError, RunnerError, UnsafePathError
from runner.files.lock import Lock
from runner.spec.as_chosen import as_chosen
from runner.spec.read_spec import read_spec
from runner.words import visible_lines


def _questions(console: Console, given: tuple[str, ...]) -> Iterator[str]:
    """Give the questions of the command line, or else those that are typed."""
    if given:
        yield from given
        return
    console.print(Text("Ask; an empty line ends it.", style="dim"))
    while True:
        try:
            question = console.input("[bold]> [/bold]").strip()
        except EOFError:
            return
        if not question:
            return
        yield question


def named_cards(environment: Mapping[str, str]) -> list[NamedCard]:
    """Find the cards of a box that has several; where some are lost, the others.

    Raises:
        SettingError: RUNNER_GPUS names what is not there.
    """
    named = find_cards(environment.get("RUNNER_GPUS", ""), environment)
    if all(one.uuid for one in named):
        return named
    # A number alone names no lease: a stage may be at work on that card.
    told = [one.told_by(ask_driver(one.asked_as)) for one in named]
    return [one for one in told if one.uuid] or named


def take_card(outputs: Outputs, named: Sequence[NamedCard], holder: str) -> Lock:
    """Take the first of several cards that nobody works on; this process sees no other then.

    Raises:
        RunnerError: all are in use, or their leases are no files.
    """
    busy: RunnerError | None = None
    for card in named:
        try:
            lease = Lock.take(
                card.lease(outputs, card.uuid), what=f"GPU {card.number}", holder=holder
            )
        except (BusyError, UnsafePathError) as error:
            busy = error
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = card.asked_as
        return lease
    assert busy is not None
    raise busy


def try_run(
    outputs: Outputs,
    run: RunFolder,
    models_dir: Path,
    *,
    questions: tuple[str, ...],
    device: str,
    max_new_tokens: int,
    as_json: bool,
) -> None:
    """Answer each question twice.

    Raises:
        RunnerError: the run has no adapter (yet), or the GPU is in use.
    """
    if not (run.adapter / "adapter_config.json").is_file():
        raise RunnerError(
            f"{run.job}/{run.run_id} has no adapter",
            advice=f"`runner show {run.job}` shows where it stands.",
        )
    quieten()
    # As the stages do: threads that wait in a loop starve each other where a run trains meanwhile.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from runner.training.evaluate.chat import SideBySide  # noqa: PLC0415  they read the above when imported
    from runner.training.fit.model import find_machine  # noqa: PLC0415

    leaves_cards = "cpu" in (device, os.environ.get("RUNNER_DEVICE"))
    named = [] if leaves_cards else named_cards(os.environ)
    outputs.private.mkdir(parents=True, exist_ok=True)
    holder = f"`runner try {run.job}`, process {os.getpid()}"
    lease = take_card(outputs, named, holder) if named else None
    spec = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml")
    spec = as_chosen(spec, read_record(run.record))
    console = Console(highlight=False, stderr=as_json)
    machine = find_machine(device)
    if lease is None and machine.on_gpu:
        lease = Lock.take(outputs.gpu_lease, what="the GPU", holder=holder)
    try:
        with console.status("Loading the model …"):
            pair = SideBySide(find_model(models_dir, spec.model), run.adapter, spec, machine)
        histories = {False: pair.start(), True: pair.start()}
        answered = []
        for question in _questions(console, questions):
            answers = {}
            # Questions of the command line stand alone; typed ones go on with the conversation.
            if questions:
                histories = {False: pair.start(), True: pair.start()}
            with console.status("Answering …"):
                for tuned, history in histories.items():
                    history.append({"role": "user", "content": question})
                    answer = pair.answer(history, tuned=tuned, max_new_tokens=max_new_tokens)
                    history.append({"role": "assistant", "content": answer})
                    answers[tuned] = answer
            answered.append(
                {"question": question, "base": answers[False], "adapter": answers[True]}
            )
            if as_json:
                continue
            width = console.width // 2 - 1
            if questions:
                console.print(Text(f"> {visible_lines(question)}", style="bold"))
            console.print(
                Columns(
                    [
                        Panel(Text(visible_lines(answers[False])), title="base", width=width),
                        Panel(
                            Text(visible_lines(answers[True])),
                            title="with the adapter",
                            width=width,
                            border_style="green",
                        ),
                    ]
                )
            )
        if as_json:
            print(json.dumps(answered, indent=2, ensure_ascii=False))
    finally:
        if lease:
            lease.release()


def command(
    name: Run,
    question: Annotated[
        list[str] | None,
        typer.Option(
            "--question",
            "-q",
            metavar="TEXT",
            help="Ask this and leave; may be given several times.",
        ),
    ] = None,
    outputs_dir: OutputsDir = OUTPUTS,
    models_dir: ModelsDir = MODELS,
    device: Device = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Chat with the base model and the adapter side by side.

    \b
    Example:
        runner try contracts -q "What does clause 7 mean?"
    """
    outputs = Outputs(outputs_dir)
    try_run(
        outputs,
        find_run(outputs, name),
        models_dir.absolute(),
        questions=tuple(question or ()),
        device=device,
        max_new_tokens=max_new_tokens,
        as_json=as_json,
    )
