"""A streamed answer of the OpenAI API, read as it arrives: when text came, its tokens, its end.

Of every event only the fields below are decoded. Server-sent events as in the HTML standard,
section 9.2: lines end in LF or CRLF, a comment begins with a colon, several data lines are one
text.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import msgspec


class Delta(msgspec.Struct):
    """What is new in a chat."""

    content: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct):
    """One answer of a chunk: `delta` in chats, `text` in completions."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None


class Cached(msgspec.Struct):
    """Part of a prompt."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens, as the server counts them."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: Cached | None = None


class Chunk(msgspec.Struct):
    """One event, or a whole answer."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Chunk).decode


class Answer:
    """Reads one streamed answer.

    times: clock readings, one per chunk that brought text.  error: what the server said in place
    of an answer, or in its middle.  done: the stream came to its proper end.
    """

    __slots__ = ("_clock", "_tail", "done", "error", "finish_reason", "status", "times", "usage")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tail = b""
        self.status = 0
        self.times = array("d")
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.done = False

    def begin(self, status: int) -> None:
        """The head has come."""
        self.status = status

    def feed(self, data: bytes) -> None:
        """A piece of the body has come."""
        data = self._tail + data
        if self.status != 200:
            self._tail = data
            return
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        events = data.split(b"\n\n")
        self._tail = events.pop()
        if events:
            now = self._clock()
            for event in events:
                self._take(event, now)

    def close(self) -> None:
        """The answer has ended: what came in place of a stream becomes the error."""
        if self.status != 200:
            self.error = said(self._tail) or f"HTTP status {self.status}"
        elif not self.done and self.error is None:
            self.error = "the stream ended without [DONE]"

    def _take(self, event: bytes, now: float) -> None:
        if event.startswith(b"data:") and b"\n" not in event:
            data = event[5:]
        else:
            lines = (line for line in event.split(b"\n") if line.startswith(b"data:"))
            data = b"\n".join(line[5:] for line in lines)
        if b"[DONE]" in data[:8]:
            self.done = True
        elif data.strip():
            self._read(data, now)

    def _read(self, data: bytes, now: float) -> None:
        try:
            chunk = _decode(data)
        except msgspec.DecodeError as exc:
            self.error = f"an event is no chunk of the OpenAI API: {exc}"
            return
        if chunk.error is not None:
            self.error = said(data)
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices or ():
            delta = choice.delta
            if choice.text or (delta and (delta.content or delta.reasoning_content)):
                self.times.append(now)
            self.finish_reason = choice.finish_reason or self.finish_reason


def said(data: bytes) -> str:
    """The message of an error body, in any of the usual shapes; at most 200 characters."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data[:200].decode("utf-8", "replace")
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and key in value:
            value = value[key]
    return (value if isinstance(value, str) else str(value))[:200]
