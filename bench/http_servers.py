"""What does an HTTP server cost per streamed chunk? `python bench/http_servers.py`.

Every server runs inside an asyncio loop (uvloop) that is ours. A ticker wakes N streams every 20 ms
and each sends one event of 200 bytes, 64 in all; the server's CPU time is read from here, where a
minimal client reads the streams. `bare` is httptools under an asyncio.Protocol written by hand,
without tasks: what any server in this loop costs at least. Every round starts each server anew, in
turn, A B C A B C; the table gives medians. Linux only: the CPU clock of another process is read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop

KINDS = (
    "bare",
    "uvicorn",
    "starlette-router",
    "starlette-app",
    "starlette-stream",
    "granian",
)
CHUNKS = 64
TICK_S = 0.02
EVENT = b"data: " + b"x" * 192 + b"\n\n"
POST_BODY = b'{"prompt": "%s"}' % (b"x" * 86)
FLOOD_PIECE = b"x" * 65536
FLOOD_PIECES = 1024
SSE_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
JSON_HEADERS = [(b"content-type", b"application/json")]


class Ticker:
    """Wakes every stream once per tick, as a step of the engine does."""

    def __init__(self) -> None:
        self.streams: set[Stream] = set()
        self.task: asyncio.Task[None] | None = None

    def go(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.run())

    async def run(self) -> None:
        due = time.monotonic()
        for _ in range(CHUNKS):
            due += TICK_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            for stream in list(self.streams):
                stream.wake()


class Stream:
    """Events for one client: a count and one waiter."""

    def __init__(self, ticker: Ticker) -> None:
        self.ticker, self.left, self.ready = ticker, CHUNKS, 0
        self.waiter: asyncio.Future[None] | None = None
        ticker.streams.add(self)

    def wake(self) -> None:
        self.ready += 1
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.left:
            if not self.ready:
                self.waiter = asyncio.get_running_loop().create_future()
                await self.waiter
            self.ready -= 1
            self.left -= 1
            yield EVENT
        self.ticker.streams.discard(self)


class Handlers:
    """What all servers serve, as ASGI endpoints that call `send` themselves."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.ticker = Ticker()
        self.facts = facts

    async def stream(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        async for event in Stream(self.ticker):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        await self.answer(send, json.loads(body))

    async def flood(self, scope: Any, receive: Any, send: Any) -> None:
        """Send to a client that does not read, and count what `send` accepted."""
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        for _ in range(FLOOD_PIECES):
            await send({"type": "http.response.body", "body": FLOOD_PIECE, "more_body": True})
            self.facts["flooded"] = self.facts.get("flooded", 0) + len(FLOOD_PIECE)
            await asyncio.sleep(0)

    async def watch(self, scope: Any, receive: Any, send: Any) -> None:
        """Send one event, then only wait for the client to leave."""
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.facts["left_at"] = time.monotonic()

    async def go(self, scope: Any, receive: Any, send: Any) -> None:
        self.ticker.go()
        await self.answer(send, {})

    async def tell(self, scope: Any, receive: Any, send: Any) -> None:
        await self.answer(send, {**self.facts, "streams": len(self.ticker.streams)})

    async def answer(self, send: Any, value: Any) -> None:
        body = json.dumps(value).encode()
        headers = [*JSON_HEADERS, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The raw ASGI application."""
        if scope["type"] == "http":
            await getattr(self, scope["path"][1:])(scope, receive, send)
        else:  # lifespan
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})


ROUTES = ("stream", "echo", "flood", "watch", "go", "tell")


class Endpoint:
    """An ASGI endpoint that starlette calls as it is."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.handler(scope, receive, send)


def starlette_app(handlers: Handlers, kind: str) -> Any:
    """The handlers behind starlette: only its Router, a whole app, or its StreamingResponse."""
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route, Router

    ends: dict[str, Any] = {name: Endpoint(getattr(handlers, name)) for name in ROUTES}
    if kind == "starlette-stream":

        async def stream(request: Any) -> StreamingResponse:
            return StreamingResponse(Stream(handlers.ticker), media_type="text/event-stream")

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(FLOOD_PIECES):
                handlers.facts["flooded"] = handlers.facts.get("flooded", 0) + len(FLOOD_PIECE)
                yield FLOOD_PIECE
                await asyncio.sleep(0)

        async def flood(request: Any) -> StreamingResponse:
            return StreamingResponse(pieces())

        async def once() -> AsyncIterator[bytes]:
            try:
                yield EVENT
                await asyncio.sleep(60)
            finally:
                handlers.facts["left_at"] = time.monotonic()

        async def watch(request: Any) -> StreamingResponse:
            return StreamingResponse(once())

        ends |= {"stream": stream, "flood": flood, "watch": watch}
    routes = [Route(f"/{name}", end, methods=["GET", "POST"]) for name, end in ends.items()]
    return Router(routes) if kind == "starlette-router" else Starlette(routes=routes)


async def serve_uvicorn(app: Any, port: int) -> None:
    """uvicorn inside this loop; the signals stay ours."""
    import uvicorn

    class Embedded(uvicorn.Server):
        def capture_signals(self) -> Any:
            return contextlib.nullcontext()

    config = uvicorn.Config(
        app, port=port, http="httptools", log_level="warning", access_log=False, backlog=16384
    )
    await Embedded(config).serve()


async def serve_granian(app: Any, port: int) -> None:
    """granian's embedded server, which calls it experimental, inside this loop."""
    from granian.constants import HTTPModes, Interfaces
    from granian.server.embed import Server

    await Server(
        app,
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=16384,
        log_enabled=False,
    ).serve()


async def serve_bare(handlers: Handlers, port: int) -> None:
    """httptools and an asyncio.Protocol: the ceiling."""
    import httptools

    ok = b"HTTP/1.1 200 OK\r\n"
    sse = ok + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    class Bare(asyncio.Protocol):
        waker: Any = None

        def connection_made(self, transport: Any) -> None:
            self.transport, self.body, self.url = transport, b"", b""
            self.parser = httptools.HttpRequestParser(self)
            self.writable = asyncio.Event()
            self.writable.set()

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_url(self, url: bytes) -> None:
            self.url += url

        def on_body(self, body: bytes) -> None:
            self.body += body

        def pause_writing(self) -> None:
            self.writable.clear()

        def resume_writing(self) -> None:
            self.writable.set()

        def connection_lost(self, exc: Exception | None) -> None:
            handlers.facts["left_at"] = time.monotonic()
            handlers.ticker.streams.discard(self)  # type: ignore[arg-type]

        def chunk(self, event: bytes) -> None:
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))

        def wake(self) -> None:
            self.chunk(EVENT)
            self.left -= 1
            if not self.left:
                handlers.ticker.streams.discard(self)  # type: ignore[arg-type]
                self.transport.write(b"0\r\n\r\n")

        async def flood(self) -> None:
            for _ in range(FLOOD_PIECES):
                await self.writable.wait()
                self.chunk(FLOOD_PIECE)
                handlers.facts["flooded"] = handlers.facts.get("flooded", 0) + len(FLOOD_PIECE)
                await asyncio.sleep(0)

        def on_message_complete(self) -> None:
            url, body, self.url, self.body = self.url, self.body, b"", b""
            if url in (b"/stream", b"/watch", b"/flood"):
                self.transport.write(sse)
                if url == b"/stream":
                    self.left = CHUNKS
                    handlers.ticker.streams.add(self)  # type: ignore[arg-type]
                elif url == b"/watch":
                    self.chunk(EVENT)
                else:
                    self.task = asyncio.get_running_loop().create_task(self.flood())
                return
            value: Any = {}
            if url == b"/echo":
                value = json.loads(body)
            elif url == b"/tell":
                value = {**handlers.facts, "streams": len(handlers.ticker.streams)}
            else:
                handlers.ticker.go()
            text = json.dumps(value).encode()
            head = ok + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(text)
            self.transport.write(head + text)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Bare, "127.0.0.1", port, backlog=16384)
    await server.serve_forever()


