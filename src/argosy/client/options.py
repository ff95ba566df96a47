"""The arguments of `LLM`: their names and types, and how they become an EngineConfig."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypedDict

from argosy.config import NO_EFFECT_ON_CPU, EngineConfig, check_accepted
from argosy.errors import ConfigError

LOG = logging.getLogger("argosy")

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class LLMOptions(TypedDict, total=False):
    """Keyword arguments of `LLM`, by vLLM's names; argosy.config says what each means.

    memory: bytes, or text such as "4G".
    chat_template: Jinja text or a file, in place of the model's.
    cache_dir: where bundles are built; default ARGOSY_CACHE or ~/.cache/argosy.
    The last ones, from swap_space on, are accepted, said once in the log, and have no effect;
    argosy.config.ONLY_VALUES has the values they may take.
    """

    tokenizer: str | Path | None
    revision: str | None
    dtype: str
    quantization: str | None
    max_model_len: int | None
    max_num_seqs: int
    max_num_batched_tokens: int
    enable_prefix_caching: bool
    kv_cache_dtype: str
    seed: int | None
    tensor_parallel_size: int
    pipeline_parallel_size: int
    gpu_memory_utilization: float
    memory: int | str | None
    block_size: int
    scheduling_policy: str
    runtime: str
    num_threads: int | None
    kv_pages: int | None
    keep_logits: bool
    chat_template: str | Path | None
    cache_dir: str | Path | None
    swap_space: float
    enforce_eager: bool
    trust_remote_code: bool
    disable_custom_all_reduce: bool
    cpu_offload_gb: float
    tokenizer_mode: str
    disable_log_stats: bool
    enable_chunked_prefill: bool
    load_format: str
    disable_log_requests: bool
    max_seq_len_to_capture: int
    max_logprobs: int
    served_model_name: str | list[str] | None
    compilation_config: Any
    distributed_executor_backend: str | None
    download_dir: str | None
    hf_token: str | bool | None
    tokenizer_revision: str | None
    enable_lora: bool
    limit_mm_per_prompt: Mapping[str, int] | None
    skip_tokenizer_init: bool
    device: str
    task: str
    runner: str


def engine_config(model: str | os.PathLike[str] | None, options: Mapping[str, Any]) -> EngineConfig:
    """The configuration of an LLM's arguments; those without effect are said in the log.

    Raises ConfigError for an unknown name or a value that cannot be honoured.
    """
    for name, value in options.items():
        _check_name(name)
        check_accepted(name, value)
    ignored = [name for name in options if name in NO_EFFECT_ON_CPU]
    if ignored:
        said = "; ".join(f"{name} ({NO_EFFECT_ON_CPU[name]})" for name in ignored)
        LOG.info("accepted without effect on a CPU: %s", said)
    known = {f.name for f in fields(EngineConfig)}
    values = {name: value for name, value in options.items() if name in known}
    values["memory"] = parse_bytes(values.get("memory"))
    values["dtype"] = str(values.get("dtype", "auto")).removeprefix("torch.")
    for name in ("block_size", "max_num_seqs", "max_num_batched_tokens"):  # vLLM: None is default
        if values.get(name, 0) is None:
            del values[name]
    if values.get("tokenizer") is not None:
        values["tokenizer"] = os.fspath(values["tokenizer"])
    return EngineConfig(model=None if model is None else os.fspath(model), **values)


def parse_bytes(size: int | str | None) -> int | None:
    """Bytes from a number, or text such as "4G", "800M", "1.5GiB" (powers of 1024).

    Raises ConfigError for anything else.
    """
    if not isinstance(size, str):
        return size
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", size.strip().lower())
    if match is None:
        raise ConfigError(f"memory={size!r} is not a size; write it as '4G', '800M' or in bytes")
    return int(float(match[1]) * _UNITS[match[2]])


def _check_name(name: str) -> None:
    known = LLMOptions.__annotations__
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    raise ConfigError(f"LLM has no argument {name!r}; {hint}")
