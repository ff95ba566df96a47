"""What the environment says: the one place that reads it.

HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and the like are read by huggingface_hub itself.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from argosy.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Environment:
    """Settings that come from variables.

    cache: folder of built bundles (ARGOSY_CACHE).  log_level: one of LEVELS (ARGOSY_LOG).
    colour: whether colour is welcome on a terminal (NO_COLOR unset or empty, TERM not "dumb").
    """

    cache: Path
    log_level: str
    colour: bool


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """The settings of this process, or of `variables`. Raises ConfigError for an unknown level."""
    values = os.environ if variables is None else variables
    level = values.get("ARGOSY_LOG", "info").lower()
    if level not in LEVELS:
        raise ConfigError(f"ARGOSY_LOG={level!r} is unknown; choose one of {', '.join(LEVELS)}")
    cache = values.get("ARGOSY_CACHE")
    return Environment(
        cache=Path(cache).expanduser() if cache else Path.home() / ".cache" / "argosy",
        log_level=level,
        colour=not values.get("NO_COLOR") and values.get("TERM") != "dumb",
    )


def start_logging(level: str) -> None:
    """Send our own log from `level` on, and everybody's warnings, to stderr as plain lines."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("argosy").setLevel(level.upper())


def forgiving_streams() -> None:
    """Let no odd byte on stdin or odd character on stdout end the process.

    Undecodable input becomes lone surrogates, which the engine refuses by name.
    """
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if isinstance(stream, TextIO) or hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)  # type: ignore[union-attr]
