"""Job request: the body of POST /v1/fine_tuning/jobs becomes the fields of a job spec.

A pure mapping. What a field may hold is spec/read_spec.py's to say, of the spec that comes of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.contract.layout import job_name
from runner.office.api.errors import ApiError
from runner.office.drop import as_yaml
from runner.spec.fields import FIELDS
from runner.spec.spec import Training

PREFIX = "spec."
"""Keys of `metadata` that begin so are fields of the spec: ``spec.lora.r``."""
EXTENSION = "spec"
"""A field of the body, for `extra_body`: fields of the spec as they stand in YAML."""
LEARNING_RATE = Training().learning_rate
"""What a `learning_rate_multiplier` of 1 means: the spec's own default."""
KEPT = "# api: "
"""How a spec's first line begins that keeps what a client must find again: a remark to all else."""
_KNOWN = frozenset(
    {"model", "training_file", "validation_file", "method", "hyperparameters", "suffix", "seed"}
    | {"metadata", "integrations", EXTENSION}
)
_HYPERPARAMETERS = {"n_epochs": "training.epochs", "batch_size": "training.effective_batch_size"}
_NOT_HERE = {
    "model": "It is the request's own `model`.",
    "data": "Upload the file and name its id in `training_file`.",
    "eval_data": "Upload the file and name its id in `validation_file`.",
    "name": "It is the request's `suffix`.",
    "schedule": "A job of the API runs once; drop a spec with a schedule into jobs/ instead.",
    "when_missed": "It belongs to a schedule, and a job of the API runs once.",
    "when_data_changed": "It belongs to a schedule, and a job of the API runs once.",
}
"""Fields of a spec that a request gives in another way, or not at all."""
_METADATA_PAIRS, _METADATA_KEY, _METADATA_VALUE = 16, 64, 512
"""OpenAI's limits: pairs, and characters of a key and of a value."""
_SUFFIX = 64  # characters, OpenAI's
_DEEPEST = 32  # levels of lists and objects; a spec has four


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What a client asks for, checked as far as it can be without looking at the box."""

    model: str
    training_file: str
    validation_file: str | None
    job: str | None
    """The job's name; None: the training file's."""
    fields: dict[str, Any]
    """Dotted name of a spec's field → value."""
    metadata: dict[str, str]
    digest: str
    """Of the whole body: a request that is sent again is known by it."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What stands in a spec's first line."""

    metadata: dict[str, str]
    digest: str | None = None


def read_request(body: Any) -> JobRequest:
    """Check a body.

    Raises:
        ApiError: something in it cannot be used; ``param`` names it.
    """
    if not isinstance(body, dict):
        raise _refused("The body is not a JSON object.", "Send one, with `model` and so on.", None)
    _check_written(body)
    for name in sorted(body.keys() - _KNOWN):
        said = f"The box has no parameter {name[:60]!r}."
        raise _refused(said, f"It has {', '.join(sorted(_KNOWN))}.", name[:60])
    if body.get("integrations"):
        advice = "Leave it out: nothing leaves the box."
        raise _refused("The box has no integrations.", advice, "integrations")
    metadata = _metadata(body.get("metadata"))
    fields = _of_method(body) | _seed(body.get("seed"))
    for path, value in (*_of_metadata(metadata), *_of_extension(body)):
        if path in fields and fields[path] != value:
            raise _refused(f"{path} is given twice.", "Give it once.", path)
        fields[path] = value
    _check_written(fields)
    suffix = _text(body, "suffix", needed=False)
    if suffix is not None and len(suffix) > _SUFFIX:
        raise _refused("'suffix' is too long.", f"Give at most {_SUFFIX} characters.", "suffix")
    return JobRequest(
        model=str(_text(body, "model")),
        training_file=str(_text(body, "training_file")),
        validation_file=_text(body, "validation_file", needed=False),
        job=job_name(suffix) if suffix else None,
        fields=fields,
        metadata=metadata,
        digest=hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(),
    )


def write_spec(request: JobRequest, *, job: str, data: str, eval_data: str | None = None) -> bytes:
    """Write the spec of a request: the same request is written with the same bytes.

    Args:
        request: what is asked for.
        job: the job's name.
        data: the training file's path from jobs/.
        eval_data: the validation file's.
    """
    root: dict[str, Any] = {"model": request.model, "name": job, "data": [data]}
    if eval_data is not None:
        root["eval_data"] = [eval_data]
    for path, value in request.fields.items():
        *blocks, name = path.split(".")
        block = root
        for one in blocks:
            block = block.setdefault(one, {})
        block[name] = value
    kept = json.dumps({"request": request.digest, "metadata": request.metadata}, sort_keys=True)
    return f"{KEPT}{kept}\n".encode() + as_yaml(root)


def read_kept(spec: bytes) -> Kept:
    """Read what a client is to find again; nothing where the spec is not the API's."""
    line = spec.partition(b"\n")[0].decode(errors="replace")
    if not line.startswith(KEPT):
        return Kept(metadata={})
    try:
        found = json.loads(line.removeprefix(KEPT))
        return Kept(metadata=_metadata(found.get("metadata")), digest=str(found.get("request")))
    except (ValueError, AttributeError, RecursionError, ApiError):
        return Kept(metadata={})


