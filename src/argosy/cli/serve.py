"""`argosy serve`: an OpenAI-compatible server over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from argosy.cli.accepted import WHY, AcceptedFlags, without_effect
from argosy.cli.config_file import blamed, read_config_file
from argosy.cli.environment import read_environment
from argosy.cli.options import EngineFlags, Model, takes
from argosy.cli.server_flags import (
    AccessFlags,
    AnswerFlags,
    LayoutFlags,
    LimitFlags,
    ListenFlags,
    server_config,
)
from argosy.cli.terminal import ProgressLine
from argosy.serve.server import serve

LOG = logging.getLogger("argosy")

HELP = """Clients of OpenAI's API work unchanged: point their base_url at http://HOST:PORT/v1. Flags
have vLLM's names; --config reads them from a YAML file, and --dry-run tells what would be served.
Ctrl-C lets answers under way finish, a second one does not."""

EXAMPLES = """\b
Examples:
  argosy serve
  argosy serve ~/models/my-llama --quantize w8 --served-model-name llama --port 9000
  argosy serve org/model --host 0.0.0.0 --api-key "$KEY" --max-num-seqs 64 --max-model-len 32k
  argosy serve --config serve.yaml --dry-run

\b
Then:
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "What is LLMOps?"}]}'"""

GROUPS: Mapping[str, tuple[type[Any], ...]] = {
    "Where": (ListenFlags,),
    "Who may come in": (AccessFlags,),
    "How much is let in": (LimitFlags,),
    "What is said": (AnswerFlags,),
    "Model and engine": (EngineFlags, LayoutFlags),
}
"""Headings of the help, and the flags under each; the verb's own come first."""

SEVERAL = ("--served-model-name", "--api-key", "--allowed-origins")
"""Flags that take several words, as in vLLM: `--served-model-name a b`."""


class ServeCommand(TyperCommand):
    """The verb with its flags under headings, and a few freedoms of vLLM's command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Read `args`; see `as_typer_has_it`."""
        with blamed(ctx):
            return super().parse_args(ctx, as_typer_has_it(args))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, a heading for each group."""
        shown = {p.name: p.get_help_record(ctx) for p in self.get_params(ctx)}
        left = {name: record for name, record in shown.items() if record}
        groups = {
            title: [left.pop(f.name) for c in classes for f in fields(c) if f.name in left]
            for title, classes in GROUPS.items()
        }
        for title, rows in {"The verb itself": list(left.values()), **groups}.items():
            with formatter.section(title):
                formatter.write_dl(rows)
        names = ", ".join(name.replace("_", "-") for name in WHY)
        with formatter.section("Accepted as in vLLM, and without effect"):
            formatter.write_text(names)


def as_typer_has_it(args: list[str]) -> list[str]:
    """`args` with words that follow a flag of SEVERAL repeated as flags, and --model as MODEL.

    A word counts as one more only where the model was named first, or in a file: nothing else
    tells it from MODEL. Raises typer.BadParameter for more than one --config.
    """
    args = [_hyphens(word) for word in args]
    names = [word.partition("=")[0] for word in args]
    if names.count("--config") > 1:
        raise typer.BadParameter("--config is given more than once; put all into one file")
    if "--model" in names:
        at = names.index("--model")
        flag, _, value = args.pop(at).partition("=")
        word = value or (args.pop(at) if at < len(args) else flag)
        args.insert(0, word)
    named = bool(args) and not args[0].startswith("-")
    if not (named or "--config" in names):
        return args
    spread: list[str] = []
    several = None
    for word in args:
        if word.startswith("-"):
            several = word if word in SEVERAL else None
        elif several and spread[-1] != several:
            spread.append(several)
        spread.append(word)
    return spread


def _hyphens(word: str) -> str:
    """--served_model_name=a_b is --served-model-name=a_b."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


VERB = ServeCommand
"""The command this verb is made with, see cli/main.py."""


def _read_file(ctx: typer.Context, value: Path | None) -> Path | None:
    """Let the file's settings stand where no flag is given."""
    if value is not None:
        ctx.default_map = read_config_file(value, ctx.command)
    return value


@takes(
    engine=EngineFlags,
    layout=LayoutFlags,
    listen=ListenFlags,
    access=AccessFlags,
    limits=LimitFlags,
    answers=AnswerFlags,
    accepted=AcceptedFlags,
)
def run(
    ctx: typer.Context,
    model: Model = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            is_eager=True,
            callback=_read_file,
            help="Flags in YAML, without their dashes; flags given here win.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the configuration and the memory plan.")
    ] = False,
    *,
    engine: EngineFlags,
    layout: LayoutFlags,
    listen: ListenFlags,
    access: AccessFlags,
    limits: LimitFlags,
    answers: AnswerFlags,
    accepted: Any,
) -> None:
    """Serve until a signal ends it."""
    environment = read_environment()
    ignored = without_effect(accepted)
    wanted = layout.applied(engine.config(model))
    server = server_config(listen, access, limits, answers, environment.api_key)
    if ignored:
        LOG.info("accepted without effect here: %s", "; ".join(ignored))
    if dry_run:
        print(late("argosy.cli.dry_run").report(wanted, server, sources(ctx), engine.given))
        return
    template = engine.chat_template
    if template is not None:
        template = late("argosy.client.intake").read_template(template)
    code = serve(
        wanted,
        server,
        cache_dir=environment.cache,
        chat_template=template,
        given=engine.given,
        progress=ProgressLine("building"),
    )
    if code:
        raise typer.Exit(code)


def late(module: str) -> Any:
    """A module by name, only now: a server starts sooner without what it does not need at once."""
    return import_module(module)


def sources(ctx: typer.Context) -> dict[str, str]:
    """Where each parameter's value came from: flag, file or default."""
    words = {"COMMANDLINE": "flag", "DEFAULT_MAP": "file"}
    found = {p.name: ctx.get_parameter_source(p.name) for p in ctx.command.params if p.name}
    return {name: words.get(getattr(s, "name", ""), "default") for name, s in found.items()}
