"""The configuration of an engine: what was asked for, whole and frozen.

Nothing here reads the environment or the machine. `EngineConfig` holds the caller's words;
`engine.plan.plan_memory` and `bundle.open` turn "auto" into facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from numbers import Real
from typing import Any

from argosy.errors import ConfigError
from argosy.model.formats import parse_cache_dtype, parse_dtype
from argosy.types import MAX_LOGPROBS, PAGE_TOKENS, whole

RUNTIMES = ("native", "reference")
POLICIES = ("fcfs", "priority")
MAX_THREADS = 1024
MAX_FRONTS = 64
MAX_SOCKET_PATH = 100
"""Bytes; a Unix socket's address holds 107."""

NO_EFFECT_ON_CPU: dict[str, str] = {
    "swap_space": "pages are recomputed, not swapped",
    "enforce_eager": "there are no graphs to capture",
    "trust_remote_code": "no remote code is ever executed",
    "disable_custom_all_reduce": "there is one process",
    "cpu_offload_gb": "weights are on the CPU already",
    "tokenizer_mode": "there is one tokenizer",
    "disable_log_stats": "no statistics are logged",
    "disable_log_requests": "no requests are logged",
    "enable_chunked_prefill": "prompts are always computed in chunks",
    "load_format": "safetensors and bundles are recognised by themselves",
    "max_seq_len_to_capture": "there are no graphs to capture",
    "max_logprobs": "20 may be asked for at most",
    "served_model_name": "an LLM serves nobody by name",
    "compilation_config": "nothing is compiled at run time",
    "distributed_executor_backend": "there is one process",
    "download_dir": "models lie in the Hugging Face cache; HF_HOME says where",
    "hf_token": "huggingface_hub finds its own; HF_TOKEN says which",
    "tokenizer_revision": "the tokenizer is that of the model's revision",
    "enable_lora": "adapters are not built yet",
    "limit_mm_per_prompt": "prompts are text",
    "skip_tokenizer_init": "prompts and answers are text",
    "device": "this is a CPU",
    "task": "models generate",
    "runner": "models generate",
}
"""Arguments of vLLM that are accepted, said once in the log, and change nothing here."""

ONLY_VALUES: dict[str, tuple[Any, ...]] = {
    "cpu_offload_gb": (0, 0.0),
    "tokenizer_mode": ("auto", "hf"),
    "enable_chunked_prefill": (None, True),
    "load_format": ("auto", "safetensors"),
    "compilation_config": (None, {}, 0),
    "distributed_executor_backend": (None, "mp", "uni"),
    "download_dir": (None,),
    "hf_token": (None,),
    "tokenizer_revision": (None,),
    "enable_lora": (False,),
    "limit_mm_per_prompt": (None, {}),
    "skip_tokenizer_init": (False,),
    "device": ("auto", "cpu"),
    "task": ("auto", "generate"),
    "runner": ("auto", "generate"),
    "max_logprobs": (MAX_LOGPROBS,),
}
"""Of some of these, the only values that are true here; others are refused by name."""


