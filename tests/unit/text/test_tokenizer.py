"""Prompts that are refused, files that are refused, and what ids stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models

from argosy.errors import InvalidPrompt, TokenizerError
from argosy.text.tokenizer import Tokenizer, check_ids, special_tokens
from unit.text.small_tokenizers import byte_fallback, byte_level, metaspace, word_piece


def test_stories_tokenizer(stories: Path) -> None:
    golden = json.loads((stories / "golden_stories260K.json").read_text())["greedy_prompt"]
    tokenizer = Tokenizer.from_file(stories / "tokenizer.json", vocab_size=512)
    assert tokenizer.encode(golden["text"]) == golden["prompt_ids"]
    assert tokenizer.encode(golden["text"], add_special_tokens=False) == golden["prompt_ids"][1:]
    assert tokenizer.num_ids == 512


REFUSED = [
    ("", "empty"),
    ("hi \ud83d there", "lone surrogate U\\+D83D at character 3"),
    (7, "must be text, not int"),
    (None, "must be text, not NoneType"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_prompts_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidPrompt, match=message):
        byte_level().encode(text)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_nul_bytes_where_there_is_a_token(make: type[Tokenizer]) -> None:
    tokenizer = make()
    ids = tokenizer.encode("a\0b", add_special_tokens=False)
    assert tokenizer.decode(ids) == "a\0b"


@pytest.mark.parametrize("make", [word_piece, metaspace])
def test_nul_bytes_where_there_is_none(make: type[Tokenizer]) -> None:
    with pytest.raises(InvalidPrompt, match="NUL byte at character 4"):
        make().encode("the \0cat")


def test_what_the_library_refuses() -> None:
    words = Tokenizer(tokenizers.Tokenizer(models.WordLevel({"a": 0}, "<unk>")))
    with pytest.raises(InvalidPrompt, match="cannot read the prompt"):
        words.encode("b")


IDS_REFUSED = [
    ([], "empty"),
    ([1, 320], r"prompt_token_ids\[1\]=320 lies outside the vocabulary; ids go from 0 to 319"),
    ([-1], r"prompt_token_ids\[0\]=-1 lies outside"),
    ([1, 2.0], r"prompt_token_ids\[1\]=2.0 must be a whole number"),
    ([True], r"prompt_token_ids\[0\]=True must be a whole number"),
    (["a"], r"prompt_token_ids\[0\]='a' must be a whole number"),
]


@pytest.mark.parametrize(("ids", "message"), IDS_REFUSED)
def test_ids_refused(ids: list[object], message: str) -> None:
    with pytest.raises(InvalidPrompt, match=message):
        check_ids(ids, 320)


def test_ids_accepted() -> None:
    assert check_ids([0, 319], 320) == (0, 319)


FILES = ["", "{", "[]", '{"model": {}}', '{"version": "1.0", "model": {"type": "Nonsense"}}', "\0"]


@pytest.mark.parametrize("content", FILES)
def test_broken_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a readable"):
        Tokenizer.from_file(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no such file"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_larger_than_the_embedding(stories: Path) -> None:
    with pytest.raises(TokenizerError, match="ids up to 511, the model's embedding 511 rows"):
        Tokenizer.from_file(stories / "tokenizer.json", vocab_size=511)


def test_truncation_and_padding_of_the_file_are_off() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.enable_truncation(2)
    backend.enable_padding(length=8)
    assert Tokenizer(backend).encode("a b a") == [0, 1, 0]


def test_what_ids_stand_for() -> None:
    tokenizer = byte_level()
    eos = tokenizer.special_id("</s>")
    assert eos is not None
    assert tokenizer.is_special(eos) and not tokenizer.is_special(eos + 5)
    assert tokenizer.token_bytes(eos) == b"</s>"
    assert tokenizer.special_id("the") is None, "not a special token"
    assert tokenizer.special_id("no such token") is None
    half = tokenizer.encode("日")[0]
    assert len(tokenizer.encode("日")) > 1
    assert tokenizer.token_bytes(half) == "日".encode()[: len(tokenizer.token_bytes(half))]
    assert tokenizer.token_text(half) == "\ufffd"
    assert tokenizer.token_text(10**6) == ""
    assert word_piece().token_text(4) == "##s"


def test_special_tokens_of_a_config() -> None:
    config = {
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "pad_token": None,
        "add_bos_token": True,
        "additional_special_tokens": ["<x>"],
        "chat_template": "…",
    }
    assert special_tokens(config) == {"bos_token": "<s>", "eos_token": "</s>"}
