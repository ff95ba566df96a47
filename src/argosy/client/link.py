"""The front's end of the engine's socket: one connection after another, frames in and out.

The listener outlives the engine, so a connection made while no engine runs waits in its backlog;
the first frame of the next engine tells that it was taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import msgspec

from argosy.engine.wire import (
    Frames,
    FromEngine,
    FromFront,
    decode_from_engine,
    frame,
)
from argosy.errors import ConfigError

_log = logging.getLogger(__name__)

_AGAIN_S = 0.02
_MOST_S = 0.5
_LASTING_S = 1.0
"""Connections that last less are made again after a pause, from _AGAIN_S to _MOST_S."""


class Hearer(Protocol):
    """Who owns a link."""

    def heard(self, message: FromEngine) -> None:
        """The engine said something."""
        ...

    def lost(self) -> None:
        """The connection ended; another is tried at once."""
        ...

    def is_hopeless(self) -> bool:
        """Whether no engine will come, so that the link gives up; asked when none can be had."""
        ...


class Link:
    """Keeps a connection to the socket at `path` while it is started."""

    def __init__(
        self,
        path: str,
        hearer: Hearer,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path = path
        self._hearer = hearer
        self._sleep = sleep
        self._transport: asyncio.WriteTransport | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def send(self, message: FromFront) -> None:
        """Send to the engine connected; without one it is dropped."""
        self.write(frame(message))

    def write(self, data: bytes) -> None:
        """Send a frame."""
        if self._transport is not None:
            self._transport.write(data)

    def stop(self) -> None:
        """End the connection; nothing is heard after. A loop that is closed has done so itself."""
        if self._task is None or self._task.get_loop().is_closed():
            return
        self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _keep(self) -> None:
        """Connect again and again, until there is no hope."""
        loop, pause = asyncio.get_running_loop(), 0.0
        while True:
            began = loop.time()
            if await self._connected(loop):
                self._hearer.lost()
            if self._hearer.is_hopeless():
                return
            # At once after an engine's end, but not for ever where none will have us.
            lived = loop.time() - began >= _LASTING_S
            pause = 0.0 if lived else min(max(2 * pause, _AGAIN_S), _MOST_S)
            await self._sleep(pause)

    async def _connected(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Connect, and wait for the end of it; whether there was a connection."""
        try:
            transport, wire = await loop.create_unix_connection(
                lambda: _Wire(self._hearer.heard, self._made), self._path
            )
        except OSError:
            return False
        try:
            await wire.ended
        finally:
            self._transport = None
            transport.abort()
        return True

    def _made(self, transport: asyncio.WriteTransport) -> None:
        """Answers can be sent from here on: an engine may greet before `_connected` goes on."""
        self._transport = transport


class _Wire(asyncio.Protocol):
    """One connection. ended: done when it is over."""

    def __init__(
        self,
        heard: Callable[[FromEngine], None],
        made: Callable[[asyncio.WriteTransport], None],
    ) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heard = heard
        self._made = made
        self._frames = Frames()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, if only to the backlog."""
        self._made(cast(asyncio.WriteTransport, transport))

    def data_received(self, data: bytes) -> None:
        """Tell what arrived, unless the link was stopped meanwhile."""
        try:
            for one in self._frames.feed(data):
                if self.ended.done():
                    return
                self._heard(decode_from_engine(one))
        except (ConfigError, msgspec.MsgspecError):
            _log.exception("the engine sent what cannot be read; connecting again")
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Over, whoever ended it."""
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
