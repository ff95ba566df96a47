"""The tokenizer of a model: text to ids and back, and what single ids stand for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from argosy.errors import InvalidPrompt, TokenizerError
from argosy.text.pieces import Pieces, piece_bytes
from argosy.types import whole

_UNKNOWN = ("<unk>", "[UNK]")


class Tokenizer:
    """Wraps `tokenizers.Tokenizer`; holds no state of a text.

    special_tokens: the model's names for some tokens, such as {"bos_token": "<s>"}.
    vocab_size: ids the model's embedding has. Raises TokenizerError where the tokenizer has more.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str] | None = None,
        vocab_size: int | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.special_tokens = dict(special_tokens or {})
        added = backend.get_added_tokens_decoder()
        self._special = {id_: token.content for id_, token in added.items() if token.special}
        self._pieces = _pieces(backend)
        self._bytes: dict[int, bytes] = {}
        self.num_ids = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        if vocab_size is not None and self.num_ids > vocab_size:
            raise TokenizerError(
                f"the tokenizer has ids up to {self.num_ids - 1}, the model's embedding "
                f"{vocab_size} rows; use the tokenizer this model was trained with"
            )

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        special_tokens: Mapping[str, str] | None = None,
        vocab_size: int | None = None,
    ) -> Tokenizer:
        """Read a tokenizer.json. Raises TokenizerError where it is missing or broken."""
        if not Path(path).is_file():
            raise TokenizerError(f"{path}: no such file; a model needs its tokenizer.json")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as exc:  # the library raises bare Exception
            raise TokenizerError(f"{path}: not a readable tokenizer.json: {exc}") from exc
        return cls(backend, special_tokens, vocab_size)

    @property
    def pieces(self) -> Pieces | None:
        """How tokens become bytes one by one; None where they depend on their neighbours."""
        return self._pieces

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of `text`. Raises InvalidPrompt for what no tokenizer could read."""
        _check_text(text)
        ids = self._ids(text, add_special_tokens)
        if "\0" in text and not self._knows_nul():
            raise InvalidPrompt(
                f"the prompt holds a NUL byte at character {text.index(chr(0))}, which this "
                "tokenizer has no token for; remove it"
            )
        return ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids` as a whole, by the library's own decoder."""
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it."""
        return self._backend.token_to_id(token)

    def special_id(self, text: str) -> int | None:
        """The id of the special token with this text, None where there is none."""
        id_ = self._backend.token_to_id(text)
        return id_ if id_ in self._special else None

    def is_special(self, id_: int) -> bool:
        """Whether `skip_special_tokens` hides it."""
        return id_ in self._special

    def token_bytes(self, id_: int) -> bytes:
        """What the token adds to a text; special tokens too; nothing for an id without a token."""
        if id_ not in self._bytes:
            self._bytes[id_] = self._read(id_)
        return self._bytes[id_]

    def token_text(self, id_: int) -> str:
        """`token_bytes` as text, U+FFFD for parts of a character."""
        return self.token_bytes(id_).decode("utf-8", "replace")

    def _read(self, id_: int) -> bytes:
        token = self._backend.id_to_token(id_)
        if token is None:
            return b""
        if self._pieces is None:
            return self.decode([id_], skip_special_tokens=False).encode("utf-8")
        return self._pieces.read(token)

    def _ids(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except Exception as exc:  # the library raises bare Exception
            raise InvalidPrompt(f"the tokenizer cannot read the prompt: {exc}; change it") from exc

    def _knows_nul(self) -> bool:
        ids = self._ids("\0", add_special_tokens=False)
        names = (self.special_tokens.get("unk_token"), *_UNKNOWN)
        return bool(ids) and not set(ids) & {self.token_id(name) for name in names if name}


def _pieces(backend: tokenizers.Tokenizer) -> Pieces | None:
    if backend.decoder is None:
        return None
    return piece_bytes(json.loads(backend.decoder.__getstate__()))


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise InvalidPrompt(f"a prompt must be text, not {type(text).__name__}")
    if not text:
        raise InvalidPrompt("the prompt is empty; give text or at least one token id")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidPrompt(
            f"the prompt holds a lone surrogate U+{ord(text[exc.start]):04X} at character "
            f"{exc.start}, which is not text; decode it with errors='replace' first"
        ) from exc


def check_ids(ids: Sequence[object], vocab_size: int) -> tuple[int, ...]:
    """A prompt of ids, as ints. Raises InvalidPrompt where empty or outside the vocabulary."""
    if not ids:
        raise InvalidPrompt("the prompt is empty; give text or at least one token id")
    checked = []
    for place, given in enumerate(ids):
        id_ = whole(given)
        if id_ is None:
            raise InvalidPrompt(f"prompt_token_ids[{place}]={given!r} must be a whole number")
        if not 0 <= id_ < vocab_size:
            raise InvalidPrompt(
                f"prompt_token_ids[{place}]={id_} lies outside the vocabulary; "
                f"ids go from 0 to {vocab_size - 1}"
            )
        checked.append(id_)
    return tuple(checked)


def special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """The tokens a tokenizer_config.json names, such as {"bos_token": "<s>"}."""
    found = {}
    for name, token in tokenizer_config.items():
        text = token.get("content") if isinstance(token, Mapping) else token
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