async def serve(kind: str, port: int) -> None:
    """The server process."""
    began = time.monotonic()
    if kind == "bare":
        import httptools  # noqa: F401
    elif kind == "granian":
        import granian.server.embed  # noqa: F401
    else:
        import uvicorn.lifespan.on
        import uvicorn.protocols.http.httptools_impl  # noqa: F401
    if kind.startswith("starlette"):
        import starlette.applications  # noqa: F401
    handlers = Handlers({"import_s": time.monotonic() - began})
    if kind == "bare":
        await serve_bare(handlers, port)
    elif kind == "granian":
        await serve_granian(handlers, port)
    else:
        app = starlette_app(handlers, kind) if kind.startswith("starlette") else handlers
        await serve_uvicorn(app, port)


class Client(asyncio.Protocol):
    """One connection: a request at a time, and as little work per chunk as can be."""

    def __init__(self) -> None:
        self.count = 0
        self.tail = b""
        self.first: asyncio.Future[None] | None = None
        self.ended: asyncio.Future[bytes] | None = None
        self.by_length = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, path: str, body: bytes = b"{}") -> None:
        head = f"POST /{path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
        loop = asyncio.get_running_loop()
        self.count, self.tail, self.first = 0, b"", loop.create_future()
        self.ended, self.by_length = loop.create_future(), path in ("echo", "go", "tell")
        self.transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        if self.first is not None and not self.first.done():
            self.first.set_result(None)
        assert self.ended is not None
        if self.by_length:
            self.tail += data
            if self.tail.endswith(b"}"):
                self.ended.set_result(self.tail)
        else:
            self.tail = (self.tail + data)[-5:]
            if self.tail == b"0\r\n\r\n":
                self.ended.set_result(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.ended is not None and not self.ended.done():
            self.ended.set_exception(ConnectionResetError("the server closed"))
            self.ended.exception()


async def connect(port: int) -> Client:
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(Client, "127.0.0.1", port))[1]


