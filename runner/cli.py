"""The command line: a table of verbs; `runner --help` lists them.

Each command is a module of `runner/commands/` that owns its options, as the function `command`. It
is imported when it is called: `runner status` never loads torch, and `runner watch` stays small.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from runner.errors import RunnerError

VERBS = {
    "watch": "watch",
    "status": "status",
    "show": "show",
    "logs": "logs",
    "schedule": "schedule",
    "cancel": "cancel",
    "evaluate": "evaluate",
    "export": "export",
    "rate": "rate",
    "promote": "promote",
    "rollback": "rollback",
    "pack": "pack",
    "erase": "erase",
    "submit": "submit",
    "validate": "validate",
    "check": "check",
    "preview": "preview",
    "plan": "plan",
    "schema": "schema",
    "try": "try_",
    "fetch": "fetch",
    "demo": "demo",
    "doctor": "doctor",
    "serve": "runner.office.serve",
    "health": "health",
    "agent": "agent",
    "notify": "notify",
    "make-folders": "make_folders",
    "check-box": "check_box",
}
"""Each verb and its module in `runner/commands/`, or whole, in the order of `runner --help`."""

_HIDDEN = frozenset({"make-folders", "check-box"})  # for Compose's `init` and `check` services

_HELP = """Drop a job spec into a folder, get a fine-tuned LoRA adapter. Nothing leaves the box.

\b
Example:
    runner fetch demo
    runner submit contracts.yaml
    runner watch
"""
_SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,  # help is plain text: examples keep their line breaks
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}


class _Verbs(TyperGroup):
    """Imports a verb's module when it is asked for."""

    def list_commands(self, _context: Any) -> list[str]:
        return list(VERBS)

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        """Find the verb; of one that is not there, the nearest is named."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            shown = [verb for verb in VERBS if verb not in _HIDDEN]
            near = difflib.get_close_matches(args[0][:40], shown, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            context.fail(f"No such command {args[0][:40]!r}.{meant}")
        return super().resolve_command(context, args)

    def get_command(self, _context: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        # Nothing that an import makes is garbage yet, and the search for it takes 5% of `status`;
        # looking for pydantic's plugins in every package that is installed takes 3%.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        gc.disable()
        try:
            name = VERBS[cmd_name]
            module = importlib.import_module(name if "." in name else f"runner.commands.{name}")
        finally:
            gc.enable()
        alone = typer.Typer(add_completion=False, **_SETTINGS)
        alone.command(cmd_name, hidden=cmd_name in _HIDDEN)(module.command)
        return typer.main.get_command(alone)


app = typer.Typer(name="runner", cls=_Verbs, no_args_is_help=True, **_SETTINGS)


@app.callback(help=_HELP)
def _verbs() -> None:
    pass


_UsageError: Any = typer.BadParameter.__base__
"""What the command line's parser raises; Typer gives it no name of its own."""


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether a script asked: known without the parser, which may have failed."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _say(error: RunnerError, *, as_json: bool) -> None:
    """Say in words what went wrong; a script is told the same as JSON, on its standard output."""
    from runner.commands.options import speaker
    from runner.language.translate import in_words_of
    from runner.words import visible_lines

    if as_json:
        _print_error(error.kind, error.message, error.advice)
    speak = speaker()
    print(f"runner: {in_words_of(visible_lines(error.message), speak)}", file=sys.stderr)
    if error.advice:
        print(in_words_of(visible_lines(error.advice), speak), file=sys.stderr)


def _print_error(kind: str, message: str, advice: str | None) -> None:
    import json

    facts = {"kind": kind, "message": message, "advice": advice}
    print(json.dumps({"error": facts}, ensure_ascii=False), flush=True)


def _run(arguments: Sequence[str], *, as_json: bool) -> None:
    """Parse the command line and run its verb."""
    if not as_json:
        app(arguments, prog_name="runner")
        return
    try:
        raise SystemExit(app(arguments, prog_name="runner", standalone_mode=False) or 0)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "runner"
        _print_error("usage", error.format_message(), f"`{command} --help` says how it is called.")
        error.show()
        raise SystemExit(error.exit_code) from None


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what went wrong is said in words, with what to do, and exit 1."""
    asked = sys.argv[1:] if arguments is None else arguments
    as_json = _wants_json(asked)
    try:
        _run(asked, as_json=as_json)
    except RunnerError as error:
        _say(error, as_json=as_json)
        raise SystemExit(1) from None
    except PermissionError as error:
        from runner.commands.no_rights import no_rights

        _say(no_rights(error), as_json=as_json)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # `runner logs … | head`
        sys.stderr.close()
        raise SystemExit(141) from None
    except OSError as error:
        if error.errno is None:  # no system call's: a fault of ours, whose place is wanted
            raise
        from runner.commands.disk_trouble import disk_trouble

        _say(disk_trouble(error), as_json=as_json)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
