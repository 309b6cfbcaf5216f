"""Decisions of the cluster as tables: may a stage run on, is a box away, which card is best."""

from __future__ import annotations

import errno
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.agent.lease import Heard, order_for, tickets_to_take
from runner.commands.agent import command
from runner.contract.cluster import (
    BOX_NAME,
    BoxSaid,
    ClusterFolder,
    Head,
    Held,
    Now,
    Order,
    Seen,
    Ticket,
    Why,
    fence_seconds,
    hear,
    in_the_way,
    say,
)
from runner.contract.layout import Outputs
from runner.contract.settings_table import SettingError
from runner.daemon.cluster.far_child import FarChild
from runner.daemon.cluster.judge_box import House, Offer, Watched, fastest, is_away, problem_of
from runner.daemon.stages.retry import BOX_LEFT, BOX_LOST, HEAD_AWAY
from runner.exit_codes import ExitCode
from runner.language.speaker import Language, Speaker
from runner.language.translate import translated
from runner.words import visible

GERMAN = Speaker(Language.GERMAN)
RUN = "20261128T010101Z-abcd"
TICKET = Ticket(box="cellar", job="contracts", run_id=RUN, number=1, token="3f9c22ab")
HOUSE = House(version="1-aa", outputs_dir="/outputs", models_dir="/models", lease_seconds=60)


def head(**tickets: tuple[str, Order]) -> Head:
    """Give a head that holds these tickets."""
    held = {name: Held(box=box, order=order) for name, (box, order) in tickets.items()}
    return Head(
        head="x", counter=7, version="1-aa", lease_seconds=60, grace_seconds=120, tickets=held
    )


def said(**changes: Any) -> BoxSaid:
    """Give what a box says."""
    fields = {
        "box": "cellar",
        "agent": "a",
        "version": "1-aa",
        "counter": 1,
        "outputs_dir": "/outputs",
        "models_dir": "/models",
    }
    return BoxSaid(**{**fields, **changes})


@pytest.mark.parametrize(
    ("heard", "wanted"),
    [
        (Heard(head=head(t=("cellar", Order.GO))), (Order.GO, Why.ASKED)),
        (Heard(head=head(t=("cellar", Order.STOP))), (Order.STOP, Why.ASKED)),
        (Heard(head=head(t=("cellar", Order.KILL))), (Order.KILL, Why.ASKED)),
        (Heard(head=head(t=("attic", Order.GO))), (Order.STOP, Why.ASKED)),
        (Heard(head=head()), (Order.STOP, Why.ASKED)),
        (Heard(head=head(t=("cellar", Order.GO)), unmoved_seconds=60), (Order.GO, Why.ASKED)),
        (Heard(head=head(t=("cellar", Order.GO)), unmoved_seconds=61), (Order.STOP, Why.LEASE)),
        (Heard(), (Order.STOP, Why.LEASE)),
    ],
)
def test_a_stage_runs_only_while_its_ticket_holds(heard: Heard, wanted: tuple[Order, Why]) -> None:
    """A ticket that is not named any more, or a head that is away, ends it."""
    assert order_for("t", "cellar", heard) == wanted


def test_nothing_is_begun_for_a_head_that_may_be_dead() -> None:
    """What lies on the share may be a dead head's: its counter must have moved.

    What is to stop is dealt with as well: the head waits for its end.
    """
    there = head(t=("cellar", Order.GO), other=("attic", Order.GO), stopped=("cellar", Order.STOP))
    assert tickets_to_take("cellar", Heard(head=there)) == {}
    wanted = {"t": Order.GO, "stopped": Order.STOP}
    assert tickets_to_take("cellar", Heard(head=there, has_moved=True)) == wanted
    late = Heard(head=there, has_moved=True, unmoved_seconds=61)
    assert tickets_to_take("cellar", late) == {}


@pytest.mark.parametrize(
    ("changes", "moved_at", "at", "wanted"),
    [
        ({}, 10.0, 20.0, ""),
        ({}, None, 20.0, "it has not been seen since this box started"),
        ({}, 10.0, 71.0, "it is not seen any more"),
        ({}, None, 61.0, "it is not seen any more"),
        ({"version": "1-bb"}, 10.0, 20.0, "it has version 1-bb, and this box has 1-aa"),
        (
            {"outputs_dir": "/mnt"},
            10.0,
            20.0,
            "it has its outputs at /mnt, and this box at /outputs",
        ),
        ({"models_dir": "/mnt"}, 10.0, 20.0, "it has its models at /mnt, and this box at /models"),
    ],
)
def test_why_nothing_is_placed_on_a_box(
    changes: dict[str, Any], moved_at: float | None, at: float, wanted: str
) -> None:
    """Each reason is a sentence, in German as well."""
    box = Watched(said=said(**changes), since=0.0, moved_at=moved_at)
    assert problem_of(box, HOUSE, at) == wanted
    assert not wanted or translated(wanted, GERMAN) not in (None, wanted)


