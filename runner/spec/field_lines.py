"""Lines of fields: where in a spec stands what a stage finds wrong after the spec was read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from runner.errors import Problem
from runner.spec.spec_text import decode
from runner.spec.tree import Block, Node, UnreadableError, read_tree


def with_lines(problems: Iterable[Problem], content: bytes, file_name: str) -> list[Problem]:
    """Give each problem of a field its file and line; those of data files have theirs.

    Args:
        problems: what is wrong.
        content: the spec's bytes.
        file_name: what people know the spec by.
    """
    try:
        root = read_tree(decode(content), must_be_json=False)[0]
    except UnreadableError:  # it was read before: what a stage found is said without a line
        root = None
    return [_placed(problem, root, file_name) for problem in problems]


def _placed(problem: Problem, root: Node | None, file_name: str) -> Problem:
    is_here = problem.file in (None, file_name)
    if problem.field is None or problem.line is not None or not is_here:
        return problem
    return replace(problem, file=file_name, line=_line_of(root, problem.field))


def _line_of(root: Node | None, field: str) -> int | None:
    """Give the line of a dotted field, or of the nearest field around it that the spec has."""
    line, node = None, root
    for name in field.split("."):
        if not isinstance(node, Block) or name not in node.values:
            break
        line, node = node.key_lines[name], node.values[name]
    return line
