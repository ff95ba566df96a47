"""A small server of the OpenAI API in a thread: a word is a token, and it can misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

TEMPLATE = 3
"""Tokens that a chat adds to its words."""


@dataclass
class FakeServer:
    """Answers `max_tokens` words, one a chunk. All of it can be changed while it runs.

    capacity: more requests at once are refused with 429.  break_after: the connection ends after
    so many words.  newline, piece: how events are cut into lines and into writes.  keep_alive: else
    every connection ends after one answer, without saying so before.
    """

    first_s: float = 0.0
    gap_s: float = 0.0
    capacity: int = 10**9
    break_after: int | None = None
    error_after: int | None = None
    tokenize: bool = True
    usage: bool = True
    newline: str = "\n"
    piece: int = 10**9
    keep_alive: bool = True
    hang: bool = False
    seen: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    running: int = 0
    most_running: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer) and self.keep_alive:
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        length = [v for k, _, v in _headers(head) if k.lower() == "content-length"]
        body = json.loads(await reader.readexactly(int(length[0]))) if length else {}
        path = head.split()[1]
        if path == "/v1/models":
            _whole(writer, 200, {"data": [{"id": "fake", "max_model_len": 256}]})
        elif path == "/tokenize":
            found = {"count": count(body)} if self.tokenize else {"error": {"message": "no"}}
            _whole(writer, 200 if self.tokenize else 404, found)
        elif self.hang:
            await asyncio.sleep(3600)
        elif self.running >= self.capacity:
            _whole(writer, 429, {"error": {"message": "full", "code": 429}})
        else:
            return await self._answer(body, writer, chat="chat" in path)
        await writer.drain()
        return True

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter, chat: bool) -> bool:
        self.seen.append(body)
        usage = {"prompt_tokens": count(body), "completion_tokens": body["max_tokens"]}
        if not body.get("stream"):
            _whole(writer, 200, {"choices": [], "usage": usage} if self.usage else {"choices": []})
            return True
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            whole = await self._stream(body, usage, writer, chat)
        finally:
            self.running -= 1  # before the end is sent: whoever sees the end may ask again
        if whole:
            self._write(writer, f"data: [DONE]{self.newline * 2}".encode())
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return whole

    async def _stream(
        self, body: dict[str, Any], usage: dict[str, int], writer: asyncio.StreamWriter, chat: bool
    ) -> bool:
        kind = "text/event-stream\r\ntransfer-encoding: chunked"
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n".encode())
        if chat:
            await self._event(
                writer, {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
            )
        for i in range(body["max_tokens"]):
            await asyncio.sleep(self.gap_s if i else self.first_s)
            if i == self.break_after:
                return False
            if i == self.error_after:
                await self._event(writer, {"error": {"message": "engine gone", "code": 500}})
                break
            text = f"w{i} "
            await self._event(
                writer, {"choices": [{"delta": {"content": text}} if chat else {"text": text}]}
            )
        if self.usage:
            await self._event(writer, {"choices": [], "usage": usage})
        return True

    async def _event(self, writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
        text = f": a comment{self.newline * 2}data: {json.dumps(value)}{self.newline * 2}"
        self._write(writer, text.encode())
        await writer.drain()

    def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for at in range(0, len(data), self.piece):
            part = data[at : at + self.piece]
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))


def count(body: dict[str, Any]) -> int:
    """Tokens of a prompt."""
    if "messages" in body:
        return TEMPLATE + sum(len(m["content"].split()) for m in body["messages"])
    return len(body["prompt"].split())


def _headers(head: str) -> list[tuple[str, str, str]]:
    return [line.partition(": ") for line in head.split("\r\n")[1:] if line]


def _whole(writer: asyncio.StreamWriter, status: int, value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(data), data))


@contextmanager
def fake_server(**options: Any) -> Iterator[FakeServer]:
    """A server on a free port, in a thread; ended after the block."""
    server, ready, loop = FakeServer(**options), threading.Event(), asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        listener = await asyncio.start_server(server.talk, "127.0.0.1", 0)
        server.port = listener.sockets[0].getsockname()[1]
        ready.set()
        await over.wait()
        listener.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        loop.close()
