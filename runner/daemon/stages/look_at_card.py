"""Look at the card before a stage starts: whether it is free, how large it is, what it can do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from runner.card.memory import GpuMemory
from runner.contract.fp8_cards import fp8_obstacle
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.method_choice import MethodChoice
from runner.contract.model_kind import Method
from runner.contract.promotions import current_run
from runner.contract.stage_io import PreparePlan, read_message
from runner.contract.states import TRAINS, Stage
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.daemon import Daemon
from runner.daemon.gpu_watch import WHENEVER
from runner.daemon.promotion.start_from import choose_start
from runner.daemon.stages.choose_method import method_for
from runner.daemon.stages.choose_plan import known_box, read_work
from runner.daemon.stages.plans import ON_CARD
from runner.errors import DamagedError
from runner.forecast.ranks import ALONE, Ranks
from runner.spec.as_chosen import method_of_run
from runner.spec.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of a card before a stage starts."""

    problem: str | None = None
    """Why nothing may start on it."""
    memory: GpuMemory | None = None
    """None: there is no card, or the stage does not ask how large it is."""


def look_at_card(card: Card, which: Stage, at: float) -> Seen:
    """Tell what a stage must know of a card before it starts.

    Raises:
        StillAsking: the driver has not answered yet.
    """
    needs_memory = which in (Stage.PREPARE, *TRAINS)
    if needs_memory:  # both questions at once: a slow driver's first answer would be old otherwise
        card.watch.ask_if_old(at)
    on_card = which in ON_CARD
    standing = card.guard.standing_to_start(at, on_card=on_card)
    if on_card and standing.problem:
        return Seen(problem=standing.problem)
    if not needs_memory:
        return Seen()
    since = WHENEVER if which is Stage.PREPARE else None  # prepare only asks how large it is
    return Seen(memory=card.watch.memory_at(at, since=since))


def method_of(
    daemon: Daemon, live: Live, card: Card, seen: Seen, ranks: Ranks = ALONE
) -> MethodChoice | None:
    """Choose the method where the spec leaves it to the box; None: it is known."""
    return method_on(daemon, live, seen.memory, ranks, on_card=card.guard.is_well)


def method_on(
    daemon: Daemon,
    live: Live,
    memory: GpuMemory | None,
    ranks: Ranks = ALONE,
    *,
    on_card: bool,
) -> MethodChoice | None:
    """Do the same for a card of whichever box."""
    record, spec, models = live.record, live.spec, daemon.settings.models_dir
    if spec.method != "auto":
        return None
    start = choose_start(daemon.outputs, record, spec)
    current = current_run(daemon.outputs, record.job)
    box = known_box(daemon.outputs, spec, memory, ranks)
    if memory is not None and memory.is_shared:  # it need not wait for 16 bits
        box = replace(box, gpu_memory_bytes=memory.free_bytes)
    return method_for(
        spec,
        read_work(models, live.run, spec, total_steps=record.total_steps or 0),
        box,
        models_dir=models,
        on_card=on_card,
        goes_on_from=daemon.outputs.run(record.job, start.run_id) if start.run_id else None,
        in_use=daemon.outputs.run(record.job, current) if current else None,
    )


def method_before_rows(daemon: Daemon, live: Live) -> Method | None:
    """Tell what a run trains with where that is known before its rows are; None: they decide it.

    Rows that are too long for the card are left out by prepare: in 16 bits, which an adapter that
    is gone on from may ask for, those are more than in 4.
    """
    start = choose_start(daemon.outputs, live.record, live.spec)
    if live.spec.method != "auto" or start.run_id is None:
        return None
    return method_of_run(daemon.outputs.run(live.record.job, start.run_id))


def has_rows_for(run: RunFolder, chosen: MethodChoice) -> bool:
    """Whether prepare left out the rows that are too long for what was chosen.

    It did not where another adapter has come into use meanwhile, one trained in 16 bits.
    """
    if chosen.why != "goes_on" or chosen.method != "lora":
        return True  # in 4 bits, as prepare takes it to be; or what surely fits the rows there are
    try:
        return read_message(StageFolder(run.prepared).plan, PreparePlan).method == "lora"
    except (OSError, DamagedError):
        return False


def card_bytes(daemon: Daemon, spec: JobSpec, seen: Seen) -> int | None:
    """Say what a run may use of the card; None: there is none."""
    gpu = seen.memory
    return None if gpu is None else known_box(daemon.outputs, spec, gpu).limit_bytes


def no_fp8(card: Card, seen: Seen) -> str | None:
    """Say why the box's card cannot compute in fp8; a card that is silent has the last word."""
    if seen.memory is not None:
        return fp8_obstacle(seen.memory.name, seen.memory.capability)
    return None if card.guard.is_well else fp8_obstacle(None, None)
