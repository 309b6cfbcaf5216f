"""`runner plan`: what a run would need before it is dropped: memory by part, disk, time.

The rows are prepared for real, so their lengths are real; of the model only its config is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.card.memory import GpuMemory, read_gpu
from runner.commands.options import MODELS, OUTPUTS, AsJson, ModelsDir, OutputsDir, print_json
from runner.commands.prepare_aside import prepared_from
from runner.commands.validate import read_file
from runner.contract.batch import BatchPlan
from runner.contract.card_shown import read_cards
from runner.contract.gpus import count_gpus
from runner.contract.layout import Outputs, RunFolder, StageFolder
from runner.contract.method_choice import MethodChoice, method_in
from runner.contract.pick_rate import SmallRuns, small_runs
from runner.contract.promotions import current_run
from runner.contract.stage_io import PrepareResult, read_message
from runner.daemon.stages.choose_method import method_for
from runner.daemon.stages.choose_plan import (
    as_facts,
    first_forecast,
    fits_on,
    known_box,
    read_work,
)
from runner.errors import ModelError, Problem
from runner.forecast.choose import alternatives
from runner.forecast.forecast import Forecast
from runner.forecast.memory import Parts
from runner.forecast.ranks import ALONE, Ranks, choose_ranks, may_share
from runner.forecast.what_fits import gap
from runner.forecast.work import Box, Work
from runner.spec.spec import JobSpec
from runner.words import GIB, counted, duration, memory, visible

WHAT_IF_FLOPS = 150e12  # about an RTX 4090's, for a card of which only the size is known
_BAR = 24  # characters
_COLUMNS = ("as it is", "activation checkpointing", "and offloading")
_FAST_COLUMNS = ("every layer kept", "half of them", "none")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Where to look, and for which card."""

    models_dir: Path
    jobs_dir: Path | None = None
    card_gib: float | None = None
    """A card of this size; None: the one in this box."""
    cards: int = 1
    """Cards that the box trains on: as many like it as the spec's `resources` may take."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run that nobody has dropped yet."""

    spec: JobSpec
    work: Work
    box: Box
    chosen: Forecast
    alternatives: tuple[Forecast, ...]
    plain_because: str | None = None
    """Why it cannot train on the fast path; None: it may, or nobody knows."""
    method: MethodChoice | None = None
    """What was chosen where the spec says `method: auto`; None: it names one."""
    small_runs: SmallRuns | None = None
    """Of the learning rates that are tried before; None: none are."""
    what_if: bool
    """The card is not this box's: its speed is assumed."""
    cards: int = 1
    """Cards that the box trains on."""

    def as_json(self) -> dict[str, Any]:
        """Give the same to a script; fields as in a record's ``forecast``."""
        return {
            "job": self.spec.name,
            "model": self.spec.model,
            "method": self.work.method,
            "method_because": method_in(self.method) if self.method else None,
            "rows": self.work.lengths.rows,
            "total_steps": self.work.total_steps,
            "effective_batch_size": self.work.effective_batch_size,
            "small_runs": asdict(self.small_runs) if self.small_runs else None,
            "assumed_flops": WHAT_IF_FLOPS if self.what_if else None,
            **as_facts(self.chosen, self.alternatives, self.box),
        }


def plan(spec_file: Path, outputs: Outputs, asked: Asked) -> Planned:
    """Prepare a spec's rows aside and forecast the run.

    Raises:
        RunnerError: the spec, data or model cannot be used, or nothing can be said of the model.
    """
    spec = read_file(spec_file)
    where = (spec_file, asked.models_dir, asked.jobs_dir)
    with prepared_from(*where, try_model=True, outputs=outputs) as run:
        return planned(
            spec, run, outputs, asked, gpu=read_gpu() if asked.card_gib is None else None
        )


