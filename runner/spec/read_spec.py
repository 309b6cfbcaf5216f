"""Read a spec: the untrusted bytes of a dropped file become a `JobSpec`, or every problem it has.

Read the text, give each value the meaning that its field has, check each field, then check what the
fields say together. A problem in one field hides none in another: all are reported together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ValidationError

from runner.contract import layout
from runner.errors import Problem, SpecError
from runner.spec import human_numbers
from runner.spec.cards import cards_problem
from runner.spec.contradictions import contradictions
from runner.spec.cron import cron_problem, plain
from runner.spec.evaluation import SCORES, evaluation_problems
from runner.spec.export import gguf_problem, plain_format
from runner.spec.fields import FIELDS, UNITS, Kind, allowed, kind_of
from runner.spec.file_kinds import ROWS, ending, looks_like_a_file
from runner.spec.hints import name_hint, shown_hint, value_hint
from runner.spec.paths import (
    control_character,
    data_path_problem,
    model_problem,
    tidy_model,
    tidy_path,
)
from runner.spec.spec import JobSpec, fields_of
from runner.spec.spec_text import NEEDED, decode
from runner.spec.tree import (
    Block,
    Items,
    Node,
    Scalar,
    UnreadableError,
    Unusable,
    read_tree,
    shown,
)

_MOST_PROBLEMS = 40  # a person reads no more; the rest is counted

_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})
_MULTILINE = frozenset(
    {"system_prompt", "notes"}
    | {f"columns.{name}" for name in ("prompt", "completion", "system", "text")}
    | {"evaluation.json_schema"}
)
_NEVER_EMPTY = frozenset(
    {"schedule", "promote.metric"}
    | {f"evaluation.{name}" for name in ("pattern", "json_schema", "general")}
)
"""Fields that say nothing with an empty text in quotes: who wrote one meant something."""
_PATHS = frozenset({"data", "eval_data"})
_ALONE = "write the path alone, without a name before it"
_NAMES = frozenset({"name", "sheet"} | {path for path in _MULTILINE if path.startswith("columns.")})


Exists = Callable[[str], bool]
"""Whether a file lies at a path that starts at the spec's folder."""


def _unknown(_path: str) -> bool:
    return False


def read_spec(
    content: bytes, *, file_name: str, exists: Exists = _unknown, cards: int | None = None
) -> JobSpec:
    """Read and check a job spec.

    Args:
        content: the file's bytes.
        file_name: the name it was dropped under.
        exists: tells which files lie there, so that a hint can name one; nothing depends on it.
        cards: those that the box trains on, 0 where it has none; None: any number will do.

    Raises:
        SpecError: with every problem; ``may_be_incomplete`` where the rest of an upload could set
            them right.
    """
    shown_name = shown(file_name)
    try:
        text = decode(content)
        root, problems = read_tree(text, must_be_json=file_name.lower().endswith(".json"))
    except UnreadableError as unreadable:
        failure = (unreadable.problem, unreadable.may_be_incomplete)
    else:
        reading = _Reading(problems=problems, exists=exists, cards=cards)
        spec = reading.spec(root, file_name)
        if spec is not None and not reading.problems:
            return spec
        cut = not text.endswith("\n") and any(
            p.line == text.count("\n") + 1 for p in reading.problems
        )
        raise SpecError(
            _tidy(reading.problems, shown_name), may_be_incomplete=reading.lacks_required or cut
        )
    # Raised out here, so that no traceback chains to a parser's error that quotes the file.
    raise SpecError(_tidy([failure[0]], shown_name), may_be_incomplete=failure[1])


def _tidy(problems: list[Problem], file_name: str) -> list[Problem]:
    ordered = sorted(problems, key=lambda p: p.line or 0)
    tidy = [
        Problem(
            file=file_name,
            line=p.line,
            field=p.field,
            message=p.message,
            found=p.found,
            allowed=p.allowed,
            hint=p.hint,
        )
        for p in ordered[:_MOST_PROBLEMS]
    ]
    if len(ordered) > _MOST_PROBLEMS:
        more = len(ordered) - _MOST_PROBLEMS
        tidy.append(
            Problem(
                file=file_name,
                message=f"and {more} more problems",
                hint="correct these first; a spec needs only model and data",
            )
        )
    return tidy


