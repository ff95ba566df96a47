"""Text as tokens come equals text as a whole, on every kind of tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from argosy.text.detokenize import ByteDetokenizer, WindowDetokenizer, open_detokenizer
from argosy.text.tokenizer import Tokenizer
from unit.text.small_tokenizers import TEXT, byte_fallback, byte_level, metaspace, word_piece

KINDS = {"byte_level": byte_level, "word_piece": word_piece, "metaspace": metaspace}


def pushed(
    tokenizer: Tokenizer, ids: Sequence[int], prompt: Sequence[int] = (), skip: bool = True
) -> list[str]:
    """What comes out token by token, and at the end."""
    text = open_detokenizer(tokenizer, prompt, skip)
    return [*map(text.push, ids), text.finish()]


def token_ids(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, tokenizer.num_ids - 1), max_size=40)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [True, False])
@given(draw=st.data())
def test_any_tokens_add_up_to_the_whole(
    kind: Callable[[], Tokenizer], skip: bool, draw: st.DataObject
) -> None:
    tokenizer = KINDS[kind]()
    ids = draw.draw(token_ids(tokenizer))
    assert "".join(pushed(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip)


@given(prompt=st.text(min_size=1), draw=st.data())
def test_an_answer_is_what_comes_after_the_prompt(prompt: str, draw: st.DataObject) -> None:
    tokenizer = byte_level()
    prompt_ids = tokenizer.encode(prompt)
    ids = draw.draw(token_ids(tokenizer))
    whole = tokenizer.decode(prompt_ids + ids)
    assert "".join(pushed(tokenizer, ids, prompt_ids)) == whole[len(tokenizer.decode(prompt_ids)) :]


@given(text=st.text(max_size=60))
def test_nothing_half_is_given_out(text: str) -> None:
    for tokenizer in (byte_level(), byte_fallback()):
        ids = tokenizer.encode(text) if text else []
        parts = pushed(tokenizer, ids)
        assert "".join(parts) == tokenizer.decode(ids)
        for part in parts:
            assert part.count("\ufffd") <= text.count("\ufffd")


def characters(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids of byte-fallback tokens, bytes only in whole characters."""
    first_byte = tokenizer.token_id("<0x00>")
    assert first_byte is not None
    byte_ids = range(first_byte, first_byte + 256)
    other = st.sampled_from([i for i in range(tokenizer.num_ids) if i not in byte_ids])
    whole = st.characters(exclude_categories=["Cs"]).map(
        lambda c: [first_byte + b for b in c.encode()]
    )
    return st.lists(st.one_of(other.map(lambda i: [i]), whole), max_size=30).map(
        lambda runs: [id_ for run in runs for id_ in run]
    )


