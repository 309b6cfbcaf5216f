"""Tasks of lm-evaluation-harness, measured before and after the training: axes beside our own.

The harness runs as a library on the model that is loaded already, without a network, and gives each
item's score. What it computes is what `lm_eval.simple_evaluate` does with its defaults: no chat
template, the task's own few-shot examples.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.evaluation import TASK, Axis
from runner.contract.evaluation_tasks import harness_version, tasks_problems
from runner.training.evaluate.adapted import Adapted
from runner.training.evaluate.forgetting import judge_share, noise_key, noise_of
from runner.training.fit.memory import classify, let_go, plan_does_not_fit

LIMITS = (400, 200, 100, 50, 25, 10)
"""Items of a task, at most: as many as there is time for. Steps, so that the noise that was
measured of so many items fits the next run."""
_PILOT = 8  # items, for the time that one takes
_PASSES = 3  # the adapter, its base, and the base once more for the noise
_BATCH = 16  # requests; halved where they do not fit
_OTHER_BATCH = 12  # the same requests in other company, to see what rounding alone does
_SEED, _OTHER_SEED = 0, 1234  # simple_evaluate's own


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where tasks lie, and what they may take."""

    folder: str
    """The box owner's; empty: there is none."""
    until: float
    """Monotonic time at which the last task ends."""
    noise_folder: Path | None
    model: str
    """The base and its method, which the noise belongs to."""


class UnusableTaskError(Exception):
    """A task whose scores cannot be an axis; its words hold nothing of its items."""


def measure_tasks(
    adapted: Adapted, names: Sequence[str], room: Room
) -> tuple[list[Axis], list[str]]:
    """Measure each task with and without the adapter; give what fell short of it, in sentences.

    Raises:
        Exception: the card, the machine's memory or the disk is gone: the stage is tried again.
    """
    axes: list[Axis] = []
    short: list[str] = []
    for at, name in enumerate(names):
        now = time.monotonic()
        until = now + max(0.0, room.until - now) / (len(names) - at)
        if now >= room.until:
            short.append(_no_time(name))
            continue
        if problems := tasks_problems([name], room.folder):
            short.append(f"The task {name} could not be run: {problems[0].message}.")
            continue
        try:
            axes.append(_measure(adapted, name, room, until))
        except TimeoutError:
            short.append(_no_time(name))
        except (Exception, SystemExit) as error:  # somebody else's code: the run stands without it
            why = _why(error, on_gpu=adapted.machine.on_gpu)
            print(f"task {name}: {type(error).__name__}", file=sys.stderr)
            traceback.print_tb(error.__traceback__)
            traceback.clear_frames(error.__traceback__)
            short.append(f"The task {name} could not be run: {why}.")
        let_go()
    return axes, short


def _no_time(name: str) -> str:
    return f"There was no time left for the task {name}: evaluation.minutes allows more."


def _why(error: BaseException, *, on_gpu: bool) -> str:
    """Say what went wrong, without the error's own words: they may quote an item.

    Raises:
        Exception: it is no fault of the task.
    """
    lost = classify(error)
    if plan_does_not_fit(lost, on_gpu=on_gpu):
        return "memory ran out"
    if lost is not None:
        raise error
    if isinstance(error, UnusableTaskError):
        return str(error)
    names = {one.__name__ for one in type(error).__mro__}
    if names & {
        "DatasetNotFoundError",
        "ConnectionError",
        "HfHubHTTPError",
        "LocalEntryNotFoundError",
    }:
        return "its data do not lie on this box"
    if "FileNotFoundError" in names:
        return "a file that it names is not there"
    if names & {"ImportError", "AttributeError"}:
        return "Python code that it names is not there"
    if names & {"YAMLError", "DatasetGenerationError"}:
        return "its file or its data are damaged"
    return f"{type(error).__name__}; evaluate.log says more"


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What one pass over a task gave."""

    scores: list[float]
    asked: list[str]
    """A hash of each item's prompt and answer."""
    lower_is_better: bool


def _measure(adapted: Adapted, name: str, room: Room, until: float) -> Axis:
    """Measure a task.

    Raises:
        TimeoutError: there is too little time for the fewest items.
        UnusableTaskError: its scores cannot be an axis.
    """
    _import_harness()
    with _as_library(Path(room.folder)):
        task = _load(name, Path(room.folder))
        began = time.monotonic()
        _pass(adapted, name, task, _PILOT)
        limit = items_in_time(
            len(task.eval_docs),
            seconds_each=(time.monotonic() - began) / min(_PILOT, len(task.eval_docs)),
            seconds=until - time.monotonic(),
        )
        after = _pass(adapted, name, task, limit)
        with adapted.base():
            before = _pass(adapted, name, task, limit)
            what = "\0".join([str(harness_version()), name, *before.asked]).encode()
            key = noise_key(adapted, room.model, what)
            axis = TASK + name
            noise = noise_of(
                {axis: before.scores},
                lambda: {axis: _pass(adapted, name, task, limit, batch=_OTHER_BATCH).scores},
                file=room.noise_folder and room.noise_folder / f"{key}.json",
            )
    if before.asked != after.asked:
        raise UnusableTaskError("it asks something else each time")
    return judge_share(
        axis,
        before.scores,
        after.scores,
        noise=noise[axis],
        lower_is_better=before.lower_is_better,
    )