def test_a_box_lives_by_its_counter_and_this_machines_clock() -> None:
    """Whatever its own clock says; a new agent's counter begins anew and is a move as well."""
    box = Watched(said=said(counter=5), since=0.0)
    box.hear(said(counter=5), 10.0)
    assert box.moved_at is None
    box.hear(said(counter=6), 20.0)
    assert box.moved_at == 20.0
    box.hear(said(counter=6, agent="b"), 30.0)
    assert not is_away(box, HOUSE, 90.0)
    assert is_away(box, HOUSE, 90.5)


QUICK, SLOW = (
    Offer(place=0, fits=True, seconds=10.0),
    Offer(place=1, fits=True, seconds=20.0),
)
QUICK_PERHAPS = Offer(place=4, fits=None, seconds=5.0)
TOO_SMALL, UNKNOWN = (
    Offer(place=2, fits=False, seconds=1.0),
    Offer(place=3, fits=None, seconds=None),
)


@pytest.mark.parametrize(
    ("offers", "here", "place"),
    [
        ([SLOW, QUICK], [], 0),
        ([TOO_SMALL, SLOW], [], 1),
        ([TOO_SMALL], [], None),
        ([UNKNOWN, SLOW], [], 1),
        ([UNKNOWN], [], 3),
        ([], [SLOW], None),
        ([QUICK], [SLOW], 0),
        ([SLOW], [QUICK], None),
        ([SLOW], [SLOW], None),
        ([UNKNOWN], [UNKNOWN], None),
        ([SLOW], [TOO_SMALL], 1),
        ([QUICK_PERHAPS, SLOW], [], 1),  # what is known to fit goes before what is only said quick
        ([SLOW], [QUICK_PERHAPS], 1),
    ],
)
def test_a_job_goes_where_it_fits_and_is_fastest(
    offers: list[Offer], here: list[Offer], place: int | None
) -> None:
    """Of further boxes; this one keeps it where it is as good."""
    found = fastest(offers, here=here)
    assert (found.place if found else None) == place


def test_of_equal_cards_the_one_that_has_been_free_longest_is_taken() -> None:
    """Fit and speed come first; a card that nothing was placed on before all that had something."""
    late, soon, never = (
        replace(QUICK, place=p, free_since=s) for p, s in ((0, 9.0), (1, 3.0), (2, 0.0))
    )
    assert fastest([late, soon]) == soon
    assert fastest([late, soon, never]) == never
    assert fastest([late, replace(SLOW, free_since=1.0)]) == late
    assert fastest([soon], here=[late]) is None


def test_no_card_starves_while_the_head_is_busy() -> None:
    """With more cards than the head can keep busy, each is free for about as long as the others."""
    cards, starts, takes = 32, 640, 16  # a start in each unit of time; a training takes so many
    free_since, busy_until, gaps = [0.0] * cards, [0.0] * cards, []
    for at in range(starts):
        offers = [
            Offer(place=place, fits=True, seconds=1.0, free_since=free_since[place])
            for place in range(cards)
            if busy_until[place] <= at
        ]
        chosen = fastest(offers)
        assert chosen is not None
        gaps.append(at - free_since[chosen.place])
        busy_until[chosen.place] = free_since[chosen.place] = at + takes
    assert max(gaps[cards:]) == cards - takes  # by their order: never, for half of them


def seen(now: Now = Now.ENDED, **changes: Any) -> Seen:
    """Give what a box says of the ticket."""
    fields = {"ticket": TICKET.name, "token": TICKET.token, "agent": "a", "now": now}
    return Seen(**{**fields, **changes})


@pytest.mark.parametrize(
    ("heard", "code", "because"),
    [
        (None, None, ""),
        (seen(Now.STARTED, pid=7), None, ""),
        (seen(exit_code=0), 0, ""),
        (seen(exit_code=-9), -9, ""),
        (seen(exit_code=13, why=Why.ASKED), 13, ""),
        (seen(exit_code=13, why=Why.LEASE), 13, HEAD_AWAY),
        (seen(why=Why.AGENT), ExitCode.INTERRUPTED, BOX_LOST),
        (seen(exit_code=13, why=Why.AGENT), 13, BOX_LEFT),
        (seen(why=Why.NOT_SEEN), ExitCode.INTERRUPTED, BOX_LOST),
        (seen(exit_code=0, token="99999999"), None, ""),
    ],
)
def test_what_a_box_says_of_its_end(heard: Seen | None, code: int | None, because: str) -> None:
    """What is said of another token is not heard."""
    child = FarChild(TICKET, changed=lambda: None)
    child.hear(heard)
    assert (child.poll(), child.ended_because) == (code, because)


