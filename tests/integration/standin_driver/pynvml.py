"""Stands in for NVIDIA's driver, of which no machine without a card has one.

It answers as nvidia-ml-py does, from the JSON object that the variable STANDIN_DRIVER names:
``total`` and ``free`` in bytes, and ``held``, a list of process id, name and bytes. Once a file
matches its pattern ``when``, what stands in its ``then`` holds. With ``code``, NVML's number of an
error, the card has gone away, as nobody can have a real one do at will.
"""

# ruff: noqa: N802  the names are NVIDIA's

import glob
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

NVML_CLOCK_SM = 1


NOT_SUPPORTED = 3


class NVMLError(Exception):
    """What the driver refuses."""

    def __init__(self, value):
        super().__init__(f"code {value}")
        self.value = value


def _told():
    told = json.loads(Path(os.environ["STANDIN_DRIVER"]).read_text())
    return told["then"] if "then" in told and glob.glob(told["when"]) else told


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
    return 1


def nvmlDeviceGetHandleByIndex(index):
    """Give a card."""
    return index


def nvmlDeviceGetName(_handle):
    """Name it."""
    return "NVIDIA GeForce RTX 4090"


def nvmlDeviceGetCudaComputeCapability(_handle):
    """Tell its kind."""
    return 8, 9


def nvmlDeviceGetNumGpuCores(_handle):
    """Count its cores."""
    return 16384


def nvmlDeviceGetMaxClockInfo(_handle, _which):
    """Tell its clock, in MHz."""
    return 2520


def nvmlDeviceGetMemoryInfo(_handle):
    """Tell its memory."""
    told = _told()
    if "total" not in told:
        raise NVMLError(NOT_SUPPORTED)
    return SimpleNamespace(total=told["total"], free=told["free"])


def nvmlDeviceGetComputeRunningProcesses(_handle):
    """Tell who computes."""
    return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, _, held in _told()["held"]]


def nvmlDeviceGetGraphicsRunningProcesses(_handle):
    """Refuse: servers' cards do."""
    raise NVMLError(NOT_SUPPORTED)


def nvmlSystemGetProcessName(pid):
    """Name a process, with its arguments."""
    return next(name for one, name, _ in _told()["held"] if one == pid)
