"""The log: a JSON line on stderr for each request, and plain lines for what befalls the server.

Lines are written by a thread, so that a reader of stderr who stops reading stops nobody else; when
too many wait, further ones are dropped and counted. No prompt and no answer is ever in a line.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from argosy.client.stories import Explanation

_MAX_WAITING = 20_000
_CLOSE_S = 1.0


class Line(msgspec.Struct):
    """What is told of one request. Times in milliseconds; None: not known, or not applicable."""

    id: str
    client: str
    method: str
    path: str
    model: str | None = None
    status: int = 0
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    queue_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float = 0.0
    restarts: int = 0
    stream: bool = False
    ignored: tuple[str, ...] = ()

    def take(self, story: Explanation) -> None:
        """Add what the engine tells of the request; further prompts of it are added up."""
        self.prompt_tokens = (self.prompt_tokens or 0) + story.prompt_tokens
        self.cached_tokens = (self.cached_tokens or 0) + story.cached_tokens
        self.restarts = max(self.restarts, story.restarts)
        self.queue_ms = _longest(self.queue_ms, story.queue_s)
        self.ttft_ms = _longest(self.ttft_ms, story.ttft_s)


def _longest(known_ms: float | None, seconds: float | None) -> float | None:
    return known_ms if seconds is None else max(known_ms or 0.0, round(1e3 * seconds, 3))


class Log:
    """Writes lines to a file descriptor. requests: whether `request` writes anything."""

    def __init__(self, *, requests: bool = True, fd: int | None = None) -> None:
        self._requests = requests
        self._fd = sys.stderr.fileno() if fd is None else fd
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._said: set[str] = set()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def request(self, line: Line) -> None:
        """One request has ended."""
        if self._requests:
            stamp = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
            self._put(b'{"ts":"%s",' % stamp.encode() + msgspec.json.encode(line)[1:])

    def say(self, text: str) -> None:
        """One plain line."""
        self._put(text.replace("\n", " ").encode())

    def say_once(self, text: str) -> None:
        """One plain line, the first time it is said."""
        if text not in self._said and len(self._said) < _MAX_WAITING:
            self._said.add(text)
            self.say(text)

    def close(self) -> None:
        """Write what waits, for a second at most."""
        self._closing = True
        self._wake.set()
        self._thread.join(_CLOSE_S)

    def _put(self, line: bytes) -> None:
        if len(self._lines) >= _MAX_WAITING:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if not self._write_waiting() or (self._closing and not self._lines):
                return

    def _write_waiting(self) -> bool:
        """Write all there is; False where nobody can read it any more."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.append(b"%d lines of the log were dropped: nobody reads it" % dropped)
        data = b"".join(line + b"\n" for line in lines)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            return False
        return True
