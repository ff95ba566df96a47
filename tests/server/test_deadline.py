"""`--request-timeout`: what was made by then is the answer, and its pages are free."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from server.conftest import Start
from serving import Server, events

LONG: dict[str, Any] = {"prompt": "Once upon", "max_tokens": 1900, "ignore_eos": True}


def whole(server: Server) -> list[Any]:
    status, body = server.post("/v1/completions", LONG)
    assert status == 200
    return [body["choices"][0]]


def streamed(server: Server) -> list[Any]:
    async def run() -> list[str]:
        return [data async for data in events(server.port, "/v1/completions", LONG)]

    return [json.loads(data)["choices"][0] for data in asyncio.run(run()) if data != "[DONE]"]


@pytest.mark.parametrize("ask", [whole, streamed])
def test_a_request_past_its_deadline_ends_with_what_it_has(start: Start, ask: Any) -> None:
    with start("--request-timeout", "0.2") as server:
        choices = ask(server)
        assert "".join(one["text"] for one in choices)
        last = choices[-1]
        assert (last["finish_reason"], last["stop_reason"]) == ("abort", "deadline")
        server.wait_idle()
        assert 0 < server.metric("vllm:generation_tokens_total") < LONG["max_tokens"]
        assert server.check() == "ok"
