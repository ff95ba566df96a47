"""Tokenizer files, templates and special tokens of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from argosy.bundle.texts import TEMPLATE, Texts, read_json, read_texts
from argosy.errors import CheckpointError, TokenizerError
from random_models import BOS, CHAT_TEMPLATE, EOS, IM_END, write_model

VOCAB = 320


def texts(folder: Path, vocab: int = VOCAB) -> Texts:
    """What a folder's small files say."""
    return read_texts(folder, read_json(folder / "config.json"), vocab)


def change(path: Path, **entries: Any) -> None:
    """Change a JSON file; None removes an entry."""
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in (old | entries).items() if v is not None}))


def test_a_whole_folder(tmp_path: Path) -> None:
    found = texts(write_model(tmp_path))
    assert set(found.files) == {"tokenizer.json", "tokenizer_config.json", TEMPLATE}
    assert (found.bos_token_id, found.eos_token_ids) == (BOS, (EOS, IM_END))
    assert found.tokenizer_size == 284


def test_a_tokenizer_larger_than_the_embedding_names_both_numbers(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    with pytest.raises(TokenizerError, match=r"284 token ids.* 283 rows"):
        texts(folder, 283)
    assert texts(folder, 284).tokenizer_size == 284


def test_added_tokens_count(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    change(folder / "tokenizer.json", added_tokens=[{"id": 400, "content": "<new>"}])
    with pytest.raises(TokenizerError, match="401"):
        texts(folder)


def test_unigram_vocabularies_are_lists(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    model = {"type": "Unigram", "vocab": [["<s>", 0.0], ["</s>", 0.0], ["a", -1.0]]}
    change(folder / "tokenizer.json", model=model, added_tokens=[])
    assert texts(folder).tokenizer_size == 3


BROKEN = [
    "",
    "{",
    "[]",
    "{}",
    '{"model": {}}',
    '{"model": {"vocab": 3}}',
    '{"model": {"vocab": [[]]}}',
]
BROKEN += ['{"model": {"vocab": {"a": -1}}}', '{"model": {"vocab": {"a": "0"}}}']
BROKEN += [
    '{"model": {"vocab": {}}, "added_tokens": [{"id": 0}]}',
    '{"model": {"vocab": {"a": 1e99}}}',
]


@pytest.mark.parametrize("text", BROKEN)
def test_broken_tokenizers_are_refused(tmp_path: Path, text: str) -> None:
    folder = write_model(tmp_path)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        texts(folder)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    found = texts(write_model(tmp_path, vocab=50, tokenizer=False), 50)
    assert (found.files, found.tokenizer_size, found.eos_token_ids) == ({}, None, (EOS, IM_END))


EOS_CASES: list[tuple[dict[str, Any], str, tuple[int, ...]]] = [
    ({"eos_token_id": 7}, "</s>", (7, EOS)),
    ({"eos_token_id": [7, 8, 7]}, "</s>", (7, 8, EOS)),
    ({"eos_token_id": None}, "<|im_end|>", (EOS, IM_END)),
    ({"eos_token_id": 7}, "<nowhere>", (7,)),
]


@pytest.mark.parametrize(("generation", "token", "expected"), EOS_CASES)
def test_ends_of_answers(
    tmp_path: Path, generation: dict[str, Any], token: str, expected: tuple[int, ...]
) -> None:
    folder = write_model(tmp_path)
    change(folder / "generation_config.json", **generation)
    change(folder / "tokenizer_config.json", eos_token={"content": token})
    assert texts(folder).eos_token_ids == expected


@pytest.mark.parametrize("value", [320, -1, "2", 1.0, True, [1, 999], {"a": 1}])
def test_special_tokens_outside_the_vocabulary_are_refused(tmp_path: Path, value: Any) -> None:
    folder = write_model(tmp_path)
    change(folder / "generation_config.json", eos_token_id=value)
    with pytest.raises(CheckpointError, match="eos_token_id"):
        texts(folder)


def test_templates_are_found_wherever_they_stand(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    assert texts(folder).files[TEMPLATE].decode() == CHAT_TEMPLATE
    (folder / TEMPLATE).unlink()
    assert TEMPLATE not in texts(folder).files
    change(folder / "tokenizer_config.json", chat_template="plain")
    assert texts(folder).files[TEMPLATE] == b"plain"
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    change(folder / "tokenizer_config.json", chat_template=named)
    assert texts(folder).files[TEMPLATE] == b"d"
    (folder / "chat_template.json").write_text('{"chat_template": "own file"}')
    assert texts(folder).files[TEMPLATE] == b"own file"


def test_templates_that_are_no_text_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / TEMPLATE).write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="UTF-8"):
        texts(folder)
    (folder / TEMPLATE).unlink()
    change(folder / "tokenizer_config.json", chat_template=3)
    with pytest.raises(CheckpointError, match="chat template"):
        texts(folder)