def items_in_time(items: int, *, seconds_each: float, seconds: float) -> int:
    """Say how many items are measured: all, or a step that there is time for.

    Args:
        items: what the task has.
        seconds_each: what one takes in one pass.
        seconds: the time for all passes.

    Raises:
        TimeoutError: it is too little for the fewest.
    """
    room = seconds / (_PASSES * max(seconds_each, 1e-9))
    for limit in (min(items, LIMITS[0]), *(one for one in LIMITS[1:] if one < items)):
        if limit <= room:
            return limit
    raise TimeoutError


@contextlib.contextmanager
def _as_library(folder: Path) -> Iterator[None]:
    """Let paths in tasks start at their folder; the harness's words may quote items: silence it."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        logger.setLevel(level)


def _import_harness() -> None:
    """Import the harness before any task: what it lacks itself is not the task's fault."""
    try:
        import lm_eval.evaluator
        import lm_eval.models.huggingface  # noqa: F401
    except ImportError as error:
        raise UnusableTaskError("lm-evaluation-harness cannot be imported") from error


def _load(name: str, folder: Path) -> Any:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    if name not in manager.all_tasks:  # it leaves out what it cannot read
        raise UnusableTaskError("its file cannot be read")
    task = manager.load([name])["tasks"][name]
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    if not task.eval_docs:
        raise UnusableTaskError("it has no items")
    return task


def _pass(adapted: Adapted, name: str, task: Any, limit: int, *, batch: int = _BATCH) -> _Scored:
    """Run a task with whatever is switched on; the batch is halved where it does not fit."""
    while True:
        try:
            return _once(adapted, name, task, limit, batch)
        except Exception as error:
            lost = classify(error)
            if batch == 1 or not plan_does_not_fit(lost, on_gpu=adapted.machine.on_gpu):
                raise
            traceback.clear_frames(error.__traceback__)
        let_go()
        batch //= 2


def _once(adapted: Adapted, name: str, task: Any, limit: int, batch: int) -> _Scored:
    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    compute = adapted.machine.compute
    with _weights_as_they_are(adapted.model):
        harnessed = HFLM(
            pretrained=adapted.model,
            tokenizer=adapted.tokenizer,
            backend="causal",
            batch_size=batch,
            max_length=min(adapted.context, adapted.tokenizer.model_max_length),
            mixed_precision_dtype=None if compute == "float32" else compute,
        )
    # Each pass draws the same few-shot examples: their generator goes on from pass to pass.
    random.seed(_SEED)
    np.random.seed(_OTHER_SEED)  # noqa: NPY002  the one that tasks draw from
    torch.manual_seed(_OTHER_SEED)
    task.set_fewshot_seed(seed=_OTHER_SEED)
    loaded = {"tasks": {name: task}, "groups": {}, "group_map": {}}
    found = evaluate(lm=harnessed, task_dict=loaded, limit=limit, bootstrap_iters=0)
    return _scored(task, found["samples"][name])


@contextlib.contextmanager
def _weights_as_they_are(model: Any) -> Iterator[None]:
    """Keep the harness from tying weights: an adapter may have trained a head of its own."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights


def _scored(task: Any, samples: Sequence[dict[str, Any]]) -> _Scored:
    """Give each item's score, by the first measure of the task that is a mean over its items.

    Raises:
        UnusableTaskError: it has none between 0 and 1.
    """
    first = samples[0]["filter"]
    items = sorted(
        (one for one in samples if one["filter"] == first), key=lambda one: one["doc_id"]
    )
    means = [
        name for name, how in task.aggregation().items() if getattr(how, "__name__", how) == "mean"
    ]
    for measure in means:
        found = [one.get(measure) for one in items]
        if all(_is_share(value) for value in found):
            return _Scored(
                scores=[float(value) for value in found if value is not None],
                asked=[f"{one['prompt_hash']} {one['target_hash']}" for one in items],
                lower_is_better=not task.higher_is_better().get(measure, True),
            )
    raise UnusableTaskError("none of its measures is a mean of scores from 0 to 1")


def _is_share(value: object) -> bool:
    try:
        number = float(value)  # type: ignore[arg-type]  # NumPy's numbers, too
    except (TypeError, ValueError):
        return False
    return math.isfinite(number) and 0 <= number <= 1


def told_of(axes: Sequence[Axis]) -> list[str]:
    """Say which tasks have fallen, in words."""
    return [
        f"The training made the model worse at the task {axis.name.removeprefix(TASK)} "
        f"({axis.base:.2f} before, {axis.adapter:.2f} after). "
        "A lower learning rate, fewer epochs or some rows of that kind keep it."
        for axis in axes
        if axis.has_fallen
    ]