def _refused(message: str, advice: str, param: str | None) -> ApiError:
    return ApiError(message, advice=advice, code="invalid_parameter", param=param)


def _check_written(fields: Mapping[str, Any]) -> None:
    """Refuse what no file can hold: half a character, and what is nested without end."""
    for name, value in fields.items():
        level = [value]
        for _ in range(_DEEPEST):
            level = [one for block in level for one in _inside(block)]
        if level:
            raise ApiError(
                f"{name[:60]!r} is nested too deeply.",
                advice=f"Give at most {_DEEPEST} levels.",
                code="invalid_spec",
                param=name[:60],
            )
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            advice = "Send whole characters: U+D800 to U+DFFF are halves of them."
            raise _refused(f"{name[:60]!r} is no text.", advice, name[:60]) from None


def _inside(block: Any) -> Iterable[Any]:
    if isinstance(block, dict):
        return block.values()
    return block if isinstance(block, list) else ()


def _text(body: Mapping[str, Any], name: str, *, needed: bool = True) -> str | None:
    value = body.get(name)
    if value is None and not needed:
        return None
    if not isinstance(value, str) or not value.strip():
        raise _refused(f"{name!r} is missing or no text.", "Give a text.", name)
    return value.strip()


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    is_one = isinstance(value, dict) and len(value) <= _METADATA_PAIRS
    if not is_one or not all(
        isinstance(text, str) and len(text) <= _METADATA_VALUE and len(key) <= _METADATA_KEY
        for key, text in value.items()
    ):
        advice = f"Give at most {_METADATA_PAIRS} pairs of texts: keys of {_METADATA_KEY} "
        advice += f"characters, values of {_METADATA_VALUE}."
        raise _refused("'metadata' cannot be used.", advice, "metadata")
    return dict(value)


def _of_method(body: Mapping[str, Any]) -> dict[str, Any]:
    """Read the hyperparameters, from `method` or from where older clients have them."""
    method = body.get("method")
    older = body.get("hyperparameters")
    if method is None:
        return _hyperparameters(older, "hyperparameters")
    if not isinstance(method, dict) or method.get("type") != "supervised":
        advice = "Give {'type': 'supervised', 'supervised': {…}}."
        raise _refused("The box trains with the method 'supervised'.", advice, "method.type")
    supervised = method.get("supervised") or {}
    if not isinstance(supervised, dict) or method.keys() - {"type", "supervised"}:
        raise _refused("'method' cannot be used.", "Give 'type' and 'supervised'.", "method")
    if supervised.keys() - {"hyperparameters"}:
        advice = "Give 'hyperparameters'."
        raise _refused("'method.supervised' cannot be used.", advice, "method.supervised")
    where = "method.supervised.hyperparameters"
    found = _hyperparameters(supervised.get("hyperparameters"), where)
    if older is not None and _hyperparameters(older, "hyperparameters") != found:
        raise _refused("The hyperparameters are given twice.", "Give them once.", "hyperparameters")
    return found


def _hyperparameters(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    names = (*_HYPERPARAMETERS, "learning_rate_multiplier")
    if not isinstance(value, dict) or value.keys() - set(names):
        raise _refused(f"'{where}' cannot be used.", f"It holds {', '.join(names)}.", where)
    found: dict[str, Any] = {}
    for name, given in value.items():
        if given is None or given == "auto":
            continue
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 1e9:
            advice = "Give a number above 0, or 'auto'."
            raise _refused(f"{name!r} is no number.", advice, f"{where}.{name}")
        if name == "learning_rate_multiplier":
            found["training.learning_rate"] = float(f"{given * LEARNING_RATE:.6g}")
        else:
            found[_HYPERPARAMETERS[name]] = given
    return found


def _seed(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refused("'seed' is no whole number.", "Give one, or leave it out.", "seed")
    return {"training.seed": value}


def _of_metadata(metadata: Mapping[str, str]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, text in metadata.items():
        if not key.startswith(PREFIX):
            continue
        value: Any = text
        if text.lstrip().startswith(("[", "{")):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                value = text
        found += _of_field(key.removeprefix(PREFIX), value, f"metadata.{key}")
    return found


def _of_extension(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    given = body.get(EXTENSION)
    if given is None:
        return []
    if not isinstance(given, dict):
        raise _refused("'spec' is no object.", "Give fields of a job spec.", EXTENSION)
    return _flat(given, "")


def _flat(block: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in block.items():
        found += _of_field(f"{prefix}{key}", value, f"spec.{prefix}{key}"[:100])
    return found


def _of_field(name: str, value: Any, param: str) -> list[tuple[str, Any]]:
    path = _known(name, param)
    if value is None:
        return []
    if not any(name.startswith(f"{path}.") for name in FIELDS):
        return [(path, value)]
    if not isinstance(value, dict):
        raise _refused(f"{path!r} is no object.", "Give its fields.", param[:100])
    return _flat(value, f"{path}.")


def _known(path: str, param: str) -> str:
    if path not in FIELDS:
        advice = "`runner schema` and docs/api.md list the fields."
        raise _refused(f"A job spec has no field {path[:100]!r}.", advice, param[:100])
    if why := _NOT_HERE.get(path.partition(".")[0]):
        raise _refused(f"A request cannot set {path!r}.", why, param)
    return path
