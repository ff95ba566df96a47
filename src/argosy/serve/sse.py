"""Server-sent events: framing only."""

from __future__ import annotations

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""Of a response that is a stream of events; the last asks proxies not to hold it back."""

DONE = b"data: [DONE]\n\n"


def event(data: bytes) -> bytes:
    """One event. data: without line ends, as JSON of this server is."""
    return b"data: " + data + b"\n\n"
