"""The small files of a model: tokenizer, chat template, generation defaults, special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from argosy.errors import CheckpointError, TokenizerError

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
TEXT_BYTES_MAX = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What a model says beside its weights.

    files: to be copied into a bundle, by name.  tokenizer_size: the largest token id of
    tokenizer.json plus one, or None without a tokenizer.  eos_token_ids: those of
    generation_config.json (or else config.json), and the tokenizer's.
    """

    files: Mapping[str, bytes]
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_size: int | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError where it is none."""
    return parse_json(path, read_bytes(path))


def parse_json(path: Path, data: bytes) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError, naming `path`, where it is none."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(f"{path} is not valid JSON ({exc}); fetch it again") from exc
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object; fetch it again")
    return value


def read_bytes(path: Path) -> bytes:
    """A small file whole. Raises CheckpointError where it cannot be read or is not small."""
    try:
        size = path.stat().st_size
        if size > TEXT_BYTES_MAX:
            raise CheckpointError(f"{path} has {size} bytes; the limit is {TEXT_BYTES_MAX}")
        return path.read_bytes()
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be read: {exc.strerror}") from exc


def read_texts(folder: Path, config: Mapping[str, Any], vocab_size: int) -> Texts:
    """Read and check the small files of a Hugging Face folder.

    Raises TokenizerError for a broken tokenizer.json or one larger than `vocab_size`, and
    CheckpointError for other files that are broken or special tokens outside the vocabulary.
    """
    generation = _optional_json(folder / "generation_config.json")
    tokenizer_config = _optional_json(folder / TOKENIZER_CONFIG)
    files = {
        name: read_bytes(folder / name)
        for name in (TOKENIZER, TOKENIZER_CONFIG)
        if (folder / name).is_file()
    }
    template = _chat_template(folder, tokenizer_config)
    if template is not None:
        files[TEMPLATE] = template.encode()
    ids = _token_ids(folder / TOKENIZER, files[TOKENIZER]) if TOKENIZER in files else {}
    size = max(ids.values(), default=-1) + 1 if TOKENIZER in files else None
    check_tokenizer_size(size, vocab_size)
    defaults = {**config, **generation}
    eos = _ids("eos_token_id", defaults.get("eos_token_id"), vocab_size)
    eos += _ids("eos_token", _id_of(tokenizer_config, "eos_token", ids), vocab_size)
    bos = _ids("bos_token_id", defaults.get("bos_token_id"), vocab_size)
    pad = defaults.get("pad_token_id")
    return Texts(
        files=files,
        generation_config=generation,
        tokenizer_size=size,
        bos_token_id=bos[0] if bos else _id_of(tokenizer_config, "bos_token", ids),
        eos_token_ids=tuple(dict.fromkeys(eos)),
        pad_token_id=pad if type(pad) is int and 0 <= pad < vocab_size else None,
    )


def check_tokenizer_size(tokenizer_size: int | None, vocab_size: int) -> None:
    """Raise TokenizerError where the tokenizer knows ids that the embedding has no row for."""
    if tokenizer_size is not None and tokenizer_size > vocab_size:
        raise TokenizerError(
            f"the tokenizer has {tokenizer_size} token ids, the embedding {vocab_size} rows; "
            "it belongs to another model, or tokens were added to it alone"
        )


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The template of chat_template.jinja, .json, or tokenizer_config.json, in this order."""
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return read_bytes(path).decode()
        except UnicodeDecodeError as exc:
            raise CheckpointError(f"{path} is not UTF-8 ({exc}); fetch it again") from exc
    value = _optional_json(folder / "chat_template.json").get("chat_template")
    value = tokenizer_config.get("chat_template") if value is None else value
    if isinstance(value, list):  # several, by name
        named = {e.get("name"): e.get("template") for e in value if isinstance(e, dict)}
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{folder}: the chat template is not a text; fetch the model again")
    return value


def _token_ids(path: Path, data: bytes) -> dict[str, int]:
    """Ids by token text, of the model's vocabulary and the added tokens."""
    try:
        tokenizer = parse_json(path, data)
        return dict(_tokens(tokenizer))
    except (CheckpointError, TypeError, LookupError, ValueError, AttributeError) as exc:
        raise TokenizerError(f"{path} is broken ({exc}); fetch it again") from exc


def _tokens(tokenizer: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    vocab = tokenizer["model"]["vocab"]
    pairs = vocab.items() if isinstance(vocab, dict) else ((v[0], i) for i, v in enumerate(vocab))
    added = ((token["content"], token["id"]) for token in tokenizer.get("added_tokens") or [])
    for group in (pairs, added):
        for text, token_id in group:
            if type(token_id) is not int or not 0 <= token_id < 2**31:
                raise ValueError(f"token {text!r} has the id {token_id!r}")
            yield text, token_id


def _id_of(tokenizer_config: Mapping[str, Any], name: str, ids: Mapping[str, int]) -> int | None:
    token = tokenizer_config.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    return ids.get(text) if isinstance(text, str) else None


def _ids(name: str, value: Any, vocab_size: int) -> list[int]:
    """One id, several, or none, each inside the vocabulary."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token_id in ids:
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise CheckpointError(f"{name}={token_id!r} is not a token id below {vocab_size}")
    return list(ids)
