"""What becomes of a prompt and its parameters, and which are refused."""

from __future__ import annotations

import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from argosy.client.intake import Accepted, Intake, bad_word_ids, read_template
from argosy.errors import (
    ContextLengthExceeded,
    InvalidPrompt,
    InvalidSampling,
    RequestError,
    TemplateError,
    UnsupportedParameter,
)
from argosy.types import SamplingParams
from unit.text.small_tokenizers import byte_level, word_piece

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
EOS = byte_level().special_id("</s>")


def intake(template: str | None = TEMPLATE, seed: int | None = 0, length: int = 50) -> Intake:
    return Intake(
        byte_level(),
        template,
        vocab_size=400,
        max_model_len=length,
        eos_token_ids=[1],
        seed=seed,
    )


def accept(prompt: Any = "Hello", **params: Any) -> Accepted:
    return intake().accept(prompt, SamplingParams(**params))


def test_text_and_ids_are_one() -> None:
    ids = byte_level().encode("Hello")
    maps = {"prompt": "Hello"}, {"prompt_token_ids": ids}, {"prompt_token_ids": np.array(ids)}
    arrays = np.array(ids), array.array("i", ids), [np.int64(id_) for id_ in ids]
    for prompt in ("Hello", ids, tuple(ids), *maps, *arrays):
        request = accept(prompt).request
        assert request.token_ids == tuple(ids)
        assert {type(id_) for id_ in request.token_ids} == {int}
        assert request.num_prompt_tokens == len(ids)


def test_the_text_of_a_prompt_is_kept() -> None:
    assert accept("Hello").prompt == "Hello"
    assert accept([5, 6]).prompt is None
    assert accept({"prompt_token_ids": [5, 6], "prompt": "as said"}).prompt == "as said"


def test_a_salt_is_handed_on() -> None:
    assert accept({"prompt": "Hello", "cache_salt": "tenant"}).request.cache_salt == "tenant"
    assert accept("Hello").request.cache_salt == ""


PROMPTS: list[tuple[Any, type[RequestError], str]] = [
    ("", InvalidPrompt, "empty"),
    ([], InvalidPrompt, "empty"),
    ({"prompt": ""}, InvalidPrompt, "empty"),
    ({"prompt_token_ids": []}, InvalidPrompt, "empty"),
    ({}, InvalidPrompt, 'needs "prompt"'),
    (7, InvalidPrompt, "not int"),
    (None, InvalidPrompt, "not NoneType"),
    (b"text", InvalidPrompt, "not bytes"),
    (bytearray(b"text"), InvalidPrompt, "not bytearray"),
    (np.array(5), InvalidPrompt, "not ndarray"),
    ([True], InvalidPrompt, "must be a whole number"),
    (np.array([1.5]), InvalidPrompt, "must be a whole number"),
    ({"prompt_token_ids": 5}, InvalidPrompt, "prompt_token_ids must be ids, not int"),
    ({"prompt_token_ids": "5"}, InvalidPrompt, "prompt_token_ids must be ids, not str"),
    ({"prompt_token_ids": b"5"}, InvalidPrompt, "prompt_token_ids must be ids, not bytes"),
    ([400], InvalidPrompt, "ids go from 0 to 399"),
    ([-1], InvalidPrompt, "outside the vocabulary"),
    ("\udc80", InvalidPrompt, "lone surrogate"),
    ({"prompt": 7}, InvalidPrompt, "must be text"),
    ({"prompt": "a", "cache_salt": 7}, InvalidPrompt, "cache_salt=7 must be text"),
    ({"prompt": "a", "multi_modal_data": {}}, UnsupportedParameter, "'multi_modal_data'"),
    ([5] * 50, ContextLengthExceeded, "has 50 tokens; max_model_len=50 holds .* at most 49"),
    ([5] * 99, ContextLengthExceeded, "has 99 tokens"),
]


@pytest.mark.parametrize(("prompt", "error", "message"), PROMPTS)
def test_prompts_refused(prompt: Any, error: type[RequestError], message: str) -> None:
    with pytest.raises(error, match=message):
        accept(prompt)


SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({"stop_token_ids": [400]}, "stop_token_ids names token 400, outside .* 0 to 399"),
    ({"allowed_token_ids": [3, 400]}, "allowed_token_ids names token 400"),
    ({"logit_bias": {400: 1}}, "logit_bias names token 400"),
    ({"bad_words": ["x" * 1025]}, r"sequences of up to \d+ tokens; at most 128 of 1024"),
    ({"bad_words": [f"{i}" for i in range(129)]}, "at most 128"),
]


@pytest.mark.parametrize(("params", "message"), SAMPLING)
def test_sampling_refused_by_the_vocabulary(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSampling, match=message):
        accept(**params)


@pytest.mark.parametrize(
    ("max_tokens", "total"), [(3, 8), (45, 50), (46, 50), (10**6, 50), (None, 50)]
)
def test_the_answer_ends_with_the_context(max_tokens: int | None, total: int) -> None:
    assert accept([5] * 5, max_tokens=max_tokens).request.max_total_tokens == total


def test_one_token_of_room_is_enough() -> None:
    assert accept([5] * 49).request.max_total_tokens == 50


