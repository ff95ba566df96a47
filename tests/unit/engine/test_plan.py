"""How memory is divided, and what is said when it does not do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from argosy.config import EngineConfig
from argosy.engine.machine import Machine
from argosy.engine.pages import PagePool
from argosy.engine.plan import MemoryPlan, max_model_len, plan_memory, workspace_bytes
from argosy.errors import ConfigError, OutOfMemory
from argosy.model.program import CacheGroup, Matrix, Program, Segment, page_bytes
from argosy.types import PAGE_TOKENS

MIB = 2**20
MACHINE = Machine(2, 0, "unknown memory")
PAGED = CacheGroup(name="paged", layers=(0, 1), num_kv_heads=2, head_dim=64)
WINDOW = CacheGroup(
    name="window", layers=(2,), num_kv_heads=2, head_dim=64, kind="window", window=100
)


def program(*groups: CacheGroup) -> Program:
    """Weights of 4 MiB, and these caches."""
    return Program(
        architecture="x",
        ops=(),
        matrices={"w": Matrix("w", 1024, (Segment("w", 1024, "w"),))},
        vectors={},
        caches=groups,
        widths={"x": 64},
        vocab_size=1000,
        hidden_size=64,
        num_layers=3,
        max_position=4096,
    )


def plan(available: int, *groups: CacheGroup, cache: str = "bf16", **options: Any) -> MemoryPlan:
    config = EngineConfig(**{"gpu_memory_utilization": 1.0, "max_num_seqs": 4} | options)
    machine = Machine(2, available, "available memory")
    return plan_memory(program(*groups), config, machine, cache)


def test_with_room_enough_the_pool_is_what_all_sequences_can_use() -> None:
    made = plan(10**12, PAGED)
    assert made.num_pages == (4 * 4096 // PAGE_TOKENS + 1,)
    assert made.num_tokens == 4 * 4096
    assert made.weights == 4 * MIB
    assert made.kv == made.num_pages[0] * page_bytes(PAGED, "bf16")


@pytest.mark.parametrize("groups", [(PAGED,), (PAGED, WINDOW), (WINDOW,)], ids=len)
def test_with_less_the_parts_never_exceed_the_limit(groups: tuple[CacheGroup, ...]) -> None:
    whole = sum(page_bytes(g, "bf16") for g in groups)
    for spare in (300, 500, 900):
        least = workspace_bytes(program(), EngineConfig(max_num_seqs=4), MACHINE) + 4 * MIB
        made = plan(least + spare * whole, *groups)
        assert made.weights + made.kv + made.workspace <= made.limit
        assert made.kv > 0.9 * spare * whole or made.num_pages == plan(10**12, *groups).num_pages


def test_a_window_needs_few_pages() -> None:
    made = plan(10**12, WINDOW, max_num_batched_tokens=64)
    assert made.num_pages == (4 * (PagePool(1, window=100).most_pages(4096) + 4) + 1,)


def test_no_caches_no_pages() -> None:
    made = plan(10**12)
    assert (made.num_pages, made.kv, made.num_tokens) == ((), 0, 0)


def test_the_share_and_the_option_bound_the_machine() -> None:
    assert plan(10**12, PAGED, gpu_memory_utilization=0.5).limit == 5 * 10**11
    assert plan(10**12, PAGED, memory=10**9).limit == 10**9
    assert plan(10**9, PAGED, memory=10**12).limit == 10**9


def test_the_line_names_all_parts() -> None:
    line = str(plan(2**30, PAGED, memory=2**29, gpu_memory_utilization=0.5))
    assert line == (
        "memory: weights 4.0 MiB, KV cache 16.0 MiB (16,384 tokens), workspace 49.1 MiB; "
        "of 256.0 MiB (50% of memory (--memory), 512.0 MiB)"
    )


@pytest.mark.parametrize("groups", [(PAGED,), (PAGED, WINDOW)], ids=len)
def test_too_little_is_refused_with_numbers_that_do(groups: tuple[CacheGroup, ...]) -> None:
    options = {"gpu_memory_utilization": 0.99, "memory": 55 * MIB}
    with pytest.raises(OutOfMemory) as caught:
        plan(10**12, *groups, **options)
    words = str(caught.value)
    needed = re.search(r"set memory \(--memory\) to at least (\d+) MiB", words)
    fits = re.search(r"max_model_len to at most (\d+)", words)
    assert needed is not None
    assert fits is not None
    plan(10**12, *groups, **options | {"memory": int(needed[1]) * MIB})
    with pytest.raises(OutOfMemory):
        plan(10**12, *groups, **options | {"memory": (int(needed[1]) - 2) * MIB})
    length = int(fits[1])
    plan(10**12, *groups, max_model_len=length, **options)
    with pytest.raises(OutOfMemory):
        plan(10**12, *groups, max_model_len=length + 16, **options)


def test_where_the_machine_is_the_limit_no_memory_is_asked_for() -> None:
    with pytest.raises(OutOfMemory) as caught:
        plan(60 * MIB, PAGED, gpu_memory_utilization=0.5)
    assert "--memory" not in str(caught.value)
    with pytest.raises(OutOfMemory, match="--memory") as caught:
        plan(0, PAGED, memory=50 * MIB)
    with pytest.raises(OutOfMemory) as caught:
        plan(60 * MIB, PAGED, memory=10**12, gpu_memory_utilization=0.9)
    assert "--memory" not in str(caught.value)


def test_a_larger_share_that_does() -> None:
    with pytest.raises(OutOfMemory) as caught:
        plan(80 * MIB, PAGED, gpu_memory_utilization=0.7)
    share = re.search(r"gpu_memory_utilization to at least (0\.\d\d)", str(caught.value))
    assert share is not None
    plan(80 * MIB, PAGED, gpu_memory_utilization=float(share[1]))


def test_a_smaller_step_that_does() -> None:
    options = {"max_num_batched_tokens": 32_000, "max_model_len": 2000}
    with pytest.raises(OutOfMemory) as caught:
        plan(62 * MIB, PAGED, **options)
    rows = re.search(r"set max_num_batched_tokens to at most (\d+)$", str(caught.value))
    assert rows is not None
    plan(62 * MIB, PAGED, **options | {"max_num_batched_tokens": int(rows[1])})
    with pytest.raises(OutOfMemory):
        plan(62 * MIB, PAGED, **options | {"max_num_batched_tokens": int(rows[1]) + 1})


def test_too_little_for_the_weights() -> None:
    with pytest.raises(OutOfMemory, match=r"use a smaller model, or one of fewer bits"):
        plan(10 * MIB, PAGED)


def test_unknown_memory_must_be_named() -> None:
    with pytest.raises(OutOfMemory, match="--memory"):
        plan(0, PAGED)
    assert plan(0, PAGED, memory=10**9).limit == 10**9


def test_pages_can_be_set() -> None:
    assert plan(10**9, PAGED, WINDOW, kv_pages=7).num_pages == (8, 8)
    with pytest.raises(OutOfMemory, match="kv_pages=70000000"):
        plan(10**9, PAGED, kv_pages=70_000_000)


def test_where_speed_decides_the_workspace_is_for_the_most_that_fits() -> None:
    assert plan(10**12, PAGED).max_num_batched_tokens == 2048
    assert plan(10**12, PAGED, max_num_seqs=3000).max_num_batched_tokens == 3000 + 2048 // 4
    assert plan(10**12, PAGED, max_num_batched_tokens=4096).max_num_batched_tokens == 4096

    def needed(rows: int) -> int:
        config = EngineConfig(max_num_batched_tokens=rows)
        one_sequence = 8 * page_bytes(PAGED, "bf16")
        return workspace_bytes(program(PAGED), config, MACHINE) + 4 * MIB + one_sequence

    for rows in (2048, 512, 32):
        options = {"max_model_len": 100, "max_num_seqs": 256}
        assert plan(needed(rows), PAGED, **options).max_num_batched_tokens == rows
        if rows > 32:
            made = plan(needed(rows) - 1, PAGED, **options)
            assert made.max_num_batched_tokens == rows // 2
            continue
        with pytest.raises(OutOfMemory, match="max_model_len"):
            plan(needed(rows) - 1, PAGED, **options)


def test_the_native_runtime_has_few_logits_at_once() -> None:
    whole = program(PAGED)
    native, kept = (EngineConfig(keep_logits=kept) for kept in (False, True))
    plain = EngineConfig(runtime="reference")
    assert workspace_bytes(whole, kept, MACHINE) == workspace_bytes(whole, plain, MACHINE)
    fewer = workspace_bytes(whole, kept, MACHINE) - workspace_bytes(whole, native, MACHINE)
    assert fewer == 1000 * (2 * 4 * (256 + 32) - 4 * 32 - 12 * 2)
    threads = EngineConfig(num_threads=5)
    more = workspace_bytes(whole, threads, MACHINE) - workspace_bytes(whole, native, MACHINE)
    assert more == 1000 * 12 * 3


def test_the_context_is_at_most_the_models() -> None:
    assert max_model_len(program(), EngineConfig()) == 4096
    assert max_model_len(program(), EngineConfig(max_model_len=100)) == 100
    with pytest.raises(ConfigError, match="max_model_len=5000 exceeds the 4096"):
        max_model_len(program(), EngineConfig(max_model_len=5000))
