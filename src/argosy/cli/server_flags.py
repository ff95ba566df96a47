"""The flags of `argosy serve` beside those of every engine, and the configurations they make."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from argosy.cli.options import parse_count
from argosy.client.options import parse_bytes
from argosy.config import EngineConfig, ServerConfig
from argosy.errors import ConfigError
from argosy.types import MAX_LOGPROBS, PAGE_TOKENS

KEY_FILE_BYTES = 2**20


def parse_bound(text: str | int) -> int:
    """A count as `parse_count` takes it, or 0."""
    return 0 if str(text).strip() == "0" else parse_count(text)


def _size(text: str | int) -> int:
    try:
        return parse_bytes(str(text)) or 0
    except ConfigError as exc:
        raise typer.BadParameter(f"{text!r} is not a size; write it as 32M or in bytes") from exc


@dataclass(frozen=True, kw_only=True)
class LayoutFlags:
    """How work and memory are laid out, by vLLM's names; several have one value that is served."""

    scheduling_policy: Annotated[
        str, typer.Option(metavar="NAME", help="fcfs, or priority: requests say which goes first.")
    ] = EngineConfig.scheduling_policy
    block_size: Annotated[
        int, typer.Option(metavar="N", help=f"Tokens of a KV page; {PAGE_TOKENS} is served.")
    ] = PAGE_TOKENS
    tensor_parallel_size: Annotated[
        int,
        typer.Option(
            "--tensor-parallel-size",
            "-tp",
            metavar="N",
            help="1: one process uses all cores; sharding is not built yet.",
        ),
    ] = 1
    pipeline_parallel_size: Annotated[
        int, typer.Option("--pipeline-parallel-size", "-pp", metavar="N", help="Likewise 1.")
    ] = 1

    def applied(self, config: EngineConfig) -> EngineConfig:
        """`config` with these. Raises ConfigError for what is not served."""
        return replace(config, **{f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class ListenFlags:
    """Where the server listens, and as whom."""

    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0 listens on all interfaces.")
    ] = ServerConfig.host
    port: Annotated[int, typer.Option(metavar="N", help="0 takes a free one, told when ready.")] = (
        ServerConfig.port
    )
    uds: Annotated[
        str | None, typer.Option(metavar="PATH", help="A Unix socket instead of host and port.")
    ] = None
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What clients call the model; may be repeated, the first is told.",
            show_default="MODEL as given",
        ),
    ] = None
    ssl_certfile: Annotated[
        str | None, typer.Option(metavar="FILE", help="Certificate (PEM): serve https.")
    ] = None
    ssl_keyfile: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its key, where not in the same file.")
    ] = None
    api_server_count: Annotated[
        int,
        typer.Option(
            "--api-server-count",
            "-asc",
            metavar="N",
            help="Processes that speak HTTP; more help with thousands of streams.",
        ),
    ] = ServerConfig.api_server_count
    shutdown_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="After Ctrl-C or SIGTERM, streams may go on this long."
        ),
    ] = ServerConfig.shutdown_timeout


@dataclass(frozen=True, kw_only=True)
class AccessFlags:
    """Who may come in."""

    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Asked for in Authorization: Bearer KEY; may be repeated, any opens.",
            show_default="ARGOSY_API_KEY or VLLM_API_KEY",
        ),
    ] = None
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys, one a line; # begins a comment.")
    ] = None
    protect_probes: Annotated[
        bool,
        typer.Option("--protect-probes", help="Ask on /health, /ready and /metrics too."),
    ] = False
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", help="Web pages that may call (CORS), or *; may be repeated."
        ),
    ] = None

    def keys(self) -> tuple[str, ...]:
        """All keys that were given. Raises ConfigError for a file of none."""
        given = list(self.api_key or [])
        if self.api_key_file is not None:
            given += read_keys(self.api_key_file)
        return tuple(given)

    def origins(self) -> tuple[str, ...]:
        """The origins; each word may also be a JSON list, as vLLM has it."""
        return tuple(one for word in self.allowed_origins or [] for one in _listed(word))


@dataclass(frozen=True, kw_only=True)
class LimitFlags:
    """How much is let in; what is over a limit is refused by name, with 429 where it may pass."""

    max_num_queued_reqs: Annotated[
        int,
        typer.Option(
            parser=parse_bound, metavar="N", help="Requests waiting beyond --max-num-seqs."
        ),
    ] = ServerConfig.max_num_queued_reqs
    max_num_queued_tokens: Annotated[
        int | None,
        typer.Option(
            parser=parse_count,
            metavar="N",
            help="Prompt tokens accepted and not yet answered.",
            show_default="no limit",
        ),
    ] = None
    request_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="An answer is cut off after this.", show_default="never"
        ),
    ] = None
    max_body_bytes: Annotated[
        int, typer.Option(parser=_size, metavar="SIZE", help="Longest request body, as in 32M.")
    ] = ServerConfig.max_body_bytes
    max_logprobs: Annotated[
        int, typer.Option(metavar="N", help=f"Most a request may ask for, up to {MAX_LOGPROBS}.")
    ] = ServerConfig.max_logprobs


@dataclass(frozen=True, kw_only=True)
class AnswerFlags:
    """What is said of requests and answers."""

    strict_fields: Annotated[
        bool, typer.Option("--strict-fields", help="Refuse fields nobody knows (400).")
    ] = False
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell with each answer where its time went.")
    ] = False
    log_requests: Annotated[
        bool,
        typer.Option(
            "--enable-log-requests/--disable-log-requests",
            " /--no-enable-log-requests",
            help="One JSON line per request on stderr, never its text.",
        ),
    ] = ServerConfig.log_requests


def server_config(
    listen: ListenFlags,
    access: AccessFlags,
    limits: LimitFlags,
    answers: AnswerFlags,
    fallback_key: str | None = None,
) -> ServerConfig:
    """The configuration asked for; `fallback_key` counts where no key was given.

    Raises ConfigError for a value that cannot be honoured.
    """
    values: dict[str, Any] = {
        f.name: getattr(group, f.name) for group in (listen, limits, answers) for f in fields(group)
    }
    values["served_model_name"] = tuple(listen.served_model_name or ())
    keys = access.keys() or ((fallback_key,) if fallback_key else ())
    return ServerConfig(
        **values,
        api_keys=keys,
        protect_probes=access.protect_probes,
        allowed_origins=access.origins(),
    )


def read_keys(path: Path) -> list[str]:
    """The keys in a file. Raises ConfigError where it cannot be read or has none."""
    try:
        with path.open(encoding="utf-8") as file:
            lines = [line.strip() for line in file.read(KEY_FILE_BYTES).splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not text"
        raise ConfigError(f"api_key_file={path} cannot be read: {reason}") from exc
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"api_key_file={path} holds no key; write one a line, or leave it out")
    return keys


def _listed(word: str) -> list[str]:
    try:
        found = json.loads(word)
    except ValueError:
        return [word]
    return [str(one) for one in found] if isinstance(found, list) else [word]