def planned(
    spec: JobSpec, run: RunFolder, outputs: Outputs, asked: Asked, *, gpu: GpuMemory | None
) -> Planned:
    """Forecast a run from its prepared rows, on a card.

    Raises:
        ModelError: its config tells too little.
    """
    prepared = read_message(StageFolder(run.prepared).result, PrepareResult)
    spec = spec.with_batch(prepared.effective_batch_size)
    work = read_work(asked.models_dir, run, spec, total_steps=prepared.total_steps)
    if work is None:
        what = "its config.json does not name its sizes, so nothing can be forecast"
        raise ModelError([Problem(field="model", found=spec.model, message=what)])

    def box_of(ranks: Ranks) -> Box:
        if asked.card_gib is None:
            return known_box(outputs, spec, gpu, ranks)
        whole = int(asked.card_gib * GIB)
        known = known_box(outputs, spec, None, ranks)
        return replace(known, gpu_memory_bytes=whole, flops=WHAT_IF_FLOPS)

    box = box_of(ALONE)
    current = current_run(outputs, spec.name)
    in_use = outputs.run(spec.name, current) if current else None
    chosen = method_for(
        spec,
        work,
        box,
        models_dir=asked.models_dir,
        on_card=box.gpu_memory_bytes is not None,
        goes_on_from=in_use
        if spec.start_from == "current" or (prepared.start and prepared.start.goes_on)
        else None,
        in_use=in_use,
    )
    if chosen is not None:
        work = replace(work, method=chosen.method)
    ranks = choose_ranks(
        spec.resources.gpus,
        most=asked.cards,
        may_share=may_share(work, box),
        fits=lambda ranks: fits_on(spec, work, box_of(ranks)),
    )
    box = box_of(ranks or ALONE)
    first = first_forecast(spec, work, box)
    return Planned(
        spec=spec,
        work=work,
        method=chosen,
        box=box,
        chosen=first,
        small_runs=small_runs(
            len(spec.rates_tried),
            total_steps=work.total_steps,
            hours=spec.hours,
            seconds=first.seconds,
        )
        if spec.rates_tried and prepared.eval_rows
        else None,
        alternatives=alternatives(work, box),
        plain_because=prepared.plain_because,
        what_if=asked.card_gib is not None,
        cards=asked.cards,
    )


def print_planned(planned: Planned) -> None:
    """Print it for a person."""
    Console(highlight=False).print(render(planned))


def render(planned: Planned) -> RenderableType:
    """Lay it out: the run, the plan chosen and what it needs, and the other batches."""
    chosen = planned.chosen
    return Group(
        _head(planned),
        Text(),
        Text.assemble("Starts with ", (str(chosen.batch_plan), "bold")),
        _verdict(planned),
        _needs(planned),
        Text(),
        Text("Every batch gives the same result:"),
        _batches(planned),
        *[Text(note, style="dim") for note in _notes(planned)],
    )


def _head(planned: Planned) -> Text:
    spec, work = planned.spec, planned.work
    size = work.shape.parameters
    shown = f"{size / 1e9:.1f} billion" if size >= 1e9 else f"{size / 1e6:.0f} million"
    what = f"{visible(spec.model)} ({shown} weights), {work.method}, rank {work.rank}"
    rows = f"{counted(work.lengths.rows, 'row')}, the longest {counted(work.longest, 'token')}"
    steps = f"{counted(work.total_steps, 'step')} of {work.effective_batch_size}"
    head = Text.assemble((spec.name, "bold"), f": {what}\n{rows}; {steps}")
    if planned.method is not None:
        head.append(f"\nTrains {method_in(planned.method)}")
    return head


def _verdict(planned: Planned) -> Text:
    chosen, limit = planned.chosen, planned.box.limit_bytes
    if limit is None:
        return Text("There is no card in this box: it would train on the CPU.", style="yellow")
    where, each = _room(planned), ""
    if chosen.ranks > 1:
        where, each = f"{chosen.ranks} cards at once, each {where}", " on each"
    if chosen.fits:
        return Text(f"Fits {where}.", style="green")
    *_, missing = gap(chosen.gpu_memory_bytes, limit)
    return Text(f"Does not fit {where}: {missing:.1f} GiB are missing{each}.", style="bold red")


