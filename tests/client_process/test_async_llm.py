"""AsyncLLM by vLLM's names, over an engine process."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from argosy import LLM, AsyncLLM, SamplingParams
from argosy.client.outputs import RequestOutput
from argosy.errors import ConfigError, EngineDead, InvalidSampling, OutOfMemory, RequestError
from argosy.types import RequestOutputKind
from client_process.engines import is_alive, until_async

OPTIONS: dict[str, Any] = {"num_threads": 1, "kv_pages": 400, "max_num_seqs": 8, "seed": 11}
PROMPT = "Once upon a time"
LONG = SamplingParams(max_tokens=1900, ignore_eos=True, output_kind=RequestOutputKind.DELTA)


@pytest.fixture(scope="module")
def llm() -> Iterator[AsyncLLM]:
    llm = AsyncLLM(**OPTIONS)
    yield llm
    llm.shutdown()


async def all_of(outputs: AsyncIterator[RequestOutput]) -> list[RequestOutput]:
    return [output async for output in outputs]


def temporary() -> set[str]:
    return {p for p in os.listdir(tempfile.gettempdir()) if p.startswith("argosy-")}


def pid_of(llm: AsyncLLM) -> int:
    return llm._supervisor.status().pid


def test_it_answers_as_llm_does(llm: AsyncLLM) -> None:
    params = SamplingParams(max_tokens=30, seed=5, logprobs=2, temperature=0.8)
    with LLM(**OPTIONS) as other:
        [wanted] = other.generate([PROMPT], params, use_tqdm=False)
        [chatted] = other.chat([{"role": "user", "content": "Hello"}], params, use_tqdm=False)

    async def act() -> None:
        outputs = await all_of(llm.generate(PROMPT, params, "a name", priority=0))
        assert outputs[-1].outputs == wanted.outputs
        assert {o.request_id for o in outputs} == {"a name"}
        assert outputs[-1].finished and len(outputs) > 1, "CUMULATIVE is the default"
        outputs = await all_of(llm.chat([{"role": "user", "content": "Hello"}], params))
        assert outputs[-1].outputs == chatted.outputs

    asyncio.run(act())


def test_another_loop_may_follow(llm: AsyncLLM) -> None:
    async def act() -> None:
        outputs = await all_of(llm.generate(PROMPT, SamplingParams(max_tokens=3, temperature=0.0)))
        assert len(outputs[-1].outputs[0].token_ids) == 3
        await llm.reset_prefix_cache()

    asyncio.run(act())
    asyncio.run(act())


def test_two_loops_at_once_are_refused(llm: AsyncLLM) -> None:
    async def inner() -> None:
        with pytest.raises(ConfigError, match="another event loop"):
            await all_of(llm.generate(PROMPT))

    async def outer() -> None:
        await llm.reset_prefix_cache()
        await asyncio.to_thread(asyncio.run, inner())

    asyncio.run(outer())


def test_abort_by_name(llm: AsyncLLM) -> None:
    async def act() -> None:
        found: list[RequestOutput] = []
        async for output in llm.generate(PROMPT, LONG, "x"):
            found.append(output)
            if len(found) == 1:
                with pytest.raises(RequestError, match="'x' is under way"):
                    await all_of(llm.generate(PROMPT, LONG, "x"))
                await llm.abort(["nobody", "x"])
        assert found[-1].outputs[0].finish_reason == "abort"
        assert len(await all_of(llm.generate(PROMPT, SamplingParams(max_tokens=2), "x"))) > 0

    asyncio.run(act())


def test_who_leaves_the_iteration_aborts(llm: AsyncLLM) -> None:
    async def act() -> None:
        outputs = llm.generate(PROMPT, LONG, "left")
        async for _ in outputs:
            break
        stream = llm._named["left"]
        await outputs.aclose()
        assert stream.is_finished and not llm._named
        client = llm._here()
        await until_async(lambda: not client._entries)
        assert await client.ask("check") == ""

    asyncio.run(act())


def test_a_crash_is_not_seen(llm: AsyncLLM) -> None:
    params = SamplingParams(
        max_tokens=600, ignore_eos=True, seed=9, output_kind=RequestOutputKind.DELTA
    )

    async def act() -> None:
        wanted = "".join([o.outputs[0].text async for o in llm.generate(PROMPT, params)])
        pid, texts = pid_of(llm), []
        async for output in llm.generate(PROMPT, params):
            texts.append(output.outputs[0].text)
            if len(texts) == 5:
                os.kill(pid, signal.SIGKILL)
        assert "".join(texts) == wanted
        await until_async(lambda: pid_of(llm) != pid)  # at once, unless the answer was done
        await llm.check_health()
        assert llm.is_running and not llm.errored

    asyncio.run(act())


def test_what_cannot_be_served_is_refused(llm: AsyncLLM) -> None:
    async def act() -> None:
        with pytest.raises(RequestError, match="empty"):
            await all_of(llm.generate(""))
        with pytest.raises(RequestError, match="lora_request"):
            await all_of(llm.generate(PROMPT, lora_request="x"))
        wrong: Any = {"max_tokens": 3}
        with pytest.raises(InvalidSampling, match="not dict"):
            await all_of(llm.generate(PROMPT, wrong))

    asyncio.run(act())


def test_the_tokenizer_and_the_defaults(llm: AsyncLLM) -> None:
    tokenizer = llm.get_tokenizer()
    assert tokenizer.decode(tokenizer.encode("Hello", add_special_tokens=False)) == "Hello"
    assert isinstance(llm.get_default_sampling_params(), SamplingParams)


def test_shut_down_it_is_of_no_use() -> None:
    async def act() -> tuple[int, list[RequestOutput]]:
        async with AsyncLLM(**OPTIONS) as llm:
            pid, outputs = pid_of(llm), []
            async for output in llm.generate(PROMPT, LONG):
                outputs.append(output)
                llm.shutdown()
        with pytest.raises(EngineDead, match="shut down"):
            await all_of(llm.generate(PROMPT))
        with pytest.raises(EngineDead, match="shut down"):
            await llm.check_health()
        assert not llm.is_running and not llm.errored
        await asyncio.sleep(0.01)
        return pid, outputs

    pid, outputs = asyncio.run(act())
    assert not is_alive(pid)
    answer = outputs[-1].outputs[0]
    assert answer.finish_reason == "error" and "was shut down" in str(answer.stop_reason)


def test_one_that_cannot_start_leaves_nothing() -> None:
    before, folders = set(os.listdir("/proc/self/fd")), temporary()
    with pytest.raises(OutOfMemory, match="set memory") as raised:
        AsyncLLM(memory="60M", num_threads=1)
    assert temporary() == folders
    del raised
    with pytest.raises(ConfigError, match="no argument"):
        AsyncLLM(no_such=1)  # type: ignore[call-arg]
    assert set(os.listdir("/proc/self/fd")) == before
