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
from runner.commands.options import (
    MODELS,
    OUTPUTS,
    AsJson,
    ModelsDir,
    OutputsDir,
    print_json,
    speaker,
)
from runner.commands.prepare_aside import prepared_from
from runner.commands.validate import read_file
from runner.contract.batch import BatchPlan, plan_in
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
from runner.language.speaker import ENGLISH, Speaker
from runner.spec.spec import JobSpec
from runner.words import GIB, visible

WHAT_IF_FLOPS = 150e12  # about an RTX 4090's, for a card of which only the size is known
_BAR = 24  # characters
_COLUMNS = ("as_it_is", "checkpointing", "offloading")
_FAST_COLUMNS = ("every_layer", "half", "none")


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
    """Print it for a person, in the language of whoever asks."""
    Console(highlight=False).print(render(planned, speaker()))


def render(planned: Planned, speak: Speaker = ENGLISH) -> RenderableType:
    """Lay it out: the run, the plan chosen and what it needs, and the other batches."""
    plan = plan_in(planned.chosen.batch_plan, speak)
    return Group(
        _head(planned, speak),
        Text(),
        Text.assemble(speak("cli_starts_with"), " ", (plan, "bold")),
        _verdict(planned, speak),
        _needs(planned, speak),
        Text(),
        Text(speak("cli_every_batch")),
        _batches(planned, speak),
        *[Text(note, style="dim") for note in _notes(planned, speak)],
    )


def _head(planned: Planned, speak: Speaker) -> Text:
    spec, work = planned.spec, planned.work
    size = work.shape.parameters
    if size >= 1e9:
        shown = speak("cli_billion", number=speak.number(size / 1e9, ".1f"))
    else:
        shown = speak("cli_million", number=f"{size / 1e6:.0f}")
    model = visible(spec.model)
    what = speak("cli_plan_model", model=model, size=shown, method=work.method, rank=work.rank)
    rows = speak(
        "cli_plan_rows",
        rows=speak("cli_rows", count=work.lengths.rows),
        count=work.longest,
        steps=speak("cli_steps", count=work.total_steps),
        size=work.effective_batch_size,
    )
    head = Text.assemble((spec.name, "bold"), f": {what}\n{rows}")
    if planned.method is not None:
        head.append("\n" + speak("cli_trains", how=method_in(planned.method, speak)))
    return head


def _verdict(planned: Planned, speak: Speaker) -> Text:
    chosen, limit = planned.chosen, planned.box.limit_bytes
    if limit is None:
        return Text(speak("cli_no_card"), style="yellow")
    where, key = _room(planned, speak), "cli_does_not_fit"
    if chosen.ranks > 1:
        where, key = speak("cli_cards_at_once", count=chosen.ranks, where=where), f"{key}_each"
    if chosen.fits:
        return Text(speak("cli_fits", where=where), style="green")
    *_, missing = gap(chosen.gpu_memory_bytes, limit)
    said = speak(key, where=where, missing=speak.number(missing, ".1f"))
    return Text(said, style="bold red")


def _room(planned: Planned, speak: Speaker) -> str:
    box = planned.box
    cap = planned.spec.limits.gpu_memory_gib
    if box.gpu_memory_bytes is None or box.limit_bytes == box.budget_bytes:
        return speak("cli_cap", gib=speak.number(cap, "g"))
    name = box.gpu_name or speak("cli_a_card")
    return speak("cli_card_with", name=name, gib=f"{box.gpu_memory_bytes / GIB:.0f}")


def _needs(planned: Planned, speak: Speaker) -> Table:
    chosen = planned.chosen
    whole = max(chosen.gpu_memory_bytes, planned.box.limit_bytes or 0)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(width=_BAR)
    key = "cli_gpu_memory" if planned.box.limit_bytes else "cli_gpu_memory_on_a_card"
    label = speak(key if chosen.ranks == 1 else "cli_gpu_memory_each")
    needed = chosen.gpu_memory_bytes
    table.add_row(label, speak.memory(needed), _bar(needed, whole))
    parts = {name: getattr(chosen.gpu_memory, name) for name in Parts.model_fields}
    learned = needed - chosen.gpu_memory.total
    if abs(learned) > len(parts):  # more than what rounding leaves
        parts["learned"] = learned
    for name, size in parts.items():
        shown = f"{speak.number(size / GIB, '.2f')} GiB"
        table.add_row(f"  {speak(f'cli_part_{name}')}", shown, _bar(size, whole), style="dim")
    table.add_row(speak("cli_host_memory"), speak.memory(chosen.host_memory_bytes), "")
    table.add_row(speak("cli_disk"), speak.memory(chosen.disk_bytes), "")
    if kept := chosen.kept_base_bytes:
        table.add_row(f"  {speak('cli_base_kept')}", speak.memory(kept), "", style="dim")
    table.add_row(speak("cli_time"), _time(chosen.seconds, speak), "")
    if chosen.one_card_seconds is not None:
        alone = _time(chosen.one_card_seconds, speak)
        table.add_row(f"  {speak('cli_on_one_card')}", alone, "", style="dim")
    if tried := planned.small_runs:
        steps = speak("cli_steps", count=tried.steps)
        label = speak("cli_before_it", count=tried.count, steps=steps)
        table.add_row(f"  {label}", _time(tried.seconds, speak), "")
    return table


