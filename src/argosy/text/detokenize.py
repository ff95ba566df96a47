"""Text of one sequence as its tokens come: never half a character, never taken back.

The text of an answer is decode(prompt + answer) without decode(prompt): the space before a first
word stays. Two ways, by what the decoder allows (text/pieces.py):

    ByteDetokenizer    adds up bytes; a character waits until its last byte is there. Bytes that
                       can be no UTF-8 become U+FFFD at once, so nothing waits forever.
    WindowDetokenizer  decodes the newest tokens after a few known ones, and takes what is new.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from argosy.text.pieces import Pieces
from argosy.text.tokenizer import Tokenizer

_CHARACTER_BYTES = 4
_WINDOW_TOKENS = 5
_HALF = "\ufffd"


class Detokenizer(Protocol):
    """The text state of one sequence."""

    def push(self, token_id: int) -> str:
        """The text that is certain now and was not before."""
        ...

    def finish(self) -> str:
        """What still waited: an unfinished character, as U+FFFD."""
        ...


def open_detokenizer(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool = True
) -> Detokenizer:
    """The state after `prompt_ids`, of whose text nothing is given out again."""
    if tokenizer.pieces is None:
        return WindowDetokenizer(tokenizer, prompt_ids, skip_special_tokens)
    return ByteDetokenizer(tokenizer, tokenizer.pieces, prompt_ids, skip_special_tokens)


class ByteDetokenizer:
    """Decodes UTF-8 byte by byte. The newest bytes of the prompt begin it."""

    def __init__(
        self, tokenizer: Tokenizer, pieces: Pieces, prompt_ids: Sequence[int], skip_special: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = pieces.strip
        self._strip_left = pieces.strip_count
        tail = b""
        for id_ in reversed(prompt_ids):
            if len(tail) >= _CHARACTER_BYTES:
                break
            tail = self._bytes(id_) + tail
        if tail:
            self._strip_left = 0
            self._utf8.decode(tail)

    def push(self, token_id: int) -> str:
        """The characters this token completes."""
        return self._stripped(self._utf8.decode(self._bytes(token_id)))

    def finish(self) -> str:
        """U+FFFD if a character was begun."""
        return self._stripped(self._utf8.decode(b"", final=True))

    def _bytes(self, id_: int) -> bytes:
        if self._skip_special and self._tokenizer.is_special(id_):
            return b""
        return self._tokenizer.token_bytes(id_)

    def _stripped(self, text: str) -> str:
        while text and self._strip_left:
            if not text.startswith(self._strip):
                self._strip_left = 0
                break
            text = text[len(self._strip) :]
            self._strip_left -= 1
        return text


class WindowDetokenizer:
    """Decodes known[-5:] + new tokens and takes what goes beyond the text of the known ones."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._known: list[int] = []
        self._new: list[int] = []
        for id_ in reversed(prompt_ids):
            if len(self._known) == _WINDOW_TOKENS:
                break
            if self._shown(id_):
                self._known.insert(0, id_)

    def push(self, token_id: int) -> str:
        """The new text, once it does not end in part of a character."""
        if not self._shown(token_id):
            return ""
        self._new.append(token_id)
        text = self._text()
        return "" if text.endswith(_HALF) else self._take(text)

    def finish(self) -> str:
        """All that waited."""
        return self._take(self._text())

    def _shown(self, id_: int) -> bool:
        return not (self._skip_special and self._tokenizer.is_special(id_))

    def _text(self) -> str:
        known = self._decode(self._known)
        return self._decode(self._known + self._new)[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _take(self, text: str) -> str:
        self._known = (self._known + self._new)[-_WINDOW_TOKENS:]
        self._new = []
        return text
