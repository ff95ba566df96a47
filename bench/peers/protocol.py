"""What the harness asks of an engine: one JSON line per measurement on stdin, one answer each.

    {"measure": "prefill", "tokens": 512}                              -> {"tokens_per_s": ...}
    {"measure": "decode", "batch": 8, "tokens": 48, "context": 32}     -> {"tokens_per_s": ...}

Standard library only: every peer runs it in an environment of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Protocol

CONTEXT = 8192
"""Tokens that every engine has room for."""


class Engine(Protocol):
    """One engine with a model of the benchmark's shape loaded."""

    description: str
    facts: dict[str, Any]  # what a share of a ceiling is computed from; may be empty

    def prefill(self, tokens: int) -> float:
        """Seconds for one prompt of `tokens`, up to its first drawn token; nothing cached."""
        ...

    def decode(self, batch: int, tokens: int, context: int) -> float:
        """Seconds for `tokens` steps of `batch` sequences, each after `context` tokens.

        From a streamed token to the one `tokens` later: no prompt, and no difference of two runs.
        """
        ...


def serve(load: Callable[[], Engine]) -> None:
    """Load the engine, say so, and answer until stdin ends."""
    engine = load()
    print(json.dumps({"ready": engine.description} | engine.facts), flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        kind = ask.pop("measure")
        count = ask.get("batch", 1) * ask["tokens"]
        rate = count / (engine.prefill(**ask) if kind == "prefill" else engine.decode(**ask))
        print(json.dumps({"tokens_per_s": rate}), flush=True)
