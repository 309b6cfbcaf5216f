"""Every kernel that is launched stands in the list that is compiled ahead for other cards."""

from __future__ import annotations

import ast
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
KERNELS = REPOSITORY / "runner/training/kernels"
LIST = REPOSITORY / "tests/older/compile_ahead.py"


def launched(path: Path) -> set[str]:
    """Find the compiled functions of a module that something launches: ``name[grid](…)``."""
    tree = ast.parse(path.read_text())
    compiled = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(one).split("(")[0].endswith("jit") for one in node.decorator_list)
    }
    subscripted = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
    }
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    # One that no kernel calls is launched in a way that is not known here.
    return compiled & subscripted | compiled - called


def test_no_kernel_is_missing() -> None:
    """A kernel, or a file of kernels, without an entry would fit nobody knows which cards."""
    listed = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(LIST.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    found = {f"{path.stem}.{name}" for path in KERNELS.glob("*.py") for name in launched(path)}
    assert len(found) > 10
    assert found - listed == set()


def test_a_new_file_of_kernels_is_seen(tmp_path: Path) -> None:
    """Whether it is launched by its name or in another way; what kernels call is none."""
    path = tmp_path / "new.py"
    path.write_text(
        "@jit\ndef _helper(x): return x\n"
        "@jit\ndef _kernel(x): _helper(x)\n"
        "@triton.jit\ndef _other(x): ...\n"
        "def go(x): _kernel[(1,)](x)\n"
    )
    assert launched(path) == {"_kernel", "_other"}
