"""Ranks together: what they tell each other once a step, and the sum of their gradients.

Every rank reads the same steps as one card would, works on its share of each step's rows, and adds
its gradients to the others'. A step's loss is a sum over tokens divided by their number in the
whole step, so the sum over the ranks is what one card computes. Nobody else knows of the ranks:
no wrapper is around the model, and torch's default process group stays unset, because Trainer,
accelerate and PEFT change what they do where they see one.

What is told goes over loopback between the hosts' memories (gloo), so that nobody waits for a
card to be told that a rank has stopped; gradients go from card to card (NCCL). Without cards both
take the first way: that is what tests use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist

from runner.errors import StageError
from runner.exit_codes import ExitCode
from runner.training.fit.memory import classify, plan_does_not_fit
from runner.training.fit.stop import Interrupted, StopFlag
from runner.training.ranks.deal import deal
from runner.training.ranks.place import Place

PATIENCE = timedelta(days=2)
"""How long a rank waits for the others: it is the launcher that notices one that hangs."""
_MEETING = timedelta(minutes=20)  # to import the stack from a slow disk


class Say(IntEnum):
    """What a rank may tell the others."""

    OUT_OF_MEMORY = 0
    """The plan did not fit in this step: all end, and the next attempt runs a smaller one."""
    STOP = 1
    """All leave; the step is not finished."""
    DOES_NOT_FIT = 2
    """Of the probe: all try a smaller plan."""
    PLAIN = 3
    """This rank has no fast path."""
    OUT_OF_TIME = 4
    """The first rank's clock says so; likewise the next."""
    SAVE = 5
    WITHOUT_GRADIENT = 6
    """Some weight has no gradient on this rank."""


class RankLost(StageError):  # noqa: N818  (not this rank's fault)
    """Another rank has ended: this one cannot finish its step."""

    def __init__(self) -> None:
        super().__init__(
            "Another card's training process ended.",
            exit_code=ExitCode.INTERRUPTED,
            kind="rank_lost",
        )


class OtherRanOut(RuntimeError):  # noqa: N818  (likewise)
    """Another rank has no memory for the plan."""

    def __init__(self) -> None:
        super().__init__("CUDA out of memory on another rank")  # as `classify` knows it