async def post(port: int, path: str) -> dict[str, Any]:
    """One request on a connection of its own."""
    client = await connect(port)
    client.ask(path)
    assert client.ended is not None
    text = await client.ended
    client.transport.close()
    return dict(json.loads(text.partition(b"\r\n\r\n")[2]))


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, all threads: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def measure_streams(pid: int, port: int, streams: int) -> tuple[float, float]:
    """Server CPU microseconds of a chunk, and of opening a stream."""
    clients: list[Client] = []
    before = cpu_s(pid)
    while len(clients) < streams:
        count = min(100, streams - len(clients))
        clients += await asyncio.gather(*(connect(port) for _ in range(count)))
        for client in clients[-count:]:
            client.ask("stream")
    while (await post(port, "tell"))["streams"] < streams:
        await asyncio.sleep(0.02)
    opened = cpu_s(pid)
    await post(port, "go")
    for client in clients:
        assert client.ended is not None
        await client.ended
    spent = cpu_s(pid) - opened
    if any(client.count < CHUNKS * len(EVENT) for client in clients):
        raise SystemExit("a stream was short")
    for client in clients:
        client.transport.close()
    return spent / streams / CHUNKS * 1e6, (opened - before) / streams * 1e6


async def measure_posts(pid: int, port: int, seconds: float) -> tuple[float, float]:
    """Requests per second over 32 connections, and server CPU microseconds of each."""
    clients = await asyncio.gather(*(connect(port) for _ in range(32)))
    done = 0
    began, before = time.monotonic(), cpu_s(pid)

    async def repeat(client: Client) -> None:
        nonlocal done
        while time.monotonic() < began + seconds:
            client.ask("echo", POST_BODY)
            assert client.ended is not None
            await client.ended
            done += 1

    await asyncio.gather(*(repeat(client) for client in clients))
    took, spent = time.monotonic() - began, cpu_s(pid) - before
    for client in clients:
        client.transport.close()
    return done / took, spent / done * 1e6


