"""Events become text: stops, hidden tokens, logprobs, errors."""

from __future__ import annotations

from typing import Any

import pytest

from argosy.client.outputs import CompletionOutput, Logprob, RequestOutput
from argosy.text.tokenizer import Tokenizer
from argosy.types import RequestOutputKind, SamplingParams
from unit.client.fake_engine import FakeEngine, client_of, saying
from unit.text.small_tokenizers import byte_fallback, byte_level

TEXT = "The cat 日本 sat. Human: no"


def whole(
    text: str, per_step: int = 1, tokenizer: Tokenizer | None = None, **params: Any
) -> RequestOutput:
    tokenizer = tokenizer or byte_level()
    engine = FakeEngine(saying(tokenizer, text), per_step)
    client = client_of(engine, tokenizer)
    values = {"max_tokens": 100} | params
    [output] = client.run([client.intake.accept("Hello", SamplingParams(**values))])
    assert not engine.running
    return output


def one(text: str, per_step: int = 1, **params: Any) -> CompletionOutput:
    [answer] = whole(text, per_step, **params).outputs
    return answer


@pytest.mark.parametrize("per_step", [1, 3, 100])
def test_a_stop_string_ends_the_answer_whatever_the_step(per_step: int) -> None:
    answer = one(TEXT, per_step, stop=["Human:"])
    assert answer.text == "The cat 日本 sat. "
    assert (answer.finish_reason, answer.stop_reason) == ("stop", "Human:")
    expected = one(TEXT, 1, stop=["Human:"])
    assert answer.token_ids == expected.token_ids, "tokens after the match are dropped"
    assert "Human:" in byte_level().decode(answer.token_ids)


def test_include_stop_string() -> None:
    answer = one(TEXT, stop="Human:", include_stop_str_in_output=True)
    assert answer.text == "The cat 日本 sat. Human:"


def test_text_held_back_comes_at_the_end() -> None:
    answer = one("It is Hum", stop=["Human:"])
    assert (answer.text, answer.finish_reason) == ("It is Hum", "length")


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("ignore_eos", [True, False])
def test_a_stop_string_that_is_a_special_token(include: bool, skip: bool, ignore_eos: bool) -> None:
    answer = one(
        "Hi.</s> more",
        stop=["Human:", "</s>"],
        include_stop_str_in_output=include,
        skip_special_tokens=skip,
        ignore_eos=ignore_eos,
    )
    assert answer.text == ("Hi.</s>" if include else "Hi.")
    assert (answer.finish_reason, answer.stop_reason) == ("stop", "</s>")
    assert answer.token_ids[-1] == byte_level().special_id("</s>")


@pytest.mark.parametrize("include", [True, False])
def test_end_of_sequence_is_hidden(include: bool) -> None:
    answer = one("Hi.</s>", include_stop_str_in_output=include)
    assert answer.text == "Hi."
    assert (answer.finish_reason, answer.stop_reason) == ("stop", None)
    assert answer.token_ids[-1] == byte_level().special_id("</s>")


def test_end_of_sequence_is_shown_where_asked_for() -> None:
    params = {"include_stop_str_in_output": True, "skip_special_tokens": False}
    assert one("Hi.</s>", **params).text == "Hi.</s>"
    assert one("Hi.</s> you", ignore_eos=True).text == "Hi. you"
    assert one("Hi.</s> you", ignore_eos=True, skip_special_tokens=False).text == "Hi.</s> you"


@pytest.mark.parametrize("include", [True, False])
def test_a_stop_token_of_the_caller(include: bool) -> None:
    dot = byte_level().token_id(".")
    answer = one("One. Two.", stop_token_ids=[dot], include_stop_str_in_output=include)
    assert answer.text == ("One." if include else "One")
    assert (answer.finish_reason, answer.stop_reason) == ("stop", dot)


def test_stop_strings_count_after_min_tokens() -> None:
    ids = byte_level().encode("ab.cd.ef")
    assert len(ids) == 8
    assert one("ab.cd.ef", stop=["."], min_tokens=2).text == "ab"
    assert one("ab.cd.ef", stop=["."], min_tokens=3).text == "ab.cd"
    assert one("ab.cd.ef", stop=[".c"], min_tokens=3).text == "ab"


