"""HTTP/1.1 from a client's side, with little work per read: thousands of streams in one loop.

A `Target` keeps connections that are free; each carries one request at a time. What comes back
goes to a `Reader` in the call of the event loop that read it: no task wakes before the answer's
end.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Protocol, Self, cast
from urllib.parse import urlsplit

import httptools

from argosy.errors import ConfigError

OPENING = 64
"""Connections opened at the same moment: a listener's queue is short."""


class Reader(Protocol):
    """Takes an answer as it arrives."""

    def begin(self, status: int) -> None:
        """The head has come."""
        ...

    def feed(self, data: bytes) -> None:
        """A piece of the body has come."""
        ...


class Body:
    """A whole answer: `status` (0 before the head) and `data`."""

    def __init__(self) -> None:
        self.status = 0
        self.data = b""

    def begin(self, status: int) -> None:
        """The head has come."""
        self.status = status

    def feed(self, data: bytes) -> None:
        """A piece of the body has come."""
        self.data += data


class Closed(ConnectionError):
    """The server ended a connection. `unanswered`: before any byte of an answer."""

    def __init__(self, unanswered: bool) -> None:
        super().__init__("the server closed the connection before the answer's end")
        self.unanswered = unanswered


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._ended: asyncio.Future[None] | None = None
        self._unanswered = True
        self.reusable = True
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask(self, message: bytes, reader: Reader) -> None:
        """Send a request and feed `reader` until the answer's end.

        Raises Closed. Cancelling this ends the connection, so that the server sees us go.
        """
        assert self._ended is None, "one request at a time"
        if self._transport is None or self._transport.is_closing():
            raise Closed(unanswered=True)
        self._reader, self._unanswered = reader, True
        ended = self._ended = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(message)
            await ended
        finally:
            self._ended = self._reader = None
            if not ended.done() or ended.cancelled() or ended.exception():
                self.close()

    def close(self) -> None:
        """End it at once."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape only

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it. What is no HTTP ends the connection."""
        self._unanswered = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._fail(ConnectionError(f"the server does not speak HTTP/1.1: {exc}"))
            self.close()

    def eof_received(self) -> None:
        """As asyncio calls it."""

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        self.reusable = False
        self._fail(Closed(self._unanswered))
        if not self.lost.done():
            self.lost.set_result(None)

    def on_headers_complete(self) -> None:
        """As httptools calls it."""
        if self._reader is not None:
            self._reader.begin(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        """As httptools calls it."""
        if self._reader is not None:
            self._reader.feed(data)

    def on_message_complete(self) -> None:
        """As httptools calls it."""
        self.reusable = self.reusable and bool(self._parser.should_keep_alive())
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, exc: Exception) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(exc)


class Target:
    """A server: where it is, the key it asks for, and the connections to it.

    url: http or https; a trailing /v1 is taken off. Raises ConfigError for anything else.
    An asynchronous context: all connections are ended at its end.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError(f"{url!r} is no address of a server; write it as http://HOST:PORT")
        self.host = parts.hostname
        self.port = port or (443 if parts.scheme == "https" else 80)
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._head = f"Host: {parts.netloc.rpartition('@')[2]}\r\nUser-Agent: argosy\r\n"
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable()):
                raise ConfigError("the API key holds characters that no header can carry")
            self._head += f"Authorization: Bearer {api_key}\r\n"
        self._free: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening = asyncio.Semaphore(OPENING)

    def message(self, path: str, body: bytes | None = None) -> bytes:
        """A request as bytes: POST with a body of JSON, else GET."""
        head = f"{'GET' if body is None else 'POST'} {self._base}{path} HTTP/1.1\r\n{self._head}"
        if body is None:
            return f"{head}\r\n".encode()
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def ask(self, message: bytes, reader: Reader) -> None:
        """Send a request and feed `reader`. Raises OSError when the server cannot be reached.

        A connection kept from before may have been closed by the server meanwhile: then another.
        """
        while True:
            kept = bool(self._free)
            connection = self._free.pop() if kept else await self._open()
            try:
                await connection.ask(message, reader)
            except Closed as exc:
                if kept and exc.unanswered:
                    continue
                raise
            if connection.reusable:
                self._free.append(connection)
            else:
                connection.close()
            return

    async def _open(self) -> Connection:
        loop: Any = asyncio.get_running_loop()
        async with self._opening:
            _, connection = await loop.create_connection(
                Connection, self.host, self.port, ssl=self._ssl
            )
        assert isinstance(connection, Connection)
        self._all.add(connection)
        connection.lost.add_done_callback(lambda _: self._all.discard(connection))
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all connections, and see them gone."""
        self._free.clear()
        ending = list(self._all)
        for connection in ending:
            connection.close()
        await asyncio.gather(*(connection.lost for connection in ending))
