"""The configuration of an engine: what was asked for, whole and frozen.

Nothing here reads the environment or the machine. `EngineConfig` holds the caller's words;
`engine.plan.plan_memory` and `bundle.open` turn "auto" into facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from argosy.errors import ConfigError
from argosy.model.formats import parse_cache_dtype, parse_dtype
from argosy.types import PAGE_TOKENS

RUNTIMES = ("native", "reference")
POLICIES = ("fcfs", "priority")
MAX_THREADS = 1024

NO_EFFECT_ON_CPU: dict[str, str] = {
    "swap_space": "pages are recomputed, not swapped",
    "enforce_eager": "there are no graphs to capture",
    "trust_remote_code": "no remote code is ever executed",
    "disable_custom_all_reduce": "there is one process",
    "cpu_offload_gb": "weights are on the CPU already",
    "tokenizer_mode": "there is one tokenizer",
    "disable_log_stats": "no statistics are logged",
    "enable_chunked_prefill": "prompts are always computed in chunks",
    "load_format": "safetensors and bundles are recognised by themselves",
}
"""Arguments of vLLM that are accepted, said once in the log, and change nothing here."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What the caller asked for. Raises ConfigError for a value that cannot be honoured.

    model: a bundle, a Hugging Face folder, `org/model` in the local cache, or None: the one that
        comes with Argosy.
    dtype: auto, float32, float16, bfloat16.  quantization: a format such as w4, w8, w4g64z, bf16.
    max_model_len: tokens of prompt and answer; None: the model's own.
    max_num_batched_tokens: tokens computed in one step (decoding and prompts together).
    max_num_seqs: sequences running at once.  kv_cache_dtype: auto, fp32, bf16.
    memory: bytes the engine may use at most; None: what the machine and its cgroup allow.
    gpu_memory_utilization: the share of that limit (of the card's memory on a GPU).
    num_threads: None: as many as affinity and the cgroup's cpu.max allow.
    seed: base of the seeds drawn for requests that give none.
    """

    model: str | None = None
    tokenizer: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    enable_prefix_caching: bool = True
    kv_cache_dtype: str = "auto"
    seed: int | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    memory: int | None = None
    block_size: int = PAGE_TOKENS
    scheduling_policy: str = "fcfs"
    runtime: str = "native"
    num_threads: int | None = None
    kv_pages: int | None = None
    keep_logits: bool = False

    def __post_init__(self) -> None:
        parse_dtype(self.dtype)
        if self.kv_cache_dtype != "auto":
            parse_cache_dtype(self.kv_cache_dtype)
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            _positive(name, getattr(self, name))
        for name in ("max_model_len", "memory", "num_threads", "kv_pages"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            _positive(name, getattr(self, name))
            if getattr(self, name) > 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: sharding is not built yet; set {name}=1 "
                    "(one process already uses all cores)"
                )
        if self.num_threads is not None and self.num_threads > MAX_THREADS:
            raise ConfigError(
                f"num_threads={self.num_threads} exceeds {MAX_THREADS}; leave it out to use every core"
            )
        share = self.gpu_memory_utilization
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ConfigError(f"gpu_memory_utilization={share!r} must lie in (0, 1]")
        if self.block_size != PAGE_TOKENS:
            raise ConfigError(
                f"block_size={self.block_size} is not served; pages hold {PAGE_TOKENS} tokens"
            )
        if self.scheduling_policy not in POLICIES:
            raise ConfigError(f"scheduling_policy={self.scheduling_policy!r} is none of {POLICIES}")
        if self.runtime not in RUNTIMES:
            raise ConfigError(f"runtime={self.runtime!r} is none of {RUNTIMES}")


def _positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**62:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least 1")