def check_accepted(
    name: str,
    value: Any,
    why: Mapping[str, str] = NO_EFFECT_ON_CPU,
    only: Mapping[str, tuple[Any, ...]] = ONLY_VALUES,
) -> None:
    """Raise ConfigError if argument `name` has no effect here and `value` would need one."""
    values = only.get(name)
    if values is None or any(type(value) is type(one) and value == one for one in values):
        return
    raise ConfigError(
        f"{name}={'...' if name == 'hf_token' else repr(value)} cannot be honoured "
        f"({why[name]}); leave it out, or give {', '.join(map(repr, values))}"
    )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What the caller asked for. Raises ConfigError for a value that cannot be honoured.

    model: a bundle, a Hugging Face folder, `org/model` in the local cache, or None: the one that
        comes with Argosy.
    dtype: auto, float32, float16, bfloat16.  quantization: a format such as w4, w8, w4g64z, bf16.
    max_model_len: tokens of prompt and answer; None: the model's own.
    max_num_batched_tokens: tokens computed in one step (decoding and prompts together); None: what
        this machine is measured to compute in less than half a second, from 32 to 2048.
    max_num_seqs: sequences running at once.  kv_cache_dtype: auto, fp32, bf16, int8.
    memory: bytes the engine may use at most; None: what the machine and its cgroup allow.
    gpu_memory_utilization: the share of that limit (of the card's memory on a GPU).
    num_threads: None: as many as affinity and the cgroup's cpu.max allow.
    seed: base of the seeds drawn for requests that give none.
    Whole numbers of any kind are taken, NumPy's too, and kept as plain ones.
    """

    model: str | None = None
    tokenizer: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
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
        put = object.__setattr__  # the only writes: normalising while the value is being built
        for name in ("model", "tokenizer", "revision", "quantization"):
            if not isinstance(getattr(self, name), str | None):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be text, or None")
        for name in ("enable_prefix_caching", "keep_logits"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be True or False")
        seed = whole(self.seed)
        if seed is None and self.seed is not None:
            raise ConfigError(f"seed={self.seed!r} must be a whole number, or None")
        put(self, "seed", seed)
        parse_dtype(self.dtype)
        if self.kv_cache_dtype != "auto":
            parse_cache_dtype(self.kv_cache_dtype)
        put(self, "max_num_seqs", _positive("max_num_seqs", self.max_num_seqs))
        for name in (
            "max_model_len",
            "max_num_batched_tokens",
            "memory",
            "num_threads",
            "kv_pages",
        ):
            if getattr(self, name) is not None:
                put(self, name, _positive(name, getattr(self, name)))
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            put(self, name, _positive(name, getattr(self, name)))
            if getattr(self, name) > 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: sharding is not built yet; set {name}=1 "
                    "(one process already uses all cores)"
                )
        if self.num_threads is not None and self.num_threads > MAX_THREADS:
            raise ConfigError(
                f"num_threads={self.num_threads} exceeds {MAX_THREADS}; leave it out for all cores"
            )
        share = self.gpu_memory_utilization
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share <= 1:
            raise ConfigError(f"gpu_memory_utilization={share!r} must lie in (0, 1]")
        put(self, "gpu_memory_utilization", float(share))
        if self.block_size != PAGE_TOKENS:
            raise ConfigError(
                f"block_size={self.block_size} is not served; pages hold {PAGE_TOKENS} tokens"
            )
        if self.scheduling_policy not in POLICIES:
            raise ConfigError(f"scheduling_policy={self.scheduling_policy!r} is none of {POLICIES}")
        if self.runtime not in RUNTIMES:
            raise ConfigError(f"runtime={self.runtime!r} is none of {RUNTIMES}")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How an engine is served over HTTP: everything `argosy serve` knows beside EngineConfig.

    host, port: where to listen; port 0 takes a free one.  uds: a Unix socket instead.
    served_model_name: names clients may use, the first one is told; empty: the model's own.
    api_keys: any of them opens /v1 and the rest; empty: no key is asked for.
    protect_probes: ask for the key on /health, /ready and /metrics too.
    max_logprobs: most logprobs a request may ask for.
    max_num_queued_reqs: requests waiting beyond the seats (max_num_seqs) before 429.
    max_num_queued_tokens: prompt tokens accepted and not yet answered before 429; None: no limit.
    request_timeout: seconds until a request is ended; None: never.
    shutdown_timeout: seconds that streams under way are given after the first Ctrl-C.
    strict_fields: refuse fields that no reference knows.  explain: tell with each answer where its
    time went.  log_requests: one line a request.  api_server_count: front processes.
    max_body_bytes: of one HTTP request.  allowed_origins: for browsers (CORS).
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    served_model_name: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    protect_probes: bool = False
    max_logprobs: int = MAX_LOGPROBS
    max_num_queued_reqs: int = 1024
    max_num_queued_tokens: int | None = None
    request_timeout: float | None = None
    shutdown_timeout: float = 25.0
    strict_fields: bool = False
    explain: bool = False
    log_requests: bool = True
    api_server_count: int = 1
    max_body_bytes: int = 32 * 2**20
    allowed_origins: tuple[str, ...] = ()
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__  # the only writes: normalising while the value is being built
        for one in fields(self):
            value = getattr(self, one.name)
            if one.type == "bool" and not isinstance(value, bool):
                raise ConfigError(f"{one.name}={value!r} must be True or False")
            if one.type == "tuple[str, ...]":
                put(self, one.name, _texts(one.name, value))
        if not (isinstance(self.host, str) and self.host):
            raise ConfigError(f"host={self.host!r} must be an address or a name, as in '0.0.0.0'")
        for name, (least, most) in _WHOLE.items():
            put(self, name, _between(name, getattr(self, name), least, most))
        if self.max_num_queued_tokens is not None:
            name = "max_num_queued_tokens"
            put(self, name, _positive(name, self.max_num_queued_tokens))
        if self.request_timeout is not None:
            put(self, "request_timeout", _seconds("request_timeout", self.request_timeout))
            if not self.request_timeout:
                raise ConfigError("request_timeout=0 would end every request; leave it out")
        put(self, "shutdown_timeout", _seconds("shutdown_timeout", self.shutdown_timeout))
        self._check_places()
        _check_keys(self.api_keys)

    def _check_places(self) -> None:
        """Raise ConfigError for a socket or certificate that cannot be."""
        for name in ("uds", "ssl_certfile", "ssl_keyfile"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                raise ConfigError(f"{name}={value!r} must be a path, or None")
        if self.uds is not None and len(self.uds.encode(errors="replace")) > MAX_SOCKET_PATH:
            raise ConfigError(
                f"uds={self.uds!r} is longer than the {MAX_SOCKET_PATH} bytes a socket's path may "
                "have; choose a shorter one"
            )
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ConfigError(
                f"ssl_keyfile={self.ssl_keyfile!r} needs a certificate; give ssl_certfile too"
            )


_WHOLE = {
    "port": (0, 65535),
    "max_logprobs": (0, MAX_LOGPROBS),
    "max_num_queued_reqs": (0, 2**62),
    "api_server_count": (1, MAX_FRONTS),
    "max_body_bytes": (1, 2**62),
}
"""Least and most of ServerConfig's whole numbers."""


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """One text or several as a tuple; what they are is not told, since some are secrets."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, tuple | list) or not all(isinstance(t, str) and t for t in texts):
        raise ConfigError(f"{name} must be texts, none of them empty")
    return tuple(dict.fromkeys(texts))


def _check_keys(keys: tuple[str, ...]) -> None:
    """Raise ConfigError for a key that no Authorization header can carry; it is not repeated."""
    for number, key in enumerate(keys, 1):
        if not all("!" <= c <= "~" for c in key):
            raise ConfigError(
                f"api key {number} of {len(keys)} has a space or a character beyond ASCII; "
                "keys are visible ASCII characters only"
            )


def _between(name: str, value: Any, least: int, most: int) -> int:
    number = whole(value)
    if number is None or not least <= number <= most:
        limits = f"from {least} to {most}" if most < 2**62 else f"of at least {least}"
        raise ConfigError(f"{name}={value!r} must be a whole number {limits}")
    return number


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < inf:
        raise ConfigError(f"{name}={value!r} must be seconds, 0 or more")
    return float(value)


def _positive(name: str, value: Any) -> int:
    number = whole(value)
    if number is None or not 1 <= number < 2**62:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least 1")
    return number
