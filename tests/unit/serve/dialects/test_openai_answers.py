"""Answers in OpenAI's shapes, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from argosy.client.outputs import Logprob
from argosy.serve.dialects import openai_types as types
from argosy.serve.dialects.openai_answers import chat_completion
from argosy.serve.dialects.openai_answers import completion as whole_completion
from argosy.serve.dialects.openai_stream import ChatStream, CompletionStream
from unit.serve.dialects.small_model import chat, completion, ids, news, output, place, served

CHAT = {"messages": [{"role": "user", "content": "the cat"}]}


def chat_of(**fields: Any) -> Any:
    return chat(json.dumps(CHAT | fields).encode())


def completion_of(prompt: Any = "the", **fields: Any) -> Any:
    return completion(json.dumps({"prompt": prompt} | fields).encode())


def told(answer: msgspec.Struct) -> Any:
    return json.loads(msgspec.json.encode(answer))


def events(data: bytes) -> list[Any]:
    """The data of each event; every event is one line and an empty one."""
    *whole, rest = data.split(b"\n\n")
    assert rest == b""
    assert all(one.startswith(b"data: ") and b"\n" not in one for one in whole)
    found = [one.removeprefix(b"data: ") for one in whole]
    return [one.decode() if one == b"[DONE]" else json.loads(one) for one in found]


# -- whole ----------------------------------------------------------------------------------------


def test_a_chat() -> None:
    call = chat_of(n=2)
    one = output(
        call, news(0, " sat", "stop", stop_reason="x"), news(1, "the mat", "length"),
        num_cached_tokens=3,
    )  # fmt: skip
    prompt, generated = call.num_prompt_tokens, len(ids(" sat")) + len(ids("the mat"))
    assert told(chat_completion(call, [one], None)) == {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": call.created,
        "model": "small",
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": end,
                "stop_reason": reason,
                "token_ids": None,
            }
            for index, text, end, reason in [
                (0, " sat", "stop", "x"), (1, "the mat", "length", None),
            ]
        ],
        "service_tier": None,
        "system_fingerprint": call.fingerprint,
        "usage": {
            "prompt_tokens": prompt,
            "total_tokens": prompt + generated,
            "completion_tokens": generated,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
        "prompt_logprobs": None,
        "prompt_token_ids": None,
    }  # fmt: skip


def test_choices_of_several_prompts_are_numbered_on() -> None:
    call = completion_of(["the", "cat"], n=2)
    outputs = [
        output(call, news(0, "a", "stop"), news(1, "b", "stop"), place=place, num_cached_tokens=1)
        for place in range(2)
    ]
    answer = told(whole_completion(call, outputs, None))
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [
        (0, "a"), (1, "b"), (2, "a"), (3, "b"),
    ]  # fmt: skip
    assert answer["object"] == "text_completion"
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 2
    assert answer["usage"]["completion_tokens"] == 4


def test_ids_and_the_prompt_are_told_where_asked_for() -> None:
    call = chat_of(return_token_ids=True, return_prompt_text=True)
    one = output(call, news(0, "the", "stop"))
    answer = told(chat_completion(call, [one], None))
    assert answer["choices"][0]["token_ids"] == ids("the")
    assert answer["prompt_token_ids"] == list(call.accepted[0].request.token_ids)
    assert answer["prompt_text"] == "[user]the cat\n[assistant]"
    call = completion_of(return_token_ids=True)
    choice = told(whole_completion(call, [output(call, news(0, "a", "stop"))], None))["choices"][0]
    assert (choice["token_ids"], choice["prompt_token_ids"]) == (ids("a"), ids("the"))


def test_where_the_time_went_is_told_per_prompt() -> None:
    call = chat_of()
    one = output(call, news(0, "a", "stop"))
    assert told(chat_completion(call, [one], [{"steps": 3}]))["argosy"] == {"steps": 3}
    call = completion_of(["the", "cat"])
    two = [output(call, news(0, "a", "stop"), place=place) for place in range(2)]
    stories = [{"steps": 1}, {"steps": 2}]
    assert told(whole_completion(call, two, stories))["argosy"] == stories
    assert told(whole_completion(call, two, stories[:1]))["argosy"] == stories[0]


# -- logprobs -------------------------------------------------------------------------------------


def test_logprobs_of_a_chat() -> None:
    call = chat_of(logprobs=True, top_logprobs=2)
    first, at_first = place(("a", -2.0), ("b", -0.5), ("c", -1.0))
    second, at_second = place(("b", -0.25), ("a", float("-inf")))
    answer = news(0, "ab", "length", token_ids=[first, second], logprobs=[at_first, at_second])
    found = told(chat_completion(call, [output(call, answer)], None))["choices"][0]["logprobs"]

    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    assert found["content"] == [
        entry("a", -2.0) | {"top_logprobs": [entry("b", -0.5), entry("c", -1.0)]},
        entry("b", -0.25) | {"top_logprobs": [entry("b", -0.25), entry("a", -9999.0)]},
    ]
    assert found["refusal"] is None


def test_without_top_logprobs_only_the_token_is_told() -> None:
    call = chat_of(logprobs=True)
    id_, here = place(("a", -2.0))
    answer = news(0, "a", "length", token_ids=[id_], logprobs=[here])
    found = told(chat_completion(call, [output(call, answer)], None))["choices"][0]["logprobs"]
    assert found["content"][0]["top_logprobs"] == []


def test_bytes_are_those_of_the_token() -> None:
    call = chat_of(logprobs=True)
    half = ids("東")[0]
    piece = call.served.intake.tokenizer.token_bytes(half)
    assert len(piece) < 3
    here = {half: Logprob(-1.0, 1, "\N{REPLACEMENT CHARACTER}")}
    answer = news(0, "", "length", token_ids=[half], logprobs=[here])
    found = told(chat_completion(call, [output(call, answer)], None))["choices"][0]["logprobs"]
    assert found["content"][0]["bytes"] == list(piece)


def test_tokens_by_id() -> None:
    call = chat_of(logprobs=True, top_logprobs=1, return_tokens_as_token_ids=True)
    id_, here = place(("a", -2.0), ("b", -0.5))
    answer = news(0, "a", "length", token_ids=[id_], logprobs=[here])
    found = told(chat_completion(call, [output(call, answer)], None))["choices"][0]["logprobs"]
    assert found["content"][0]["token"] == f"token_id:{id_}"
    assert found["content"][0]["top_logprobs"][0]["token"] == f"token_id:{ids('b')[0]}"


def test_logprobs_of_a_completion() -> None:
    call = completion_of(logprobs=1)
    first, at_first = place(("a", -2.0), ("b", -0.5), ("c", -1.0))
    second, at_second = place(("b", -0.25), ("a", -1.5))
    answer = news(0, "ab", "length", token_ids=[first, second], logprobs=[at_first, at_second])
    found = told(whole_completion(call, [output(call, answer)], None))["choices"][0]["logprobs"]
    assert found == {
        "text_offset": [0, 1],
        "token_logprobs": [-2.0, -0.25],
        "tokens": ["a", "b"],
        "top_logprobs": [{"a": -2.0, "b": -0.5}, {"b": -0.25}],
    }


def test_echo_with_logprobs_begins_with_the_prompt() -> None:
    call = completion_of("ab", echo=True, logprobs=1)
    a, b = call.accepted[0].request.token_ids
    at_b = {b: Logprob(-3.0, 2, "b"), a: Logprob(-1.0, 1, "a")}
    next_, at_next = place(("c", -0.5))
    answer = news(0, "c", "length", token_ids=[next_], logprobs=[at_next])
    one = output(call, answer, prompt_logprobs=[None, at_b])
    choice = told(whole_completion(call, [one], None))["choices"][0]
    assert choice["text"] == "abc"
    assert choice["logprobs"] == {
        "text_offset": [0, 1, 2],
        "token_logprobs": [None, -3.0, -0.5],
        "tokens": ["a", "b", "c"],
        "top_logprobs": [None, {"b": -3.0, "a": -1.0}, {"c": -0.5}],
    }
    assert choice["prompt_logprobs"] is None


def test_a_prompt_scored_alone_tells_no_answer() -> None:
    call = completion_of("ab", echo=True, logprobs=0, max_tokens=0)
    at_b = {ids("b")[0]: Logprob(-3.0, 2, "b")}
    next_, at_next = place(("c", -0.5))
    answer = news(0, "c", "length", token_ids=[next_], logprobs=[at_next])
    one = output(call, answer, prompt_logprobs=[None, at_b])
    found = told(whole_completion(call, [one], None))
    assert found["choices"][0]["text"] == "ab"
    assert found["choices"][0]["logprobs"]["token_logprobs"] == [None, -3.0]
    assert found["usage"]["completion_tokens"] == 0


def test_prompt_logprobs_are_told_by_id() -> None:
    call = completion_of("ab", prompt_logprobs=1)
    b = ids("b")[0]
    one = output(
        call, news(0, "c", "length"), prompt_logprobs=[None, {b: Logprob(float("-inf"), 2, "b")}]
    )
    entry = {"logprob": -9999.0, "rank": 2, "decoded_token": "b"}
    choice = told(whole_completion(call, [one], None))["choices"][0]
    assert choice["prompt_logprobs"] == [None, {str(b): entry}]
    call = chat_of(prompt_logprobs=1)
    answer = told(chat_completion(call, [one], None))
    assert answer["prompt_logprobs"] == [None, {str(b): entry}]


# -- streams --------------------------------------------------------------------------------------


def test_a_streamed_chat() -> None:
    call = chat_of(stream=True)
    stream = ChatStream(call)
    data = stream.chunks(0, output(call, news(0, 'the "ca'), num_cached_tokens=2))
    data += stream.chunks(0, output(call, news(0, "")))
    data += stream.chunks(0, output(call, news(0, "t\n"))) + b""
    data += stream.chunks(0, output(call, news(0, "", "stop", stop_reason=5, token_ids=[1])))
    data += stream.last()
    head = {
        "id": "chatcmpl-7",
        "object": "chat.completion.chunk",
        "created": call.created,
        "model": "small",
    }

    def chunk(delta: dict[str, str], end: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
        return head | {"choices": [choice | more]}

    assert events(data) == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": 'the "ca'}),
        chunk({"content": "t\n"}),
        chunk({"content": ""}, "stop", stop_reason=5) | {"system_fingerprint": call.fingerprint},
        "[DONE]",
    ]
    assert stream.completion_tokens == len(ids('the "ca')) + len(ids("t\n")) + 1


def test_a_streamed_completion() -> None:
    call = completion_of(["the", "cat"], stream=True)
    stream = CompletionStream(call)
    data = stream.chunks(1, output(call, news(0, " sat"), place=1))
    data += stream.chunks(0, output(call, news(0, " end", "length")))
    data += stream.last()
    first, second, done = events(data)
    plain = {"logprobs": None, "finish_reason": None, "stop_reason": None}
    assert first["choices"] == [{"index": 1, "text": " sat"} | plain]
    assert second["choices"] == [{"index": 0, "text": " end"} | plain | {"finish_reason": "length"}]
    assert second["system_fingerprint"] == call.fingerprint
    assert first["object"] == second["object"] == "text_completion"
    assert done == "[DONE]"


def test_counts_come_last_where_asked_for() -> None:
    call = completion_of(["the", "cat"], n=2, stream=True, stream_options={"include_usage": True})
    stream = CompletionStream(call)
    for place_ in (0, 1):
        ends = [news(0, "ab", "stop"), news(1, "ab", "stop")]
        stream.chunks(place_, output(call, *ends, place=place_, num_cached_tokens=3))
    usage, done = events(stream.last())
    assert usage["choices"] == []
    prompt, generated = call.num_prompt_tokens, 4 * len(ids("ab"))
    assert usage["usage"] == {
        "prompt_tokens": prompt,
        "total_tokens": prompt + generated,
        "completion_tokens": generated,
        "prompt_tokens_details": {"cached_tokens": 6},
    }
    assert done == "[DONE]"


def test_counts_in_every_chunk() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    call = chat_of(stream=True, stream_options=options)
    stream = ChatStream(call)
    data = stream.chunks(0, output(call, news(0, "ab"))) + stream.chunks(
        0, output(call, news(0, "c", "length"))
    )
    counts = [event["usage"]["completion_tokens"] for event in events(data)]
    assert counts == [0, len(ids("ab")), len(ids("ab")) + 1]


def test_every_choice_of_a_streamed_chat_begins_with_its_role() -> None:
    call = chat_of(stream=True, n=3)
    found = events(ChatStream(call).chunks(0, output(call, news(1, "b"))))
    roles = [event["choices"][0] for event in found[:3]]
    assert [(c["index"], c["delta"]["role"]) for c in roles] == [(i, "assistant") for i in range(3)]
    assert found[3]["choices"][0]["index"] == 1
    assert len(found) == 4


@pytest.mark.parametrize("text", ['"', "\\", "\n\r", "\x00", "é東😀", "\u2028", "data: [DONE]\n\n"])
def test_any_text_is_one_event(text: str) -> None:
    call = chat_of(stream=True)
    _, found = events(ChatStream(call).chunks(0, output(call, news(0, text))))
    assert found["choices"][0]["delta"]["content"] == text
    call = completion_of(stream=True)
    (found,) = events(CompletionStream(call).chunks(0, output(call, news(0, text))))
    assert found["choices"][0]["text"] == text


def test_streamed_logprobs() -> None:
    call = chat_of(stream=True, logprobs=True, top_logprobs=1)
    stream = ChatStream(call)
    id_, here = place(("a", -0.5))
    held_back = news(0, "", token_ids=[id_], logprobs=[here])
    _, found = events(stream.chunks(0, output(call, held_back)))
    assert found["choices"][0]["delta"] == {"content": ""}
    assert found["choices"][0]["logprobs"]["content"][0]["token"] == "a"
    (last,) = events(stream.chunks(0, output(call, news(0, "a", "stop", token_ids=[]))))
    assert last["choices"][0]["logprobs"] is None


def test_streamed_offsets_go_on() -> None:
    call = completion_of("ab", stream=True, echo=True, logprobs=0)
    stream = CompletionStream(call)
    id_, here = place(("c", -0.5))
    b = call.accepted[0].request.token_ids[1]
    before = [None, {b: Logprob(-1.0, 1, "b")}]
    answer = news(0, "c", token_ids=[id_], logprobs=[here])
    found = events(stream.chunks(0, output(call, answer, prompt_logprobs=before)))
    found += events(stream.chunks(0, output(call, answer)))
    choices = [event["choices"][0] for event in found]
    assert [c["text"] for c in choices] == ["ab", "c", "c"]
    assert [c["logprobs"]["text_offset"] for c in choices] == [[0, 1], [2], [3]]


def test_a_streamed_echo_comes_first() -> None:
    call = chat_of(stream=True, echo=True, add_generation_prompt=False)
    found = events(ChatStream(call).chunks(0, output(call, news(0, " sat"))))
    deltas = [event["choices"][0]["delta"] for event in found]
    assert deltas == [
        {"role": "user", "content": ""},
        {"content": "the cat"},
        {"content": " sat"},
    ]


def test_a_prompt_scored_alone_in_a_stream() -> None:
    call = completion_of("ab", stream=True, echo=True, max_tokens=0)
    stream = CompletionStream(call)
    found = events(stream.chunks(0, output(call, news(0, "c", "length"))))
    assert [event["choices"][0]["text"] for event in found] == ["ab", ""]
    assert found[-1]["choices"][0]["finish_reason"] == "length"
    assert stream.completion_tokens == 0


def test_ids_in_a_stream() -> None:
    call = chat_of(stream=True, return_token_ids=True)
    first, second = events(ChatStream(call).chunks(0, output(call, news(0, "ab"))))
    assert first["prompt_token_ids"] == list(call.accepted[0].request.token_ids)
    assert second["choices"][0]["token_ids"] == ids("ab")
    call = completion_of(stream=True, return_token_ids=True)
    first, second = events(CompletionStream(call).chunks(0, output(call, news(0, "ab"))))
    assert first["choices"][0]["prompt_token_ids"] == ids("the")
    assert second["choices"][0]["token_ids"] == ids("ab")


def test_where_the_time_went_is_in_the_last_chunk() -> None:
    call = chat_of(stream=True, n=2)
    stream = ChatStream(call)
    ends = news(0, "a", "stop"), news(1, "b", "stop")
    found = events(stream.chunks(0, output(call, *ends), {"steps": 4}))
    assert ["argosy" in event for event in found] == [False, False, False, True]
    assert found[-1]["argosy"] == {"steps": 4}


def test_shapes_are_those_of_the_schema() -> None:
    call = completion_of("ab", logprobs=1, echo=True, prompt_logprobs=0, return_token_ids=True)
    b = call.accepted[0].request.token_ids[1]
    id_, here = place(("c", -0.5))
    answer = news(0, "c", "length", token_ids=[id_], logprobs=[here])
    one = output(call, answer, prompt_logprobs=[None, {b: Logprob(-1.0, 1, "b")}])
    found = whole_completion(call, [one], None)
    assert msgspec.json.decode(msgspec.json.encode(found), type=types.Completion) == found


def test_a_served_name_is_what_is_told() -> None:
    assert served().name == "small"
    assert events(ChatStream(chat_of()).chunks(0, output(chat_of(), news(0, "a"))))[0]["model"] == (
        "small"
    )