def _room(planned: Planned) -> str:
    box = planned.box
    cap = planned.spec.limits.gpu_memory_gib
    if box.gpu_memory_bytes is None or box.limit_bytes == box.budget_bytes:
        return f"the cap of {cap:g} GiB"
    return f"{box.gpu_name or 'a card'} with {box.gpu_memory_bytes / GIB:.0f} GiB"


def _needs(planned: Planned) -> Table:
    chosen = planned.chosen
    whole = max(chosen.gpu_memory_bytes, planned.box.limit_bytes or 0)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(width=_BAR)
    label = "GPU memory" if planned.box.limit_bytes else "GPU memory, on a card"
    label = label if chosen.ranks == 1 else "GPU memory, each card"
    table.add_row(label, memory(chosen.gpu_memory_bytes), _bar(chosen.gpu_memory_bytes, whole))
    parts = {name: getattr(chosen.gpu_memory, name) for name in Parts.model_fields}
    learned = chosen.gpu_memory_bytes - chosen.gpu_memory.total
    if abs(learned) > len(parts):  # more than what rounding leaves
        parts["learned from past runs"] = learned
    for name, size in parts.items():
        row = (f"  {name}", f"{size / GIB:.2f} GiB", _bar(size, whole))
        table.add_row(*row, style="dim")
    table.add_row("host memory", memory(chosen.host_memory_bytes), "")
    table.add_row("disk", memory(chosen.disk_bytes), "")
    if kept := chosen.kept_base_bytes:
        table.add_row("  base kept in 4 bits, if there is room", memory(kept), "", style="dim")
    table.add_row("time", _time(chosen.seconds), "")
    if chosen.one_card_seconds is not None:
        table.add_row("  on one card", _time(chosen.one_card_seconds), "", style="dim")
    if tried := planned.small_runs:
        label = f"  before it, {tried.count} learning rates, {counted(tried.steps, 'step')} each"
        table.add_row(label, _time(tried.seconds), "")
    return table


def _time(seconds: float | None) -> str:
    return "not known before it runs" if seconds is None else duration(seconds)


def _bar(size: int, whole: int) -> ProgressBar:
    return ProgressBar(total=whole, completed=max(0, size), width=_BAR)


def _batches(planned: Planned) -> Table:
    """One row a batch, one column a way to save memory; each cell what it takes."""
    fast = planned.alternatives[0].batch_plan.layers_kept is not None
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("tokens at once" if fast else "batch", justify="right")
    for name in _FAST_COLUMNS if fast else _COLUMNS:
        table.add_column(name)
    rows: dict[str, dict[int, Text]] = {}
    for one in planned.alternatives:
        plan = one.batch_plan
        row = rows.setdefault(f"{plan.tokens_per_pass:,}" if fast else plan.cut, {})
        row[_column(plan, planned.work)] = _cell(one, chosen=plan == planned.chosen.batch_plan)
    for cut, cells in rows.items():
        table.add_row(cut, *(cells.get(column, "") for column in range(3)))
    return table


def _column(plan: BatchPlan, work: Work) -> int:
    if plan.layers_kept is None:
        return plan.activation_checkpointing + plan.activation_offloading
    return 2 if not plan.layers_kept else int(plan.layers_kept < work.shape.layers)


def _cell(one: Forecast, *, chosen: bool) -> Text:
    text, style = f"{one.gpu_memory_bytes / GIB:.1f} GiB", ""
    if one.fits is not None:
        text, style = (text, "green") if one.fits else (f"{text}, does not fit", "red")
    if one.seconds is not None and one.fits is not False:
        text += f", {duration(one.seconds)}"
    return Text(text + (" ◀" if chosen else ""), style=f"bold {style}" if chosen else style)


