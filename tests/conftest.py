"""Turns the packaged model into what the tests share: a small real one, its tokenizer whole."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# As in the Makefile: children that may write no bytecode would each compile all modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Of all CPU time in which the tests are collected, a fifth went into looks for garbage (27 November
# 2026, 20.8 s and 17.0 s); what a test makes is little beside what the stack's modules make.
gc.set_threshold(50_000, 20, 50)

# Of a time limit for each example, a busy machine makes failures that say nothing.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

TINY_LAYERS = 2
TINY_VERSION = 1  # raise it when packaged_model.py writes something else


def pytest_collection(session: pytest.Session) -> None:
    """Before the unit tests are collected as a whole, import what their modules import.

    One by one that takes 3 s of a core more in each process of pytest-xdist: torch's compiler, and
    looks for garbage. Whoever asks for single files may need none of it.
    """
    unit = Path(__file__).parent / "unit"
    asked = (session.config.invocation_params.dir / name for name in session.config.args)
    if any(unit.is_relative_to(path) for path in asked):
        from runner.training.import_stack import TRAINS, import_stack

        import_stack("torch", *TRAINS)


LONGEST_FIRST = (
    "test_several_cards.py",
    "test_out_of_memory.py",
    "test_bad_neighbours.py",
    "test_memory_daemon.py",
    "test_whole_path.py",
    "test_verdict_of_real_runs.py",
    "test_cli.py",
    "test_gpu_goes_away.py",
    "test_daemon_trouble.py",
    "test_office.py",
    "test_card_daemon.py",
    "test_spec_reaches_the_trainer.py",
    "test_hang.py",
    "test_daemon.py",
    "test_fast_path.py",
    "test_train.py",
    "test_reports.py",
    "test_reference.py",
    "test_pictures_whole_path.py",
    "test_records.py",
    "test_long_rounds.py",
    "test_clock_jumps.py",
    "test_plan.py",
    "test_packing.py",
    # Not measured yet: they start daemons, or answer with a model.
    "test_row_loss.py",
    "test_schedules.py",
    "test_api_with_openai.py",
    "test_api.py",
    "test_answers.py",
    "test_stand_by.py",
    "test_evaluate_again.py",
    "test_promotion.py",
    "test_stop.py",
    "test_hand_over.py",
    "test_gguf_of_a_real_run.py",
    "test_gguf.py",
    "test_export_stage.py",
    "test_merge.py",
    # The image's, by what they wait for.
    "test_page_tls.py",
    "test_health_check.py",
    "test_page.py",
    "test_first_start.py",
    "test_stop_and_kill.py",
    "test_further_box.py",
    "test_share.py",
)
"""Files that take 20 to 225 s (26 November 2026, two cores), the longest first: a worker that
begins one of them last ends alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; the others stay in their order."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


_seen = 0  # modules that were imported when what they had made was last set aside


def pytest_runtest_setup() -> None:
    """Set aside what libraries made, so that no later look for garbage goes through it.

    Stages let go of their tensors by such looks, and in a process that has imported the stack each
    takes half a second of a core.
    """
    global _seen  # noqa: PLW0603  one process, one heap
    if len(sys.modules) > _seen + 100:
        gc.collect()
        gc.freeze()
        _seen = len(sys.modules)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A folder with the first layers of SmolLM2 and its real tokenizer: ``<models dir>/tiny``.

    Made once per machine and kept outside the repository; tests must not write into it.
    """
    from runner.training.packaged_model import prepare_demo_model

    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not os.access(base.parent, os.W_OK):
        base = Path(tempfile.gettempdir())
    models = base / "finetuning-box-tests" / f"v{TINY_VERSION}" / "models"
    models.mkdir(parents=True, exist_ok=True)
    with (models.parent / "lock").open("w") as lock:  # several test processes, one maker
        fcntl.flock(lock, fcntl.LOCK_EX)
        return prepare_demo_model(models / "tiny", layers=TINY_LAYERS)
