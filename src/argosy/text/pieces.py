"""What a token adds to the text, as bytes, where that is a matter of the token alone.

Byte-level BPE writes each byte as a printable character; BPE with byte fallback holds bytes as
`<0xE2>` and spaces as a mark. Bytes then add up to text exactly, whatever the borders. Of other
decoders (WordPiece, Metaspace) a token's text depends on its neighbours: `piece_bytes` gives None,
and text/detokenize.py decodes a sliding window.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Pieces:
    """How a decoder reads tokens one by one.

    read: the token as the vocabulary writes it -> its bytes.
    strip: a character dropped up to `strip_count` times at the start of a whole text.
    """

    read: Callable[[str], bytes]
    strip: str = ""
    strip_count: int = 0


def piece_bytes(decoder: Mapping[str, Any] | None) -> Pieces | None:
    """The reading of a `decoder` of tokenizer.json, or None where tokens depend on neighbours."""
    steps = _flat(decoder)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return Pieces(_byte_level)
    if "ByteFallback" in kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        return _byte_fallback(steps)
    return None


def _flat(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for inner in decoder["decoders"] for step in _flat(inner)]


def _alphabet() -> dict[str, int]:
    """The character of each byte in byte-level BPE. Source: Radford et al. 2019 (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTES[c] for c in token])
    except KeyError:  # an added token outside the alphabet stands for itself
        return token.encode("utf-8")


def _byte_fallback(steps: list[Mapping[str, Any]]) -> Pieces | None:
    kinds = [step["type"] for step in steps]
    strips = [step for step in steps if step["type"] == "Strip"]
    marks = [step for step in steps if step["type"] == "Replace"]
    literal = all("String" in step["pattern"] for step in marks)
    trailing = any(step["stop"] for step in strips)
    # Before Fuse a Strip would act on every token; after it, on the whole text.
    if not literal or trailing or len(strips) > 1 or (strips and kinds[-2:] != ["Fuse", "Strip"]):
        return None
    replacements = [(step["pattern"]["String"], step["content"]) for step in marks]

    def read(token: str) -> bytes:
        for mark, text in replacements:
            token = token.replace(mark, text)
        byte = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.encode("utf-8")

    return Pieces(read, strips[0]["content"], strips[0]["start"]) if strips else Pieces(read)
