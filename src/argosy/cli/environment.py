"""What the environment says: the one place that reads it.

HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and the like are read by huggingface_hub itself.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

from argosy.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Environment:
    """Settings that come from variables.

    cache: folder of built bundles (ARGOSY_CACHE).  log_level: one of LEVELS (ARGOSY_LOG).
    colour: whether colour is welcome on a terminal (NO_COLOR unset or empty, TERM not "dumb").
    api_key: a server's, where none is given (ARGOSY_API_KEY, or else VLLM_API_KEY).
    """

    cache: Path
    log_level: str
    colour: bool
    api_key: str | None = field(default=None, repr=False)


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """The settings of this process, or of `variables`.

    Raises ConfigError for an unknown level, or several keys where there can be one.
    """
    values = os.environ if variables is None else variables
    level = values.get("ARGOSY_LOG", "info").lower()
    if level not in LEVELS:
        raise ConfigError(f"ARGOSY_LOG={level!r} is unknown; choose one of {', '.join(LEVELS)}")
    cache = values.get("ARGOSY_CACHE")
    key = values.get("ARGOSY_API_KEY") or values.get("VLLM_API_KEY") or None
    if key is not None and "," in key:
        raise ConfigError("an API key in the environment has a comma; give several by --api-key")
    return Environment(
        cache=Path(cache).expanduser() if cache else Path.home() / ".cache" / "argosy",
        log_level=level,
        colour=not values.get("NO_COLOR") and values.get("TERM") != "dumb",
        api_key=key,
    )


def start_logging(level: str) -> None:
    """Send our own log from `level` on, and everybody's warnings, to stderr as plain lines."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("argosy").setLevel(level.upper())


def forgiving_streams() -> None:
    """Let no closed stream, odd byte of stdin or odd character on stdout end the process.

    Undecodable input becomes lone surrogates, which the engine refuses by name.
    """
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115 (for good)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit(143) in the block, so that what it was making is removed."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
