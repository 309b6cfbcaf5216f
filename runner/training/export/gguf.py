"""GGUF files of a run: made by llama.cpp's tools, then asked by llama.cpp itself.

Plugs into `makers`: one module for all formats and for the adapter alone.
"""

from __future__ import annotations

import contextlib
import tempfile
from functools import partial
from pathlib import Path

from runner.contract.handed_over import ADAPTER_GGUF
from runner.contract.llama_cpp import LlamaCpp, find_llama_cpp, missing_tools
from runner.errors import RunnerError
from runner.training.export.llama_convert import (
    F16,
    TRIAL_BASE,
    NoGgufError,
    convert_adapter,
    convert_model,
    forecast_bytes,
    quantize,
    require_convertible,
    require_disk,
)
from runner.training.export.llama_proof import Proof, prove
from runner.training.export.llama_server import NoAnswerError
from runner.training.export.makers import Made, Maker, Source


def tools_missing(name: str) -> str | None:  # noqa: ARG001  (all forms need the same tools)
    """Say that llama.cpp is not on this box; None: it is."""
    return missing_tools()


def maker(name: str) -> Maker:
    """Give the function that writes a form."""
    return _make_adapter if name == ADAPTER_GGUF else partial(_make_model, name)


def _make_model(name: str, source: Source, target: Path) -> Made:
    """Write base and adapter as one file."""
    tools = _tools()
    if source.model is None or source.whole is None:
        raise NoGgufError(
            "Base and adapter were not put together, which it is made from.",
            advice="What stopped that is said with merged/: after that, runner export RUN.",
        )
    label = source.spec.model
    trust = source.plan.trust_remote_code
    require_convertible(source.model, label, tools, trust_code=trust)
    log = _log(source, name)
    if name == F16:
        require_disk(target.parent, forecast_bytes(source.model, label, F16))
        convert_model(source.model, target, tools, log=log)
    else:
        missing = () if source.whole.exists() else (F16,)
        require_disk(target.parent, forecast_bytes(source.model, label, name, *missing))
        if missing:  # once for all formats
            convert_model(source.model, source.whole, tools, log=log)
        quantize(source.whole, target, tools, form=name, log=log)
    return _proved(name, source, tools, Proof(model=target, adapter=None, log=log))


def _make_adapter(source: Source, target: Path) -> Made:
    """Write the adapter alone, and try it on a base that is made for the trial."""
    tools = _tools()
    label = source.spec.model
    require_convertible(source.base, label, tools, trust_code=source.plan.trust_remote_code)
    require_disk(target.parent, forecast_bytes(source.base, label, F16, TRIAL_BASE))
    log = _log(source, ADAPTER_GGUF)
    convert_adapter(source.adapter, source.base, target, tools, log=log)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        whole, base = Path(folder) / "whole.gguf", Path(folder) / "base.gguf"
        convert_model(source.base, whole, tools, log=log)
        quantize(whole, base, tools, form=TRIAL_BASE, log=log)
        whole.unlink()
        return _proved(ADAPTER_GGUF, source, tools, Proof(model=base, adapter=target, log=log))


def _proved(name: str, source: Source, tools: LlamaCpp, proof: Proof) -> Made:
    """Measure a file; one that cannot be measured stands, and the record says so."""
    try:
        return prove(name, source, tools, proof)
    except NoAnswerError as error:
        said = f"{name} does not answer: {error.message}. {error.advice}"
        return Made(within=False, shortfalls=(said,))
    except RunnerError as error:
        said = " ".join(filter(None, (error.message, error.advice)))
        return Made(shortfalls=(f"{name} was made and not measured: {said}",))


def _tools() -> LlamaCpp:
    tools = find_llama_cpp()
    if tools is None:
        raise NoGgufError(f"{missing_tools()}.", advice="After that: runner export RUN.")
    return tools


def _log(source: Source, name: str) -> Path:
    """Give the file for what the tools print; an earlier try's goes."""
    log = source.run.hand_over / f"{name}.log"
    with contextlib.suppress(OSError):
        log.unlink(missing_ok=True)
    return log
