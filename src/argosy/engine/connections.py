"""The engine's side of the sockets: fronts come, send frames, read slowly, and go."""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from argosy.engine.wire import Frames, FromFront, decode_from_front
from argosy.errors import ConfigError
from argosy.types import Event

MAX_UNREAD = 64 * 2**20
"""Bytes a front may leave unread before it is dropped."""

_RECEIVE = 256 * 2**10

_log = logging.getLogger(__name__)


class Connection:
    """One front, and the news for it of the step under way.

    tokens: (number, index, token) * n.  has_replayed: whether its first Submit came, which holds
    what it still waits for.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.frames = Frames()
        self.unsent = bytearray()
        self.has_replayed = False
        self.tokens: list[int] = []
        self.events: list[Event] = []

    def receive(self) -> list[FromFront] | None:
        """What came whole; None at its end.

        Raises msgspec.MsgspecError and ConfigError for what is no message.
        """
        try:
            data = self.sock.recv(_RECEIVE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return [decode_from_front(frame) for frame in self.frames.feed(data)] if data else None

    def flush(self) -> bool:
        """Send what is unsent as far as the front reads; whether it is still there."""
        try:
            while self.unsent:
                del self.unsent[: self.sock.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


class Connections:
    """All fronts, and the listener they come through; nothing here waits but `receive`.

    greeting: the frame every front gets first.
    """

    def __init__(self, listener: socket.socket, greeting: bytes) -> None:
        self._lost: list[Connection] = []
        self._listener = listener
        self._greeting = greeting
        self._open: set[Connection] = set()
        self._inbox: list[tuple[Connection, FromFront]] = []
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._open))

    @property
    def num_replayed(self) -> int:
        """Fronts connected that have sent what they still wait for."""
        return sum(connection.has_replayed for connection in self._open)

    def receive(self, timeout: float) -> list[tuple[Connection, FromFront]]:
        """What the fronts sent, in each one's order; waits up to `timeout` seconds for something.

        Messages of a front that then went are among them.
        """
        for key, mask in self._selector.select(timeout):
            handle: Callable[[int], None] = key.data
            handle(mask)
        inbox, self._inbox = self._inbox, []
        return inbox

    def take_lost(self) -> list[Connection]:
        """Those that went, or were sent away, since the last call; nothing more comes from them."""
        lost, self._lost = self._lost, []
        return lost

    def send(self, connection: Connection, frame: bytes) -> None:
        """Send now what the socket takes, and the rest when it takes more."""
        if connection not in self._open:
            return
        if not connection.unsent:
            try:
                num_sent = connection.sock.send(frame)
            except BlockingIOError:
                num_sent = 0
            except OSError:
                self.drop(connection)
                return
            if num_sent == len(frame):
                return
            frame = frame[num_sent:]
            self._watch(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        connection.unsent += frame
        if len(connection.unsent) > MAX_UNREAD:
            self.drop(connection, f"it left {len(connection.unsent)} bytes unread")

    def drop(self, connection: Connection, reason: str = "") -> None:
        """Send a front away; without a reason it went by itself."""
        if connection not in self._open:
            return
        if reason:
            _log.warning("a front's connection was closed: %s", reason)
        self._open.discard(connection)
        self._selector.unregister(connection.sock)
        connection.sock.close()
        self._lost.append(connection)

    def close(self) -> None:
        """Leave all fronts."""
        for connection in self:
            self.drop(connection)
        self._selector.close()
        self._listener.close()

    def _accept(self, _mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # gone again, or out of descriptors: the next turn tries anew
            return
        sock.setblocking(False)
        connection = Connection(sock)
        self._open.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, partial(self._serve, connection))
        self.send(connection, self._greeting)

    def _serve(self, connection: Connection, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            if not connection.flush():
                self.drop(connection)
                return
            if not connection.unsent:
                self._watch(connection, selectors.EVENT_READ)
        if mask & selectors.EVENT_READ:
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        try:
            messages = connection.receive()
        except (msgspec.MsgspecError, ConfigError) as exc:
            self.drop(connection, f"it sent what is no message: {exc}")
            return
        if messages is None:
            self.drop(connection)
            return
        self._inbox += [(connection, message) for message in messages]

    def _watch(self, connection: Connection, events: int) -> None:
        data = self._selector.get_key(connection.sock).data
        self._selector.modify(connection.sock, events, data)