async def measure_manners(pid: int, port: int) -> dict[str, float | None]:
    """When a client leaves, and when a client does not read."""
    client = await connect(port)
    client.ask("watch")
    assert client.first is not None
    await client.first
    await asyncio.sleep(0.2)
    left = time.monotonic()
    client.transport.abort()
    await asyncio.sleep(0.5)
    at = (await post(port, "tell")).get("left_at")
    memory = memory_mib(pid)
    client = await connect(port)
    client.transport.pause_reading()
    client.ask("flood")
    await asyncio.sleep(1.5)
    figures = {
        "left_ms": None if at is None else (at - left) * 1e3,
        "flood_mib": (await post(port, "tell")).get("flooded", 0) / 2**20,
        "grown_mib": memory_mib(pid) - memory,
    }
    client.transport.abort()
    return figures


async def measure(kind: str, counts: list[int], seconds: float) -> dict[str, Any]:
    """Start a server, ask it everything, end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    command = [sys.executable, __file__, "--serve", kind, "--port", str(port)]
    with subprocess.Popen(command) as server:
        try:
            while True:
                try:
                    facts = await post(port, "tell")
                    break
                except OSError:
                    if server.poll() is not None:
                        raise SystemExit(f"{kind} did not start") from None
                    await asyncio.sleep(0.005)
            row: dict[str, Any] = {"kind": kind, "accept_s": time.monotonic() - began}
            row["import_s"] = facts["import_s"]
            row["per_s"], row["post_us"] = await measure_posts(server.pid, port, seconds)
            for count in counts:
                chunk, opening = await measure_streams(server.pid, port, count)
                row[f"chunk_{count}"], row["open_us"] = chunk, opening
            row |= await measure_manners(server.pid, port)
        finally:
            server.kill()
    return row


def table(rows: list[dict[str, Any]], counts: list[int]) -> str:
    """Medians over rounds."""
    heads = [f"us/chunk, N={count}" for count in counts]
    heads += ["us/stream opened", "POST/s", "us/POST", "import s", "accept s"]
    heads += ["told that a client left, ms", "taken for a client that does not read, MiB (RSS)"]
    lines = ["| server | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]

        def median(name: str, mine: list[dict[str, Any]] = mine) -> float:
            return statistics.median(row[name] for row in mine)

        told = [row["left_ms"] for row in mine if row["left_ms"] is not None]
        cells = [f"{median(f'chunk_{count}'):.1f}" for count in counts]
        cells += [f"{median('open_us'):.0f}", f"{median('per_s'):.0f}", f"{median('post_us'):.0f}"]
        cells += [f"{median('import_s'):.2f}", f"{median('accept_s'):.2f}"]
        cells.append(f"{statistics.median(told):.1f}" if len(told) == len(mine) else "no")
        cells.append(f"{median('flood_mib'):.1f} (+{median('grown_mib'):.0f})")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


async def drive(kinds: list[str], counts: list[int], rounds: int, seconds: float) -> None:
    """Every round asks each server in turn."""
    rows = []
    for _ in range(rounds):
        for kind in kinds:
            rows.append(await measure(kind, counts, seconds))
    print(table(rows, counts))


def main() -> None:
    """Parse the command line and run a role; without one, all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="starts of each server")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 100, 1000], metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, help="of plain requests")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        uvloop.run(serve(args.serve, args.port))
    else:
        uvloop.run(drive(args.kinds, args.streams, args.rounds, args.seconds))


if __name__ == "__main__":
    main()