def test_what_ends_an_answer() -> None:
    assert accept().request.stop_token_ids == {1}
    assert accept(stop_token_ids=[7]).request.stop_token_ids == {1, 7}
    assert accept(ignore_eos=True, stop_token_ids=[7]).request.stop_token_ids == {7}
    accepted = accept(ignore_eos=True, stop=["</s>", "Human:"])
    assert accepted.request.stop_token_ids == {EOS}
    assert accepted.special_stops == {EOS: "</s>"}


def test_given_seeds_are_kept_as_64_bits() -> None:
    assert accept(seed=7).request.seed == 7
    assert accept(seed=-2).request.seed == 2**64 - 2
    assert accept(seed=0).request.seed == 0


def test_drawn_seeds() -> None:
    def seeds(base: int | None) -> list[int]:
        source = intake(seed=base)
        return [source.accept("a", SamplingParams()).request.seed for _ in range(3)]

    assert seeds(1) == seeds(1)
    assert seeds(1) != seeds(2)
    assert seeds(None) != seeds(None)
    assert len(set(seeds(1))) == 3
    assert all(0 <= seed < 2**64 for seed in seeds(None))


def test_ids_of_requests_differ() -> None:
    source = intake()
    ids = [source.accept("a", SamplingParams()).request.request_id for _ in range(3)]
    assert len(set(ids)) == 3


def test_bad_words_at_the_start_and_after_a_space() -> None:
    tokenizer = byte_level()
    the, space_the = tokenizer.encode("the"), tokenizer.encode(" the")
    assert len(space_the) < len(the), "a merge of its own, not as long"
    both = (tuple(the), tuple(space_the))
    assert bad_word_ids(tokenizer, ["the"]) == both
    assert bad_word_ids(tokenizer, [" the"]) == both, "leading space is not the point"
    bare, spaced = tuple(tokenizer.encode("t")), tuple(tokenizer.encode(" t"))
    assert len(bare) == len(spaced) == 1
    assert bad_word_ids(tokenizer, ["t"]) == (bare, spaced)
    assert accept(bad_words=["t"]).request.bad_words == (bare, spaced)
    dog = tuple(tuple(tokenizer.encode(text)) for text in ("dog", " dog"))
    assert bad_word_ids(tokenizer, ["dog"]) == dog
    spaces = tuple(tuple(tokenizer.encode(text)) for text in (" ", "  "))
    assert bad_word_ids(tokenizer, [" "]) == spaces
    pieces = word_piece()
    assert bad_word_ids(pieces, ["cat"]) == (tuple(pieces.encode("cat")),), "a space is nothing"


def test_priority_is_handed_on() -> None:
    assert intake().accept("a", SamplingParams(), priority=-3).request.priority == -3


def test_conversations() -> None:
    chat = [{"role": "user", "content": "hi"}]
    assert intake().render(chat) == "<s>[user] hi\n"
    assert intake().render(chat, "{{ messages[0].content }}!") == "hi!"
    assert intake(None).render(chat, "{{ x }}", variables={"x": 1}) == "1"
    source = intake()
    assert [source.render(chat, t) for t in (None, "own", None)] == [
        "<s>[user] hi\n",
        "own",
        "<s>[user] hi\n",
    ]
    assert intake().has_template and not intake(None).has_template


def test_a_model_without_a_template() -> None:
    with pytest.raises(TemplateError, match=r"no chat template; pass chat_template="):
        intake(None).render([{"role": "user", "content": "hi"}])


def test_priorities_are_whole_numbers() -> None:
    rank: Any = np.int8(-3)
    assert intake().accept("a", SamplingParams(), priority=rank).request.priority == -3
    for bad in (1.5, "1", None, True):
        with pytest.raises(InvalidSampling, match=r"priority=.* must be a whole number"):
            intake().accept("a", SamplingParams(), priority=bad)  # type: ignore[arg-type]


def test_templates_as_text_or_file(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("{{ messages }}")
    assert read_template(path) == read_template(str(path)) == "{{ messages }}"
    assert read_template("{{ x }}") == "{{ x }}"
    for bad in ("no/such/file", tmp_path, "nul\0"):
        with pytest.raises(TemplateError, match="neither Jinja text nor a readable file"):
            read_template(bad)
    with pytest.raises(TemplateError, match="not valid Jinja"):
        read_template("{% for %}")
    with pytest.raises(TemplateError, match="must be Jinja text or a file, not int"):
        read_template(5)  # type: ignore[arg-type]


def test_request_numbers_begin_where_the_front_begins() -> None:
    intake = Intake(byte_level(), vocab_size=100, max_model_len=99, first_number=3 << 40)
    names = [intake.accept([1], SamplingParams()).request.request_id for _ in range(2)]
    assert names == [str(3 << 40), str((3 << 40) + 1)]


def test_a_deadline_is_the_requests_own() -> None:
    intake = Intake(byte_level(), vocab_size=100, max_model_len=99)
    assert intake.accept([1], SamplingParams(), deadline=7.5).request.deadline == 7.5
    assert intake.accept([1], SamplingParams()).request.deadline is None
