"""Argosy's engine under the harness: `python argosy_engine.py BUNDLE THREADS`."""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

import numpy as np
from protocol import CONTEXT, serve

from argosy.bundle.open import open_bundle
from argosy.config import EngineConfig
from argosy.engine.engine import choose_cache_dtype, open_engine
from argosy.model.program import Linear, Program, page_bytes
from argosy.types import PAGE_TOKENS, Request, SamplingParams


class ArgosyEngine:
    """The engine alone: requests of ids in, steps, events out."""

    def __init__(self, path: str, threads: int) -> None:
        bundle = open_bundle(path)
        config = EngineConfig(
            max_model_len=CONTEXT, num_threads=threads, enable_prefix_caching=False
        )
        self._engine = open_engine(bundle, config)
        self._vocab = bundle.program.vocab_size
        self._names = map(str, itertools.count())
        self._rng = np.random.default_rng(0)
        self.description = f"argosy, {bits(bundle.program)}"
        self.facts = facts(bundle.program, choose_cache_dtype(bundle, config))

    def _add(self, prompt: int, answer: int) -> None:
        tokens = tuple(self._rng.integers(0, self._vocab, prompt).tolist())
        self._engine.add(
            Request(
                request_id=next(self._names),
                token_ids=tokens,
                num_prompt_tokens=prompt,
                params=SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True),
                seed=0,
                max_total_tokens=CONTEXT,
            )
        )

    def prefill(self, tokens: int) -> float:
        self._add(tokens, 1)
        start = time.perf_counter()
        while self._engine.has_work:
            self._engine.step(0.0)
        return time.perf_counter() - start

    def decode(self, batch: int, tokens: int, context: int) -> float:
        for _ in range(batch):
            self._add(context, tokens + 8 * batch)  # the first go on while the last begin
        begun: set[str] = set()
        while len(begun) < batch:
            begun |= {event.request_id for event in self._engine.step(0.0)}
        start = time.perf_counter()
        for _ in range(tokens):
            assert len(self._engine.step(0.0)) == batch
        took = time.perf_counter() - start
        while self._engine.has_work:
            self._engine.step(0.0)
        return took


def bits(program: Program) -> str:
    """Stored bits per weight, the body's matrices and the head's apart."""
    head = program.matrices[program.head().weight]
    body = [m for m in program.matrices.values() if m is not head]
    share = 8 * sum(m.num_bytes for m in body) / sum(m.num_parameters for m in body)
    return f"{body[0].format} {share:.2f} bits, head {8 * head.num_bytes / head.num_parameters:.2f}"


def facts(program: Program, cache_dtype: str) -> dict[str, Any]:
    """What a step reads and computes: every matrix once, the embedding's rows left out."""
    head = program.matrices[program.head().weight]
    names = {op.weight for op in program.ops if isinstance(op, Linear)}
    body = [m for name, m in program.matrices.items() if name in names]
    return {
        "peak": "vnni_top_s" if body[0].format.quantized else "bf16_tflop_s",
        "step_bytes": sum(m.num_bytes for m in [*body, head]),
        "body_ops": 2 * sum(m.num_parameters for m in body),
        "head_ops": 2 * head.num_parameters,
        "kv_bytes": sum(page_bytes(g, cache_dtype) for g in program.caches) / PAGE_TOKENS,
    }


if __name__ == "__main__":
    serve(lambda: ArgosyEngine(sys.argv[1], int(sys.argv[2])))
