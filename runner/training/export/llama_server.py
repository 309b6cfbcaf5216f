"""llama-server: a GGUF file served by llama.cpp and asked over a socket of the file system."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.llama_cpp import LlamaCpp
from runner.errors import RunnerError
from runner.files.socket_folder import socket_path
from runner.training.export.end_with_parent import end_with_parent

_ADVICE = "Its log is in the run's folder; runner export RUN tries again."
_START_SECONDS = 600.0  # a file of 16 GB from a slow disk
_ANSWER_SECONDS = 1800.0
"""One question: on two busy cores an 8B in q8_0 read a token of a prompt in 0.35 s and wrote one in
4.8 s, so 4,096 tokens take 24 minutes and an answer of 256 takes 20 (docs/measurements.md)."""
_LOOK_SECONDS = 0.1
_CERTAIN = 1000.0  # added to a token's logit, which no model sets apart by so much


class ServerError(RunnerError):
    """llama-server did not answer."""

    kind = "llama_server"


class NoAnswerError(RunnerError):
    """What a file answers is no number: it must not be served."""

    kind = "no_answer"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a prompt."""

    tokens: tuple[int, ...]
    text: str
    stopped: bool
    """It ended by itself, at an end token, and not at the limit."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers."""

    socket: Path
    has_adapter: bool

    def next_tokens(
        self, prompt: Sequence[int], *, most: int, adapter: bool = True
    ) -> dict[int, float]:
        """Give the likeliest next tokens with their log-probabilities, of the whole vocabulary.

        Args:
            prompt: tokens, as they are; nothing is put before them.
            most: how many to give.
            adapter: False switches the GGUF adapter off for this question.
        """
        found = self._ask(
            "/completion",
            {
                "prompt": list(prompt),
                "n_predict": 1,
                "temperature": 0.0,
                "n_probs": most,
                "cache_prompt": True,
                **self._scale(adapter=adapter),
            },
        )
        with _as_expected("/completion"):
            first = found["completion_probabilities"][0]
            said = {int(one["id"]): one["logprob"] for one in first["top_logprobs"]}
            if not said or None in said.values():  # how JSON writes what is no number
                raise NoAnswerError(
                    "its next tokens have no probabilities (NaN)", advice="Do not serve it."
                )
            return {token: float(one) for token, one in said.items()}

    def answer(self, prompt: Sequence[int], *, most: int, adapter: bool = True) -> Answer:
        """Answer a prompt, always with the likeliest token."""
        found = self._ask(
            "/completion",
            {
                "prompt": list(prompt),
                "n_predict": most,
                "temperature": 0.0,
                "return_tokens": True,
                "cache_prompt": True,
                **self._scale(adapter=adapter),
            },
        )
        with _as_expected("/completion"):
            return Answer(
                tokens=tuple(found["tokens"]),
                text=str(found["content"]),
                stopped=found.get("stop_type") == "eos",
            )

    def stops_at(self, token: int) -> bool:
        """Whether an answer ends when the server is made to say this token."""
        found = self._ask(
            "/completion",
            {
                "prompt": [token],
                "n_predict": 2,  # what does not end says it twice
                "temperature": 0.0,
                "return_tokens": True,
                "logit_bias": [[token, _CERTAIN]],
            },
        )
        with _as_expected("/completion"):
            return list(found["tokens"]) == [token] and found.get("stop_type") == "eos"

    def prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        """Give the tokens of a conversation as the server's chat interface makes them."""
        with _as_expected("/apply-template"):
            text = self._ask("/apply-template", {"messages": messages})["prompt"]
            asked = {"content": text, "add_special": True, "parse_special": True}
            return [int(token) for token in self._ask("/tokenize", asked)["tokens"]]

    def _scale(self, *, adapter: bool) -> dict[str, Any]:
        return {"lora": [{"id": 0, "scale": float(adapter)}]} if self.has_adapter else {}

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            status, said = _post(self.socket, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(
                f"llama-server did not answer: {type(error).__name__}.", advice=_ADVICE
            ) from None
        if status != http.HTTPStatus.OK:
            raise ServerError(f"llama-server answered {path} with status {status}.", advice=_ADVICE)
        with _as_expected(path):
            found: dict[str, Any] = json.loads(said)
            return found


@contextlib.contextmanager
def _as_expected(path: str) -> Iterator[None]:
    """Say of an answer that lacks what it should have that it does.

    Raises:
        ServerError: it does.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError):
        raise ServerError(
            f"llama-server answered {path} otherwise than expected.", advice=_ADVICE
        ) from None


@contextlib.contextmanager
def serve(
    tools: LlamaCpp, model: Path, *, context: int, log: Path, adapter: Path | None = None
) -> Iterator[Server]:
    """Start a server on the CPU and stop it afterwards.

    Args:
        tools: llama.cpp.
        model: the GGUF file.
        context: the longest prompt with its answer, in tokens.
        log: what the server prints.
        adapter: a GGUF adapter over it.

    Raises:
        ServerError: it does not start, or ends early.
    """
    with socket_path() as place, log.open("ab") as out:
        command = [str(tools.server), "--model", str(model), "--host", str(place)]
        command += ["--ctx-size", str(context), "--parallel", "1", "--no-webui", "--offline"]
        command += ["--threads", str(os.cpu_count() or 1)]
        command += ["--lora", str(adapter)] if adapter else []
        command = end_with_parent(command)
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            _wait(child, place, log)
            yield Server(socket=place, has_adapter=adapter is not None)
        finally:
            child.kill()
            child.wait()


def _wait(child: subprocess.Popen[bytes], place: Path, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if child.poll() is not None:
            raise ServerError(
                f"llama-server cannot load the file (exit code {child.returncode}).",
                advice=f"What it printed is in {log.parent.name}/{log.name} of the run's folder.",
            )
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _post(place, "/tokenize", {"content": ""})[0] == http.HTTPStatus.OK:
                return
        time.sleep(_LOOK_SECONDS)
    raise ServerError(
        f"llama-server did not load the file in {_START_SECONDS:.0f} s.", advice=_ADVICE
    )


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket of the file system."""

    def __init__(self, place: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._place))


def _post(place: Path, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    connection = _Connection(place)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
