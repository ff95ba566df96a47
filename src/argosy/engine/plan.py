"""How the memory allowed is divided: weights, workspace, and what is left for pages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

from argosy.config import EngineConfig
from argosy.engine.machine import Machine
from argosy.engine.pages import PagePool
from argosy.engine.scheduler import SCORE_ROWS
from argosy.engine.step import MIN_BATCHED_TOKENS, prompt_share
from argosy.errors import ConfigError, OutOfMemory
from argosy.model.program import CacheGroup, Program, page_bytes
from argosy.types import PAGE_TOKENS

FIXED_BYTES = 48 * 2**20
"""The interpreter, its modules, the tokenizer, the kernels' code and their threads' stacks."""

MOST_BATCHED_TOKENS = 2048
"""More in a step make nothing faster; so no more are chosen."""

HEAD_TILE = 32
"""Rows whose logits the native runtime has at once, kHeadTile of native/formats.h."""

SAMPLER_BYTES = 12
"""An id of the vocabulary, a thread: sample_scratch_bytes of native/sampler.h."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of each part, and the limit they keep to.

    num_pages: per cache group, the null page included.  num_tokens: what the smallest group of
    paged kind holds.  limit: bytes; source: where it comes from, in words.
    max_num_batched_tokens: tokens of a step that the workspace is for.
    """

    weights: int
    kv: int
    workspace: int
    limit: int
    source: str
    num_pages: tuple[int, ...]
    num_tokens: int
    max_num_batched_tokens: int

    def __str__(self) -> str:
        parts = (
            f"weights {_size(self.weights)}",
            f"KV cache {_size(self.kv)} ({self.num_tokens:,} tokens)",
            f"workspace {_size(self.workspace)}",
        )
        return f"memory: {', '.join(parts)}; of {_size(self.limit)} ({self.source})"


def max_model_len(program: Program, config: EngineConfig) -> int:
    """Tokens of prompt and answer. Raises ConfigError for more than the model was made for."""
    asked = config.max_model_len
    if asked is not None and asked > program.max_position:
        raise ConfigError(
            f"max_model_len={asked} exceeds the {program.max_position} positions this model was "
            f"made for; set max_model_len={program.max_position} or less"
        )
    return asked or program.max_position


def plan_memory(
    program: Program, config: EngineConfig, machine: Machine, cache_dtype: str
) -> MemoryPlan:
    """Divide the memory allowed; pages get what is left, at most what all sequences can use.

    The limit is the share `gpu_memory_utilization` of the least of machine.memory and
    config.memory. Raises OutOfMemory, naming the number to set, if not even one sequence of
    max_model_len tokens fits. Where the machine's speed will decide how many tokens a step has, the
    workspace is for the most it may choose, or as much as fits.
    """
    *larger, least = _steps(config)
    for rows in larger:
        try:
            return _plan_memory(program, _with_rows(config, rows), machine, cache_dtype)
        except OutOfMemory:
            continue
    return _plan_memory(program, _with_rows(config, least), machine, cache_dtype)


def _steps(config: EngineConfig) -> list[int]:
    """Tokens of a step to plan for, most first."""
    if config.max_num_batched_tokens is not None:
        return [config.max_num_batched_tokens]
    most = most_batched_tokens(config.max_num_seqs)
    return [most >> halvings for halvings in range((most // MIN_BATCHED_TOKENS).bit_length())]


def _with_rows(config: EngineConfig, rows: int) -> EngineConfig:
    return replace(config, max_num_batched_tokens=rows)


def _plan_memory(
    program: Program, config: EngineConfig, machine: Machine, cache_dtype: str
) -> MemoryPlan:
    limit, source = _limit(config, machine)
    length = max_model_len(program, config)
    workspace = workspace_bytes(program, config, machine)
    sizes = [page_bytes(group, cache_dtype) for group in program.caches]
    budget = limit - program.weight_bytes - workspace
    if config.kv_pages is not None:
        pages = [config.kv_pages] * len(sizes)
        if _bytes(pages, sizes) > budget:
            needed = limit - budget + _bytes(pages, sizes)
            raise _too_small(program, config, machine, limit, needed, f"kv_pages={config.kv_pages}")
    else:
        least = _one_sequence(program.caches, length)
        if _bytes(least, sizes) > budget:
            needed = limit - budget + _bytes(least, sizes)
            fits = bisect_right(
                range(length), budget, key=lambda n: _bytes(_one_sequence(program.caches, n), sizes)
            )
            shorter = [f"set max_model_len to at most {fits - 1}"] if fits > 1 else []
            what = f"max_model_len={length}"
            raise _too_small(program, config, machine, limit, needed, what, shorter)
        pages = _share_out(least, _all_sequences(program.caches, length, config), sizes, budget)
    held = [n * PAGE_TOKENS for n, g in zip(pages, program.caches, strict=True) if g.window is None]
    return MemoryPlan(
        weights=program.weight_bytes,
        kv=_bytes(pages, sizes),
        workspace=workspace,
        limit=limit,
        source=source,
        num_pages=tuple(n + 1 for n in pages),
        num_tokens=min(held, default=min((n * PAGE_TOKENS for n in pages), default=0)),
        max_num_batched_tokens=batched_tokens(config),
    )


def most_batched_tokens(max_num_seqs: int) -> int:
    """The most a step is given where the machine's speed decides: everybody's token fits, too."""
    return max(MOST_BATCHED_TOKENS, max_num_seqs + prompt_share(MOST_BATCHED_TOKENS))


def batched_tokens(config: EngineConfig) -> int:
    """Most tokens of a step: as asked, or the most that will be chosen."""
    return config.max_num_batched_tokens or most_batched_tokens(config.max_num_seqs)


def workspace_bytes(program: Program, config: EngineConfig, machine: Machine) -> int:
    """Activations of a step, twice (inputs are converted), and what its logits need."""
    rows = batched_tokens(config)
    head_rows = min(rows, config.max_num_seqs) + SCORE_ROWS
    if config.runtime == "reference" or config.keep_logits:
        logits = 2 * 4 * head_rows  # all of them, and a copy that is edited
    else:
        threads = config.num_threads or machine.cores
        logits = 4 * min(head_rows, HEAD_TILE) + SAMPLER_BYTES * threads
    activations = 2 * 4 * rows * sum(program.widths.values())
    return FIXED_BYTES + activations + logits * program.vocab_size


def _limit(config: EngineConfig, machine: Machine) -> tuple[int, str]:
    known = [(machine.memory, machine.memory_source)] if machine.memory else []
    asked = [(config.memory, "memory (--memory)")] if config.memory is not None else []
    if not known and not asked:
        raise OutOfMemory(
            "the memory of this machine cannot be read; say how much with memory (--memory)"
        )
    whole, source = min(known + asked)
    share = config.gpu_memory_utilization
    return int(whole * share), f"{share:.0%} of {source}, {_size(whole)}"


def _one_sequence(groups: Seq[CacheGroup], length: int) -> list[int]:
    """Pages without which a sequence of `length` could not end; as admission counts them."""
    return [PagePool(1, window=group.window).most_pages(length) for group in groups]


def _all_sequences(groups: Seq[CacheGroup], length: int, config: EngineConfig) -> list[int]:
    """Pages more than which could not be used: in a window also those of the step under way."""
    chunk = batched_tokens(config)
    pages = []
    for group, least in zip(groups, _one_sequence(groups, length), strict=True):
        most = -(-length // PAGE_TOKENS)
        if group.window is not None:
            most = min(most, least + -(-chunk // PAGE_TOKENS))
        pages.append(config.max_num_seqs * most)
    return pages


def _share_out(least: list[int], most: list[int], sizes: list[int], budget: int) -> list[int]:
    """Between least and most, all groups by the same part of the way."""
    way = _bytes(most, sizes) - _bytes(least, sizes)
    part = min(1.0, (budget - _bytes(least, sizes)) / way) if way else 0.0
    return [low + int((high - low) * part) for low, high in zip(least, most, strict=True)]


def _bytes(pages: Seq[int], sizes: Seq[int]) -> int:
    """Bytes of this many usable pages and one null page in each group."""
    return sum((n + 1) * size for n, size in zip(pages, sizes, strict=True))


def _too_small(
    program: Program,
    config: EngineConfig,
    machine: Machine,
    limit: int,
    needed: int,
    what: str,
    others: Seq[str] = (),
) -> OutOfMemory:
    """The error for too little memory; names what would do, and only what this machine has."""
    remedies = [*_more_memory(config, machine, needed), *others]

    def workspace(rows: int) -> int:
        return workspace_bytes(program, _with_rows(config, rows), machine)

    others_need = needed - workspace_bytes(program, config, machine)
    if others_need + workspace(MIN_BATCHED_TOKENS) <= limit:
        most = range(batched_tokens(config))
        rows = bisect_right(most, limit - others_need, lo=1, key=workspace)
        remedies.append(f"set max_num_batched_tokens to at most {rows - 1}")
    advice = ", or ".join(remedies) or "use a smaller model, or one of fewer bits (quantization)"
    return OutOfMemory(
        f"{what} needs {_size(needed)} for weights, workspace and KV cache, and {_size(limit)} is "
        f"allowed; {advice}"
    )


def _more_memory(config: EngineConfig, machine: Machine, needed: int) -> list[str]:
    """How more of the machine's memory could be had, if it has as much."""
    share = config.gpu_memory_utilization
    whole = -(-int(needed / share + 1) // 2**20)
    if config.memory is not None and whole * 2**20 <= (machine.memory or whole * 2**20):
        return [f"set memory (--memory) to at least {whole} MiB"]
    percent = -(-100 * needed // min(m for m in (machine.memory, config.memory) if m))
    if share < percent / 100 <= 1:
        return [f"set gpu_memory_utilization to at least {percent / 100:.2f}"]
    return []


def _size(num_bytes: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes / 2**10:.1f} KiB"
