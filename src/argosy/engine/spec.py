"""What an engine process is told at its start, and the command that starts one.

A small file: whoever starts engines imports it and not the engine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

READY = b"ready\n"
"""What the engine writes on its lifeline once it serves."""

FAILED = b"error "
"""How the line begins that it writes when it cannot: `error <class name> <message>`."""

_START = """\
import sys
root, spec = sys.argv[1:]
if root not in sys.path:
    sys.path.insert(0, root)
from argosy.engine.process import main
main(spec)
"""


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One engine process.

    bundle: a bundle's folder.  config: the fields of an EngineConfig, those the bundle's limits
    settle settled (`dataclasses.asdict`).  epoch: of its messages.
    listener, board, lifeline: descriptors it inherits: the Unix stream socket fronts connect to,
    the Board's, and its end of a socket pair whose other end tells it that the supervisor lives.
    opener: in place of `open_served`, "module:function" taking (bundle, EngineConfig) and
    returning an Engine; python_path: folders in which that module is looked for.
    """

    bundle: str
    config: dict[str, Any]
    listener: int
    board: int
    lifeline: int
    epoch: int
    opener: str | None = None
    python_path: list[str] = []


def command(spec: EngineSpec) -> list[str]:
    """The command line of an engine process; it needs the spec's three descriptors passed on.

    It finds this very package, and no module of the folder it is started in.
    """
    root = str(Path(__file__).resolve().parents[2])
    return [sys.executable, "-P", "-c", _START, root, msgspec.json.encode(spec).decode()]


def parse_spec(text: str) -> EngineSpec:
    """The spec of a command line. Raises msgspec.ValidationError."""
    return msgspec.json.decode(text, type=EngineSpec)
