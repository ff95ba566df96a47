"""What a front and the engine process say to each other, and how it is framed.

A frame is its length in 4 bytes, little-endian, and that many bytes of MessagePack. Requests are
named by whole numbers, unique in a server: front * 2**40 + count (`Request.request_id` is that
number in decimal). Every message carries the epoch of the engine it is meant for or comes from; one
of another epoch is dropped.

Tokens travel as flat numbers, three for each sequence that took one; whatever says more than that
(an end, logprobs, an error) travels as an `Event`. Both kinds keep their order per sequence, since
a sequence's plain tokens of a step come before its event of the same step, and it has one of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from argosy.errors import ConfigError
from argosy.types import Event, Request

FRONT_SHIFT = 40
"""Request numbers of front f begin at f << FRONT_SHIFT."""

MAX_FRAME = 2**30
_LENGTH = struct.Struct("<I")


class Facts(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a front must know of an engine: limits as settled at its start, memory in words."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    page_tokens: int
    num_pages: int
    kv_tokens: int
    cache_dtype: str
    runtime: str
    isa: str
    memory: str
    tokens_per_s: float
    prefix_caching: bool


# -- front to engine ------------------------------------------------------------------------------


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Requests to run, new or replayed."""

    epoch: int
    requests: list[Request]


class Drop(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Requests (number, index) to end; index None means all their sequences."""

    epoch: int
    names: list[tuple[int, int | None]]


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A question to the engine: "reset_prefix_cache", or "check" the pages."""

    epoch: int
    what: str


# -- engine to front ------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The first message of every connection."""

    epoch: int
    facts: Facts


class Step(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What one step did: tokens as (number, index, token) * n in one flat list, and events."""

    epoch: int
    tokens: list[int]
    events: list[Event]


class Told(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The answer to an `Ask`; empty where all is well."""

    epoch: int
    what: str
    answer: str


FromFront = Submit | Drop | Ask
FromEngine = Hello | Step | Told

_ENCODER = msgspec.msgpack.Encoder()
decode_from_front = msgspec.msgpack.Decoder(FromFront).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode


def frame(message: FromFront | FromEngine) -> bytes:
    """`message` as it goes over the socket."""
    buffer = bytearray(4)
    _ENCODER.encode_into(message, buffer, 4)
    _LENGTH.pack_into(buffer, 0, len(buffer) - 4)
    return bytes(buffer)


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames complete with `data`. Raises ConfigError for one over MAX_FRAME."""
        self._buffer += data
        start, end = 0, len(self._buffer)
        try:
            while end - start >= 4:
                (length,) = _LENGTH.unpack_from(self._buffer, start)
                if length > MAX_FRAME:
                    raise ConfigError(f"a frame of {length} bytes exceeds {MAX_FRAME}")
                if end - start - 4 < length:
                    break
                yield bytes(self._buffer[start + 4 : start + 4 + length])
                start += 4 + length
        finally:
            del self._buffer[:start]
