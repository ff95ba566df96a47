"""How a server ends: after its answers, when time is up, or at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from server.conftest import Start
from server.small import stopped
from server.test_app import ask
from serving import Server

LONG = {"prompt": "Once", "max_tokens": 1900, "ignore_eos": True, "temperature": 1}


class Reader:
    """A stream under way; `chunks` is what came."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.chunks: list[str] = []

    async def next(self) -> str:
        while not (line := await self._reader.readline()).startswith(b"data: "):
            assert line, "the stream was cut"
        self.chunks.append(line[6:].decode().strip())
        return self.chunks[-1]

    async def rest(self) -> list[dict[str, Any]]:
        """What is left, decoded, up to [DONE], after which nothing comes."""
        found = []
        while (data := await self.next()) != "[DONE]":
            found.append(json.loads(data))
        assert b"data" not in await self._reader.read()
        return found


@asynccontextmanager
async def stream(server: Server, **changes: Any) -> AsyncIterator[Reader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps({**LONG, "stream": True, **changes}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    head += b"Content-Type: application/json\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
    found = Reader(reader)
    try:
        async with asyncio.timeout(60):
            await found.next()
            yield found
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_streams_end_and_newcomers_are_refused(start: Start, number: int) -> None:
    async def run(server: Server) -> None:
        async with stream(server) as reader:
            # The engine stands still, so that the answer does not end before all is asked.
            with stopped(await asyncio.to_thread(server.engine_pid)):
                server.process.send_signal(number)
                while (await asyncio.to_thread(server.health))["status"] != "draining":
                    pass
                assert (await asyncio.to_thread(server.get, "/health"))[0] == 200
                assert (await asyncio.to_thread(server.get, "/ready"))[0] == 503
                body = {"prompt": "x", "max_tokens": 1}
                status, headers, answer = await asyncio.to_thread(
                    ask, server, "POST", "/v1/completions", json.dumps(body).encode()
                )
                assert status == 503
                assert int(headers["retry-after"]) >= 1
                assert headers["connection"] == "close"
                assert "shutting down" in json.loads(answer)["error"]["message"]
                for _ in range(6):  # for longer than the HTTP server's own tick: it closes no door
                    await asyncio.sleep(0.05)
                    assert (await asyncio.to_thread(server.get, "/ready"))[0] == 503
            rest = await reader.rest()
            assert rest[-1]["choices"][0]["finish_reason"] == "length"

    with start() as server:
        asyncio.run(run(server))
        assert server.process.wait(60) == 0
        assert "still under way" not in server.log.read_text()


def test_an_idle_server_ends_at_once(start: Start) -> None:
    with start() as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert "under way" not in server.log.read_text()


def test_time_is_up(start: Start) -> None:
    """A stream that outlasts shutdown_timeout hears why; the end is an orderly one."""

    async def run(server: Server) -> None:
        async with stream(server) as reader:
            server.process.send_signal(signal.SIGTERM)
            rest = await reader.rest()
            assert "stopped" in rest[-1]["error"]["message"]

    with start("--shutdown-timeout", "0.1") as server:
        asyncio.run(run(server))
        assert server.process.wait(60) == 0


def test_a_second_signal_ends_streams_with_an_error(start: Start) -> None:
    async def run(server: Server) -> None:
        async with stream(server) as reader:
            with stopped(await asyncio.to_thread(server.engine_pid)):
                server.process.send_signal(signal.SIGINT)
                while (await asyncio.to_thread(server.health))["status"] != "draining":
                    pass
                server.process.send_signal(signal.SIGINT)
                rest = await reader.rest()
            assert "stopped" in rest[-1]["error"]["message"]

    with pytest.raises(AssertionError, match="the server's end"), start() as server:
        asyncio.run(run(server))
        assert server.process.wait(60) == 130


def test_an_engine_that_dies_in_a_drain_is_replaced(start: Start) -> None:
    """What was promised an answer gets it."""

    async def run(server: Server) -> None:
        async with stream(server, max_tokens=150) as reader:
            engine = await asyncio.to_thread(server.engine_pid)
            with stopped(engine):
                server.process.send_signal(signal.SIGTERM)
                while (await asyncio.to_thread(server.health))["status"] != "draining":
                    pass
                os.kill(engine, signal.SIGKILL)
            rest = await reader.rest()
            assert rest[-1]["choices"][0]["finish_reason"] == "length"

    with start() as server:
        asyncio.run(run(server))
        assert server.process.wait(60) == 0
