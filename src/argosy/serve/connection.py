"""One client's connection: uvicorn's protocol, with limits it has not.

The head of a request must be complete HEAD_S after it, or the connection, began, and within
MAX_HEAD bytes. What is no HTTP is answered in the shape of all other errors.
"""

from __future__ import annotations

import asyncio
import re

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from argosy.serve.errors import make, openai_shape

HEAD_S = 30.0
MAX_HEAD = 64 * 1024
"""Bytes; up to what one read of the socket gives may come on top."""


_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


def _without_upgrade(data: bytes) -> bytes:
    """A head that asks for no other protocol: the parser would drop the body of one that does."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest


class Connection(HttpToolsProtocol):
    """A connection whose requests must begin in time: within `head_s` seconds."""

    head_s = HEAD_S
    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or was cut off."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        was_in_head = self._in_head
        if b"pgrade" in data and (was_in_head or self._is_idle()):
            data = _without_upgrade(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and was_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse(431, f"the head of a request may have {MAX_HEAD} bytes")
                return
        if self._timer is None and (self._in_head or self._is_idle()):
            self._arm()  # also where mere line ends come, which begin no request

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """A request's head is complete."""
        self._in_head = False
        self._disarm()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, "this is no valid HTTP/1.1 request")

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self.head_s, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self._is_idle():
            self._arm()  # an answer is under way; the next request's head may wait for it
        elif self._in_head:
            self._refuse(408, f"the request's head was not complete after {self.head_s:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close; in the middle of an answer only close."""
        if self.transport.is_closing():
            return
        if not self._is_idle() and self.cycle.response_started:
            self.transport.abort()
            return
        body = openai_shape(make(status, message))
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()