def test_a_fenced_attempt_ends_when_it_cannot_run_any_more_or_says_so() -> None:
    """Its late result is none: whatever it says, it counts as interrupted."""
    told: list[int] = []
    child = FarChild(TICKET, changed=lambda: told.append(1))
    child.fence(over_at=time.monotonic() + 600)
    assert (child.poll(), child.order, len(told)) == (None, Order.STOP, 1)
    child.hear(seen(exit_code=0))
    assert (child.poll(), child.ended_because) == (ExitCode.INTERRUPTED, BOX_LOST)
    other = FarChild(TICKET, changed=lambda: None)
    other.fence(over_at=time.monotonic() - 1)
    assert other.poll() == ExitCode.INTERRUPTED


def test_a_stop_is_said_once_and_a_kill_is_the_last_word() -> None:
    """As with a child of the daemon's own: asked, waited for, killed."""
    told: list[Order] = []
    child = FarChild(TICKET, changed=lambda: told.append(child.order))
    child.ask_to_stop(at=100.0, grace_seconds=120.0)
    child.ask_to_stop(at=110.0, grace_seconds=120.0)
    child.enforce(219.0)
    assert told == [Order.STOP]
    child.enforce(220.0)
    child.ask_to_stop(at=221.0, grace_seconds=120.0)
    child.fence(over_at=time.monotonic() + 600)
    assert told == [Order.STOP, Order.KILL]


def test_the_wait_covers_a_lease_and_a_grace() -> None:
    """A box that saw the head last when it was given up has ended its stage by then."""
    assert fence_seconds(60, 120) == 210


@pytest.mark.parametrize(
    "changes",
    [
        {"box": "../x"},
        {"box": ""},
        {"run_id": "../../etc"},
        {"token": "x/../.."},
        {"token": ""},
        {"number": 0},
    ],
)
def test_a_ticket_leads_nowhere_but_to_an_attempt(changes: dict[str, Any]) -> None:
    """Whoever can write into the folder can name no other place, and no command."""
    with pytest.raises(ValueError, match=r"validation error"):
        Ticket(**{**TICKET.model_dump(), **changes})


@pytest.mark.parametrize("job", ["..", ".", "", "a/b", "a\0b"])
def test_a_tickets_job_is_one_folder(job: str, tmp_path: Path) -> None:
    """A job's name is no path."""
    with pytest.raises(ValueError, match="no path"):
        TICKET.model_copy(update={"job": job}).folder(Outputs(tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"box": 3}', b"[" * 100_000, b" " * 300_000]
)
def test_what_cannot_be_understood_was_not_said(content: bytes, tmp_path: Path) -> None:
    """Torn, hostile or of another version: as if nothing lay there; the daemon lives on."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert hear(path, BoxSaid) is None
    assert hear(tmp_path / "none.json", BoxSaid) is None
    with pytest.raises(FileNotFoundError):
        hear(tmp_path / "gone" / "x.json", BoxSaid)


def test_what_is_said_is_heard(tmp_path: Path) -> None:
    """Each message comes back as it was, and stands in its own file."""
    folder = ClusterFolder.of(Outputs(tmp_path))
    folder.tickets.mkdir(parents=True)
    say(folder.ticket(TICKET.name), TICKET)
    assert hear(folder.ticket(TICKET.name), Ticket) == TICKET
    assert json.loads(folder.ticket(f"{RUN}-01").read_bytes())["token"] == "3f9c22ab"


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (IsADirectoryError(errno.EISDIR, "", "/b/.tmp-1", None, "/b/head.json"), "/b/head.json"),
        (OSError(errno.ELOOP, "", "/b/seen/x.json"), "/b/seen/x.json"),
        (FileExistsError(errno.EEXIST, "", "/b/tickets"), "/b/tickets"),
        (NotADirectoryError(errno.ENOTDIR, "", "/b/tickets/.tmp-1"), ""),
        (FileExistsError(errno.EEXIST, "", "/b/.tmp-1"), ""),  # another name each time
        (PermissionError(errno.EACCES, "", "/b/tickets"), ""),  # the whole share's, mostly
        (OSError(errno.EIO, "", "/b/tickets"), ""),
        (OSError(errno.EISDIR, ""), ""),
        (OSError(errno.EINVAL, "", 7), ""),
    ],
)
def test_what_a_person_must_remove_is_named(error: OSError, named: str) -> None:
    """One file that is no message is told from a share that fails."""
    assert in_the_way(error) == named


@pytest.mark.parametrize(
    "name", ["", "-cellar", ".", "..", "a/b", "Büro", "a b", "x" * 64, "cellar\n", "_x", "٣"]
)
def test_a_box_has_a_name_that_is_a_files_name(name: str) -> None:
    """Whoever is refused reads what it may be, and where it is set."""
    with pytest.raises(SettingError) as refused:
        command(name=name)
    said = f"RUNNER_BOX is {visible(name)!r}; it names this box: 1 to 63 letters"
    assert refused.value.message.startswith(said)
    assert "RUNNER_BOX=cellar" in str(refused.value.advice)
    for good in ("cellar", "CELLAR", "9", "a.b-c_d", "x" * 63):
        assert BOX_NAME.fullmatch(good)