@pytest.mark.parametrize("per_step", [1, 100])
def test_length(per_step: int) -> None:
    answer = one(TEXT, per_step, max_tokens=3)
    assert len(answer.token_ids) == 3
    assert (answer.finish_reason, answer.stop_reason) == ("length", None)


def test_a_character_cut_by_the_length_is_flushed() -> None:
    tokenizer = byte_fallback()
    answer = whole("é😀", tokenizer=tokenizer, max_tokens=4).outputs[0]
    assert answer.text == " é\ufffd"
    before_eos = tokenizer.encode("é😀", add_special_tokens=False)[:4]
    engine = FakeEngine(lambda *_: [*before_eos, tokenizer.special_id("</s>") or 0])
    client = client_of(engine, tokenizer)
    [output] = client.run([client.intake.accept("Hello", SamplingParams())])
    assert output.outputs[0].text == " é\ufffd"


def test_ids_alone() -> None:
    answer = one(TEXT, detokenize=False)
    assert answer.text == ""
    assert byte_level().decode(answer.token_ids) == TEXT


def test_logprobs() -> None:
    tokenizer = byte_level()
    first, second = tokenizer.encode("日")[:2]
    answer = one("日", logprobs=2)
    assert answer.logprobs is not None
    assert [list(place) for place in answer.logprobs][:2] == [[first, 0, 1], [second, 0, 1]]
    assert answer.logprobs[0][first] == Logprob(-0.5, 1 + first, "\ufffd")
    assert answer.logprobs[0][1] == Logprob(-1.0, 2, "</s>")
    assert answer.cumulative_logprob == -0.5 * len(answer.token_ids)
    assert len(answer.logprobs) == len(answer.token_ids)


def test_the_tokens_own_entry_is_not_doubled() -> None:
    answer = one("</s>", logprobs=2)
    assert answer.logprobs == [{1: Logprob(-0.5, 2, "</s>"), 0: Logprob(-0.0, 1, "<s>")}]


def test_no_logprobs_unless_asked_for() -> None:
    answer = one("Hi")
    assert answer.logprobs is None and answer.cumulative_logprob is None


def test_prompt_logprobs() -> None:
    output = whole("Hi", prompt_logprobs=0, n=2, temperature=1.0)
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    assert [list(place or {}) for place in output.prompt_logprobs[1:]] == [
        [id_] for id_ in output.prompt_token_ids[1:]
    ]
    assert whole("Hi").prompt_logprobs is None


def test_prompt_logprobs_come_once_in_a_stream_of_deltas() -> None:
    client = client_of(FakeEngine(saying(byte_level(), "Hi there")), byte_level())
    params = SamplingParams(prompt_logprobs=0, output_kind=RequestOutputKind.DELTA)
    outputs = list(client.stream([client.intake.accept("Hello", params)]))
    assert [o.prompt_logprobs is not None for o in outputs] == [True] + [False] * (len(outputs) - 1)


def test_prompt_logprobs_of_one_token() -> None:
    engine = FakeEngine(saying(byte_level(), "Hi"))
    client = client_of(engine, byte_level())
    [output] = client.run([client.intake.accept([5], SamplingParams(prompt_logprobs=1))])
    assert output.prompt_logprobs == [None]


def test_usage_and_times() -> None:
    output = whole("Hi there", n=2)
    assert output.num_cached_tokens == 16, "the first child's: what all share"
    assert output.metrics is not None
    times = output.metrics
    assert times.first_token_time is not None and times.finished_time is not None
    assert times.arrival_time < times.first_token_time < times.finished_time


def test_an_end_without_tokens_is_told_in_a_stream_of_deltas() -> None:
    client = client_of(FakeEngine(saying(byte_level(), "Hi there"), fail_at=3), byte_level())
    params = SamplingParams(output_kind=RequestOutputKind.DELTA)
    outputs = list(client.stream([client.intake.accept("Hello", params)]))
    assert [o.outputs[0].finish_reason for o in outputs] == [None, None, "error"]
    assert outputs[-1].outputs[0].token_ids == []


def test_an_error_of_the_engine() -> None:
    engine = FakeEngine(saying(byte_level(), "Hi there"), fail_at=2)
    client = client_of(engine, byte_level())
    [output] = client.run([client.intake.accept("Hello", SamplingParams())])
    [answer] = output.outputs
    assert output.finished and answer.finished()
    assert (answer.finish_reason, answer.stop_reason) == ("error", "step broke")
    assert answer.token_ids, "what came before stays"
