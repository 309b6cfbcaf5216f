"""Agent and head speak through files: what a broken one costs, or a share that fails once.

Both are real, without their loops: each step is taken by the test. No stage is started but one that
says nothing.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from runner.agent import agent as agent_module
from runner.agent import cards as cards_module
from runner.agent import work as work_module
from runner.agent.agent import Agent
from runner.card.find_cards import NamedCard
from runner.card.memory import GpuMemory
from runner.clock import this_boot
from runner.contract import stage_environment
from runner.contract.card_shown import CardShown, read_cards
from runner.contract.cluster import (
    BoxCard,
    BoxSaid,
    ClusterFolder,
    Head,
    Held,
    Now,
    Order,
    Seen,
    Ticket,
    Why,
    hear,
    in_the_way,
    say,
)
from runner.contract.image_version import image_version
from runner.contract.layout import Outputs, StageFolder
from runner.contract.settings import Settings
from runner.contract.standing_by import STAND_BY
from runner.daemon.cluster import cluster as cluster_module
from runner.daemon.cluster.cluster import Cluster
from runner.daemon.stages.host_memory import Blame
from runner.errors import BusyError
from runner.exit_codes import ExitCode
from runner.files.durable import write_json
from runner.files.lock import Lock
from runner.forecast.work import GIB

RUN = "20261128T010101Z-abcd"
TICKET = Ticket(box="cellar", job="contracts", run_id=RUN, number=1, token="3f9c22ab")
OTHER = TICKET.model_copy(update={"number": 2, "token": "aaaaaaaa"})
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
ODD = ["a folder", "a link", "a dangling link", "a pipe", "torn", "huge"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Folders of a head and a further box on one machine."""
    (tmp_path / "outputs" / ".runner").mkdir(parents=True)
    return Settings(
        jobs_dir=tmp_path / "jobs",
        outputs_dir=tmp_path / "outputs",
        models_dir=tmp_path / "models",
        cache_dir=tmp_path / "cache",
        device="cpu",
        stage_command=(sys.executable, "-c", "import time; time.sleep(600)"),
        lease_seconds=60,
        grace_seconds=120,
    )