def _time(seconds: float | None, speak: Speaker) -> str:
    if seconds is None:
        return speak("cli_time_unknown")
    return speak.lasting(seconds, exactly=True)


def _bar(size: int, whole: int) -> ProgressBar:
    return ProgressBar(total=whole, completed=max(0, size), width=_BAR)


def _batches(planned: Planned, speak: Speaker) -> Table:
    """One row a batch, one column a way to save memory; each cell what it takes."""
    fast = planned.alternatives[0].batch_plan.layers_kept is not None
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(speak("cli_tokens_at_once" if fast else "cli_batch"), justify="right")
    for key in _FAST_COLUMNS if fast else _COLUMNS:
        table.add_column(speak(f"cli_column_{key}"))
    rows: dict[str, dict[int, Text]] = {}
    for one in planned.alternatives:
        plan = one.batch_plan
        row = rows.setdefault(speak.whole(plan.tokens_per_pass or 0) if fast else plan.cut, {})
        chosen = plan == planned.chosen.batch_plan
        row[_column(plan, planned.work)] = _cell(one, speak, chosen=chosen)
    for cut, cells in rows.items():
        table.add_row(cut, *(cells.get(column, "") for column in range(3)))
    return table


def _column(plan: BatchPlan, work: Work) -> int:
    if plan.layers_kept is None:
        return plan.activation_checkpointing + plan.activation_offloading
    return 2 if not plan.layers_kept else int(plan.layers_kept < work.shape.layers)


def _cell(one: Forecast, speak: Speaker, *, chosen: bool) -> Text:
    text, style = f"{speak.number(one.gpu_memory_bytes / GIB, '.1f')} GiB", ""
    if one.fits is not None:
        style = "green" if one.fits else "red"
        text = text if one.fits else speak("cli_cell_does_not_fit", size=text)
    if one.seconds is not None and one.fits is not False:
        text += f", {speak.lasting(one.seconds, exactly=True)}"
    return Text(text + (" ◀" if chosen else ""), style=f"bold {style}" if chosen else style)


def _of_cards(planned: Planned, speak: Speaker) -> Iterator[str]:
    """Say what several cards would mean for the run, or that the box has fewer."""
    chosen, cards = planned.chosen, planned.cards
    if chosen.shard_base:
        yield speak("cli_cards_share")
    if chosen.ranks > cards:
        yield speak("cli_box_has_fewer", count=cards)
    if cards > 1 and chosen.ranks == 1 and chosen.fits and chosen.seconds is not None:
        several = Ranks(count=cards).of(planned.box)
        together = first_forecast(planned.spec, planned.work, several)
        if together.fits and together.seconds is not None:
            time = speak.lasting(together.seconds, exactly=True)
            yield speak("cli_on_several", count=cards, time=time)


def _notes(planned: Planned, speak: Speaker) -> list[str]:
    notes = list(_of_cards(planned, speak))
    chosen = planned.chosen.batch_plan
    if chosen.layers_kept is not None:
        notes.append(speak("cli_fast_path"))
    elif planned.plain_because:
        notes.append(speak("cli_plain_path", what=planned.plain_because))
    if (quicker := _in_fp8(planned)) is not None:
        notes.append(speak("cli_in_fp8", time=speak.lasting(quicker, exactly=True)))
    if chosen.layers_kept is None and chosen.tokens_per_pass is not None:
        notes.append(speak("cli_starts_with_limit"))
    if planned.small_runs is not None and not planned.small_runs.is_enough:
        notes.append(speak("cli_too_short_for_rates"))
    if planned.what_if:
        notes.append(speak("cli_times_are_for"))
    elif planned.box.limit_bytes is None:
        notes.append(speak("cli_another_size"))
    if planned.box.learned_memory:
        notes.append(speak("cli_corrected"))
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
