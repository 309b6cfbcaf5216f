"""Stands in for NVIDIA's driver, of which no machine without a card has one.

It answers as nvidia-ml-py does, from the JSON object that the variable STANDIN_DRIVER names:
``total`` and ``free`` in bytes, and ``held``, a list of process id, name and bytes. Once a file
matches its pattern ``when``, what stands in its ``then`` holds. With ``code``, NVML's number of an
error, the card has gone away, as nobody can have a real one do at will. ``cards``, a list of such
objects, each with a ``uuid``, are several cards: there ``code`` is what that card alone answers.
"""

# ruff: noqa: N802  the names are NVIDIA's

import glob
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

NVML_CLOCK_SM = 1


INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND = 2, 3, 6


class NVMLError(Exception):
    """What the driver refuses."""

    def __init__(self, value):
        super().__init__(f"code {value}")
        self.value = value


def _told():
    told = json.loads(Path(os.environ["STANDIN_DRIVER"]).read_text())
    return told["then"] if "then" in told and glob.glob(told["when"]) else told


def _cards():
    return _told().get("cards", [_told()])


def nvmlInit():
    """Begin, where there is a card; under load a real driver takes seconds (``seconds``)."""
    time.sleep(_told().get("seconds", 0))
    if code := _told().get("code"):
        raise NVMLError(code)


def nvmlShutdown():
    """End."""


def nvmlSystemGetDriverVersion():
    """Give a version that the stack can use."""
    return "580.65.06"


def nvmlDeviceGetCount():
    """Count the cards."""
    return len(_cards())


def nvmlDeviceGetHandleByIndex(index):
    """Give a card, where it is there and answers."""
    cards = _cards()
    if not 0 <= index < len(cards):
        raise NVMLError(INVALID_ARGUMENT)
    if "cards" in _told() and (code := cards[index].get("code")):
        raise NVMLError(code)
    return index


def nvmlDeviceGetHandleByUUID(uuid):
    """Give the card of this UUID."""
    for index in range(len(_cards())):
        if nvmlDeviceGetUUID(index) == uuid:
            return nvmlDeviceGetHandleByIndex(index)
    raise NVMLError(NOT_FOUND)


def nvmlDeviceGetUUID(handle):
    """Tell which card it is."""
    return _cards()[handle].get("uuid", f"GPU-{handle}")


def nvmlDeviceGetName(handle):
    """Name it."""
    return _cards()[handle].get("name", "NVIDIA GeForce RTX 4090")


def nvmlDeviceGetCudaComputeCapability(_handle):
    """Tell its kind."""
    return 8, 9


def nvmlDeviceGetNumGpuCores(_handle):
    """Count its cores."""
    return 16384


def nvmlDeviceGetMaxClockInfo(_handle, _which):
    """Tell its clock, in MHz."""
    return 2520


def nvmlDeviceGetMemoryInfo(handle):
    """Tell its memory."""
    told = _cards()[handle]
    if "total" not in told:
        raise NVMLError(NOT_SUPPORTED)
    return SimpleNamespace(total=told["total"], free=told["free"])


def nvmlDeviceGetComputeRunningProcesses(handle):
    """Tell who computes."""
    held = _cards()[handle]["held"]
    return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, _, held in held]


def nvmlDeviceGetGraphicsRunningProcesses(_handle):
    """Refuse: servers' cards do."""
    raise NVMLError(NOT_SUPPORTED)


def nvmlSystemGetProcessName(pid):
    """Name a process, with its arguments."""
    held = [one for card in _cards() for one in card["held"]]
    return next(name for one, name, _ in held if one == pid)
