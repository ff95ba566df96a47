"""Streamed answers, however they are cut and written."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy.load.stream import Answer, said

CHAT = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b": ping\n\n"
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    b'event: x\ndata: {"choices":[{"delta":\ndata: {"content":"b"},"finish_reason":"length"}]}\n\n'
    b'data:{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
    b"data: [DONE]\n\n"
)


def read(*pieces: bytes, status: int = 200) -> Answer:
    answer = Answer(itertools.count().__next__)
    answer.begin(status)
    for piece in pieces:
        answer.feed(piece)
    answer.close()
    return answer


@given(st.lists(st.integers(1, 400), max_size=8), st.booleans())
def test_a_stream_reads_the_same_however_it_is_cut(sizes: list[int], crlf: bool) -> None:
    data = CHAT.replace(b"\n", b"\r\n") if crlf else CHAT
    ends = [0, *itertools.accumulate(sizes), len(data)]
    answer = read(*(data[a:b] for a, b in itertools.pairwise(ends)))
    assert answer.error is None and answer.done
    assert len(answer.times) == 2, "the role's chunk carries no text"
    assert answer.finish_reason == "length"
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2)
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


def test_completions_carry_text() -> None:
    answer = read(b'data: {"choices":[{"text":"a"}]}\n\ndata: [DONE]\n\n')
    assert len(answer.times) == 1


def test_each_read_has_its_own_time() -> None:
    event = b'data: {"choices":[{"text":"a"}]}\n\n'
    assert list(read(event, event + event).times) == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (b'{"error":{"message":"full"}}', 429, "full"),
        (b"", 502, "HTTP status 502"),
        (b"<html>", 500, "<html>"),
        (b'data: {"error":{"message":"gone"}}\n\ndata: [DONE]\n\n', 200, "gone"),
        (b'data: {"choices":[{"text":"a"}]}\n\n', 200, "the stream ended without [DONE]"),
        (b"data: nothing\n\n", 200, "an event is no chunk of the OpenAI API"),
    ],
)
def test_what_goes_wrong_is_said(data: bytes, status: int, error: str) -> None:
    answer = read(data, status=status)
    assert answer.error is not None and answer.error.startswith(error)


@pytest.mark.parametrize(
    "body",
    [b'{"message":"m"}', b'{"detail":"m"}', b'{"error":"m"}', b'{"error":{"message":"m"}}', b"m"],
)
def test_errors_are_read_in_any_shape(body: bytes) -> None:
    assert said(body) == "m"
