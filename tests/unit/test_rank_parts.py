"""How rows are dealt to ranks, which rank is to blame, and when one hangs: decisions alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from runner.errors import StageError
from runner.exit_codes import ExitCode
from runner.training.ranks import launch, silence
from runner.training.ranks.deal import deal
from runner.training.ranks.one_end import blamed, one_result
from runner.training.ranks.place import Place, folder_of
from runner.training.ranks.silence import Silence
from runner.training.ranks.together import Ranks


def test_every_row_is_dealt_once_and_evenly() -> None:
    """No rank has more than the others by more than the longest row; the same deal each time."""
    dice = random.Random(3)
    for ranks in (1, 2, 3, 8):
        lengths = [dice.choice([5, 50, 500, 8000]) for _ in range(dice.randint(0, 40))]
        dealt = deal(lengths, ranks)
        assert dealt == deal(list(lengths), ranks)
        assert len(dealt) == ranks
        assert sorted(row for rows in dealt for row in rows) == list(range(len(lengths)))
        tokens = [sum(lengths[row] for row in rows) for rows in dealt]
        assert max(tokens) - min(tokens) <= max(lengths, default=0)


def test_rows_are_dealt_by_tokens_not_by_number() -> None:
    """One long row weighs as much as many short ones; a rank may have none at all."""
    assert deal([1, 8, 1, 1, 1], 2) == [[1], [0, 2, 3, 4]]
    assert deal([4], 3) == [[0], [], []]
    assert deal([1, 2, 3], 1) == [[0, 1, 2]]
    assert deal([], 2) == [[], []]


OOM, STOP, LOST, NAN, BAD = (
    ExitCode.OUT_OF_GPU_MEMORY,
    ExitCode.INTERRUPTED,
    ExitCode.GPU_LOST,
    ExitCode.DIVERGED,
    ExitCode.UNEXPECTED,
)


@pytest.mark.parametrize(
    ("ends", "asked", "rank"),
    [
        ({0: 0, 1: 0}, False, 0),
        ({0: STOP, 1: OOM}, True, 1),  # a smaller plan is known to help
        ({0: STOP, 1: LOST}, True, 0),
        ({0: STOP, 1: LOST}, False, 1),  # nobody asked: it left because it lost the other
        ({0: STOP, 1: -9}, False, 1),
        ({0: STOP, 1: BAD}, False, 1),
        ({0: BAD, 1: -11}, False, 1),
        ({0: NAN, 1: LOST}, False, 1),
        ({0: STOP, 1: STOP}, False, 0),
        ({0: 0, 1: STOP}, False, 0),  # all was written
        ({0: 0, 1: -11}, False, 0),
        ({0: 0, 1: OOM}, True, 0),
        ({0: STOP, 1: 0}, False, 0),
        ({1: BAD}, False, 1),
        ({0: STOP, 1: ExitCode.OUT_OF_HOST_MEMORY}, False, 1),
        ({0: STOP, 1: ExitCode.DISK_FULL}, False, 1),
        ({0: BAD, 1: ExitCode.BAD_INPUT}, False, 1),
    ],
)
def test_one_rank_is_to_blame(ends: dict[int, int], asked: bool, rank: int) -> None:  # noqa: FBT001
    """The end that explains most is the stage's."""
    assert blamed(ends, asked=asked) == rank


def test_one_result_of_two() -> None:
    """The first rank knows what was saved, the failed one why."""
    first = {"outcome": "interrupted", "last_step": 5, "batch_plan": 1, "next_batch_plan": None}
    first |= {"error": {"kind": "rank_lost"}}
    failed = {"outcome": "out of memory", "last_step": 2, "batch_plan": 1, "next_batch_plan": 7}
    failed |= {"error": {"kind": "out_of_gpu_memory"}}
    both = one_result(first, failed)
    assert both is not None
    assert (both["last_step"], both["next_batch_plan"]) == (5, 7)
    assert (both["outcome"], both["error"]) == ("out of memory", failed["error"])
    assert one_result(None, failed) == failed
    only_why = {"error": failed["error"]}
    assert one_result(first, only_why) == only_why
    by_signal = one_result(first, None)
    assert by_signal is not None
    assert (by_signal["error"], by_signal["last_step"]) == (None, 5)
    assert one_result(None, None) is None


