"""The book: every run that is not over, as its record says and as the daemon sees it now."""

from __future__ import annotations

from dataclasses import dataclass

from runner.contract.layout import Outputs, RunFolder, new_run_id
from runner.contract.record import RunRecord
from runner.contract.states import Stage
from runner.daemon.cards import Card
from runner.daemon.cluster.far_child import FarChild
from runner.daemon.inbox.unresolved import Ends
from runner.daemon.stages.process import Child
from runner.files.settle import Look
from runner.spec.as_chosen import as_chosen
from runner.spec.spec import JobSpec

ENDED_SHOWN = 10  # runs in STATUS.txt that have ended


@dataclass(frozen=True, kw_only=True)
class Stillness:
    """How long a child has stood still, as far as the daemon was awake to see it."""

    shown: tuple[int, int]
    """What it last showed: its process id and the time of its metrics."""
    seconds: float
    looked_at: float
    """Monotonic."""


@dataclass(kw_only=True)
class Live:
    """A run that something may still happen to."""

    run: RunFolder
    record: RunRecord
    asked: JobSpec
    """The spec as it was dropped."""
    child: Child | FarChild | None = None
    stage: Stage | None = None
    """The stage that the child runs."""
    cards: tuple[Card, ...] = ()
    """The cards that the child sees: it works there, or, where it prepares, beside a stage there.
    One, but for a training on several."""
    stage_began_at: float | None = None
    """Monotonic time at which the child began."""
    waits_for_data_since: float | None = None
    """Monotonic time since which data that it names is missing."""
    reason_written_at: float = 0.0
    """Monotonic time at which the reason why it waits was last written."""
    cancel: str = ""
    """Why it is to be cancelled, as soon as its child has ended."""
    lacks_cards: bool = False
    """It waits for more cards than work in the box."""
    trained_again_at: float = 0.0
    """Monotonic time before which it is not trained again: its stage lost one of several cards, and
    the driver did not say which."""
    pause: str = ""
    """Why its child was asked to leave a checkpoint: the box's trouble, not the run's."""
    hung: str = ""
    """What was seen of its child's standing still; empty while it moves."""
    asked_for_stack_at: float = 0.0
    """Monotonic time at which a child that hangs was asked where."""
    stillness: Stillness | None = None
    """For how long its child has shown nothing new."""
    kernel_kills: int | None = None
    """How many processes the kernel had killed for want of memory when its child began; those that
    another run's stage was blamed for since then count as well."""
    meant: int | None = None
    """What its child's end was found to mean; None: that is not judged yet."""
    doubt: str = ""
    """What is known of its child's end, and not whether that was the kernel's doing."""
    left_open: bool = False
    """An earlier daemon went down during its newest attempt, which is still to be closed."""
    end_seen_at: float | None = None
    """Monotonic time at which its child's end was seen and logged; writing the record of it may
    take more than one try."""
    absent_since: float | None = None
    """Monotonic time of the first scan in a row that did not find the spec."""
    seen_in: tuple[str, tuple[int, int]] | None = None
    """The state folder in which its spec was last seen: its name and its identity."""
    folder_gone_since: float | None = None
    """Monotonic time at which its run folder was first missing."""
    rests_until: float = 0.0
    """Monotonic time until which nothing is tried with it: something of its own is in the way."""
    rests_after_fall_until: float = 0.0
    """Monotonic time until which it is not tried: the machine went down under it time and again."""
    unread_in_a_row: int = 0
    """How often a file of it could not be read, since a stage of it last ended otherwise."""
    failures_in_a_row: int = 0
    """How often something of its own was in the way, one after the other."""
    data_looks: tuple[Look | None, ...] = ()
    """How its data files looked when its prepare stage began."""
    answered: tuple[str, str] = ("", "")
    """State folder and text of the newest answer."""

    @property
    def spec(self) -> JobSpec:
        """The spec, with the method that was chosen where it leaves that to the box."""
        return as_chosen(self.asked, self.record)

    @property
    def next_stage(self) -> Stage:
        """What is to be done next; a run that is over has nothing to ask it for."""
        assert self.record.next_stage is not None
        return self.record.next_stage


class Book:
    """Every run that is not over, and what is known of those that are."""

    def __init__(self, outputs: Outputs) -> None:
        """Begin with nothing; the outputs folder knows of the runs before this daemon's time."""
        self._outputs = outputs
        self.runs: dict[str, Live] = {}
        self.ended: list[RunRecord] = []
        """The latest, for STATUS.txt."""
        self.ends = Ends()
        self.to_heal: list[RunRecord] = []
        """Runs that ended while the inbox could not be looked at."""
        self.damaged: list[str] = []
        """What a person must know about runs that nothing can be done with."""
        self.damaged_now: list[RunRecord] = []
        """Runs that ended by that; the inbox does not show it yet."""
        self._ids: set[str] = set()
        """Ids that this daemon gave or met, whether or not a record of them is there by now."""
        self.left_alone: set[str] = set()
        """Ids of runs whose records cannot be read: nothing is done with what belongs to them."""
        self.sequence = 0
        self.all_succeeded = True

    def new_id(self) -> str:
        """Make a run id that no run has."""
        while self.knows(run_id := new_run_id()):
            pass
        self._ids.add(run_id)
        return run_id

    def knows(self, run_id: str) -> bool:
        """Whether a run of this id is there, or was while this daemon works.

        The disk is asked for others than the present ones: thousands of ids are not kept for that.
        """
        return run_id in self.runs or run_id in self._ids or self._outputs.has_record(run_id)

    def met(self, run_id: str) -> None:
        """Remember an id that an earlier daemon gave."""
        self._ids.add(run_id)

    def forget(self, run_id: str) -> None:
        """Let an id go that became no run: what was moved under it in the end is adopted."""
        self._ids.discard(run_id)
