"""One HTTP request and its answer, as a dialect sees them.

    handle(exchange):   body = await exchange.body()
                        await exchange.reply(json)
          or a stream:  await exchange.begin()
                        with exchange.until_gone(stream.close):
                            await exchange.send(sse.event(...))   for each piece
                        await exchange.end(sse.DONE)

An exception before the answer has begun becomes an error in the dialect's shape; after that the
dialect must send its own error frame (`failure_of`). `send` waits while the client reads slowly.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from argosy.serve import sse
from argosy.serve.errors import ClientGone, Failure, Headers, Refusal, Shape, failure
from argosy.serve.gate import BodyBudget
from argosy.serve.log import Line

if TYPE_CHECKING:
    from argosy.serve.service import Service

LOG = logging.getLogger("argosy.serve")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_S = 30.0
BODY_BYTES_PER_S = 16 * 1024
"""A body may take this long, and a second more for each so many bytes."""

JSON = b"application/json"
CLOSE: tuple[bytes, bytes] = (b"connection", b"close")
_DISCARD_S = 5.0
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Exchange:
    """A request being answered.

    request_id: the client's X-Request-Id, or a new one; it is in the answer's headers.
    line: what the log will say; a dialect fills in model, finish_reason and counts.
    started: whether the answer has begun.  gone: whether the client has left.
    logged: whether the log will tell of it.  receive, send_message: ASGI's own.
    explains: whether the client, or the server's configuration, asks where the time went.
    """

    __slots__ = (
        "_headers",
        "arrival",
        "explains",
        "gone",
        "handler",
        "line",
        "logged",
        "more_headers",
        "receive",
        "request_id",
        "scope",
        "send_message",
        "service",
        "started",
    )

    def __init__(
        self, service: Service, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        self.service = service
        self.scope = scope
        self.arrival = time.monotonic()
        self.started = self.gone = False
        self.logged = True
        self.handler = -1
        self.more_headers: list[tuple[bytes, bytes]] = []
        self.receive = receive
        self.send_message = send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = self._id(self.header("x-request-id"))
        self.explains = service.config.explain or self.header("x-argosy-explain") in ("1", "true")
        client = scope.get("client")
        self.line = Line(
            id=self.request_id,
            client=f"{client[0]}:{client[1]}" if client else "",
            method=scope["method"],
            path=scope["path"],
        )

    @staticmethod
    def _id(given: str | None) -> str:
        return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

    @property
    def path_params(self) -> dict[str, Any]:
        """What the route's pattern found in the path."""
        params: dict[str, Any] = self.scope.get("path_params", {})
        return params

    def header(self, name: str) -> str | None:
        """A header of the request by its name in small letters; the last of several."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    # -- the request's body -----------------------------------------------------------------------

    async def body(self) -> bytes:
        """The whole body.

        Raises Refusal 413 above ServerConfig.max_body_bytes and 408 where it does not come, Full
        where the bodies of all requests hold too much memory, ClientGone.
        """
        declared = self._headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.service.config.max_body_bytes:
            await self._refuse_size(more=True)
        message = await self._next_piece(BODY_S)
        if not message.get("more_body"):
            piece: bytes = message["body"]
            if len(piece) > self.service.config.max_body_bytes:
                await self._refuse_size(more=False)
            return piece
        with self.service.gate.body() as budget:
            return await self._rest(message["body"], budget)

    async def _rest(self, first: bytes, budget: BodyBudget) -> bytes:
        pieces, size, more = [first], len(first), True
        budget.take(size)
        while more:
            left = self.arrival + BODY_S + size / BODY_BYTES_PER_S - time.monotonic()
            message = await self._next_piece(left)
            pieces.append(message["body"])
            more = message.get("more_body", False)
            size += len(message["body"])
            budget.take(len(message["body"]))
            if size > self.service.config.max_body_bytes:
                await self._refuse_size(more)
        return b"".join(pieces)

    async def _next_piece(self, seconds: float) -> Message:
        try:
            async with asyncio.timeout(seconds):
                message = await self.receive()
        except TimeoutError:
            raise Refusal(
                408,
                f"the request's body did not arrive in time: {BODY_S:.0f} s, and a second more "
                f"for each {BODY_BYTES_PER_S} bytes",
                headers=(CLOSE,),
            ) from None
        if message["type"] == "http.disconnect":
            self.gone = True
            raise ClientGone
        return message

    async def _refuse_size(self, more: bool) -> NoReturn:
        """Raise 413, after what is on its way was read: a client still sending hears nothing."""
        if more and self._headers.get(b"expect", b"").lower() != b"100-continue":
            with suppress(TimeoutError):
                async with asyncio.timeout(_DISCARD_S):
                    while (await self.receive()).get("more_body"):
                        pass
        limit = self.service.config.max_body_bytes
        raise Refusal(413, f"the request's body exceeds {limit} bytes: send less", headers=(CLOSE,))

    # -- the answer -------------------------------------------------------------------------------

    async def reply(
        self, body: bytes, *, status: int = 200, media: bytes = JSON, headers: Headers = ()
    ) -> None:
        """Answer with a whole body."""
        length = (b"content-length", b"%d" % len(body))
        await self._start(status, ((b"content-type", media), length, *headers))
        await self.end(body)

    async def begin(self, headers: Headers = sse.HEADERS, status: int = 200) -> None:
        """Begin an answer that comes in pieces, a stream of events unless `headers` say else."""
        self.line.stream = True
        await self._start(status, headers)

    async def send(self, data: bytes) -> None:
        """A piece of the answer; waits while the client reads too slowly."""
        await self.send_message({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """The last piece."""
        await self.send_message({"type": "http.response.body", "body": data})

    async def _start(self, status: int, headers: Headers) -> None:
        assert not self.started, "an answer begins once"
        self.started = True
        self.line.status = status
        own = (b"x-request-id", self.request_id.encode())
        await self.send_message(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, own, *self.more_headers],
            }
        )

    async def fail(self, exc: Exception, shape: Shape) -> None:
        """Answer with an error in a protocol's shape."""
        found = self.failure_of(exc)
        await self.reply(shape(found), status=found.status, headers=found.headers)

    def failure_of(self, exc: Exception) -> Failure:
        """What `exc` is to this client; one that should not happen goes to the log."""
        found = failure(exc)
        if found.status == 500:
            LOG.error("request %s failed", self.request_id, exc_info=exc)
        return found

    # -- the client may leave ---------------------------------------------------------------------

    @contextmanager
    def until_gone(self, leave: Callable[[], None]) -> Iterator[None]:
        """Calls `leave` when the client leaves within the block; the body must have been read.

        leave: ends the work at once, as `Stream.close` does; called at most once.
        """
        task = asyncio.get_running_loop().create_task(self._watch(leave))
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self, leave: Callable[[], None]) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        if self.line.stream or not self.started:
            self.gone = True
        leave()

    def finish(self) -> None:
        """The exchange is over: count it and log it."""
        self.line.total_ms = round(1e3 * (time.monotonic() - self.arrival), 3)
        if self.gone:
            self.line.status = 499
        self.service.metrics.http(self.handler, self.line.status)
        if self.logged:
            self.service.log.request(self.line)
