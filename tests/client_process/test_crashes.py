"""Kill the engine in the middle of answers: every stream gives what it would have given."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from argosy.client.intake import Accepted, Intake
from argosy.client.outputs import RequestOutput
from argosy.client.prepare import Prepared
from argosy.client.remote import AsyncClient, Stream
from argosy.client.supervise import Supervisor
from argosy.types import RequestOutputKind, SamplingParams
from client_process.engines import connected, embedded, kill, supervised, until_async

DELTA, FINAL = RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY
PROMPT = "Once upon a time there was a little girl who"
LENGTH = 120

MIX: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "logprobs": 2},
    {"n": 3, "seed": 7, "logprobs": 3, "stop": [" the park", "."], "temperature": 0.8},
    {"n": 2, "seed": -(2**40), "top_p": 0.9, "top_k": 40, "min_p": 0.02, "logprobs": 0},
    {"presence_penalty": 1.5, "frequency_penalty": 0.7, "repetition_penalty": 1.3},
    {"frequency_penalty": 2.0, "logprobs": 1, "min_tokens": 60, "stop": ["a", "e"]},
    {"stop": ["mom"], "include_stop_str_in_output": True, "bad_words": ["dog"], "logprobs": 1},
    {"logit_bias": {400: 5.0, 401: -100.0}, "prompt_logprobs": 2, "seed": 3},
    {"detokenize": False, "seed": 4, "ignore_eos": True},
)
"""Draws without a seed among them: the intake chose one."""


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return embedded(max_num_seqs=6)


@pytest.fixture(scope="module")
def supervisor(prepared: Prepared) -> Iterator[Supervisor]:
    with supervised(prepared) as supervisor:
        supervisor.wait_ready(60)
        yield supervisor


def requests(intake: Intake) -> list[Accepted]:
    kinds = (DELTA, RequestOutputKind.CUMULATIVE, DELTA, FINAL)
    return [
        intake.accept(
            f"{PROMPT} {place}",
            SamplingParams(
                **{"max_tokens": LENGTH, "output_kind": kinds[place % len(kinds)]} | params
            ),
        )
        for place, params in enumerate(MIX)
    ]


def again(intake: Intake, accepted: Accepted) -> Accepted:
    """The same request under another name."""
    name = intake.accept("Hello", SamplingParams()).request.request_id
    return replace(accepted, request=replace(accepted.request, request_id=name))


class Answer:
    """What a stream gave, put together."""

    def __init__(self) -> None:
        self.answers: dict[int, dict[str, Any]] = {}
        self.prompt_logprobs: Any = None
        self.num_tokens = 0

    def take(self, output: RequestOutput, is_delta: bool) -> None:
        self.prompt_logprobs = output.prompt_logprobs or self.prompt_logprobs
        for one in output.outputs:
            old = self.answers.get(one.index) if is_delta else None
            old = old or {"text": "", "ids": [], "logprobs": []}
            self.answers[one.index] = {
                "text": old["text"] + one.text,
                "ids": old["ids"] + one.token_ids,
                "logprobs": old["logprobs"] + (one.logprobs or []),
                "end": (one.finish_reason, one.stop_reason, one.cumulative_logprob),
            }
        self.num_tokens = sum(len(a["ids"]) for a in self.answers.values())


async def read(stream: Stream, into: Answer) -> None:
    is_delta = stream.accepted.request.params.output_kind is DELTA
    async for output in stream:
        into.take(output, is_delta)


async def run_all(client: AsyncClient, mix: list[Accepted], watch: Any = None) -> list[Answer]:
    """The answers to `mix`; `watch(answers)` runs beside them."""
    streams = [client.submit(one) for one in mix]
    answers = [Answer() for _ in streams]
    readers = [read(s, a) for s, a in zip(streams, answers, strict=True)]
    extra = [] if watch is None else [watch(answers)]
    await asyncio.wait_for(asyncio.gather(*readers, *extra), 120)
    return answers


def same(found: list[Answer], wanted: list[Answer]) -> None:
    for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert one.answers.keys() == other.answers.keys()
        for index, answer in other.answers.items():
            assert one.answers[index] == answer, (place, index)
        assert one.prompt_logprobs == other.prompt_logprobs


@pytest.mark.parametrize("kills", [(0,), (1,), (30, 31, 200), (10, 120, 400)])
def test_kill_9_changes_no_token(
    supervisor: Supervisor, prepared: Prepared, kills: tuple[int, ...]
) -> None:
    async def act() -> None:
        async with connected(supervisor, prepared) as client:
            mix = requests(client.intake)
            wanted = await run_all(client, mix)
            before = supervisor.status().restarts

            async def watch(answers: list[Answer]) -> None:
                for count in kills:
                    await until_async(lambda c=count: sum(a.num_tokens for a in answers) >= c)
                    await until_async(lambda: client.is_connected)
                    pid = kill(supervisor)
                    await until_async(lambda old=pid: supervisor.status().pid not in (0, old))

            found = await run_all(client, [again(client.intake, one) for one in mix], watch)
            same(found, wanted)
            assert supervisor.status().restarts == before + len(kills)
            assert await client.ask("check") == ""
            assert client.num_open == 0

    asyncio.run(act())
    assert supervisor.status().last_exit == "killed by signal 9 (SIGKILL)"


def test_the_mix_ends_in_every_way(supervisor: Supervisor, prepared: Prepared) -> None:
    async def act() -> None:
        async with connected(supervisor, prepared) as client:
            answers = await run_all(client, requests(client.intake))
        ends = {a["end"][0] for one in answers for a in one.answers.values()}
        assert ends == {"stop", "length"}
        assert answers[6].prompt_logprobs is not None
        assert sum(one.num_tokens for one in answers) > 500

    asyncio.run(act())


def test_an_engine_that_stands_still_is_replaced(
    supervisor: Supervisor, prepared: Prepared
) -> None:
    async def act() -> None:
        async with connected(supervisor, prepared) as client:
            mix = requests(client.intake)[:3]
            wanted = await run_all(client, mix)
            old: list[int] = []

            async def watch(answers: list[Answer]) -> None:
                await until_async(lambda: sum(a.num_tokens for a in answers) >= 20)
                old.append(kill(supervisor, signal.SIGSTOP))

            found = await run_all(client, [again(client.intake, one) for one in mix], watch)
            same(found, wanted)
            assert supervisor.status().pid not in (0, *old)

    asyncio.run(act())
    assert supervisor.status().last_exit == "killed: its heartbeat stood still for 1 s"


def test_a_deadline_is_kept(supervisor: Supervisor, prepared: Prepared) -> None:
    async def act() -> None:
        async with connected(supervisor, prepared) as client:
            params = SamplingParams(max_tokens=1900, ignore_eos=True, output_kind=FINAL)
            late = client.intake.accept(PROMPT, params, deadline=client.now() + 0.2)
            [output] = [o async for o in client.submit(late)]
            [answer] = output.outputs
            assert (answer.finish_reason, answer.stop_reason) == ("abort", "deadline")
            assert answer.token_ids, "what came before stays"

    asyncio.run(act())


def test_who_leaves_frees_the_pages(supervisor: Supervisor, prepared: Prepared) -> None:
    async def act() -> None:
        async with connected(supervisor, prepared) as client:
            params = SamplingParams(n=3, max_tokens=1900, ignore_eos=True, output_kind=DELTA)
            stream = client.submit(client.intake.accept(PROMPT, params))
            async for _ in stream:
                break
            stream.close()
            assert (await stream.explain()).is_complete, "the engine ended them"
            assert await client.ask("check") == ""

    asyncio.run(act())
