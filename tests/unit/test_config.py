"""EngineConfig: what is accepted, and what is refused with a remedy."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from argosy.config import NO_EFFECT_ON_CPU, ONLY_VALUES, EngineConfig
from argosy.errors import ArgosyError, ConfigError
from argosy.types import PAGE_TOKENS

COUNTS = ("max_num_seqs",)
OPTIONAL_COUNTS = ("max_model_len", "max_num_batched_tokens", "memory", "num_threads", "kv_pages")
SHARDS = ("tensor_parallel_size", "pipeline_parallel_size")

BAD: list[tuple[str, Any, str]] = [
    *[(n, v, "whole number of at least 1") for n in COUNTS for v in (0, -1, 1.0, "8", True, None)],
    *[
        (n, v, "whole number of at least 1")
        for n in OPTIONAL_COUNTS
        for v in (0, -1, 1.5, "4G", 2**62)
    ],
    *[(n, v, "whole number of at least 1") for n in SHARDS for v in (0, "2", True, None)],
    *[(n, 2, f"sharding is not built yet; set {n}=1") for n in SHARDS],
    *[("gpu_memory_utilization", v, r"must lie in \(0, 1\]") for v in (0, 1.01, -1, "0.9", True)],
    ("gpu_memory_utilization", float("nan"), r"must lie in \(0, 1\]"),
    ("num_threads", 1025, "exceeds 1024"),
    *[(n, v, "True or False") for n in ("enable_prefix_caching", "keep_logits") for v in (1, None)],
    *[("seed", v, "whole number, or None") for v in (1.0, "1", True, np.True_)],
    *[(n, 4, "must be text") for n in ("quantization", "revision", "tokenizer", "model")],
    ("block_size", 32, f"pages hold {PAGE_TOKENS} tokens"),
    ("scheduling_policy", "lottery", r"is none of .*fcfs.*priority"),
    ("runtime", "torch", r"is none of .*native.*reference"),
    ("dtype", "int4", "int4"),
    ("kv_cache_dtype", "fp8", "fp8"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=lambda v: repr(v)[:30])
def test_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        EngineConfig(**{name: value})
    assert isinstance(caught.value, ArgosyError) and isinstance(caught.value, ValueError)
    if name not in ("dtype", "kv_cache_dtype"):
        assert name in str(caught.value)


GOOD: list[dict[str, Any]] = [
    {},
    {"dtype": "float32"},
    {"dtype": "bfloat16", "kv_cache_dtype": "bf16"},
    {"max_model_len": 1, "memory": 1, "num_threads": 1, "kv_pages": 1},
    {"gpu_memory_utilization": 1},
    {"scheduling_policy": "priority", "runtime": "reference"},
    {"block_size": 16, "tensor_parallel_size": 1, "pipeline_parallel_size": 1},
]


@pytest.mark.parametrize("values", GOOD, ids=repr)
def test_accepted(values: dict[str, Any]) -> None:
    config = EngineConfig(**values)
    assert all(getattr(config, name) == value for name, value in values.items())


def test_numbers_of_any_kind_become_plain() -> None:
    config = EngineConfig(
        max_num_seqs=np.int64(3),  # type: ignore[arg-type]
        max_model_len=np.uint16(5),  # type: ignore[arg-type]
        seed=np.int8(-2),  # type: ignore[arg-type]
        gpu_memory_utilization=np.float32(0.5),  # type: ignore[arg-type]
    )
    values = (config.max_num_seqs, config.max_model_len, config.seed, config.gpu_memory_utilization)
    assert values == (3, 5, -2, 0.5)
    assert [type(v) for v in values] == [int, int, int, float]


def test_defaults() -> None:
    config = EngineConfig()
    assert config.model is None and config.enable_prefix_caching
    assert (config.dtype, config.kv_cache_dtype) == ("auto", "auto")


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        EngineConfig().seed = 1  # type: ignore[misc]


def test_what_has_no_effect_says_why() -> None:
    assert all(reason and not reason.endswith(".") for reason in NO_EFFECT_ON_CPU.values())
    assert set(ONLY_VALUES) <= set(NO_EFFECT_ON_CPU)
    assert not set(NO_EFFECT_ON_CPU) & {f for f in EngineConfig.__dataclass_fields__}
