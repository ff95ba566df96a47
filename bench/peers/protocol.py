"""What the harness asks of an engine: one JSON line per measurement on stdin, one answer each.

    {"measure": "prefill", "tokens": 512}               -> {"tokens_per_s": ...}
    {"measure": "decode", "batch": 8, "tokens": 48}     -> {"tokens_per_s": ...}

Standard library only: every peer runs it in an environment of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Protocol


class Engine(Protocol):
    """One engine with a model of the benchmark's shape loaded."""

    description: str

    def prefill(self, tokens: int) -> float:
        """Seconds for one prompt of `tokens`, up to its first drawn token; nothing cached."""
        ...

    def decode(self, batch: int, tokens: int) -> float:
        """Seconds for `tokens` steps of `batch` sequences, each after a prompt of 32 tokens."""
        ...


def serve(load: Callable[[], Engine]) -> None:
    """Load the engine, say so, and answer until stdin ends."""
    engine = load()
    print(json.dumps({"ready": engine.description}), flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["measure"] == "prefill":
            rate = ask["tokens"] / engine.prefill(ask["tokens"])
        else:
            rate = ask["batch"] * ask["tokens"] / engine.decode(ask["batch"], ask["tokens"])
        print(json.dumps({"tokens_per_s": rate}), flush=True)