def _of_cards(planned: Planned) -> Iterator[str]:
    """Say what several cards would mean for the run, or that the box has fewer."""
    chosen, cards = planned.chosen, planned.cards
    if chosen.shard_base:
        yield "The cards share the base model: none of them has the room for all of it."
    if chosen.ranks > cards:
        trains = "one card" if cards == 1 else f"{cards} cards"
        yield f"This box trains on {trains} (RUNNER_GPUS): it would refuse the job."
    if cards > 1 and chosen.ranks == 1 and chosen.fits and chosen.seconds is not None:
        several = Ranks(count=cards).of(planned.box)
        together = first_forecast(planned.spec, planned.work, several)
        if together.fits and together.seconds is not None:
            yield (
                f"On {cards} cards at once (`resources: {{gpus: {cards}}}`) about "
                f"{duration(together.seconds)}, with the same result. Other jobs wait until then."
            )


def _notes(planned: Planned) -> list[str]:
    notes = list(_of_cards(planned))
    chosen = planned.chosen.batch_plan
    if chosen.layers_kept is not None:
        notes.append(
            "It trains on the fast path: rows without padding, nothing large computed twice where "
            "there is room. A check at its start may find that it cannot, and says so."
        )
    elif planned.plain_because:
        notes.append(
            f"It trains on the plain path, which takes about two to three times as long: the fast "
            f"one does not know {planned.plain_because}."
        )
    if (quicker := _in_fp8(planned)) is not None:
        notes.append(
            f"With `speed: fp8` about {duration(quicker)} on an RTX 4090, H100 or newer: "
            "less exact gradients, the same result where we measured it (docs/models.md)."
        )
    if chosen.layers_kept is None and chosen.tokens_per_pass is not None:
        notes.append("It starts with a limit of tokens at once: long rows do not pad short ones.")
    if planned.small_runs is not None and not planned.small_runs.is_enough:
        notes.append(
            "The time given is too short for the learning rates: the run will be refused. Give "
            "try.hours more, or fewer rates."
        )
    if planned.what_if:
        notes.append("Times are for a card as fast as an RTX 4090.")
    elif planned.box.limit_bytes is None:
        notes.append("For a card of another size: runner plan SPEC --card 24")
    if planned.box.learned_memory:
        notes.append("Corrected by what past runs took on this card.")
    return notes


def _in_fp8(planned: Planned) -> float | None:
    """Say how many seconds the run would take with `speed: fp8`; None: it cannot, or not sooner."""
    chosen = planned.chosen
    if (
        chosen.batch_plan.layers_kept is None
        or chosen.seconds is None
        or planned.work.method != "qlora"
        or planned.spec.speed == "fp8"
    ):
        return None
    other = first_forecast(planned.spec, replace(planned.work, fp8=True), planned.box)
    sooner = other.seconds is not None and other.fits and other.seconds < chosen.seconds
    return other.seconds if sooner else None


def command(
    spec: Annotated[Path, typer.Argument(help="The spec; its data lies beside it.")],
    card: Annotated[
        float | None,
        typer.Option("--card", min=1, help="Ask for a card of so many GiB instead of this box's."),
    ] = None,
    jobs_dir: Annotated[
        Path | None,
        typer.Option(
            "--jobs-dir",
            envvar="RUNNER_JOBS_DIR",
            readable=False,
            help="The inbox, if it lies in one.",
        ),
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
    outputs = Outputs(outputs_dir)
    cards = len(read_cards(outputs)) or count_gpus(os.environ.get("RUNNER_GPUS", "")) or 1
    asked = Asked(models_dir=models_dir, jobs_dir=jobs_dir, card_gib=card, cards=cards)
    found = plan(spec, outputs, asked)
    if as_json:
        print_json(found.as_json())
    else:
        print_planned(found)