class Both:
    """A head, and an agent under the name of cellar."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.said = settings, list[str]()
        self.head = Cluster(settings, say_event=lambda what, **_: self.said.append(what))
        self.agent = self.new_agent()
        self.clock = 0.0

    def new_agent(self) -> Agent:
        """Start one anew."""
        return Agent(self.settings, "cellar", say_event=lambda what, **_: self.said.append(what))

    def place(self, *tickets: Ticket, order: Order = Order.GO) -> None:
        """Let the head hold tickets, and the agent see twice that it lives."""
        for ticket in tickets:
            say(self.head.folder.ticket(ticket.name), ticket)
            folder = ticket.folder(self.settings.outputs)
            folder.mkdir(parents=True, exist_ok=True)
            StageFolder(folder).plan.touch()
        self.hold({ticket.name: Held(box="cellar", order=order) for ticket in tickets})

    def hold(self, tickets: dict[str, Held], version: str = "") -> None:
        """Say which tickets hold."""
        for counter in (1, 2):
            head = Head(
                head=f"h{time.monotonic()}",
                counter=counter,
                version=version or image_version(),
                lease_seconds=60,
                grace_seconds=120,
                tickets=tickets,
            )
            say(self.head.folder.head, head)
            self.agent._listen()

    def seen(self, ticket: Ticket = TICKET) -> Seen | None:
        """Read what the box says of a ticket."""
        return hear(self.head.folder.seen_of(ticket.name), Seen)

    def end(self) -> None:
        """End what was started."""
        for work in self.agent.work.values():
            work.child.kill()
            work.child.wait(20)
            work.child.poll()


@pytest.fixture
def both(settings: Settings) -> Iterator[Both]:
    """A head and an agent."""
    found = Both(settings)
    yield found
    found.end()
    assert not found.agent.work or all(work.child.has_ended for work in found.agent.work.values())


def plant(path: Path, what: str) -> None:
    """Put something that is no message under a message's name."""
    if what == "a folder":
        path.mkdir()
    elif what == "a link":
        path.symlink_to("/etc/passwd")
    elif what == "a dangling link":
        path.symlink_to("/nowhere/at/all")
    elif what == "a pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"{" * (1 if what == "torn" else 1_000_000))


@pytest.mark.parametrize("what", ODD)
def test_one_odd_file_of_a_box_does_not_silence_the_head(both: Both, what: str) -> None:
    """The others are heard, the head says that it lives, and people read which file it is."""
    both.agent._beat()
    plant(both.head.folder.box("attic"), what)
    child = both.head.attach(OTHER)
    plant(both.head.folder.seen_of(OTHER.name), what)
    for at in (100.0, 130.0):
        both.head.look(at)
        both.agent._beat_at = 0.0
        both.agent._beat()
    both.head.look(150.0)
    assert both.head.problem("cellar", 150.0) == ""
    assert child.seen is None
    problem = both.head.problem("attic", 150.0)
    assert problem.startswith("its file boxes/attic.json cannot be read (")
    shown = {card.title: card.problem for card in both.head.shown(150.0)}
    assert shown["attic, CPU"] == problem
    (said,) = [one for one in both.said if "cluster/boxes/attic.json cannot be read" in one]
    assert ("damaged" in said) == (what in ("torn", "huge"))


def test_a_box_whose_file_is_torn_for_a_moment_is_not_forgotten(both: Both) -> None:
    """It was there, and is there again with its next beat."""
    for at in (100.0, 130.0):
        both.agent._beat_at = 0.0
        both.agent._beat()
        both.head.look(at)
    whole = both.head.folder.box("cellar").read_bytes()
    both.head.folder.box("cellar").write_bytes(whole[:20])
    both.head.look(150.0)
    assert both.head.problem("cellar", 150.0)
    both.head.folder.box("cellar").write_bytes(whole)
    both.head.look(165.0)
    assert both.head.problem("cellar", 165.0) == ""
    both.head.folder.box("cellar").write_bytes(whole[:20])
    both.head.look(200.0)
    both.head.folder.box("cellar").unlink()
    both.head.look(220.0)
    assert "cellar" not in both.head.boxes


def test_a_box_that_was_never_read_lives_by_its_counter_from_then_on(both: Both) -> None:
    """What becomes readable may have been left by a box that is long gone."""
    both.agent._beat()
    whole = both.head.folder.box("cellar").read_bytes()
    both.head.folder.box("cellar").write_bytes(b"{")
    both.head.look(100.0)
    both.head.folder.box("cellar").write_bytes(whole)
    both.head.look(130.0)
    assert both.head.problem("cellar", 130.0) == "it has not been seen since this box started"


def test_a_file_under_another_boxs_name_is_no_box(both: Both) -> None:
    """A copy of it, made by hand."""
    both.agent._beat()
    both.head.folder.box("attic").write_bytes(both.head.folder.box("cellar").read_bytes())
    both.head.look(100.0)
    assert "it is of a box named cellar" in both.head.problem("attic", 100.0)


def test_folders_that_a_person_has_removed_are_made_anew(both: Both) -> None:
    """But not where the share is not mounted: boxes would wait for a head that speaks to a disk."""
    for folder in (both.head.folder.boxes, both.head.folder.seen, both.head.folder.tickets):
        folder.rmdir()
    both.head.look(100.0)
    both.head.beat(100.0)
    assert sorted(one.name for one in both.head.folder.root.iterdir()) == [
        "boxes",
        "head.json",
        "seen",
        "tickets",
    ]
    private = both.settings.outputs.private
    private.rename(private.with_name("away"))
    with pytest.raises(FileNotFoundError):
        both.head.look(200.0)
    assert not private.exists()


@pytest.mark.parametrize("folder", ["tickets", "seen"])
@pytest.mark.parametrize("what", ["a folder", "a link"])
def test_one_odd_ticket_keeps_no_other_back(both: Both, folder: str, what: str) -> None:
    """The agent takes the next one."""
    both.place(TICKET, OTHER)
    path = both.head.folder.root / folder / f"{TICKET.name}.json"
    path.unlink(missing_ok=True)
    plant(path, what)
    both.agent._take()
    assert list(both.agent.work) == [OTHER.name]
    (said,) = [one for one in both.said if "cannot be used" in one]
    assert f"{TICKET.name}.json cannot be used" in said


def test_an_end_that_cannot_be_told_keeps_no_other_back(both: Both) -> None:
    """It is told as soon as it can be."""
    for ticket in (TICKET, OTHER):
        both.agent._end(ticket, Why.ASKED)
    path = both.head.folder.seen_of(TICKET.name)
    path.mkdir()
    for _ in range(2):
        with both.agent._telling_trouble():
            both.agent._report()
    assert both.seen(OTHER) is not None
    path.rmdir()
    both.agent._report()
    assert both.seen(TICKET) is not None
    assert both.agent.reports == []


@pytest.mark.parametrize("order", [Order.STOP, Order.KILL])
@pytest.mark.parametrize("before", [None, Now.TAKEN, Now.STARTED])
def test_what_is_to_stop_is_answered_by_an_agent_that_never_ran_it(
    both: Both, order: Order, before: Now | None
) -> None:
    """Its run was cancelled as the agent went down, or before it had taken it.

    The head waits for its end, and its box is there: nobody else would tell.
    """
    if before is not None:
        seen = Seen(ticket=TICKET.name, token=TICKET.token, agent="earlier", now=before, pid=7)
        say(both.head.folder.seen_of(TICKET.name), seen)
    both.place(TICKET, order=order)
    both.agent._take()
    both.agent._report()
    found = both.seen()
    assert found is not None
    assert (found.now, found.exit_code) == (Now.ENDED, None)
    assert found.why is (Why.ASKED if before is None else Why.AGENT)
    assert both.agent.work == {}
    child = both.head.attach(TICKET)
    child.hear(found)
    assert child.has_ended


def fails_once(monkeypatch: pytest.MonkeyPatch, now: Now, *, after: bool) -> None:
    """Let the share fail once as something is said of a ticket: before it is written, or after."""
    left = [OSError(errno.EIO, "Input/output error")]

    def failing(path: Path, message: Seen) -> None:
        fails = getattr(message, "now", None) is now and left
        if not fails or after:
            say(path, message)
        if fails:
            raise left.pop()

    monkeypatch.setattr(agent_module, "say", failing)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("now", [Now.TAKEN, Now.STARTED])
def test_a_share_that_fails_as_a_ticket_is_taken(
    both: Both, monkeypatch: pytest.MonkeyPatch, now: Now, *, after: bool
) -> None:
    """It is started all the same, once: else the head would wait for it, and the box is there."""
    both.place(TICKET)
    fails_once(monkeypatch, now, after=after)
    for _ in range(3):
        both.agent._take()
    assert list(both.agent.work) == [TICKET.name]
    both.end()
    wait_for(lambda: both.agent.watch() or not both.agent.work)
    both.agent._report()
    found = both.seen()
    assert found is not None
    assert (found.now, found.exit_code) == (Now.ENDED, -9)


@pytest.mark.parametrize("after", [False, True])
def test_a_share_that_fails_as_an_end_is_told(
    both: Both, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """It is told again: here of a ticket whose folder the box does not see."""
    both.place(TICKET)
    StageFolder(TICKET.folder(both.settings.outputs)).plan.unlink()
    fails_once(monkeypatch, Now.ENDED, after=after)
    both.agent._take()
    for _ in range(2):
        with both.agent._telling_trouble():
            both.agent._report()
    found = both.seen()
    assert found is not None
    assert (found.now, found.why) == (Now.ENDED, Why.NOT_SEEN)


def test_a_ticket_of_a_head_of_another_version_is_handed_back(both: Both) -> None:
    """It was placed before one of both was brought to a new version; nothing trains it."""
    both.place(TICKET)
    both.hold({TICKET.name: Held(box="cellar")}, version="0.0.1-older")
    both.agent._take()
    both.agent._report()
    found = both.seen()
    assert found is not None
    assert (found.now, both.agent.work) == (Now.ENDED, {})


def test_a_ticket_for_a_card_that_is_still_at_work_waits(both: Both) -> None:
    """Two trainings on one card would both run out of its memory; another card's goes on."""
    elsewhere = OTHER.model_copy(update={"card": "GPU-bb22", "number": 3})
    both.place(TICKET, OTHER, elsewhere)
    both.agent._take()
    assert list(both.agent.work) == [TICKET.name, elsewhere.name]
    both.end()
    wait_for(lambda: both.agent.watch() or not both.agent.work)
    both.agent._take()
    assert list(both.agent.work) == [OTHER.name]


def test_the_words_of_a_thousand_tickets_are_read(both: Both) -> None:
    """The longest box names included."""
    name = "b" * 63
    tickets = [TICKET.model_copy(update={"number": n, "box": name}) for n in range(1, 1001)]
    both.hold({ticket.name: Held(box=name) for ticket in tickets})
    assert both.agent.heard.head is not None
    assert len(both.agent.heard.head.tickets) == 1000


def test_an_agent_that_leaves_takes_nothing(both: Both) -> None:
    """Not even what was placed as it was asked to."""
    both.place(TICKET)
    both.agent.stopping = True
    both.agent._take()
    assert both.agent.work == {}
    assert both.seen() is None


def test_the_grace_of_a_stage_is_the_heads(both: Both) -> None:
    """The head counts on it: it places the run anew after a lease, this grace and a margin."""
    both.agent.settings = replace(both.settings, grace_seconds=5)
    both.place(TICKET)
    both.agent._take()
    both.hold({})
    both.agent.watch()
    (work,) = both.agent.work.values()
    assert work.child.is_stopping
    kill_at = work.child._kill_at
    assert kill_at is not None
    assert kill_at - time.monotonic() > 100


def test_a_head_that_died_before_this_agent_came_is_none(both: Both) -> None:
    """Its file lies there as it left it: only one that moves is obeyed, a new one's as well."""
    both.place(TICKET)
    late = both.new_agent()
    for _ in range(2):
        late._listen()
    assert not late.heard.has_moved
    late._take()
    assert late.work == {}
    found = hear(both.head.folder.head, Head)
    assert found is not None
    say(both.head.folder.head, found.model_copy(update={"head": "another"}))  # its counter is equal
    late._listen()
    assert late.heard.has_moved
    late._moved_at -= 61
    assert late.heard.unmoved_seconds > 60
    say(both.head.folder.head, found.model_copy(update={"head": "a third"}))
    late._listen()
    assert late.heard.unmoved_seconds < 60


def test_an_agent_whose_name_another_one_takes_leaves(both: Both) -> None:
    """Both started at once, before either had said anything: one of them stays."""
    other = both.new_agent()
    both.agent._beat()
    other._beat()
    both.agent._beat_at = 0.0
    with pytest.raises(BusyError, match="another agent works under the name of this box"):
        both.agent._beat()
    other._beat_at = 0.0
    other._beat()


def test_an_agent_that_has_just_begun_anew_keeps_its_name(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counter begins anew as well: one that went down shows somebody at work, too."""
    empty = {"box": "cellar", "version": "", "outputs_dir": "", "models_dir": ""}
    path = both.head.folder.box("cellar")
    say(path, BoxSaid(agent="before", counter=500, **empty))

    def meanwhile(_seconds: float) -> None:
        say(path, BoxSaid(agent="anew", counter=1, **empty))

    monkeypatch.setattr(agent_module.time, "sleep", meanwhile)
    with pytest.raises(BusyError, match="an agent is at work under the name"):
        both.agent._require_own_name()


def test_a_name_that_is_free_is_taken_at_once(both: Both) -> None:
    """Nobody waits for a box that was never there."""
    began = time.monotonic()
    both.agent._require_own_name()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "changes", [{"box": "attic"}, {"number": 7}, {"run_id": "20261128T010101Z-zzzz"}]
)
def test_a_ticket_that_says_something_else_is_not_taken(
    both: Both, changes: dict[str, object]
) -> None:
    """Its file's name, its box and what it holds are one."""
    both.place(TICKET)
    say(both.head.folder.ticket(TICKET.name), TICKET.model_copy(update=changes))
    for ticket in (TICKET.model_copy(update=changes), TICKET):
        folder = ticket.folder(both.settings.outputs)
        folder.mkdir(parents=True, exist_ok=True)
        StageFolder(folder).plan.touch()
    both.agent._take()
    assert both.agent.work == {}


def test_what_was_said_of_another_token_is_no_answer(both: Both) -> None:
    """The ticket is begun with; it may lie there from a record that was put back."""
    both.place(TICKET)
    seen = Seen(ticket=TICKET.name, token="99999999", agent="earlier", now=Now.ENDED)
    say(both.head.folder.seen_of(TICKET.name), seen)
    both.agent._take()
    assert list(both.agent.work) == [TICKET.name]


def test_a_stage_sees_its_own_card_and_its_boxs_name(both: Both) -> None:
    """Two trainings on one card would run out of its memory; so would one that must spare it."""
    both.place(TICKET.model_copy(update={"card": "GPU-bb22", "spare_host_memory": True}))
    both.agent._take()
    (work,) = both.agent.work.values()
    found = Path(f"/proc/{work.child.pid}/environ")
    wait_for(lambda: b"RUNNER_BOX=cellar" in found.read_bytes())
    words = found.read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=GPU-bb22" in words
    plain = stage_environment.environment({}, home=both.settings.stage_home)
    sparing = stage_environment.environment(
        {}, home=both.settings.stage_home, spare_host_memory=True
    )
    assert plain != sparing
    for name in sparing.keys() - plain.keys():
        assert f"{name}={sparing[name]}".encode() in words


READY = f"""
import sys, time
from runner.training import stand_by
stand_by.IMPORTED = ()
how = sys.argv[1]
stage, folder = stand_by.stand_by() if how == {STAND_BY!r} else sys.argv[1:]
print(how, stage, folder, flush=True)
time.sleep(600)
"""


def test_a_stage_begins_in_the_process_that_stands_by_for_its_card(both: Both) -> None:
    """And in a new one where that has died, or is for another card; none is left."""
    command = (sys.executable, "-c", READY)
    both.agent.settings = replace(both.settings, stand_by=True, stage_command=command)
    both.agent.cards.now = tuple(
        BoxCard(number=str(number), uuid=uuid) for number, uuid in enumerate(("GPU-aa", "GPU-bb"))
    )
    both.agent._keep_standing_by()
    first, second = (seat.process for seat in both.agent.seats.values())
    assert first is not None
    assert second is not None
    os.kill(second.pid, signal.SIGKILL)
    wait_for(lambda: not second.is_there)
    tickets = (
        TICKET.model_copy(update={"card": "GPU-aa"}),
        OTHER.model_copy(update={"card": "GPU-bb"}),
    )
    both.place(*tickets)
    both.agent._take()
    works = [both.agent.work[ticket.name] for ticket in tickets]
    assert works[0].child.pid == first.pid
    for work, how in zip(works, (STAND_BY, "train"), strict=True):
        folder = work.ticket.folder(both.settings.outputs)
        log = StageFolder(folder).log("train")
        wait_for(lambda log=log: log.read_text().endswith("\n"))
        assert log.read_text() == f"{how} train {folder.resolve()}\n"
    both.agent._keep_standing_by()
    assert both.agent.seats["GPU-bb"].process is None  # what ended by itself is not tried again
    (another,) = [seat.process for seat in both.agent.seats.values() if seat.process]
    assert another.pid not in (first.pid, second.pid)
    both.agent.stopping = True
    both.agent._keep_standing_by()
    assert not another.is_there


def test_an_agent_that_leaves_asks_its_stages_first(both: Both) -> None:
    """Whatever the head says; its box offers no card meanwhile."""
    both.place(TICKET)
    both.agent._take()
    both.agent._beat()
    both.agent.stopping = True
    both.agent.watch()
    (work,) = both.agent.work.values()
    assert (work.child.is_stopping, work.why) == (True, Why.AGENT)
    both.agent._beat_at = 0.0
    both.agent._beat()
    said = hear(both.head.folder.box("cellar"), BoxSaid)
    assert said is not None
    assert said.cards == ()


def deaf_work(both: Both) -> work_module.Work:
    """Start a stage that hears no stop."""
    both.agent.settings = replace(both.settings, stage_command=(sys.executable, "-c", DEAF))
    both.place(TICKET)
    both.agent._take()
    (work,) = both.agent.work.values()
    log = StageFolder(TICKET.folder(both.settings.outputs)).log("train")
    wait_for(lambda: log.exists() and "deaf" in log.read_text())
    return work


def test_why_a_stage_was_asked_first_is_why_it_ended(both: Both) -> None:
    """The head came back meanwhile and does not hold it any more: the lease had ended it."""
    work = deaf_work(both)
    work.obey(Order.STOP, Why.LEASE, at=100.0, grace_seconds=10.0)
    work.obey(Order.STOP, Why.ASKED, at=105.0, grace_seconds=10.0)
    assert work.why is Why.LEASE
    time.sleep(0.3)
    assert work.ended() is None
    work.obey(Order.GO, Why.ASKED, at=110.0, grace_seconds=10.0)  # its grace is over all the same
    wait_for(lambda: work.ended() is not None)
    assert work.ended() == -9


def test_a_kill_waits_for_no_grace(both: Both) -> None:
    """The head's grace is over."""
    work = deaf_work(both)
    work.obey(Order.KILL, Why.ASKED, at=0.0, grace_seconds=600.0)
    wait_for(lambda: work.ended() is not None)


def test_the_kernels_kill_is_no_lack_of_memory_where_it_was_asked_to_end(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of a stage that nobody asked is it said that the machine's memory ran out."""
    both.place(TICKET, OTHER.model_copy(update={"card": "x"}))
    both.agent._take()
    monkeypatch.setattr(work_module, "blame", lambda *_, **__: Blame.YES)
    first, second = both.agent.work.values()
    second.obey(Order.STOP, Why.ASKED, at=0.0, grace_seconds=600.0)
    for one in (first, second):
        one.child.kill()
        wait_for(lambda one=one: one.child.has_ended)
    assert first.ended() == ExitCode.OUT_OF_HOST_MEMORY
    assert second.ended() in (-9, -15)


def test_what_is_free_is_said_before_an_end(both: Both) -> None:
    """Else the head would place the next one by what the card held before."""
    both.agent._beat()
    before = hear(both.head.folder.box("cellar"), BoxSaid)
    both.agent._end(TICKET, Why.ASKED)
    both.agent._report()
    after = hear(both.head.folder.box("cellar"), BoxSaid)
    assert before is not None
    assert after is not None
    assert after.counter > before.counter
    both.agent._end(OTHER, Why.ASKED)  # the next one's card as well
    both.agent._report()
    last = hear(both.head.folder.box("cellar"), BoxSaid)
    assert last is not None
    assert last.counter > after.counter


def test_a_box_says_that_it_lives_six_times_a_lease(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not each half second: a share of thirty boxes has other work. Nor seldom: it is given up."""
    both.place()
    clock = 1000.0
    monkeypatch.setattr(agent_module, "_clock", lambda: clock)
    counters = []
    for _ in range(61):
        both.agent._beat()
        said = hear(both.head.folder.box("cellar"), BoxSaid)
        counters.append(said and said.counter)
        clock += 1.0
    assert len(set(counters)) == 7
    assert counters[9] == counters[0] != counters[10]


def test_a_share_that_fails_is_no_odd_file(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one file that cannot be read the others are heard; without its disk nothing is said.

    Taken for one file each, every box would be called unread, and its reason a wrong one.
    """
    seen_by_head(both, 1000.0)

    def fails(path: Path, _: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(cluster_module, "hear", fails)
    with pytest.raises(OSError, match="Input/output error"):
        both.head.look(1100.0)


def test_a_card_whose_driver_is_silent_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head reads why, and places nothing there."""
    card = NamedCard(number="1", asked_as="GPU-1", uuid="GPU-1")
    memory = GpuMemory(name="RTX 4090", total_bytes=24 * GIB, free_bytes=GIB, flops=None)
    for found, problem in ((None, "its driver does not answer"), (memory, "")):
        monkeypatch.setattr(cards_module, "read_gpu", lambda _asked, found=found: found)
        assert cards_module._named(card).problem == problem


def seen_by_head(both: Both, at: float) -> None:
    """Let the box say that it lives, and the head look."""
    both.agent._beat_at = 0.0
    both.agent._beat()
    both.head.look(at)


def test_a_box_that_takes_no_ticket_is_given_up(both: Both) -> None:
    """It lives, and does not take it: after so long it cannot have begun."""
    seen_by_head(both, 100.0)
    child = both.head.place(TICKET)
    child.since = 100.0
    for at in range(110, 310, 10):
        seen_by_head(both, float(at))
        assert not child.lost, at
    seen_by_head(both, 315.0)
    assert child.lost


def test_a_fenced_attempt_stays_fenced(both: Both) -> None:
    """Its box is back: the record has said already that nothing of it counts."""
    seen_by_head(both, 100.0)
    child = both.head.place(TICKET)
    child.fence(over_at=1e12)
    seen_by_head(both, 130.0)
    assert child.lost


def test_a_card_has_one_ticket(both: Both) -> None:
    """It is free again when that is closed; a card with a problem never is."""
    for at in (100.0, 130.0):
        seen_by_head(both, at)
    (card,) = both.head.free_cards(130.0)
    child = both.head.place(TICKET)
    assert both.head.free_cards(130.0) == []
    assert both.head.well_cards(130.0) == [card]
    both.head.close(child)
    assert both.head.free_cards(130.0) == [card]
    both.agent.cards.now = (BoxCard(problem="its driver does not answer"),)
    seen_by_head(both, 160.0)
    assert both.head.well_cards(160.0) == []


def test_a_ticket_that_is_placed_has_no_answer_yet(both: Both) -> None:
    """What lay there under its name is gone first, an older ticket as well."""
    say(both.head.folder.ticket(TICKET.name), OTHER)
    seen = Seen(ticket=TICKET.name, token=TICKET.token, agent="x", now=Now.ENDED, exit_code=0)
    say(both.head.folder.seen_of(TICKET.name), seen)
    both.head.place(TICKET)
    assert both.seen() is None
    assert hear(both.head.folder.ticket(TICKET.name), Ticket) == TICKET


def test_a_head_that_is_back_writes_only_the_tickets_that_are_missing(both: Both) -> None:
    """What lies there may be being read."""
    both.head.place(TICKET)
    path = both.head.folder.ticket(TICKET.name)
    before = path.stat().st_ino
    second = Cluster(both.settings, say_event=lambda *_, **__: None)
    second.attach(TICKET)
    second.attach(OTHER)
    assert path.stat().st_ino == before
    assert hear(both.head.folder.ticket(OTHER.name), Ticket) == OTHER
    say(both.head.folder.ticket("20200101T000000Z-zzzz-01"), OTHER)
    say(both.head.folder.seen_of("20200101T000000Z-zzzz-01"), OTHER)
    second.sweep()
    assert {one.stem for one in both.head.folder.tickets.iterdir()} == {TICKET.name, OTHER.name}
    assert list(both.head.folder.seen.iterdir()) == []


def test_an_answer_that_comes_between_two_looks_is_not_called_damaged(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share may show a file a moment after it was looked for in vain."""
    child = both.head.place(TICKET)
    taken = Seen(ticket=TICKET.name, token=TICKET.token, agent="x", now=Now.TAKEN)
    real = Path.exists

    def exists(path: Path) -> bool:
        if path == both.head.folder.seen_of(TICKET.name):
            say(path, taken)
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    both.head.look(100.0)
    assert child.seen == taken
    assert not any("damaged" in one for one in both.said)


def test_a_new_word_does_not_wait_for_the_next_beat(both: Both) -> None:
    """A stop, a ticket and its end are said at once; nothing is written in between."""
    head, path = both.head, both.head.folder.head

    def counter() -> int:
        found = hear(path, Head)
        assert found is not None
        return found.counter

    head.beat(100.0)
    head.beat(100.1)
    assert counter() == 1
    child = head.place(TICKET)
    head.beat(100.2)
    child.ask_to_stop(at=0.0, grace_seconds=1.0)
    head.beat(100.3)
    head.close(child)
    head.beat(100.4)
    assert counter() == 4
    head.beat(110.5)
    assert counter() == 5


def test_an_end_is_followed_by_a_look_at_its_box(both: Both) -> None:
    """The box has said what is free now before it told the end: that is heard at once."""
    for at in (100.0, 130.0):
        seen_by_head(both, at)
    child = both.head.place(TICKET)
    both.agent.cards.now = (BoxCard(name="told anew"),)
    both.agent._beat_at = 0.0
    both.agent._beat()
    both.head.look(130.1)
    assert both.head.boxes["cellar"].said.cards[0].name == ""
    both.agent.cards.refresh = lambda: None  # type: ignore[method-assign]
    both.agent._end(TICKET, Why.ASKED)
    both.agent._report()
    both.head.look(130.2)
    assert child.has_ended
    assert both.head.boxes["cellar"].said.cards[0].name == "told anew"


def test_a_box_that_could_not_begin_rests(both: Both) -> None:
    """Else the next run would go to it, and the one after that."""
    for at in (100.0, 130.0):
        seen_by_head(both, at)
    child = both.head.place(TICKET)
    child.hear(Seen(ticket=TICKET.name, token=TICKET.token, agent="a", now=Now.ENDED))
    both.head.close(child)
    assert both.head.problem("cellar", 131.0) == ""
    child = both.head.place(OTHER)
    why = {"why": Why.NOT_SEEN, "reason": "No such file"}
    child.hear(Seen(ticket=OTHER.name, token=OTHER.token, agent="a", now=Now.ENDED, **why))
    both.head.close(child)
    rests = "it does not see what it is to train in (No such file)"
    assert both.head.problem("cellar", 131.0) == rests
    assert both.head.problem("cellar", 189.0) == rests
    assert both.head.problem("cellar", 190.0) == ""


def test_a_box_that_has_left_is_kept_while_it_has_a_ticket(both: Both) -> None:
    """What it was given is to be given up in its time, and the answer says which box that was."""
    for at in (100.0, 130.0):
        seen_by_head(both, at)
    child = both.head.place(TICKET)
    both.head.folder.box("cellar").unlink()
    both.head.look(150.0)
    assert both.head.boxes["cellar"].said.agent == both.agent.id
    assert not child.lost
    both.head.look(191.0)
    assert child.lost
    both.head.close(child)
    both.head.look(200.0)
    assert "cellar" not in both.head.boxes


def test_a_share_that_may_only_be_read_is_told_of_once(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not each half second anew, and not by the name of a file that was to be made beside."""
    numbers = iter(range(99))

    def refused(path: Path, _: object) -> None:
        beside = path.with_name(f".tmp-{next(numbers)}")
        raise PermissionError(errno.EACCES, "Permission denied", str(beside))

    monkeypatch.setattr(agent_module, "say", refused)
    for _ in range(3):
        with both.agent._telling_trouble():
            both.agent._beat()
    (said,) = both.said
    assert said.startswith(f"{both.head.folder.root} cannot be used (Permission denied).")


@pytest.mark.parametrize("name", ["", "tickets", "seen", "boxes"])
def test_a_head_begins_beside_what_lies_in_its_way(settings: Settings, name: str) -> None:
    """A file where a folder is to be: runs are taken up, and people read which file it is."""
    folder = ClusterFolder.of(settings.outputs)
    path = folder.root / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    head = Cluster(settings, say_event=lambda *_, **__: None)
    assert not head.attach(TICKET).has_ended  # of a box that never hears of it: it is given up
    head.sweep()
    with pytest.raises(FileExistsError) as caught:
        head.look(1000.0)
    assert in_the_way(caught.value) == str(path)
    path.unlink()
    head.look(1000.1)
    head.beat(1000.1)
    assert path.is_dir()
    assert list(hear(folder.head, Head).tickets) == [TICKET.name]  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_share_is_no_wrong_setting(
    number: int, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads that is told to make room, and not to mount what is mounted."""

    def full(path: Path, _: object) -> None:
        raise OSError(number, os.strerror(number), str(path.with_name(".tmp-1")))

    monkeypatch.setattr(agent_module, "say", full)
    with both.agent._telling_trouble():
        both.agent._beat()
    (said,) = both.said
    assert said.startswith(f"{both.head.folder.root} cannot be written ({os.strerror(number)})")
    assert said.endswith("make room on that disk")


def test_what_cannot_be_looked_at_is_looked_at_in_the_next_round(both: Both) -> None:
    """Trouble that lasts is met in each round: else the log says time and again that it is over."""
    both.head.look(1000.0)
    both.head.folder.tickets.rmdir()
    both.head.folder.tickets.touch()
    for at in (1100.0, 1100.5, 1101.0):
        with pytest.raises(FileExistsError) as caught:
            both.head.look(at)
        assert in_the_way(caught.value) == str(both.head.folder.tickets)
    both.head.folder.tickets.unlink()
    both.head.look(1101.5)
    assert both.head.folder.tickets.is_dir()


MEMORY = {
    "name": "RTX 4090",
    "total_bytes": 24 * GIB,
    "free_bytes": 23 * GIB,
    "flops": 1.6e14,
    "bf16": True,
    "capability": "8.9",
    "holders": [{"pid": 7, "name": "python", "held_bytes": GIB}],
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"total_bytes": "much"},
        {"free_bytes": None},
        {"holders": 3},
        {"holders": [{"pid": 7}]},
        {"flops": []},
    ],
)
def test_memory_that_makes_no_sense_is_not_known(both: Both, changes: dict[str, object]) -> None:
    """Sizes are compared with others: a word among them would end the daemon."""
    both.agent.cards.now = (BoxCard(uuid="GPU-aa11", memory={**MEMORY, **changes}),)
    for at in (100.0, 130.0):
        seen_by_head(both, at)
    (card,) = both.head.well_cards(130.0)
    assert card.memory is None if changes else card.memory is not None
    if card.memory is not None:
        assert (card.memory.total_bytes, card.memory.holders[0].pid) == (24 * GIB, 7)


def test_what_a_box_says_at_length_is_cut_or_not_heard(both: Both) -> None:
    """It stands in each beat and on each page; an end is told whatever its reason is."""
    both.agent.cards.now = (BoxCard(problem="p" * 4000), BoxCard(uuid="x", name="n" * 200))
    seen_by_head(both, 100.0)
    shown = list(both.head.shown(100.0))
    assert max(len(one.problem) for one in shown) <= 300
    said = both.head.boxes["cellar"].said.model_copy(update={"version": "9" * 5000})
    say(both.head.folder.box("cellar"), said)
    both.head.look(150.0)
    assert "damaged" in both.head.problem("cellar", 150.0)
    both.place(TICKET)
    both.agent.settings = replace(both.settings, stage_command=("/" + "x" * 5000,))
    both.agent._take()
    both.agent._report()
    found = both.seen()
    assert found is not None
    assert found.why is Why.NOT_SEEN


def test_the_cards_of_many_boxes_are_shown(tmp_path: Path) -> None:
    """64 boxes of eight cards, each of which says why nothing starts on it."""
    outputs = Outputs(tmp_path)
    outputs.private.mkdir()
    one = CardShown(
        title="b" * 63 + ", GPU 7 (NVIDIA RTX PRO 6000 Blackwell Workstation Edition)",
        uuid="GPU-" + "a" * 36,
        job="j" * 80,
        run_id=RUN,
        problem="p" * 300,
    )
    lock = Lock.take(outputs.lock, what="outputs")
    write_json(outputs.heartbeat, {"boot": this_boot(), "cards": [asdict(one)] * 512})
    assert len(read_cards(outputs)) == 512
    lock.release()


def wait_for(what: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)