class Ranks:
    """This process among those that train together; alone, everything here does nothing."""

    def __init__(self, place: Place | None = None, *, on_gpu: bool = False) -> None:
        """Meet the others.

        Raises:
            RankLost: one of them ended before.
        """
        self.rank, self.size = (place.rank, place.size) if place else (0, 1)
        self.stop: StopFlag | None = None
        """Told to the others; shows life before it waits."""
        if place is None:
            return
        with _lost():
            store = dist.FileStore(str(place.meeting), self.size)
            store.set_timeout(_MEETING)
            options = dist.ProcessGroupGloo._Options()  # noqa: SLF001  (torch's own makes it so)
            options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]  # noqa: SLF001
            options._timeout = PATIENCE  # noqa: SLF001
            self._hosts = dist.ProcessGroupGloo(
                dist.PrefixStore("hosts", store), self.rank, self.size, options
            )
        self._cards: Any = self._hosts
        if on_gpu:
            of_cards = dist.ProcessGroupNCCL.Options()
            of_cards._timeout = PATIENCE  # noqa: SLF001
            self._cards = dist.ProcessGroupNCCL(
                dist.PrefixStore("cards", store), self.rank, self.size, of_cards
            )

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what the run keeps, and looks at the clock."""
        return self.rank == 0

    def warm_up(self) -> None:
        """Let the way between the cards take its memory, before that is measured."""
        if self.size > 1 and self._cards is not self._hosts:
            self._sum(torch.zeros(1, device="cuda"))
            torch.cuda.synchronize()

    def agree(self, says: Iterable[Say] = ()) -> frozenset[Say]:
        """Tell what this rank has to say, and give what any of them says.

        Every rank comes to the same places in the same order; where one leaves before, by
        ``told``, its word meets the others wherever they come to next.

        Raises:
            OtherRanOut: a rank has no memory for the plan.
            Interrupted: a rank was asked to stop.
            RankLost: a rank has ended.
        """
        if self.size == 1:
            return frozenset(says)
        mine = torch.zeros(len(Say), dtype=torch.int32)
        mine[list(says)] = 1
        if self.stop is not None:
            mine[Say.STOP] |= int(self.stop.is_set)
            self.stop.show_life()
        with _lost():
            options = dist.AllreduceOptions()
            options.reduceOp = dist.ReduceOp.MAX
            self._hosts.allreduce([mine], options).wait()
        found = frozenset(say for say in Say if mine[say])
        if Say.OUT_OF_MEMORY in found:
            raise OtherRanOut
        if Say.STOP in found:
            raise Interrupted
        return found

    @contextmanager
    def told(self, *, memory: bool = True) -> Iterator[None]:
        """Let the others know why this rank leaves its place in a step, if it does.

        Args:
            memory: also where the plan does not fit; else only of a stop.
        """
        try:
            yield
        except Exception as error:
            if self.size > 1:
                self._tell(error, memory=memory)
            raise

    def _tell(self, error: Exception, *, memory: bool) -> None:
        on_gpu = self._cards is not self._hosts
        if isinstance(error, Interrupted):
            self.agree([Say.STOP])
        elif memory and plan_does_not_fit(classify(error), on_gpu=on_gpu):
            try:
                self.agree([Say.OUT_OF_MEMORY])
            except (OtherRanOut, RankLost):
                return  # the error itself says more

    @contextmanager
    def own_draws(self) -> Iterator[None]:
        """Draw dropout of one's own; afterwards all ranks' random states are equal again.

        So a checkpoint's random state is every rank's, and it resumes on any number of them.
        """
        if self.size == 1:
            yield
            return
        seed = int(torch.randint(2**31, ()))
        cards = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=cards):
            torch.manual_seed(seed + self.rank)
            yield

    def share(self, lengths: Sequence[int]) -> list[int]:
        """Give this rank's rows of so many."""
        return deal(lengths, self.size)[self.rank]

    def first_says(self, text: str) -> str:
        """Give the first rank's text, which may be empty, on every rank."""
        if self.size == 1:
            return text
        given = text.encode()
        size = torch.tensor([len(given)])
        with _lost():
            self._hosts.broadcast([size], _from_first()).wait()
            if not int(size):
                return ""
            content = torch.zeros(int(size), dtype=torch.uint8)
            if self.is_first:
                content = torch.frombuffer(bytearray(given), dtype=torch.uint8)
            self._hosts.broadcast([content], _from_first()).wait()
        return bytes(content.tolist()).decode()

    def sum_of(self, numbers: Sequence[float]) -> list[float]:
        """Add up numbers over the ranks, each at its place, in fp64."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        with _lost():
            self._hosts.allreduce([total]).wait()
        return [float(number) for number in total]

    def fill_gaps(self, weights: Sequence[Any]) -> None:
        """Give a weight without a gradient one of zeros, if another rank has one for it."""
        there = self.sum_of([float(weight.grad is not None) for weight in weights])
        for weight, ranks in zip(weights, there, strict=True):
            if ranks and weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    def sum_up(self, weights: Sequence[Any], flat: torch.Tensor) -> torch.Tensor:
        """Add up the gradients over the ranks, in place, and give the sum of the losses.

        Args:
            weights: those that are trained, in the same order on every rank.
            flat: what ``flat_of`` made of them.
        """
        self._sum(flat)
        grads = [weight.grad for weight in weights if weight.grad is not None]
        *sums, total = flat.split([*(grad.numel() for grad in grads), 1])
        if grads:
            views = [found.view_as(grad) for found, grad in zip(sums, grads, strict=True)]
            torch._foreach_copy_(grads, views)
        return total.reshape(())

    def _sum(self, tensor: torch.Tensor) -> None:
        if self._cards is self._hosts:
            with _lost():
                self._cards.allreduce([tensor]).wait()
            return
        try:
            self._cards.allreduce([tensor]).wait()
        except RuntimeError as error:
            if classify(error) is not None:
                raise
            # Not a lost rank: who has ended never gets here with the others.
            print(f"The cards could not sum their gradients: {error}", flush=True)
            raise StageError(
                "The cards could not sum their gradients.",
                exit_code=ExitCode.UNEXPECTED,
                kind="cards_apart",
                advice="What NCCL said is in the log; gpus: 1 trains on one card.",
            ) from error


def flat_of(weights: Sequence[Any], loss: torch.Tensor) -> torch.Tensor:
    """Lay gradients end to end, and a loss (a single number) behind them: one sum for all."""
    grads = [weight.grad.reshape(-1) for weight in weights if weight.grad is not None]
    return torch.cat([*grads, loss.detach().reshape(1)])


def _from_first() -> Any:
    options = dist.BroadcastOptions()
    options.rootRank = 0
    return options


@contextmanager
def _lost() -> Iterator[None]:
    """Say of a broken connection what it means."""
    try:
        yield
    except RuntimeError as error:
        print(f"The other ranks cannot be reached: {error}", flush=True)
        raise RankLost from error
