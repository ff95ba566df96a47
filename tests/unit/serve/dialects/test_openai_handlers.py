"""How answers are told: when they begin, what an error becomes, who waits for whom."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from argosy.client.outputs import RequestOutput
from argosy.errors import StepFailed
from argosy.serve.dialects import openai
from argosy.serve.dialects.openai_stream import CompletionStream
from argosy.serve.errors import ClientGone, failure
from argosy.serve.log import Line
from unit.serve.dialects.small_model import completion, news, output


class FakeStream:
    """Gives what it was made with; a number means to wait for as many turns of the loop."""

    def __init__(self, *given: RequestOutput | int) -> None:
        self._given = given
        self.story = SimpleNamespace(
            prompt_tokens=1, cached_tokens=0, restarts=0, queue_s=0.0, ttft_s=0.0
        )

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        self._outputs = self._run()
        return self._outputs

    async def __anext__(self) -> RequestOutput:
        if not hasattr(self, "_outputs"):
            aiter(self)
        return await anext(self._outputs)

    async def _run(self) -> AsyncIterator[RequestOutput]:
        for one in self._given:
            if isinstance(one, int):
                for _ in range(one):
                    await asyncio.sleep(0)
            else:
                yield one


class FakeExchange:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.line = Line(id="1", client="", method="POST", path="/")
        self.started = self.gone = self.explains = False
        self.sent: list[bytes] = []
        self.ended = False
        self.failure_of = failure

    async def begin(self) -> None:
        self.started = True

    async def send(self, data: bytes) -> None:
        assert self.started
        self.sent.append(data)

    async def end(self, data: bytes = b"") -> None:
        self.sent.append(data)
        self.ended = True

    def events(self) -> list[Any]:
        data = b"".join(self.sent).decode().split("\n\n")[:-1]
        found = [one.removeprefix("data: ") for one in data]
        return [one if one == "[DONE]" else json.loads(one) for one in found]


def tell(call: Any, *streams: FakeStream, exchange: FakeExchange) -> None:
    told: Coroutine[Any, Any, None] = openai._tell(
        cast(Any, exchange), call, cast(Any, streams), CompletionStream(call)
    )
    asyncio.run(told)


def streamed(prompt: Any = "the") -> Any:
    return completion(json.dumps({"prompt": prompt, "stream": True}).encode())


def test_an_error_before_the_first_piece_has_a_status_of_its_own() -> None:
    call, exchange = streamed(), FakeExchange()
    failed = output(call, news(0, "", "error", stop_reason="it broke"))
    with pytest.raises(StepFailed, match="it broke"):
        tell(call, FakeStream(failed), exchange=exchange)
    assert not exchange.started


def test_an_error_after_the_first_piece_is_an_event() -> None:
    call, exchange = streamed(), FakeExchange()
    failed = output(call, news(0, "", "error", stop_reason="it broke"))
    tell(call, FakeStream(output(call, news(0, "a")), failed), exchange=exchange)
    first, error, done = exchange.events()
    assert first["choices"][0]["text"] == "a"
    assert error["error"]["message"] == "it broke"
    assert (error["error"]["code"], error["error"]["type"]) == (500, "InternalServerError")
    assert done == "[DONE]"
    assert exchange.ended


def test_a_stream_that_was_closed_ends_without_a_word() -> None:
    call, exchange = streamed(), FakeExchange()
    exchange.gone = True
    with pytest.raises(ClientGone):
        tell(call, FakeStream(output(call, news(0, "a"))), exchange=exchange)
    assert not exchange.ended
    with pytest.raises(ClientGone):
        asyncio.run(openai._final(cast(Any, FakeStream(output(call, news(0, "a"))))))


def test_several_prompts_are_told_as_they_come() -> None:
    call, exchange = streamed(["a", "b", "c"]), FakeExchange()

    def ends(place: int) -> RequestOutput:
        return output(call, news(0, f"{place}", "stop"), place=place)

    slow = FakeStream(10, output(call, news(0, "x")), 10, ends(0))
    tell(call, slow, FakeStream(3, ends(1)), FakeStream(ends(2)), exchange=exchange)
    *told, done = exchange.events()
    assert [(e["choices"][0]["index"], e["choices"][0]["text"]) for e in told] == [
        (2, "2"), (1, "1"), (0, "x"), (0, "0"),
    ]  # fmt: skip
    assert done == "[DONE]"
    assert exchange.line.finish_reason == "stop"
    assert exchange.line.completion_tokens == 4


def test_a_long_body_is_read_by_a_thread() -> None:
    handlers = openai.OpenAI(cast(Any, None))

    async def who(size: int) -> str:
        return await handlers._sized(b" " * size, lambda: threading.current_thread().name)

    assert asyncio.run(who(100)) == threading.current_thread().name
    assert asyncio.run(who(100_000)).startswith("long-text")
