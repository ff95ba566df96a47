"""Clients that are slow, silent, endless or gone."""

from __future__ import annotations

import asyncio
import json
import resource
from contextlib import suppress
from typing import Any

import pytest

from argosy.serve import exchange as exchange_module
from argosy.serve.exchange import Exchange
from argosy.serve.listen import raise_file_limit
from server.small import serving
from serving import Server

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
PIECE = b"x" * 65536


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes, or cuts a client that goes on sending."""
    got = b""
    async with asyncio.timeout(60):
        with suppress(ConnectionResetError):
            while piece := await reader.read(65536):
                got += piece
    return got


async def answer_to(
    handlers: dict[str, Any], sent: bytes, drop: bytes = b"", **options: Any
) -> bytes:
    """What a server says to bytes, and to `drop` again and again until it has answered."""
    async with serving(handlers, **options) as small:
        reader, writer = await asyncio.open_connection("127.0.0.1", small.port)
        writer.write(sent)
        got = asyncio.create_task(all_of(reader))
        while drop and not got.done():
            writer.write(drop)
            await asyncio.sleep(0.02)
        answer = await got
        writer.close()
        assert small.app.num_open == 0
        return answer


async def echo(exchange: Exchange) -> None:
    await exchange.reply(await exchange.body())


# -- heads and bodies that do not come ------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"\r\n\r\n", b""),
        (b"GET / HT", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 408 "),
    ],
)
def test_a_head_that_never_ends(sent: bytes, answer: bytes) -> None:
    got = asyncio.run(answer_to({}, sent, hasty=True))
    assert got.startswith(answer)
    assert bool(got) == bool(answer)
    if answer:
        error = json.loads(got.partition(b"\r\n\r\n")[2])["error"]
        assert error["type"] == "RequestTimeoutError"


def test_a_head_in_drops_is_not_waited_for_either() -> None:
    got = asyncio.run(answer_to({}, b"GET / HTTP/1.1\r\n", drop=b"X: y\r\n", hasty=True))
    assert got.startswith(b"HTTP/1.1 408 ")


def test_the_head_after_an_answer_must_come_in_time_too() -> None:
    async def run() -> bytes:
        async with serving({"/x": echo}, hasty=True) as small:
            reader, writer = await asyncio.open_connection("127.0.0.1", small.port)
            writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"GET / HT")
            got = await all_of(reader)
            writer.close()
            return got

    assert asyncio.run(run()).startswith(b"HTTP/1.1 408 ")


def test_an_answer_under_way_is_no_late_head() -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.body()
        await asyncio.sleep(0.5)
        await exchange.reply(b"{}")

    sent = HEAD + b"Content-Length: 0\r\n\r\nGET / HT"
    assert asyncio.run(answer_to({"/x": slow}, sent, hasty=True)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "body", [b"Content-Length: 9\r\n\r\nx", b"Transfer-Encoding: chunked\r\n\r\n"]
)
def test_a_body_that_never_ends(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "BODY_S", 0.1)
    got = asyncio.run(answer_to({"/x": echo}, HEAD + body))
    assert got.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in got


def test_a_body_in_drops_is_not_waited_for_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "BODY_S", 0.1)
    sent = HEAD + b"Content-Length: 100000\r\n\r\n"
    assert asyncio.run(answer_to({"/x": echo}, sent, drop=b"x")).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_in_its_body() -> None:
    async def run() -> None:
        async with serving({"/x": echo}) as small:
            _, writer = await asyncio.open_connection("127.0.0.1", small.port)
            writer.write(HEAD + b"Content-Length: 9000000\r\n\r\n" + PIECE)
            await until(lambda: small.app.num_open)
            writer.close()
            await until(lambda: not small.app.num_open)
            assert small.service.gate.held == 0

    asyncio.run(run())


# -- answers that are not read --------------------------------------------------------------------


def test_an_answer_that_is_not_read_takes_no_memory() -> None:
    """What waits is what two sockets hold; when the client leaves, the handler ends."""
    sent = left = 0

    async def endless(exchange: Exchange) -> None:
        nonlocal sent, left

        def leave() -> None:
            nonlocal left
            left += 1

        await exchange.body()
        await exchange.begin()
        with exchange.until_gone(leave):
            while not exchange.gone:
                await exchange.send(PIECE)
                sent += len(PIECE)

    async def run() -> None:
        nonlocal sent
        async with serving({"/x": endless}) as small:
            _, writer = await asyncio.open_connection("127.0.0.1", small.port, limit=1)
            writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
            before = -1
            while sent != before or not sent:
                before = sent
                await asyncio.sleep(0.3)
            assert sent < 32 * 2**20
            assert left == 0
            writer.transport.abort()
            await until(lambda: not small.app.num_open)
            assert left == 1

    asyncio.run(run())


def test_a_slow_reader_gets_all_of_it() -> None:
    async def long(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.begin()
        for number in range(200):
            await exchange.send(b"%d" % (number % 10) * 65536)
        await exchange.end()

    async def run() -> int:
        async with serving({"/x": long}) as small:
            reader, writer = await asyncio.open_connection("127.0.0.1", small.port, limit=65536)
            writer.write(HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
            size = 0
            while piece := await reader.read(262144):
                size += len(piece)
                await asyncio.sleep(0.001)
            writer.close()
            return size

    assert asyncio.run(run()) > 200 * 65536


# -- against a whole server -----------------------------------------------------------------------


async def leave(server: Server, body: dict[str, Any]) -> None:
    """Send a request, wait until it runs, and vanish."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps(body).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(server.metric, "vllm:num_requests_running"):
            pass
    writer.transport.abort()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_frees_its_pages(server: Server, stream: bool) -> None:
    server.wait_idle()
    name = 'vllm:request_success_total{engine="0",finished_reason="abort"'
    before = server.get("/metrics")[1]
    body = {"prompt": "Once upon", "max_tokens": 1900, "ignore_eos": True, "stream": stream}
    generated = server.metric("vllm:generation_tokens_total")
    asyncio.run(leave(server, body))
    server.wait_idle()
    assert server.metric("request_queue_depth") == 0
    assert server.metric("vllm:generation_tokens_total") - generated < 1900
    lines = [
        next(line for line in text.splitlines() if line.startswith(name))
        for text in (before, server.get("/metrics")[1])
    ]
    old, new = (float(line.rsplit(" ", 1)[1]) for line in lines)
    assert new == old + 1
    assert server.check() == "ok"


def test_many_connections(server: Server) -> None:
    """A thousand idle clients stop nobody."""
    raise_file_limit()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2048:
        pytest.skip("this system allows too few open files")

    async def run() -> None:
        idle = await asyncio.gather(
            *(asyncio.open_connection("127.0.0.1", server.port) for _ in range(1000))
        )
        async with asyncio.timeout(60):
            while await asyncio.to_thread(server.metric, "argosy_http_connections") < 1000:
                await asyncio.sleep(0.05)
        body = {"prompt": "Hi", "max_tokens": 2}
        status, _ = await asyncio.to_thread(server.post, "/v1/completions", body)
        assert status == 200
        for _, writer in idle:
            writer.transport.abort()
        async with asyncio.timeout(60):
            while await asyncio.to_thread(server.metric, "argosy_http_connections") >= 1000:
                await asyncio.sleep(0.05)

    asyncio.run(run())
