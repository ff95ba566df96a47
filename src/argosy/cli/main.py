"""`argosy VERB ...`: finds the verb, runs it, and turns what goes wrong into one line.

A verb's module is imported only when that verb runs, so that `argosy --version` and help stay
quick. Exit codes: 0 done, 1 an error (one line on stderr), 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from argosy import __version__
from argosy.cli.environment import forgiving_streams, read_environment, start_logging
from argosy.errors import ArgosyError

VERBS = {
    "chat": "Talk to a model in the terminal, or through a pipe.",
    "generate": "Answer one prompt and stop.",
    "serve": "Serve a model over HTTP, with OpenAI's API.",
    "build": "Turn a checkpoint into a bundle: packed, quantized, checked.",
    "show": "Describe a model: shapes, bytes, memory per token, its program.",
    "verify": "Check every byte of a bundle against its sums.",
    "eval": "Measure how well a model predicts a text, and how far it is from another.",
    "bench": "Measure the engine on this machine.",
    "bench serve": "Measure a server: any with OpenAI's API.",
}
"""A verb of two words is a verb of its own: `bench serve` is no model of `bench`."""


def load_verb(name: str) -> TyperCommand:
    """The command of one verb, importing its module."""
    module = import_module(f"argosy.cli.{name.replace(' ', '_')}")
    kind = getattr(module, "VERB", TyperCommand)
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    text = f"{VERBS[name]}\n\n{module.HELP}"
    app.command(name, cls=kind, help=text, epilog=module.EXAMPLES)(module.run)
    command = get_command(app)
    assert isinstance(command, TyperCommand)
    return command


class Verbs(TyperGroup):
    """The verbs, each loaded when it runs; help lists them from the table alone."""

    def __init__(self, **attrs: Any) -> None:
        stubs = {name: TyperCommand(name=name, help=text) for name, text in VERBS.items()}
        super().__init__(**attrs | {"commands": stubs})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb named first in `args`, by two words where there is such a one, whole."""
        if " ".join(args[:2]) in VERBS:
            args = [" ".join(args[:2]), *args[2:]]
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_verb(name) if name in VERBS else command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; an error that a user can cause becomes one line and exit code 1."""
        with one_line_errors():
            return super().invoke(ctx)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors of the user, the files or the machine into a line on stderr and exit code 1."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read our output has gone: typer ends quietly
    except (ArgosyError, OSError) as exc:
        print(f"argosy: {exc}", file=sys.stderr)
        raise typer.Exit(1) from exc


app = typer.Typer(
    cls=Verbs,
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "token_normalize_func": lambda name: name.replace("_", "-"),  # as vLLM: --max_tokens
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"argosy {__version__}")
        raise typer.Exit()


@app.callback(epilog="`argosy VERB --help` explains a verb, with examples.")
def start(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Argosy runs large language models on the machine you have.

    Without MODEL, verbs use the small model that comes with Argosy: try `argosy chat`.
    """
    with one_line_errors():
        start_logging(read_environment().log_level)


def main() -> None:
    """The entry point."""
    forgiving_streams()
    try:
        try:
            app(prog_name="argosy")
        finally:
            sys.stdout.flush()
    except OSError as exc:  # stdout on a full disk, say, or its reader gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left goes there at the end
        said = isinstance(exc.__context__, SystemExit) and exc.__context__.code
        if not (said or isinstance(exc, BrokenPipeError)):
            print(f"argosy: {exc}", file=sys.stderr)
        sys.exit(1)
