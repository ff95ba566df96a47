"""Argosy under the harness: its server, and its engine alone.

As a program, `python argosy_server.py BUNDLE THREADS SLOTS CONTEXT`, it is the bare engine: for
each line {"users", "requests", "input_len", "output_len"} on stdin it answers so many requests of
random ids, `users` at once, and says {"tokens_per_s"}.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from processes import Command
from settings import Settings

from argosy.bundle.open import open_bundle
from argosy.config import EngineConfig
from argosy.engine.engine import open_engine
from argosy.types import Request, SamplingParams

PRECISION = {"embedded": "w8", "0.5b": "w4, head w8"}


def command(settings: Settings, bundle: Path) -> Command:
    """`argosy serve`; where all cores are its own, it chooses its threads as it does for users."""
    all_cores = settings.threads == len(os.sched_getaffinity(0))
    threads = () if all_cores else ("--threads", str(settings.threads))
    argv = (
        sys.executable, "-m", "argosy", "serve", str(bundle), "--port", "{port}",
        *threads, "--max-num-seqs", str(settings.slots),
        "--max-model-len", str(settings.max_model_len), "--max-num-queued-reqs", "8192",
        *settings.argosy_args,
    )  # fmt: skip
    return Command(
        "argosy", PRECISION[settings.model], argv, ready="/ready", engine="argosy.engine.process"
    )


def bare_command(settings: Settings, bundle: Path) -> list[str]:
    """The engine alone, with the same limits."""
    numbers = (settings.threads, settings.slots, settings.max_model_len)
    return [sys.executable, __file__, str(bundle), *map(str, numbers)]


class BareEngine:
    """Requests of ids in, steps, events out: no text, no processes, no HTTP."""

    def __init__(self, bundle: str, threads: int, slots: int, context: int) -> None:
        opened = open_bundle(bundle)
        config = EngineConfig(num_threads=threads, max_num_seqs=slots, max_model_len=context)
        self._engine = open_engine(opened, config)
        self._vocab, self._context = opened.program.vocab_size, context
        self._draw, self._sent = random.Random(0), 0

    def _add(self, input_len: int, output_len: int) -> None:
        self._sent += 1
        ids = tuple(self._draw.randrange(self._vocab) for _ in range(input_len))
        params = SamplingParams(temperature=0, max_tokens=output_len, ignore_eos=True)
        self._engine.add(
            Request(
                request_id=str(self._sent),
                token_ids=ids,
                num_prompt_tokens=input_len,
                params=params,
                seed=0,
                max_total_tokens=min(self._context, input_len + output_len),
            )
        )

    def run(self, users: int, requests: int, input_len: int, output_len: int) -> float:
        """Tokens per second from the first request to the last answer."""
        tokens, left, start = 0, requests, time.perf_counter()
        for _ in range(min(users, requests)):
            self._add(input_len, output_len)
            left -= 1
        while self._engine.has_work:
            for event in self._engine.step(time.monotonic()):
                tokens += len(event.token_ids)
                if event.finish_reason is not None and left:
                    self._add(input_len, output_len)
                    left -= 1
        return tokens / (time.perf_counter() - start)


def main() -> None:
    engine = BareEngine(sys.argv[1], *map(int, sys.argv[2:]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"tokens_per_s": engine.run(**json.loads(line))}), flush=True)


if __name__ == "__main__":
    main()