@dataclass
class _Reading:
    """One pass over a spec's tree; collects problems as it goes."""

    problems: list[Problem] = field(default_factory=list)
    exists: Exists = _unknown
    cards: int | None = None
    lines: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    lacks_required: bool = False

    def spec(self, root: Node | None, file_name: str) -> JobSpec | None:
        if not isinstance(root, Block):
            line = root.line if root else None
            if not isinstance(root, Unusable):
                self.problems.append(
                    Problem(
                        line=line,
                        message="a spec is a list of fields",
                        allowed="at least 'model: NAME' and 'data: FILE', each on its own line",
                    )
                )
            self.lacks_required = not isinstance(root, Items)
            return None
        values = self.block(root, JobSpec, "")
        for name in NEEDED:
            if name not in values and name not in self.broken:
                self.lacks_required = True
                self.problems.append(
                    Problem(
                        line=self.lines.get(name),
                        field=name,
                        message="is missing",
                        allowed=allowed(name),
                    )
                )
        stem = PurePosixPath(file_name).name.rpartition(".")[0] or file_name
        stem = re.sub(rf"--{layout.RUN_ID.pattern}$", "", stem)
        values["name"] = layout.job_name(values.get("name") or stem)
        self.check_paths(values)
        self.check_layers(values)
        self.check_schedule(values)
        self.check_evaluation(values.get("evaluation") or {})
        self.check_export(values.get("export") or {})
        spec = self.check_fields(values)
        self.problems += [
            Problem(line=self.lines.get(c.field), field=c.field, message=c.message, hint=c.hint)
            for c in contradictions(values, self.broken)
        ]
        if spec is not None and (too_many := cards_problem(spec.resources.gpus, self.cards)):
            self.problems.append(replace(too_many, line=self.lines.get(too_many.field or "")))
        return spec

    # -- giving each value its field's meaning ---------------------------------------------------

    def block(self, block: Block, model: type[BaseModel], prefix: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, node in block.values.items():
            path = prefix + key
            info = fields_of(model).get(key)
            if info is None:
                self.unknown(key, block.key_lines[key], model, prefix)
                continue
            self.lines[path] = block.key_lines[key]
            value = self.value(node, path, kind_of(info))
            if value is not None:
                values[key] = value
        return values

    def value(self, node: Node, path: str, kind: Kind) -> Any:
        """Give a value its field's meaning; None where it is empty or cannot be used."""
        if isinstance(node, Unusable):
            self.broken.add(path)
            return None
        if isinstance(node, Scalar) and self.is_cut_by_remark(node, path, self.lines.get(path)):
            return None
        if isinstance(node, Scalar) and self.is_text_cut_by_remark(node, path):
            return None
        if isinstance(node, Scalar) and node.is_null:
            return None  # a field left empty takes its default
        if kind.section or kind.is_map:
            return self.group(node, path, kind)
        if isinstance(node, Block):
            hint = "write it into a .json file, and name the file" if "schema" in path else None
            hint = _ALONE if path in _PATHS else hint
            return self.refuse(path, "takes no settings of its own", node=node, hint=hint)
        if isinstance(node, Items):
            if not kind.is_list:
                several = "to compare several, write them into a block of its own: try:"
                hint = several if path == "training.learning_rate" else None
                return self.refuse(path, "takes one value, not a list", node=node, hint=hint)
            return self.numbers(node, path, kind) if kind.number else self.items(node, path)
        self.texts[path] = node.text
        self.lines[path] = node.line
        if path == "lora.target_modules":
            whole = node.text.strip().casefold() == "all-linear"
            return "all-linear" if whole else self.items(Items(items=(node,), line=node.line), path)
        if kind.is_list:
            alone = Items(items=(node,), line=node.line)
            return self.numbers(alone, path, kind) if kind.number else self.items(alone, path)
        return self.scalar(node, path, kind)

    def numbers(self, node: Items, path: str, kind: Kind) -> list[Any] | None:
        """Read a list of numbers, each as one alone is read."""
        values = []
        for item in node.items:
            if not isinstance(item, Scalar) or item.is_null:
                if not isinstance(item, Unusable):
                    self.refuse(path, "each entry of the list is one number", line=item.line)
                self.broken.add(path)
                return None
            values.append(self.scalar(item, path, kind))
            if values[-1] is None:
                return None
        return values

    def items(self, node: Items, path: str) -> list[str] | None:
        values: list[str] = []
        for item in node.items:
            if path in _PATHS and isinstance(item, Scalar):
                item = replace(item, text=item.text.strip("\n"))  # noqa: PLW2901  of a block: |
            if isinstance(item, Scalar) and self.is_cut_by_remark(item, path, item.line):
                return None
            if not isinstance(item, Scalar) or item.is_null:
                if not isinstance(item, Unusable):
                    hint = _ALONE if path in _PATHS else None
                    message = "each entry of the list is one text"
                    self.refuse(path, message, line=item.line, hint=hint)
                self.broken.add(path)
                return None
            self.lines.setdefault(f"{path}.{len(values)}", item.line)
            if self.has_control(item, path):
                return None
            values.append(item.text)
        if not values:
            self.refuse(path, "the list is empty", line=node.line)
        return values or None

    def group(self, node: Node, path: str, kind: Kind) -> Any:
        if not isinstance(node, Block):
            of = "settings of its own" if kind.section else "names with their values"
            return self.refuse(path, f"takes {of}", node=node)
        return self.block(node, kind.section, f"{path}.") if kind.section else self.map(node, path)

    def map(self, node: Block, path: str) -> dict[str, list[str]] | None:
        """Read names of the writer's own, each with a list of values."""
        found: dict[str, list[str]] = {}
        for key, values in node.values.items():
            line = node.key_lines[key]
            items = Items(items=(values,), line=line) if isinstance(values, Scalar) else values
            name = Scalar(text=key, line=line)
            if self.has_control(name, path):
                return None
            if not isinstance(items, Items):
                if not isinstance(items, Unusable):
                    self.refuse(path, "each name has a list of values", line=line, found=key)
                self.broken.add(path)
                return None
            read = self.items(items, path)
            if read is None:
                return None
            found[key.strip()] = [value.strip() for value in read]
        if not found:
            self.refuse(path, "names no field", line=node.line)
        return found or None

    def is_cut_by_remark(self, node: Scalar, path: str, line: int | None) -> bool:
        """Refuse a path whose end YAML took for a remark: ``data/akten #12.jsonl``."""
        if path not in _PATHS or not looks_like_a_file(node.remark):
            return False
        whole = ("" if node.is_null else node.text) + node.remark
        whole = whole.strip()
        if ending(node.text) in ROWS and not (self.exists(whole) and not self.exists(node.text)):
            return False  # a remark that happens to end so
        hint = f'put the path in quotes: "{whole}"'
        if self.exists(whole):
            hint += f" (a file {PurePosixPath(whole).name} lies there)"
        self.refuse(
            path,
            "what follows a # is a remark, and the path ends before it",
            line=line,
            found=node.text,
            hint=hint,
        )
        return True

    def is_text_cut_by_remark(self, node: Scalar, path: str) -> bool:
        """Refuse a text whose end YAML took for a remark: ``Akte #12``.

        A system prompt would be learned without its end. In a name a remark is one where a blank
        follows the #.
        """
        is_name = path in _NAMES and bool(re.match(r"\s*#\S", node.remark))
        if not node.remark or not (is_name or path == "system_prompt"):
            return False
        self.refuse(
            path,
            "what follows a # is a remark, and the text ends before it",
            line=node.line,
            found=node.text if is_name else None,
            hint='put the text in quotes: "…"; a remark goes on a line of its own',
        )
        return True

    def has_control(self, node: Scalar, path: str) -> bool:
        bad = control_character(node.text, multiline=path in _MULTILINE)
        if bad is None:
            return False
        lines = [line.strip() for line in node.text.split("\n")]
        if path in _PATHS and len(lines) > 1 and all(map(looks_like_a_file, lines)):
            hint = f"write them as a list: [{', '.join(lines)}]"
            self.refuse(path, "these are several paths in one text", line=node.line, hint=hint)
            return True
        self.refuse(
            path,
            "holds a character that cannot be shown",
            line=node.line,
            found=bad,
            hint="write / instead of \\, which makes such characters inside double quotes"
            if path in _PATHS
            else "type it again by hand, without line breaks",
        )
        return True

    def scalar(self, node: Scalar, path: str, kind: Kind) -> Any:
        text = node.text.strip()
        if kind.is_bool and text.casefold() in _TRUE | _FALSE:
            return text.casefold() in _TRUE
        if choice := next((c for c in kind.choices if c.casefold() == text.casefold()), None):
            return choice
        if kind.number:
            whole = kind.number == "int"
            if fix := human_numbers.two_readings(text, is_whole=whole):
                message = "the dot may part thousands or a fraction"
                return self.refuse(path, message, node=node, hint=fix)
            number = human_numbers.number(text, UNITS.get(path, ""))
            if number is None:
                hint = value_hint(text, kind, UNITS.get(path, ""))
                return self.refuse(path, "is not a number", node=node, hint=hint)
            if kind.number == "float":
                return float(number)
            if number != int(number):
                return self.refuse(path, "is not a whole number", node=node)
            return int(number)
        if kind.is_bool:
            return self.refuse(path, "is neither true nor false", node=node)
        if kind.choices:
            return self.refuse(path, "is not one of these", node=node, hint=value_hint(text, kind))
        return self.text(node, path)

    def text(self, node: Scalar, path: str) -> Any:
        text = node.text.strip()
        if self.has_control(node, path):
            return None
        if not text and path in _NEVER_EMPTY:
            return self.refuse(path, "is empty", line=node.line, hint="leave the line out")
        return (node.text if path in _MULTILINE else text) or None

    # -- problems ---------------------------------------------------------------------------------

    def refuse(
        self,
        path: str,
        message: str,
        *,
        node: Node | None = None,
        line: int | None = None,
        found: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Note a problem of one field, and that nothing more need be said about it."""
        self.broken.add(path)
        if isinstance(node, Scalar):
            found = node.text
        elif node is not None and found is None:
            found = "a list" if isinstance(node, Items) else "a block of settings"
        if line is None:
            line = self.lines.get(path) if node is None else node.line
        self.problems.append(
            Problem(
                line=line,
                field=path,
                message=message,
                found=None if found is None else shown(found),
                allowed=allowed(path) or None,
                hint=None if hint is None else shown_hint(hint),
            )
        )

    def unknown(self, key: str, line: int, model: type[BaseModel], prefix: str) -> None:
        self.problems.append(
            Problem(
                line=line,
                field=shown(prefix + key),
                message="is not a field of a job spec" if not prefix else "is not a field here",
                allowed=", ".join(fields_of(model)),
                # Nobody reads so many; a hint compares with every field's name.
                hint=name_hint(key, list(fields_of(model)), prefix)
                if len(self.problems) < _MOST_PROBLEMS
                else None,
            )
        )

    # -- checks -----------------------------------------------------------------------------------

    def check_fields(self, values: dict[str, Any]) -> JobSpec | None:
        errors: list[Any] = []
        spec: JobSpec | None = None
        try:
            spec = JobSpec.model_validate(values)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
        for wrong in errors:
            path = ""
            for part in wrong["loc"]:
                longer = f"{path}.{part}" if path else str(part)
                if longer not in FIELDS:
                    break
                path = longer
            kind = wrong["type"]
            if path in self.broken or kind == "missing":
                continue
            message = "is not allowed here"
            if kind.startswith("greater_than"):
                message = "is too small"
            elif kind.startswith("less_than"):
                message = "is too large"
            elif kind.endswith("too_long"):
                message = "is too long"
            elif kind == "string_too_short":
                message = "is empty, or an entry of it is"
            elif kind == "too_short":
                message = "has too few entries"
            found = None if path in _MULTILINE else self.texts.get(path)
            self.refuse(path, message, found=found)
        return spec

    def check_schedule(self, values: dict[str, Any]) -> None:
        line = values.get("schedule")
        if line is None:
            return
        if wrong := cron_problem(line):
            self.refuse("schedule", wrong[0], found=line, hint=wrong[1])
        else:
            values["schedule"] = plain(line)

    def check_evaluation(self, values: dict[str, Any]) -> None:
        for number, score in enumerate(values.get("scores") or ()):
            if score not in SCORES:
                line = self.lines.get(f"evaluation.scores.{number}")
                near = name_hint(score, list(SCORES), "evaluation.scores.")
                wrong = "is not a score that is known here"
                self.refuse("evaluation.scores", wrong, line=line, found=score, hint=near)
        for name, message, hint in evaluation_problems(values):
            if f"evaluation.{name}" not in self.broken:
                self.refuse(f"evaluation.{name}", message, hint=hint)
        schema = str(values.get("json_schema") or "").strip()
        if schema.lower().endswith(".json") and "evaluation.json_schema" not in self.broken:
            values["json_schema"] = str(PurePosixPath(tidy_path(schema)))
            if wrong_path := data_path_problem(schema):
                self.refuse("evaluation.json_schema", wrong_path[0], hint=wrong_path[1])

        if (general := values.get("general")) and "evaluation.general" not in self.broken:
            values["general"] = str(PurePosixPath(tidy_path(general)))
            if wrong_path := data_path_problem(general):
                self.refuse("evaluation.general", wrong_path[0], hint=wrong_path[1])

    def check_export(self, values: dict[str, Any]) -> None:
        if not values.get("gguf"):
            return
        written = values["gguf"]
        values["gguf"] = [plain_format(name) for name in written]
        for number, message, hint in gguf_problem(values["gguf"]):
            line = self.lines.get(f"export.gguf.{number}")
            found = written[number]
            self.refuse("export.gguf", message, line=line, found=found, hint=hint)

    def check_paths(self, values: dict[str, Any]) -> None:
        if (model := values.get("model")) is not None:
            model = values["model"] = tidy_model(model)
        if model is not None and (wrong := model_problem(model)):
            self.refuse("model", wrong[0], found=model, hint=wrong[1])
        seen: dict[str, str] = {}
        for name in ("data", "eval_data"):
            tidy: list[str] = []
            for number, path in enumerate(values.get(name, ())):
                line = self.lines.get(f"{name}.{number}")
                if wrong := data_path_problem(path):
                    self.refuse(name, wrong[0], line=line, found=path, hint=wrong[1])
                    continue
                tidy.append(str(PurePosixPath(tidy_path(path))))
                other = seen.setdefault(tidy[-1], name)
                if other != name:
                    message = "these rows would be both trained on and held out"
                    hint = "name this file in data or in eval_data, not in both"
                    self.refuse(name, message, line=line, found=path, hint=hint)
                elif tidy[-1] in tidy[:-1]:
                    hint = "keep one of the two"
                    self.refuse(
                        name, "the same file is named twice", line=line, found=path, hint=hint
                    )
            if tidy:
                values[name] = tidy

    def check_layers(self, values: dict[str, Any]) -> None:
        modules = values.get("lora", {}).get("target_modules")
        if isinstance(modules, list) and [m.strip().casefold() for m in modules] == ["all-linear"]:
            values["lora"]["target_modules"] = modules = "all-linear"
        if isinstance(modules, list):
            for module in modules:
                if not re.fullmatch(r"[A-Za-z0-9_.]{1,128}", module):
                    names = re.findall(r"[A-Za-z0-9_.]+", module)
                    several = len(names) > 1 and not re.search(r"[^\w.,;\[\] '\"]", module)
                    hint = "write all-linear, or names such as q_proj; patterns are not read"
                    if several:
                        hint = f"write them as a list: [{', '.join(names)}]"
                    message = "this is not the name of a layer"
                    self.refuse("lora.target_modules", message, found=module, hint=hint)
                    break
