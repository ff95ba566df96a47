"""The loop: one step does everything, whatever fails; and `open_engine` puts it together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from argosy.bundle.build import build_bundle
from argosy.bundle.open import Bundle, open_bundle
from argosy.config import EngineConfig
from argosy.engine.engine import Engine, choose_cache_dtype, open_engine
from argosy.engine.machine import Machine
from argosy.engine.step import Plan, prompt_share
from argosy.errors import ConfigError, OutOfMemory, RequestError, UnsupportedParameter
from argosy.types import Batch, Event, FinishReason, Result
from random_models import write_model
from unit.engine.driver import request, scheduler


@dataclass
class Counting:
    """A runtime that draws the position; it raises in the steps it is told to."""

    failing: tuple[int, ...] = ()
    error: type[BaseException] = MemoryError
    num_steps: int = 0
    is_closed: bool = False
    name: str = "counting"

    def submit(self, batch: Batch) -> Counting:
        self.num_steps += 1
        if self.num_steps in self.failing:
            raise self.error("no more")
        self.head = batch.head
        return self

    def result(self) -> Result:
        count = len(self.head.rows)
        nothing = np.zeros((count, 0))
        return Result(
            starts=self.head.starts,
            tokens=self.head.positions,
            logprob=np.zeros(count, np.float32),
            rank=np.zeros(count, np.int32),
            top_ids=nothing.astype(np.int32),
            top_logprobs=nothing.astype(np.float32),
        )

    def watch(self, heartbeat: np.ndarray) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


def drain(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while engine.has_work:
        events += engine.step(0.0)
    return events


def engine(*failing: int) -> Engine:
    """An engine of a program without caches."""
    return Engine(scheduler(), Counting(failing))


def test_requests_go_in_and_tokens_come_out() -> None:
    made = engine()
    made.add(request(max_tokens=3))
    assert [event.token_ids for event in drain(made)] == [(3,), (4,), (5,)]
    assert not made.has_work


def test_a_step_with_nothing_to_do_asks_nothing_of_the_runtime() -> None:
    made = engine()
    assert made.step(0.0) == []
    assert made.runtime.num_steps == 0  # type: ignore[attr-defined]


def test_an_abort_takes_one_step() -> None:
    made = engine()
    made.add(request())
    made.step(0.0)
    made.abort("a")
    (event,) = made.step(0.0)
    assert event.finish_reason is FinishReason.ABORT
    assert not made.has_work


def test_a_name_is_used_once_at_a_time() -> None:
    made = engine()
    made.add(request(n=2))
    for index in range(2):
        with pytest.raises(RequestError, match="'a'"):
            made.add(request(index=index))
    made.step(0.0)
    with pytest.raises(RequestError, match="'a'"):
        made.add(request())
    made.add(request(index=2))
    drain(made)
    made.add(request())


def test_an_interrupted_step_ends_its_sequences_and_not_the_engine() -> None:
    made = Engine(scheduler(), Counting((2,), KeyboardInterrupt))
    made.add(request("a"))
    made.add(request("b"))
    made.step(0.0)
    with pytest.raises(KeyboardInterrupt):
        made.step(0.0)
    assert made.has_work, "what became of them is still to be told"
    events = made.step(0.0)
    assert [event.finish_reason for event in events] == [FinishReason.ERROR] * 2
    assert "KeyboardInterrupt" in str(events[0].error) and not made.has_work
    made.add(request("a", max_tokens=2))
    assert [event.token_ids for event in drain(made)] == [(3,), (4,)]


def test_a_step_that_raises_ends_its_sequences_and_not_the_engine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = engine(2)
    made.add(request("a"))
    made.add(request("b"))
    made.step(0.0)
    with caplog.at_level(logging.CRITICAL):
        events = made.step(0.0)
    assert [event.finish_reason for event in events] == [FinishReason.ERROR] * 2
    assert events[0].error == "the step failed: MemoryError: no more"
    made.add(request("c", max_tokens=2))
    assert [event.token_ids for event in drain(made)] == [(3,), (4,)]


def test_closing_closes_the_runtime() -> None:
    made = engine()
    made.close()
    assert made.runtime.is_closed  # type: ignore[attr-defined]


class Diary:
    """An observer that writes down what it is told, and what the runtime had done by then."""

    def __init__(self, made: Engine, failing: str = "") -> None:
        self.told: list[tuple[str, int, int]] = []
        self._made = made
        self._failing = failing

    def _tell(self, what: str, plan: Plan) -> None:
        if what == self._failing:
            raise OSError("no room to write")
        self.told.append((what, plan.number, self._made.runtime.num_steps))  # type: ignore[attr-defined]

    def planned(self, plan: Plan) -> None:
        self._tell("planned", plan)

    def ran(self, plan: Plan) -> None:
        self._tell("ran", plan)


@pytest.mark.parametrize("failing", [(), (2,)], ids=["all goes well", "a step fails"])
def test_an_observer_is_told_before_and_after_each_step_with_work(
    failing: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    made = engine(*failing)
    diary = made.observer = Diary(made)
    made.step(0.0)
    made.add(request(max_tokens=2))
    with caplog.at_level(logging.CRITICAL):
        drain(made)
    made.step(0.0)
    assert diary.told == [("planned", 1, 0), ("ran", 1, 1), ("planned", 2, 1), ("ran", 2, 2)]


@pytest.mark.parametrize("failing", ["planned", "ran"])
def test_what_an_observer_raises_ends_the_sequences_and_not_the_engine(failing: str) -> None:
    made = engine()
    made.observer = Diary(made, failing)
    made.add(request("a"))
    with pytest.raises(OSError, match="no room"):
        made.step(0.0)
    made.observer = None
    (event,) = made.step(0.0)
    assert event.finish_reason is FinishReason.ERROR and not made.has_work


def test_pages_are_counted_and_checked() -> None:
    made = Engine(scheduler(20), Counting())
    assert (made.pages_held, made.pages_usable) == (0, 20)
    made.add(request(prompt=range(10), max_tokens=2))
    made.step(0.0)
    made.check()
    assert made.pages_held == 3
    drain(made)
    assert made.pages_held == 0, "those that can be found again are not held"
    assert made.counters.generated_tokens == 2
    made.scheduler.tables.pools[0].allocate()
    with pytest.raises(AssertionError):
        made.check()


# -- open_engine, on a real bundle and the plain runtime

MACHINE = Machine(cores=2, memory=2**30, memory_source="available memory")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "hf", seed=3)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return open_bundle(build_bundle(folder, folder.parent / "fp32"))


def opened(bundle: Bundle, **options: object) -> Engine:
    return open_engine(bundle, EngineConfig(runtime="reference", **options), MACHINE)  # type: ignore[arg-type]


def answer(made: Engine, **options: Any) -> tuple[list[int], int]:
    made.add(request(prompt=range(5, 45), max_tokens=4, temperature=0.0, **options))
    events = drain(made)
    cached = sum(event.num_cached_tokens for event in events)
    return [token for event in events for token in event.token_ids], cached


def test_an_engine_answers_the_same_from_its_cache_and_in_chunks(bundle: Bundle) -> None:
    made = opened(bundle)
    first, cached = answer(made)
    assert (len(first), cached) == (4, 0)
    assert answer(made) == (first, 32)
    made.reset_prefix_cache()
    assert answer(made) == (first, 0)
    chunked = opened(bundle, max_num_batched_tokens=7, enable_prefix_caching=False)
    assert answer(chunked) == (first, 0)
    assert answer(chunked) == (first, 0)


def test_it_says_how_memory_is_divided(bundle: Bundle) -> None:
    assert str(opened(bundle).memory).startswith("memory: weights 401")
    with pytest.raises(OutOfMemory, match="--memory"):
        opened(bundle, memory=2**20)


def test_limits_come_from_the_configuration(bundle: Bundle) -> None:
    options = {"max_num_seqs": 3, "max_model_len": 99, "scheduling_policy": "priority"}
    limits = opened(bundle, **options).scheduler.limits
    assert (limits.max_num_seqs, limits.max_model_len, limits.by_priority) == (3, 99, True)
    assert limits.vocab_size == bundle.program.vocab_size


def test_the_reference_runtime_is_not_timed(bundle: Bundle) -> None:
    made = opened(bundle)
    limits = made.scheduler.limits
    assert (limits.max_num_batched_tokens, limits.step_tokens, made.tokens_per_s) == (512, 512, 0)
    limits = opened(bundle, max_num_seqs=600).scheduler.limits
    assert (limits.max_num_batched_tokens, limits.step_tokens) == (728, 512)


def test_the_native_runtime_is_timed_unless_told(bundle: Bundle) -> None:
    heartbeat = np.zeros(1, np.uint64)
    made = open_engine(bundle, EngineConfig(), MACHINE, heartbeat=heartbeat)
    assert heartbeat[0] > len(bundle.program.ops) and made.tokens_per_s > 0
    limits = made.scheduler.limits
    aim = limits.step_tokens
    assert aim is not None and 32 <= aim <= 2048
    assert limits.max_num_batched_tokens == max(aim, 256 + prompt_share(aim))
    made.check()
    first, cached = answer(made)
    made.close()
    made = open_engine(bundle, EngineConfig(max_num_batched_tokens=40), MACHINE)
    limits = made.scheduler.limits
    assert (limits.max_num_batched_tokens, limits.step_tokens, made.tokens_per_s) == (40, None, 0)
    assert answer(made) == (first, cached), "what was written for a trial is read by nobody"
    made.close()


def test_the_cache_follows_the_weights_unless_told(folder: Path, bundle: Bundle) -> None:
    w8 = open_bundle(build_bundle(folder, folder.parent / "w8", quantization="w8"))
    assert choose_cache_dtype(bundle, EngineConfig()) == "fp32"
    assert choose_cache_dtype(w8, EngineConfig()) == "int8"
    assert choose_cache_dtype(w8, EngineConfig(kv_cache_dtype="fp32")) == "fp32"
    assert choose_cache_dtype(bundle, EngineConfig(kv_cache_dtype="bfloat16")) == "bf16"
    assert choose_cache_dtype(bundle, EngineConfig(dtype="float32")) == "fp32"
    with pytest.raises(ConfigError, match=r"dtype=float32 .* w8g32"):
        choose_cache_dtype(w8, EngineConfig(dtype="float32"))


def test_an_adapter_is_refused_not_ignored() -> None:
    made = Engine(scheduler(), Counting())
    with pytest.raises(UnsupportedParameter, match="adapter='poet' is not served"):
        made.add(request(adapter="poet"))
    assert not made.has_work


def test_threads_are_refused_where_they_would_change_nothing(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="num_threads=2: the reference runtime has no threads"):
        open_engine(bundle, EngineConfig(runtime="reference", num_threads=2))
