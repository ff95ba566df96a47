"""Clients in numbers, and clients that misbehave: they vanish, they hardly read.

bench/clients.py does the same with thousands, and tells how long things took.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving import Answer, Server, complete, events, start_server

pytestmark = pytest.mark.faults

CLIENTS = 300
LONG = {"prompt": [400, 500, 600], "max_tokens": 300, "ignore_eos": True, "temperature": 1.0}


async def run_together(server: Server) -> None:
    """Everyone has a first token before anyone's last."""
    started = 0
    enough = asyncio.Event()
    early: list[int] = []

    async def client(seed: int) -> None:
        nonlocal started
        got = 0
        async for data in events(server.port, "/v1/completions", {**LONG, "seed": seed}):
            if data == "[DONE]":
                if not enough.is_set():
                    early.append(seed)
                continue
            got += 1
            if got == 2:  # the first names the prompt, or brings the first token
                started += 1
                if started == CLIENTS:
                    enough.set()

    await asyncio.gather(*(client(seed) for seed in range(CLIENTS)))
    assert enough.is_set()
    assert not early, f"{len(early)} answers ended before all had begun"


def test_together(tmp_path: Path) -> None:
    """300 clients stream at once."""
    with start_server(tmp_path, "--max-num-seqs", str(CLIENTS)) as server:
        asyncio.run(run_together(server))
        server.wait_idle()
        assert server.check() == "ok"


async def run_vanish(server: Server) -> None:
    async def vanish(seed: int) -> None:
        stream = events(server.port, "/v1/completions", {**LONG, "seed": seed})
        for _ in range(seed % 20 + 2):
            await anext(stream)
        await stream.aclose()

    stays = [{**LONG, "seed": seed} for seed in range(20)]
    expected = await asyncio.gather(*(complete(server.port, body, Answer()) for body in stays))
    answers = [Answer() for _ in stays]
    await asyncio.gather(
        *(complete(server.port, body, answer) for body, answer in zip(stays, answers, strict=True)),
        *(vanish(seed) for seed in range(CLIENTS)),
    )
    assert [a.token_ids for a in answers] == [a.token_ids for a in expected]


def test_vanish(tmp_path: Path) -> None:
    """300 that go away in mid-stream leave no page in use, and nobody else's answer changes."""
    with start_server(tmp_path) as server:
        asyncio.run(run_vanish(server))
        server.wait_idle()
        assert server.check() == "ok"
        assert server.metric("vllm:request_success_total", 'finished_reason="abort"') >= 1


def slow_reader(server: Server) -> socket.socket:
    """A client that sent a request for a long answer and reads nothing of it."""
    client = socket.create_connection(("127.0.0.1", server.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    body = json.dumps({**LONG, "max_tokens": 1200, "stream": True, "logprobs": 5}).encode()
    client.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    return client


def test_slow_readers(tmp_path: Path) -> None:
    """20 that do not read hold up nobody, and what they leave unread is bounded."""
    with start_server(tmp_path) as server:
        body = {**LONG, "seed": 1}
        expected = asyncio.run(complete(server.port, body, Answer()))
        with ExitStack() as slow:
            for _ in range(20):
                slow.enter_context(slow_reader(server))
            answer = asyncio.run(complete(server.port, body, Answer()))
            assert answer.token_ids == expected.token_ids
            server.wait_idle(120)  # their answers end in the engine though nobody reads them
            assert server.resident_bytes() < 1 << 30
        assert server.check() == "ok"
