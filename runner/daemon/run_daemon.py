"""Run the daemon: take its locks and the inbox, look at the box, and go round until the end."""

from __future__ import annotations

import os
import signal
import time

from runner.card.find_cards import find_cards
from runner.contract.settings import Settings
from runner.daemon.conductor import Conductor
from runner.daemon.inbox.state_folders import make_state_folders
from runner.daemon.inbox.watch import watch
from runner.daemon.start.at_start import Examine
from runner.daemon.start.recover import unfinished
from runner.errors import BusyError, RunnerError, UnansweredError
from runner.files.lock import Lock
from runner.files.standard_streams import open_standard_streams
from runner.language.translate import read_texts


def _begin_with_inbox(conductor: Conductor) -> bool:
    """Take the inbox before anything is done with it, where it is there already.

    False: whoever asks it for anything waits, perhaps for ever.

    Raises:
        BusyError: another daemon has it.
    """
    settings = conductor.settings
    try:
        conductor.daemon.inbox.make()
        with conductor.daemon.inbox.open(lambda: unfinished(settings.outputs)) as inbox:
            conductor.made = make_state_folders(inbox)
    except BusyError:
        raise
    except UnansweredError:
        return False
    except (OSError, RunnerError):
        pass  # a share that is not mounted yet, or is broken: the loop says so, and waits
    return True


def run_daemon(settings: Settings, *, examine: Examine | None = None) -> int:
    """Run the daemon until it is asked to stop, or with ``once`` until all is done.

    Args:
        settings: the box owner's.
        examine: looks at the box before the first round.

    Raises:
        BusyError: another daemon has the outputs folder or the inbox.
        SettingError: a card that the settings name is not there.
    """
    open_standard_streams()
    named_cards = () if settings.device == "cpu" else find_cards(settings.gpus, os.environ)
    os.umask(0o027)  # results are for their owner and the share's group: 0750 and 0640
    outputs = settings.outputs
    for folder in (outputs.private, outputs.requests, settings.stage_home):
        folder.mkdir(parents=True, exist_ok=True)
    lock = Lock.take(outputs.lock, what=f"The outputs folder {settings.outputs_dir}")
    conductor = Conductor(settings, named_cards)
    conductor.heartbeat.watch()  # the start may hang as well as any round
    read_texts(conductor.daemon.says.speak)  # tens of milliseconds that no round should take
    observer = None
    try:
        answers = _begin_with_inbox(conductor)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, conductor.ask_to_stop)
        conductor.heartbeat.goes_on()
        light = examine(settings, conductor.daemon.log) if examine and answers else None
        polling = settings.polling if answers else True
        if light is not None:
            if light.answer is not None:
                conductor.daemon.cards.hear(light.answer, time.monotonic())
            polling = light.polling if polling is None else polling
        observer = watch(settings.jobs_dir, polling=polling, wake=conductor.daemon.wakeup.set)
        conductor.hears_of_changes = observer is not None
        conductor.daemon.log.say("watching", inbox=str(settings.jobs_dir), pid=os.getpid())
        status = conductor.work() if conductor.begin() else 1
        conductor.daemon.log.say("ended", exit_code=int(status))
        return status
    finally:
        if observer is not None:
            observer.stop()
            observer.join(timeout=5.0)
        conductor.daemon.inbox.release()
        lock.release()