def test_a_rank_hangs_when_all_are_silent() -> None:
    """Whoever showed life first is to blame; nobody, while they load or any of them is at work."""
    watch, at = Silence(), 0.0

    def look(signs: tuple[int, ...], seconds: float) -> int | None:
        nonlocal at
        found = None
        for _ in range(int(seconds)):
            at += 1.0
            found = watch.look(signs, at)
        return found

    limit = silence.SILENT_SECONDS
    assert look((0, 0), 10 * limit) is None  # loading
    assert look((5, 0), 10 * limit) is None
    assert look((5, 6), limit - 10) is None
    assert look((5, 7), limit - 10) is None
    assert look((5, 7), 20) is None  # gaps of this length were seen: it may be slow
    assert look((5, 7), 10 * limit) == 0
    watch, at = Silence(), 0.0
    look((5, 6), 2)
    look((9, 8), 2)
    assert look((9, 8), limit + 2) == 1


def test_a_rank_that_has_left_is_not_to_blame() -> None:
    """The others wait for it no more: the one that is still there hangs, though it moved later."""
    watch = Silence()
    for at in range(int(silence.SILENT_SECONDS)):
        assert watch.look((5, 6), float(at), ended={0}) is None
    assert watch.look((5, 6), silence.SILENT_SECONDS + 2.0, ended={0}) == 1
    assert watch.look((5, 6), silence.SILENT_SECONDS + 3.0, ended={0, 1}) is None


def test_each_rank_draws_its_own_and_all_go_on_alike() -> None:
    """Else two cards drop the same places; and a checkpoint has one random state for all."""
    own, after = [], []
    for rank in (0, 1):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, 2
        torch.manual_seed(7)
        with ranks.own_draws():
            own.append(torch.rand(8).tolist())
        after.append(torch.rand(8).tolist())
    assert own[0] != own[1]
    assert after[0] == after[1]


def test_a_paused_box_has_not_hung() -> None:
    """Time in which nobody looked does not count."""
    watch = Silence()
    watch.look((5, 6), 1.0)
    watch.look((5, 6), 2.0)
    assert watch.look((5, 6), 1e6) is None


def test_a_place_is_read_as_it_was_written() -> None:
    """A rank's command line says which of how many it is, and where they meet."""
    place = Place(rank=2, size=4, meeting=Path("/tmp/a@b/meeting"))
    assert Place.read(place.flag) == place
    assert folder_of(Path("/a"), 0).root == Path("/a")
    assert folder_of(Path("/a"), 1).root == Path("/a/ranks/1")


@pytest.mark.parametrize(
    ("given", "rank", "card"),
    [
        ("GPU-aa11,GPU-bb22", 0, "GPU-aa11"),
        ("GPU-aa11, GPU-bb22", 1, "GPU-bb22"),
        ("GPU-aa11", 1, None),
        ("", 0, None),
    ],
)
def test_each_rank_sees_its_own_card(
    monkeypatch: pytest.MonkeyPatch, given: str, rank: int, card: str | None
) -> None:
    """And its way to the others: a container has loopback alone."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    found = launch._cards(rank)
    assert found.pop("CUDA_VISIBLE_DEVICES", None) == card
    assert found == {"NCCL_SOCKET_IFNAME": "lo", "NCCL_NVLS_ENABLE": "0"}


class _Apart:
    """A way between cards that is broken, in NCCL's words."""

    def __init__(self, words: str) -> None:
        self.words = words

    def allreduce(self, _: list[torch.Tensor]) -> None:
        """Fail as NCCL does."""
        raise RuntimeError(self.words)


def test_cards_that_cannot_talk_are_no_lost_rank() -> None:
    """The reason names the sum and what to do; a lack of memory is one as everywhere.

    A made-up connection: NCCL needs two cards.
    """
    ranks = Ranks()
    ranks._hosts, flat = object(), torch.zeros(2)
    ranks._cards = _Apart("NCCL error: unhandled system error, no space in /dev/shm")
    with pytest.raises(StageError) as found:
        ranks.sum_up([], flat[:1])
    assert (found.value.exit_code, found.value.kind) == (ExitCode.UNEXPECTED, "cards_apart")
    ranks._cards = _Apart("Last error: Cuda failure 2 'out of memory'")
    with pytest.raises(RuntimeError, match="Cuda failure"):
        ranks.sum_up([], flat[:1])
