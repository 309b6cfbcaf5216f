"""Doctor: are llama.cpp's tools on the box, which make GGUF files?"""

from __future__ import annotations

from runner.contract.llama_cpp import find_llama_cpp
from runner.doctor.finding import Finding, Level

_WHY = "A job that asks for GGUF files (llama.cpp, Ollama) needs them; no other job does."


def examine_llama_cpp() -> Finding:
    """Look for the tools."""
    tools = find_llama_cpp()
    if tools is None:
        what = (
            "No GGUF files can be made here: llama.cpp's tools are not on this box. `make llama` "
            "in a checkout builds them; RUNNER_LLAMA_CPP names their folder elsewhere."
        )
        return Finding(check="GGUF", level=Level.SKIPPED, what=what, why=_WHY)
    return Finding(
        check="GGUF",
        level=Level.OK,
        what=f"llama.cpp's tools are there ({tools.version}).",
        why=_WHY,
    )
