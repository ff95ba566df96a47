"""OpenAI's own client gets what it asks for: chats, completions, logprobs, counts, errors."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import openai
import pytest

from serving import Server

CAT: Any = [{"role": "user", "content": "Tell me about the cat."}]
SEEDED: Any = {"temperature": 1.0, "seed": 7, "max_tokens": 24}
Start = Callable[..., AbstractContextManager[Server]]


def connect(server: Server, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120, **more
    )


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with connect(server) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


# -- models ---------------------------------------------------------------------------------------


def test_models_are_listed_and_found(client: openai.OpenAI, model: str) -> None:
    (card,) = client.models.list().data
    assert client.models.retrieve(model) == card
    assert (card.object, card.owned_by) == ("model", "argosy")
    assert card.model_dump()["max_model_len"] > 100
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/none")


def test_an_unknown_model_is_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="none", messages=CAT)
    assert caught.value.body == {
        "message": "The model `none` does not exist.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }


# -- chats ----------------------------------------------------------------------------------------


def test_a_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=CAT, **SEEDED)
    assert (answer.object, answer.model) == ("chat.completion", model)
    assert answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == (
        answer.usage.prompt_tokens + answer.usage.completion_tokens
    )
    assert 1 <= answer.usage.completion_tokens <= 24
    assert answer.system_fingerprint


def test_a_streamed_chat_is_the_same(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=CAT, **SEEDED)
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=CAT,
            stream=True,
            stream_options={"include_usage": True},
            **SEEDED,
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    told, known = chunks[-1].usage, whole.usage
    assert told is not None and known is not None
    assert (told.prompt_tokens, told.completion_tokens) == (
        known.prompt_tokens,
        known.completion_tokens,
    )
    assert {c.id for c in chunks} == {chunks[0].id}


def test_many_answers(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=CAT, n=3, **SEEDED)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    texts: list[Any] = [c.message.content for c in answer.choices]
    assert len(set(texts)) > 1
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(
        model=model, messages=CAT, n=3, stream=True, **SEEDED
    ):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_a_seed_repeats_an_answer(client: openai.OpenAI, model: str) -> None:
    def text(seed: int) -> Any:
        answer = client.chat.completions.create(
            model=model, messages=CAT, temperature=1.0, seed=seed, max_tokens=24
        )
        return answer.choices[0].message.content

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_a_stop_string_ends_an_answer(client: openai.OpenAI, model: str) -> None:
    fields: Any = {"model": model, "messages": CAT, "temperature": 0, "max_tokens": 40}
    text = client.chat.completions.create(**fields).choices[0].message.content or ""
    stop = text[8:11]
    for stream in (False, True):
        answer = client.chat.completions.create(stop=[stop, "never"], stream=stream, **fields)
        if stream:
            chunks = list(answer)
            found = "".join(c.choices[0].delta.content or "" for c in chunks)
            last = chunks[-1].choices[0]
        else:
            last = answer.choices[0]
            found = last.message.content
        assert found == text[: text.index(stop)]
        assert (last.finish_reason, last.stop_reason) == ("stop", stop)


def test_a_long_prompt_comes_from_the_cache_again(client: openai.OpenAI, model: str) -> None:
    messages: Any = [{"role": "user", "content": "one two three four five six " * 20}]
    for _ in range(2):
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=2)
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) >= 16


def test_logprobs_of_a_chat(client: openai.OpenAI, model: str) -> None:
    fields: Any = {"logprobs": True, "top_logprobs": 3, "temperature": 0, "max_tokens": 12}
    answer = client.chat.completions.create(model=model, messages=CAT, **fields)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content and answer.usage is not None
    assert len(logprobs.content) == answer.usage.completion_tokens
    for place in logprobs.content:
        values = [top.logprob for top in place.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert len(values) == 3
        assert place.logprob == values[0] <= 0  # greedy: the best one was taken
    spelled = b"".join(bytes(place.bytes or []) for place in logprobs.content)
    assert spelled.startswith((answer.choices[0].message.content or "").encode())
    streamed: list[Any] = []
    for chunk in client.chat.completions.create(model=model, messages=CAT, stream=True, **fields):
        if chunk.choices[0].logprobs is not None:
            streamed += chunk.choices[0].logprobs.content or []
    assert streamed == logprobs.content


# -- completions ----------------------------------------------------------------------------------


def test_a_completion(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt="The cat", temperature=1, seed=3)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.usage is not None and answer.usage.completion_tokens <= 16
    text = "".join(
        chunk.choices[0].text
        for chunk in client.completions.create(
            model=model, prompt="The cat", temperature=1, seed=3, stream=True
        )
    )
    assert text == answer.choices[0].text


def ids_of(server: Server, text: str) -> list[int]:
    status, found = server.post("/tokenize", {"prompt": text})
    assert status == 200
    return list(found["tokens"])


def test_prompts_in_every_form(client: openai.OpenAI, model: str, server: Server) -> None:
    texts = ["The cat", "A dog and"]
    ids = [ids_of(server, text) for text in texts]
    fields: Any = {"model": model, "temperature": 0, "max_tokens": 8}
    singles = [client.completions.create(prompt=p, **fields).choices[0].text for p in texts]
    assert client.completions.create(prompt=ids[0], **fields).choices[0].text == singles[0]
    for prompt in (texts, ids):
        answer = client.completions.create(prompt=prompt, **fields)
        assert [c.text for c in answer.choices] == singles
        assert [c.index for c in answer.choices] == [0, 1]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == sum(map(len, ids))
        streamed = ["", ""]
        for chunk in client.completions.create(prompt=prompt, stream=True, **fields):
            streamed[chunk.choices[0].index] += chunk.choices[0].text
        assert streamed == singles


def test_answers_of_several_prompts_are_numbered_on(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(
        model=model, prompt=["The", "A"], n=2, temperature=1, max_tokens=2
    )
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]


def test_logprobs_of_a_completion(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(
        model=model, prompt="The cat", logprobs=2, temperature=0, max_tokens=6
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and answer.usage is not None
    lists = logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset
    assert {len(one or []) for one in lists} == {answer.usage.completion_tokens}
    for token, value, top in zip(
        logprobs.tokens or [], logprobs.token_logprobs or [], logprobs.top_logprobs or [],
        strict=True,
    ):  # fmt: skip
        assert top is not None
        assert max(top.values()) == top[token] == value
        assert len(top) == 2
    assert (logprobs.text_offset or [])[0] == 0


def test_echo_puts_the_prompt_before_the_answer(
    client: openai.OpenAI, model: str, server: Server
) -> None:
    fields: Any = {"model": model, "prompt": "The cat sat", "temperature": 0, "max_tokens": 4}
    plain = client.completions.create(**fields).choices[0].text
    assert client.completions.create(echo=True, **fields).choices[0].text == "The cat sat" + plain
    chunks = client.completions.create(echo=True, stream=True, **fields)
    assert "".join(c.choices[0].text for c in chunks) == "The cat sat" + plain


def test_a_prompt_is_scored_alone(client: openai.OpenAI, model: str, server: Server) -> None:
    answer = client.completions.create(
        model=model, prompt="The cat sat", echo=True, max_tokens=0, logprobs=0, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text == "The cat sat"
    assert logprobs is not None and logprobs.token_logprobs is not None
    assert len(logprobs.token_logprobs) == len(ids_of(server, "The cat sat"))
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert answer.usage is not None and answer.usage.completion_tokens == 0


def test_prompt_logprobs(client: openai.OpenAI, model: str, server: Server) -> None:
    answer = client.completions.create(
        model=model, prompt="The cat sat", max_tokens=1, extra_body={"prompt_logprobs": 2}
    )
    first, *others = answer.choices[0].model_dump()["prompt_logprobs"]
    ids = ids_of(server, "The cat sat")
    assert first is None
    for id_, place in zip(ids[1:], others, strict=True):
        assert place[str(id_)].keys() == {"logprob", "rank", "decoded_token"}
        assert {1, 2} <= {entry["rank"] for entry in place.values()}


def test_ids_of_tokens(client: openai.OpenAI, model: str, server: Server) -> None:
    fields: Any = {"model": model, "prompt": "The cat", "temperature": 0, "max_tokens": 5}
    more = {"return_token_ids": True}
    answer = client.completions.create(extra_body=more, **fields)
    ids = answer.choices[0].model_dump()["token_ids"]
    assert answer.choices[0].model_dump()["prompt_token_ids"] == ids_of(server, "The cat")
    streamed: list[int] = []
    for chunk in client.completions.create(stream=True, extra_body=more, **fields):
        streamed += chunk.choices[0].model_dump().get("token_ids") or []
    assert streamed == ids
    _, text = server.post("/detokenize", {"tokens": ids})
    assert text["prompt"].startswith(answer.choices[0].text)


# -- errors ---------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long(client: openai.OpenAI, model: str) -> None:
    limit = client.models.retrieve(model).model_dump()["max_model_len"]
    for prompt in ("cat " * 10 * limit, [5] * limit):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=model, prompt=prompt)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "prompt"
        assert f"maximum context length is {limit} tokens" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        messages: Any = [{"role": "user", "content": "cat " * 10 * limit}]
        client.chat.completions.create(model=model, messages=messages)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": "two"}, "n"),
        ({"logit_bias": {"1": "x"}}, "logit_bias"),
        ({"stop": [1]}, "stop"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"priority": 1}, "priority"),
    ],
    ids=str,
)
def test_a_field_at_fault_is_named(
    client: openai.OpenAI, model: str, fields: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model=model, messages=CAT, stream=stream, extra_body=fields
            )
        assert caught.value.param == param
        assert caught.value.type == "BadRequestError"


def test_fields_that_nobody_knows_are_told(client: openai.OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=CAT, max_tokens=1, extra_body={"zeta": 1, "al pha\r\nx: y": 2}
    )
    assert raw.headers["x-argosy-ignored"] == "al%20pha%0D%0Ax%3A%20y, zeta"
    assert raw.parse().choices
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=CAT, max_tokens=1, user="me"
    )
    assert "x-argosy-ignored" not in raw.headers


def test_an_answer_is_named_after_its_request(client: openai.OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=CAT, max_tokens=1, extra_headers={"X-Request-Id": "mine-1"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.parse().id == "chatcmpl-mine-1"


def test_where_the_time_went(client: openai.OpenAI, model: str) -> None:
    fields: Any = {"model": model, "messages": CAT, "max_tokens": 4, "temperature": 0}
    header = {"x-argosy-explain": "1"}
    story = client.chat.completions.create(extra_headers=header, **fields).model_dump()["argosy"]
    assert story["steps"] >= 4
    assert 0 <= story["ttft_s"] <= story["total_s"]
    assert "argosy" not in client.chat.completions.create(**fields).model_dump()
    chunks = list(client.chat.completions.create(stream=True, extra_headers=header, **fields))
    assert chunks[-1].model_dump()["argosy"]["steps"] >= 4
    assert all("argosy" not in chunk.model_dump() for chunk in chunks[:-1])


# -- cancelling -----------------------------------------------------------------------------------


def aborts(server: Server) -> float:
    """How many answers ended because nobody wanted them any more."""
    lines = server.get("/metrics")[1].splitlines()
    found = [x for x in lines if x.startswith("vllm:request_success_total") and '"abort"' in x]
    assert found
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def endless(model: str) -> Any:
    return {
        "model": model,
        "messages": CAT,
        "max_tokens": 1500,
        "stream": True,
        "extra_body": {"ignore_eos": True},
    }


def test_a_client_that_leaves_aborts(client: openai.OpenAI, model: str, server: Server) -> None:
    before = aborts(server)
    with client.chat.completions.create(**endless(model)) as stream:
        assert len(list(itertools.islice(stream, 3))) == 3
    server.wait_idle()
    assert aborts(server) > before


def test_a_client_that_leaves_before_the_answer_aborts(server: Server, model: str) -> None:
    before = aborts(server)
    fields = endless(model) | {"stream": False, "n": 8, "temperature": 1}
    with connect(server) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**fields | {"timeout": 0.2})
    server.wait_idle()
    assert aborts(server) > before


# -- async ----------------------------------------------------------------------------------------


def test_the_async_client(server: Server, model: str) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(
            base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120
        ) as client:
            fields: Any = {"model": model, "messages": CAT, **SEEDED}
            whole = await client.chat.completions.create(**fields)
            text = ""
            async for chunk in await client.chat.completions.create(stream=True, **fields):
                text += chunk.choices[0].delta.content or ""
            assert text == whole.choices[0].message.content
            prompts = [f"Number {i}" for i in range(20)]
            single: Any = {"model": model, "temperature": 0, "max_tokens": 6}
            together = await asyncio.gather(
                *(client.completions.create(prompt=prompt, **single) for prompt in prompts)
            )
            again = await client.completions.create(prompt=prompts, **single)
            assert [a.choices[0].text for a in together] == [c.text for c in again.choices]
            stream = await client.chat.completions.create(**endless(model))
            async for _ in stream:
                break
            await stream.close()

    before = aborts(server)
    asyncio.run(run())
    server.wait_idle()
    assert aborts(server) > before


# -- servers of another mind ----------------------------------------------------------------------


def test_a_strict_server_with_priorities(start: Start) -> None:
    flags = ("--strict-fields", "--scheduling-policy", "priority", "--max-logprobs", "5")
    with start(*flags) as server, connect(server) as client:
        model = client.models.list().data[0].id
        fields: Any = {"model": model, "messages": CAT, "max_tokens": 2}
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**fields, extra_body={"zeta": 1})
        assert caught.value.param == "zeta"
        assert client.chat.completions.create(**fields, extra_body={"priority": -1}).choices
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**fields, logprobs=True, top_logprobs=6)
        assert caught.value.param == "top_logprobs"
        assert "Requested sample logprobs of 6, which is greater than max allowed: 5" in str(
            caught.value
        )
