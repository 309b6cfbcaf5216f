"""Fields of a spec: what each one takes, in code and in words, from `JobSpec`'s annotations."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from runner.spec.human_numbers import Unit
from runner.spec.spec import JobSpec, fields_of

UNITS: Mapping[str, Unit] = {
    "limits.hours": "hours",
    "try.hours": "hours",
    "limits.gpu_memory_gib": "gib",
    "limits.disk_gib": "gib",
    "eval_split": "share",
    "replay": "share",
    "training.warmup_ratio": "share",
    "lora.dropout": "share",
}
_UNIT_EXAMPLES: Mapping[str, str] = {
    "hours": ", such as 8, 8h or 90min",
    "gib": ", such as 20 or 20 GiB",
    "share": ", such as 0.05 or 5%",
}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a field takes, told from its annotation."""

    section: type[BaseModel] | None = None
    is_list: bool = False
    is_map: bool = False
    """Names of the writer's own, each with a list of values."""
    is_text: bool = False
    number: Literal["int", "float"] | None = None
    is_bool: bool = False
    choices: tuple[str, ...] = ()
    metadata: tuple[Any, ...] = ()


def _kind(annotation: Any, metadata: tuple[Any, ...] = ()) -> Kind:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        return _kind(inner, (*metadata, *_constraints(extra)))
    if origin in (Union, types.UnionType):
        kinds = [_kind(a, metadata) for a in get_args(annotation) if a is not type(None)]
        return Kind(
            section=next((k.section for k in kinds if k.section), None),
            is_list=any(k.is_list for k in kinds),
            is_map=any(k.is_map for k in kinds),
            is_text=any(k.is_text for k in kinds),
            number=next((k.number for k in kinds if k.number), None),
            is_bool=any(k.is_bool for k in kinds),
            choices=tuple(c for k in kinds for c in k.choices),
            metadata=tuple(m for k in kinds for m in k.metadata),
        )
    if origin is Literal:
        return Kind(choices=get_args(annotation))
    if origin is list:
        inside = _kind(get_args(annotation)[0])
        return Kind(is_list=True, choices=inside.choices, number=inside.number, metadata=metadata)
    if origin is dict:
        return Kind(is_map=True)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Kind(section=annotation)
    if annotation is bool:
        return Kind(is_bool=True)
    if annotation in (int, float):
        return Kind(number="int" if annotation is int else "float", metadata=metadata)
    return Kind(is_text=True, metadata=metadata)


def _constraints(extra: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for item in extra:
        found += item.metadata if isinstance(item, FieldInfo) else [item]
    return found


def kind_of(info: FieldInfo) -> Kind:
    """Tell what a field takes from its annotation and its constraints."""
    return _kind(info.annotation, tuple(info.metadata))


def _bound(kind: Kind, name: str) -> Any:
    return next((getattr(m, name) for m in kind.metadata if hasattr(m, name)), None)


def allowed(path: str) -> str:
    """Say in words what a field takes."""
    kind = kind_of(FIELDS[path])
    if path == "model":
        return "a model on the box: a name under models/, or a hub id fetched before"
    if path in ("data", "eval_data"):
        return "a file, a folder or a pattern, relative to the spec's folder, or a list of them"
    if path == "schedule":
        return (
            "five parts in quotes: minute, hour, day of the month, month, day of the week, such as "
            '"0 2 * * sun" for every Sunday at 02:00'
        )
    if path == "try.learning_rate":
        return "a list of 2 to 8 numbers, each above 0 and at most 1: [1e-4, 2e-4, 4e-4]"
    if kind.is_map:
        return "fields, each with a list of its values: 'category: [Free, Commercial]'"
    if kind.section:
        return f"a block of its own, indented below: {', '.join(fields_of(kind.section))}"
    ways = []
    if kind.number:
        words = "a whole number" if kind.number == "int" else "a number"
        low, above = _bound(kind, "ge"), _bound(kind, "gt")
        high, below = _bound(kind, "le"), _bound(kind, "lt")
        if low is not None and high is not None:
            words += f" from {low} to {high}"
        else:
            bounds = [
                f"at least {low}" if low is not None else "",
                f"above {above}" if above is not None else "",
                f"at most {high}" if high is not None else "",
                f"below {below}" if below is not None else "",
            ]
            words += "".join(f", {b}" for b in bounds if b).replace(",", "", 1)
        ways.append(words + _UNIT_EXAMPLES.get(UNITS.get(path, ""), ""))
    if kind.is_bool:
        ways.append("true or false")
    if kind.choices:
        ways.append(", ".join(kind.choices))
    if path == "lora.target_modules":
        ways.append("all-linear, or a list of layers such as [q_proj, v_proj]")
    elif kind.is_text:
        most = _bound(kind, "max_length")
        ways.append(f"text of at most {most} characters" if most else "text")
    return " or ".join(ways)


FIELDS: dict[str, FieldInfo] = {}
for _name, _info in fields_of(JobSpec).items():
    FIELDS[_name] = _info
    _section = kind_of(_info).section
    if _section:
        FIELDS |= {f"{_name}.{inner}": i for inner, i in fields_of(_section).items()}
