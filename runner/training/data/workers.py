"""Workers: rows are tokenised in as many processes as there are cores, their order kept.

The main process reads and writes; each worker has one batch at a time, in turn, so memory is that
of a few batches. Workers come from a fork server, a process that has only imported what they need:
a fork of the main process could hold a lock of one of its threads for ever, and a fresh interpreter
would import for two seconds. A worker whose main process dies ends at once: its pipe ends.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from runner.errors import HOST_MEMORY_ADVICE, StageError
from runner.exit_codes import ExitCode
from runner.training.data.known_words import WordsDifferError
from runner.training.data.row_work import Batch, Done, Work, Worker
from runner.training.data.template import Template

ALONE_CHARS = 4 * 1024 * 1024
"""So much is tokenised before any worker is started: it takes about as long as starting them."""
_PASSED_ON = (MemoryError, WordsDifferError)
"""Errors of a worker that mean the same in the main process."""
_IMPORTED = (
    *("pyarrow", "numpy", "rensa", "transformers", "transformers.tokenization_utils_tokenizers"),
    *("transformers.convert_slow_tokenizer", "transformers.utils.chat_template_utils"),
)
"""What every worker needs, imported once for all of them."""
_MOST_WORKERS = 16  # each holds a tokenizer, 100 to 300 MB; the main process feeds no more


def cores() -> int:
    """Count the cores that this process may use."""
    usable = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return usable if quota == "max" else max(1, min(usable, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return usable


class Workers:
    """Processes that make themselves ready while their main process does other things."""

    def __init__(self, work: Work, *, count: int | None = None) -> None:
        """Start none yet.

        Args:
            work: what they need to make ready; what is done to rows may still be decided.
            count: how many; None: one for each core.
        """
        self._count = min(_MOST_WORKERS, cores()) if count is None else count
        self._work = work
        self._pool: list[_Process] = []

    @property
    def many(self) -> bool:
        """Whether they do more than one process would."""
        return self._count > 1

    def start(self) -> None:
        """Start them, unless they are; nothing is waited for."""
        if self.many and not self._pool:
            self._pool = [_Process(self._work) for _ in range(self._count)]

    def start_for(self, size: int) -> None:
        """Start them where so many bytes are more than one process should read alone."""
        if size >= ALONE_CHARS:
            self.start()

    @property
    def ready(self) -> bool:
        """Whether all of them are started and wait for rows."""
        return bool(self._pool) and all(process.ready for process in self._pool)

    def told(self, work: Work) -> list[_Process]:
        """Say what is done to rows; give the processes."""
        self._work = work
        self.start()
        for process in self._pool:
            process.send(work)
        return self._pool

    def end(self) -> None:
        """End them."""
        for process in self._pool:
            process.end()
        self._pool = []


def work_through(
    batches: Iterable[Batch],
    work: Work,
    template: Template | None,
    *,
    workers: Workers | None = None,
) -> Iterator[Done]:
    """Do the work on each batch, in their order; small data in this process.

    Args:
        batches: of rows.
        work: what to do.
        template: this process's own.
        workers: those that may have been started already; they are ended here.
    """
    workers = workers or Workers(work)
    source = iter(batches)
    alone = Worker(work, template)
    chars = 0
    try:
        for batch in source:
            yield alone.do(batch)
            chars += sum(row.size for row in batch.rows)
            if template is None or not workers.many:
                continue
            if chars >= ALONE_CHARS or workers.ready:
                break
        first = next(source, None)
        if first is not None:
            yield from _in_workers(first, source, workers.told(work))
    finally:
        workers.end()


def _in_workers(first: Batch, source: Iterator[Batch], pool: Sequence[_Process]) -> Iterator[Done]:
    count = len(pool)
    pool[0].send(first)
    sent = 1
    done = 0
    for batch in source:
        worker = pool[sent % count]
        result = worker.receive() if sent >= count else None
        worker.send(batch)
        sent += 1
        if result is not None:
            done += 1
            yield result
    while done < sent:
        yield pool[done % count].receive()
        done += 1


class _Process:
    """One worker."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *_IMPORTED])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self._process.start()
        theirs.close()
        self._is_ready = False

    @property
    def ready(self) -> bool:
        """Whether it waits for rows, or has died: whoever sends it some will learn of that."""
        if not self._is_ready and self._pipe.poll():
            self._hear_ready()
        return self._is_ready

    def _hear_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._heard()

    def send(self, given: Batch | Work) -> None:
        try:
            self._pipe.send(given)
        except OSError:
            raise self._death() from None

    def receive(self) -> Done:
        self._hear_ready()
        return self._heard()

    def _heard(self) -> Any:
        try:
            found = self._pipe.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if isinstance(found, _Failure):
            raise found.as_error()
        return found

    def _death(self) -> Exception:
        self._process.join(timeout=5)
        return StageError(
            f"a process that tokenised rows was ended (status {self._process.exitcode})",
            exit_code=ExitCode.OUT_OF_HOST_MEMORY,
            kind="out_of_host_memory",
            advice=HOST_MEMORY_ADVICE,
        )

    def end(self) -> None:
        self._pipe.close()
        self._process.join(timeout=0.5)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


class _Failure:
    """What a worker says when something is wrong with itself; its text may quote a row."""

    def __init__(self, error: BaseException) -> None:
        self.kind = f"a worker ended with {type(error).__name__}"
        self._same = next((k for k in _PASSED_ON if isinstance(error, k)), None)

    def as_error(self) -> Exception:
        """Give it as an error of the main process."""
        return self._same() if self._same else RuntimeError(self.kind)


def _serve(pipe: Connection, work: Work) -> None:
    """Be a worker until the pipe ends."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a worker for each core
    try:
        answer: Any = None  # it is ready
        try:
            worker = Worker(work)
        except Exception as error:  # the main process meets the same, and says it in words
            answer = _Failure(error)
        pipe.send(answer)
        while True:
            given = pipe.recv()
            if isinstance(given, Work):
                worker.set_work(given)
                continue
            try:
                answer = worker.do(given)
            except Exception as error:
                traceback.print_tb(error.__traceback__)
                answer = _Failure(error)
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