@given(draw=st.data(), skip=st.booleans())
def test_byte_fallback_adds_up_to_the_whole(draw: st.DataObject, skip: bool) -> None:
    tokenizer = byte_fallback()
    ids = draw.draw(characters(tokenizer))
    assert "".join(pushed(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip)


@given(draw=st.data())
def test_stories_add_up_to_the_whole(stories: Path, draw: st.DataObject) -> None:
    tokenizer = Tokenizer.from_file(stories / "tokenizer.json")
    ids = draw.draw(characters(tokenizer))
    assert "".join(pushed(tokenizer, ids)) == tokenizer.decode(ids)


@given(runs=st.lists(st.binary(max_size=6), max_size=6))
def test_broken_bytes_become_replacement_characters_at_once(runs: list[bytes]) -> None:
    tokenizer = byte_fallback()
    first, word = tokenizer.token_id("<0x00>"), tokenizer.token_id("s")
    assert first is not None and word is not None
    ids = [id_ for run in runs for id_ in [*(first + b for b in run), word]]
    expected = "".join(run.decode("utf-8", "replace") + "s" for run in runs)
    parts = pushed(tokenizer, ids, [word])
    assert "".join(parts) == expected
    assert parts[-1] == ""


def test_a_character_waits_for_its_last_byte() -> None:
    tokenizer = byte_fallback()
    first = tokenizer.token_id("<0x00>")
    assert first is not None
    ids = [first + b for b in "日a😀".encode()]
    assert pushed(tokenizer, ids) == ["", "", "日", "a", "", "", "", "😀", ""]


def test_a_character_begun_at_the_end_is_flushed() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("ab😀")[:-1]
    parts = pushed(tokenizer, ids)
    assert parts[-1] == "\ufffd"
    assert "".join(parts) == tokenizer.decode(ids)


def test_the_space_before_a_first_word() -> None:
    tokenizer = byte_fallback()
    cat, start = tokenizer.token_id("▁cat"), tokenizer.token_id("<s>")
    assert cat is not None and start is not None
    assert "".join(pushed(tokenizer, [cat], [start])) == "cat", "nothing before it: the text begins"
    assert "".join(pushed(tokenizer, [cat], [start, cat])) == " cat"
    assert "".join(pushed(tokenizer, [cat], [start], skip=False)) == " cat"


def test_a_character_that_the_prompt_began_is_whole() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("x😀")
    assert len(ids) > 2
    assert "".join(pushed(tokenizer, ids[2:], ids[:2])) == "😀"


def test_special_tokens_are_shown_on_request() -> None:
    tokenizer = byte_level()
    ids = [*tokenizer.encode("the cat"), tokenizer.special_id("<|im_end|>")]
    assert "".join(pushed(tokenizer, ids)) == "the cat"
    assert "".join(pushed(tokenizer, ids, skip=False)) == "the cat<|im_end|>"


def test_ids_without_a_token_add_nothing() -> None:
    tokenizer = byte_level()
    assert "".join(pushed(tokenizer, [10**6, *tokenizer.encode("a"), tokenizer.num_ids])) == "a"


def test_which_way_a_decoder_takes() -> None:
    assert isinstance(open_detokenizer(byte_level(), []), ByteDetokenizer)
    assert isinstance(open_detokenizer(byte_fallback(), []), ByteDetokenizer)
    assert isinstance(open_detokenizer(word_piece(), []), WindowDetokenizer)
    strips_each_token = [decoders.Strip(" ", 1, 0), decoders.ByteFallback(), decoders.Fuse()]
    by_pattern = [decoders.Replace(tokenizers.Regex("▁+"), " "), decoders.ByteFallback()]
    for steps in (strips_each_token, by_pattern):
        backend = tokenizers.Tokenizer(models.WordLevel({"a": 0}, "a"))
        backend.decoder = decoders.Sequence(steps)
        assert isinstance(open_detokenizer(Tokenizer(backend), []), WindowDetokenizer)


def test_window_holds_back_what_ends_in_half_a_character() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"<0xC3>": 0, "<0xA9>": 1, "a": 2}, "a"))
    backend.decoder = decoders.Sequence(
        [decoders.Strip("_", 1, 0), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer = Tokenizer(backend)
    assert pushed(tokenizer, [0, 1, 2]) == ["", "é", "a", ""]
    assert pushed(tokenizer, [2, 0]) == ["a", "", "\ufffd"]


def test_window_begins_with_the_newest_visible_tokens_of_the_prompt() -> None:
    tokenizer = word_piece()
    cat, hidden = tokenizer.token_id("cat"), tokenizer.token_id("[CLS]")
    assert cat is not None and hidden is not None
    assert "".join(pushed(tokenizer, [cat], [cat] * 9 + [hidden] * 9)) == " cat"
    assert "".join(pushed(tokenizer, [cat], [hidden])) == "cat", "the text begins"


def test_gpt2_on_real_text(data: Path) -> None:
    folder = data / "tokenizers" / "gpt2_tokenizer"
    model = models.BPE.from_file(str(folder / "gpt2_vocab.json"), str(folder / "gpt2_merges.txt"))
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(backend)
    for text in [*TEXT, (data / "text" / "moby_dick.txt").read_text("utf-8")[50_000:60_000]]:
        assert "".join(pushed(tokenizer, tokenizer.encode(text))) == text
