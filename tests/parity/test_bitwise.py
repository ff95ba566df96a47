"""The numeric contract, end to end: what shares the batch changes no bit of an answer.

64 mixed requests (greedy, seeded, penalties, masks, prompts of 1 to 1,300 tokens, shared
beginnings) on a model whose K crosses chunks (2,304 > 2,048) and whose contexts cross splits
(1,300 > 1,024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from argosy.bundle.build import build_bundle
from argosy.bundle.open import Bundle, open_bundle
from argosy.config import EngineConfig
from argosy.engine.engine import Engine, open_engine
from argosy.types import Request, SamplingParams
from random_models import write_model

FORMATS = ("fp32", "bf16", "w8", "w4")
VOCAB = 320
ALONE = {"max_num_seqs": 1, "max_num_batched_tokens": 512, "enable_prefix_caching": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "batches of 2": {"max_num_seqs": 2},
    "batches of 7, chunks of 64": {"max_num_seqs": 7, "max_num_batched_tokens": 64},
    "batches of 32": {"max_num_seqs": 32},
    "chunks of 16": {"max_num_seqs": 7, "max_num_batched_tokens": 16},
    "prefix cache": {"max_num_seqs": 7, "enable_prefix_caching": True},
    "preemption": {"max_num_seqs": 32, "kv_pages": 100},
    "preemption and prefix cache": {
        "max_num_seqs": 32,
        "kv_pages": 100,
        "enable_prefix_caching": True,
    },
    "two threads": {"max_num_seqs": 32, "num_threads": 2, "enable_prefix_caching": True},
}

Answer = tuple[tuple[int, ...], tuple[Any, ...]]


@dataclass(frozen=True)
class Ran:
    answers: dict[tuple[str, int], Answer]
    num_preemptions: int
    num_cached_tokens: int


@pytest.fixture(scope="module", params=FORMATS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp(request.param)
    write_model(
        folder / "model", hidden=64, heads=6, kv_heads=2, head_dim=20, layers=2, inter=2304,
        vocab=VOCAB, max_position=2048, tied=True, arch="qwen3",
    )  # fmt: skip
    return open_bundle(
        build_bundle(folder / "model", folder / "bundle", quantization=request.param)
    )


def mixed_requests() -> Iterator[Request]:
    rng = np.random.default_rng(11)
    shared = rng.integers(4, VOCAB, 1280).tolist()
    choices: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 1.0, "seed": 7},
        {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 3, "presence_penalty": 0.5},
        {"temperature": 1.5, "min_p": 0.05, "seed": 9, "logit_bias": {5: 4.0, 9: -50.0}},
        {"temperature": 1.0, "seed": 1, "allowed_token_ids": list(range(4, 200, 3))},
        {"temperature": 1.2, "top_p": 0.7, "seed": 4, "n": 2},
    ]
    for i in range(64):
        kept = (0, 15, 16, 33, 100, 700)[i % 6] if i % 8 else 1280
        own = rng.integers(4, VOCAB, int(rng.integers(1, 40))).tolist()
        params = SamplingParams(
            **choices[i % len(choices)], max_tokens=int(rng.integers(4, 20)), logprobs=3,
            prompt_logprobs=2 if i % 16 == 5 else None,
        )  # fmt: skip
        tokens = tuple(shared[:kept] + own)
        yield Request(
            request_id=str(i), token_ids=tokens, num_prompt_tokens=len(tokens), params=params,
            seed=params.seed or 0, max_total_tokens=2048, priority=i % 3,
        )  # fmt: skip


def run(bundle: Bundle, **options: Any) -> Ran:
    config = EngineConfig(memory=2**30, **{"num_threads": 1, **ALONE, **options})
    engine = open_engine(bundle, config)
    ran = drain(engine)
    engine.close()
    return ran


def drain(engine: Engine) -> Ran:
    tokens: dict[tuple[str, int], Answer] = {}
    cached = 0
    for request in mixed_requests():
        engine.add(request)
    while engine.has_work:
        for event in engine.step(0.0):
            assert event.error is None, event.error
            key = (event.request_id, event.index)
            ids, logprobs = tokens.get(key, ((), ()))
            extra = (*event.prompt_logprobs, *event.logprobs)
            tokens[key] = (ids + event.token_ids, logprobs + extra)
            cached += event.num_cached_tokens
    return Ran(tokens, engine.counters.preemptions, cached)


@pytest.fixture(scope="module")
def alone(bundle: Bundle) -> Ran:
    """Every request alone in the engine, without any cache of prompts."""
    return run(bundle)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_shares_the_batch_changes_no_bit(bundle: Bundle, alone: Ran, name: str) -> None:
    options = VARIANTS[name]
    ran = run(bundle, **options)
    assert ran.answers == alone.answers
    assert ("kv_pages" in options) == (ran.num_preemptions > 0)
    assert options.get("enable_prefix_caching", False) == (ran.num_cached_tokens > 0)


def test_the_requests_differ(alone: Ran) -> None:
    """What the comparison stands on: answers are long, and no two streams are the same."""
    streams = [ids for ids, _ in alone.answers.values()]
    assert len(streams) == 64 + 9
    assert len({ids[:4] for ids in streams}) > 50
    assert all(4 <= len(ids) < 20 for ids in streams)
