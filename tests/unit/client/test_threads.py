"""One client and several threads; shutdown under way; a forked child."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from argosy import LLM, SamplingParams
from argosy.engine.engine import Engine
from argosy.errors import ConfigError
from argosy.types import Event
from unit.client.fake_engine import FakeEngine, client_of, saying
from unit.text.small_tokenizers import byte_level

PROMPTS = [f"{word} is" for word in ("Water", "The cat", "Paris", "One", "A book", "Rain")]
PARAMS = SamplingParams(temperature=0.8, seed=3, max_tokens=24, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(max_model_len=256, max_num_seqs=6) as llm:
        yield llm


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def test_six_threads_get_what_one_gets(llm: LLM) -> None:
    def answers(number: int) -> list[list[int]]:
        mine = PROMPTS[number:] + PROMPTS[:number]
        return [o.outputs[0].token_ids for o in llm.generate(mine, PARAMS, use_tqdm=False)]

    expected = [answers(number) for number in range(6)]
    assert in_threads(6, answers) == expected
    engine = llm.client._engine
    assert isinstance(engine, Engine) and not engine.has_work
    for pool in engine.scheduler.tables.pools:
        pool.check()
        assert pool.num_available == pool.num_usable


def test_a_short_answer_does_not_wait_for_a_long_one(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits comes before whoever just stepped, or the second would get in too late."""
    step = Engine.step

    def slow_step(self: Engine, now: float) -> list[Event]:
        time.sleep(0.004)
        return step(self, now)

    monkeypatch.setattr(Engine, "step", slow_step)
    long, short = (
        llm.client.intake.accept("Rain is", PARAMS.clone(max_tokens=n)) for n in (240, 3)
    )
    begun, ended = threading.Event(), []

    def generate_long() -> None:
        for _ in llm.client.stream([long]):
            begun.set()
        ended.append("long")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(generate_long)
        assert begun.wait(10)
        llm.client.run([short])
        ended.append("short")
        running.result()
    assert ended == ["short", "long"]


def test_shutdown_ends_the_streams_of_other_threads() -> None:
    with LLM(max_model_len=256, max_num_seqs=4) as llm:
        running = threading.Barrier(4)

        def generate(_: int) -> str:
            stream = llm.stream("Water is", SamplingParams(max_tokens=200, ignore_eos=True))
            next(stream)
            running.wait(10)
            try:
                for _ in stream:
                    pass
            except ConfigError as exc:
                return str(exc)
            return "ended"

        with ThreadPoolExecutor(3) as pool:
            said = [pool.submit(generate, n) for n in range(3)]
            running.wait(10)
            llm.shutdown()
            assert {s.result() for s in said} == {"this LLM was shut down; make a new one"}


def test_a_stream_is_of_no_use_after_close() -> None:
    engine = FakeEngine(saying(byte_level(), "some words"))
    client = client_of(engine, byte_level())
    stream = client.stream([client.intake.accept("a", SamplingParams())])
    next(stream)
    client.close()
    client.close()
    steps = engine.num_steps
    with pytest.raises(ConfigError, match="was shut down"):
        next(stream)
    with pytest.raises(ConfigError, match="was shut down"):
        client.reset_prefix_cache()
    assert engine.num_steps == steps


def test_a_forked_child_is_told_so(llm: LLM) -> None:
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork, where there are threads
        child = os.fork()
    if not child:
        try:
            llm.generate("Water is", PARAMS, use_tqdm=False)
        except BaseException as exc:
            os.write(write, f"{type(exc).__name__}: {exc}".encode())
        llm.client.close()
        os._exit(0)
    os.close(write)
    said = os.read(read, 1000).decode()
    os.close(read)
    os.waitpid(child, 0)
    assert said.startswith("ConfigError: this LLM was made by process")
    assert llm.generate("Water is", PARAMS, use_tqdm=False)


def test_a_child_leaves_its_parents_engine_open() -> None:
    engine = FakeEngine(saying(byte_level(), "some words"))
    client = client_of(engine, byte_level())
    client._pid = -1
    client.close()
    assert not engine.closed


def test_a_stream_collected_inside_a_step_takes_none_of_its_own() -> None:
    engine = FakeEngine(saying(byte_level(), "some words"))
    client = client_of(engine, byte_level())
    left, kept = (
        client.stream([client.intake.accept(prompt, SamplingParams())]) for prompt in "ab"
    )
    next(left)
    inside: list[bool] = []

    def collect() -> None:
        assert not inside, "a step inside a step"
        inside.append(True)
        left.close()
        inside.pop()

    engine.on_step = collect
    assert list(kept)[-1].finished
    assert not engine.running
