"""From fields to requests of the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from argosy.serve.dialects.openai_body import TOKENIZE, read
from argosy.serve.dialects.openai_parse import fingerprint
from argosy.serve.dialects.openai_prompts import TOO_LONG, encode, render
from argosy.serve.errors import Refusal
from argosy.types import RequestOutputKind, SamplingParams
from unit.serve.dialects.small_model import chat, completion, ids, prompt_text, served

HELLO = [{"role": "user", "content": "the cat"}]


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def chat_of(**fields: Any) -> Any:
    return chat(body(**{"messages": HELLO} | fields))


def refused(make: Any, fields: dict[str, Any], **more: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        make(body(**fields), **more)
    assert caught.value.status == 400
    return caught.value


def params(call: Any) -> SamplingParams:
    return call.accepted[0].request.params


# -- what the answer's length is ------------------------------------------------------------------


def test_a_chat_goes_on_while_there_is_room() -> None:
    assert params(chat_of()).max_tokens is None
    assert chat_of().accepted[0].request.max_total_tokens == 100


def test_a_completion_has_16_tokens() -> None:
    call = completion(body(prompt="the cat"))
    assert params(call).max_tokens == 16
    assert params(completion(body(prompt="the cat", max_tokens=None))).max_tokens is None


def test_a_longer_answer_than_fits_is_cut() -> None:
    assert chat_of(max_tokens=10**6).accepted[0].request.max_total_tokens == 100


def test_max_completion_tokens_wins() -> None:
    assert params(chat_of(max_tokens=3, max_completion_tokens=5)).max_tokens == 5
    assert params(chat_of(max_tokens=3)).max_tokens == 3


def test_the_model_has_a_limit_of_its_own() -> None:
    model = served(max_tokens=7)
    assert params(chat(body(messages=HELLO), model)).max_tokens == 7
    assert params(chat(body(messages=HELLO, max_tokens=9), model)).max_tokens == 9
    assert params(completion(body(prompt="a"), model)).max_tokens == 16
    assert params(completion(body(prompt="a", max_tokens=None), model)).max_tokens == 7


# -- how it is drawn ------------------------------------------------------------------------------


def test_the_request_wins_over_the_model() -> None:
    model = served(temperature=0.5, top_p=0.25)
    found = params(chat(body(messages=HELLO, temperature=0.75, top_p=None), model))
    assert (found.temperature, found.top_p) == (0.75, 0.25)
    assert (params(chat_of()).temperature, params(chat_of()).top_p) == (1.0, 1.0)


def test_every_parameter_arrives() -> None:
    given = {
        "n": 3,
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "repetition_penalty": 1.5,
        "seed": 42,
        "stop": ["x", "y"],
        "stop_token_ids": [7],
        "ignore_eos": True,
        "min_tokens": 2,
        "allowed_token_ids": [8, 9],
        "bad_words": ["cat"],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "prompt_logprobs": 2,
    }
    call = chat_of(**given, logit_bias={"5": -100}, logprobs=True, top_logprobs=4, max_tokens=9)
    wanted = SamplingParams(
        **given,
        logit_bias={5: -100.0},
        logprobs=4,
        max_tokens=9,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    assert params(call) == wanted
    assert call.accepted[0].request.seed == 42


def test_a_stream_gives_what_is_new() -> None:
    assert params(chat_of(stream=True)).output_kind is RequestOutputKind.DELTA


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"n": 0}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"n": 10**9}, "n"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"400": 1}}, "logit_bias"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"bad_words": [""]}, "bad_words"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"stop_token_ids": [400]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 401}, "stop_token_ids"),
        ({"bad_words": ["a"] * 129}, "bad_words"),
        ({"bad_words": ["a" * 10**6]}, "bad_words"),
        ({"seed": 2**64}, "seed"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"priority": 1}, "priority"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"cache_salt": "a/b"}, "cache_salt"),
        ({"cache_salt": "a" * 129}, "cache_salt"),
        ({"request_id": "a b"}, "request_id"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ],
    ids=str,
)
def test_a_value_out_of_range_names_its_field(fields: dict[str, Any], param: str) -> None:
    assert refused(chat, {"messages": HELLO} | fields).param == param
    assert refused(completion, {"prompt": "the cat"} | fields).param == param


def test_priority_counts_where_the_scheduler_looks_at_it() -> None:
    call = chat(body(messages=HELLO, priority=-3), by_priority=True)
    assert call.accepted[0].request.priority == -3
    assert refused(chat, {"messages": HELLO, "priority": 2**63}, by_priority=True)


def test_salt_and_deadline_are_handed_on() -> None:
    request = chat(body(messages=HELLO, cache_salt="mine"), deadline=12.5).accepted[0].request
    assert (request.cache_salt, request.deadline) == ("mine", 12.5)


# -- logprobs -------------------------------------------------------------------------------------


def test_logprobs_of_a_chat() -> None:
    assert chat_of().logprobs is None
    assert chat_of(logprobs=True).logprobs == 0
    assert chat_of(logprobs=True, top_logprobs=3).logprobs == 3
    assert chat_of(logprobs=True, top_logprobs=-1).logprobs == 20
    assert refused(chat, {"messages": HELLO, "top_logprobs": 3}).param == "top_logprobs"


def test_more_logprobs_than_allowed_are_refused() -> None:
    fields = {"prompt": "a", "logprobs": 6}
    exc = refused(completion, fields, max_logprobs=5)
    assert str(exc) == "Requested sample logprobs of 6, which is greater than max allowed: 5"
    assert exc.param == "logprobs"
    assert completion(body(prompt="a", logprobs=-1), max_logprobs=5).logprobs == 5
    assert refused(completion, {"prompt": "a", "logprobs": -2}).param == "logprobs"


# -- prompts --------------------------------------------------------------------------------------


def test_a_conversation_is_rendered() -> None:
    call = chat_of(messages=[{"role": "system", "content": "be"}, *HELLO])
    assert prompt_text(call.accepted[0]) == "[system]be\n[user]the cat\n[assistant]"


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "the"}, {"type": "text", "text": "cat"}]
    call = chat_of(messages=[{"role": "user", "content": parts}])
    assert prompt_text(call.accepted[0]) == "[user]the\ncat\n[assistant]"


def test_the_template_hears_of_variables() -> None:
    call = chat_of(
        documents=[{"text": "x"}], reasoning_effort="high", chat_template_kwargs={"mood": "good"}
    )
    text = "[user]the cat\n(1 documents)(high)(good)[assistant]"
    assert prompt_text(call.accepted[0]) == text
    exc = refused(chat, {"messages": HELLO, "chat_template_kwargs": {"messages": []}})
    assert exc.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{}],
        [{"content": "a"}],
        [{"role": 1, "content": "a"}],
        [{"role": "user", "content": 1}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
    ],
    ids=str,
)
def test_a_broken_conversation_is_refused(messages: Any) -> None:
    assert refused(chat, {"messages": messages}).param == "messages"


def test_a_part_that_is_not_text_is_named() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "x"}}]
    exc = refused(chat, {"messages": [{"role": "user", "content": parts}]})
    assert "image_url" in str(exc)


def test_without_a_template_there_is_no_chat() -> None:
    exc = refused(chat, {"messages": HELLO}, model=served(template=None))
    assert "template" in str(exc)


def test_the_last_message_may_be_continued() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "sat"}]
    fields = {"add_generation_prompt": False, "continue_final_message": True, "echo": True}
    call = chat_of(messages=messages, **fields)
    assert prompt_text(call.accepted[0]) == "[user]the cat\n[assistant]sat"
    assert (call.role, call.echoes) == ("assistant", ("sat",))
    assert refused(chat, {"messages": HELLO, "continue_final_message": True}).param


def test_echo_needs_a_message_that_goes_on() -> None:
    assert (chat_of(echo=True).role, chat_of(echo=True).echoes) == ("assistant", ("",))
    call = chat_of(echo=True, add_generation_prompt=False)
    assert (call.role, call.echoes) == ("user", ("the cat",))


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("the cat", ["the cat"]),
        (["the", "cat"], ["the", "cat"]),
        (ids("the cat"), ["the cat"]),
        ([ids("the"), ids("cat")], ["the", "cat"]),
    ],
    ids=str,
)
def test_prompts_are_texts_or_ids(prompt: Any, texts: list[str]) -> None:
    call = completion(body(prompt=prompt))
    assert [prompt_text(one) for one in call.accepted] == texts
    assert call.num_prompt_tokens == sum(len(ids(text)) for text in texts)


@pytest.mark.parametrize(
    "prompt",
    [
        *("", [], [""], [[]], ["a", 1], [1, "a"], [1, [1]], [True], [1.5], [None], [{}], [-1]),
        *([400], [2**70], [["a"]], [[[1]]], [[1], [400]], ["a"] * 1025),
    ],
    ids=lambda prompt: str(prompt)[:20],
)
def test_no_other_prompt_is_taken(prompt: Any) -> None:
    assert refused(completion, {"prompt": prompt}).param == "prompt"


def test_too_many_answers_are_refused() -> None:
    assert refused(completion, {"prompt": ["a"] * 1024, "n": 17}).param == "n"


def test_a_nul_that_the_tokenizer_knows_is_text() -> None:
    assert prompt_text(completion(body(prompt="a\0b")).accepted[0]) == "a\0b"


def test_a_prompt_that_does_not_fit_names_both_numbers() -> None:
    exc = refused(completion, {"prompt": [5] * 100})
    assert (exc.code, exc.param) == (TOO_LONG, "prompt")
    assert "maximum context length is 100 tokens" in str(exc)
    assert "your prompt has 100 tokens" in str(exc)
    many = [{"role": "user", "content": "the cat " * 100}]
    exc = refused(chat, {"messages": many})
    assert (exc.code, exc.param) == (TOO_LONG, "messages")
    assert completion(body(prompt=[5] * 99)).num_prompt_tokens == 99


def test_of_a_very_long_text_only_a_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = served(), []
    read_all = model.intake.tokenizer.encode

    def watched(text: str, special: bool = True) -> list[int]:
        lengths.append(len(text))
        return read_all(text, special)

    monkeypatch.setattr(model.intake.tokenizer, "encode", watched)
    exc = refused(completion, {"prompt": "xyz " * 10**6}, model=model)
    assert exc.code == TOO_LONG
    assert sum(lengths) < 1000


def test_a_long_text_of_few_tokens_fits() -> None:
    long = "ab" * 400
    model = served()
    backend = model.intake.tokenizer
    assert len(encode(model, "the " * 20, False, "prompt")) == len(backend.encode("the " * 20))
    assert len(backend.encode(long)) > 100
    with pytest.raises(Refusal):
        encode(model, long, False, "prompt")
    assert len(encode(model, long, False, "prompt", cut=True)) == len(backend.encode(long))


def test_a_prompt_may_be_cut() -> None:
    given = ids("the cat sat on the mat")

    def cut(**fields: Any) -> list[int]:
        call = completion(body(prompt="the cat sat on the mat", **fields))
        return list(call.accepted[0].request.token_ids)

    assert cut(truncate_prompt_tokens=2) == given[-2:]
    assert cut(truncate_prompt_tokens=2, truncation_side="right") == given[:2]
    assert cut(truncate_prompt_tokens=50) == given
    many = completion(body(prompt=[5] * 500, truncate_prompt_tokens=-1, max_tokens=30))
    assert many.num_prompt_tokens == 70


# -- what is told ---------------------------------------------------------------------------------


def test_echo_is_the_prompt() -> None:
    assert completion(body(prompt=["the", "cat"], echo=True)).echoes == ("the", "cat")
    assert completion(body(prompt=ids("the cat"), echo=True)).echoes == ("the cat",)
    assert completion(body(prompt="a")).echoes == ("",)
    call = completion(body(prompt="the cat", echo=True, logprobs=2))
    assert params(call).prompt_logprobs == 2
    assert not call.tells_prompt_logprobs


def test_a_prompt_may_be_scored_alone() -> None:
    call = completion(body(prompt="the cat", echo=True, max_tokens=0, logprobs=1))
    assert call.scores_only
    assert params(call).max_tokens == 1
    assert not completion(body(prompt="the cat", echo=True)).scores_only


def test_names_of_an_answer() -> None:
    call = chat_of()
    assert call.id == "chatcmpl-7"
    assert chat_of(request_id="mine").id == "chatcmpl-mine"
    assert completion(body(prompt="a")).id == "cmpl-7"
    assert call.fingerprint == fingerprint(served())
    assert call.fingerprint.startswith("fp_")


def test_counts_in_every_chunk_need_counts_at_all() -> None:
    options = {"continuous_usage_stats": True}
    assert not chat_of(stream=True, stream_options=options).running_usage
    call = chat_of(stream=True, stream_options=options | {"include_usage": True})
    assert call.running_usage and call.usage


def test_a_conversation_to_be_tokenized_is_rendered_alike() -> None:
    request, _ = read(body(messages=HELLO, add_generation_prompt=False), TOKENIZE)
    assert render(request, served()) == "[user]the cat\n"
