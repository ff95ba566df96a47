"""Frames: every message comes out as it went in, however the bytes are cut."""

from __future__ import annotations

import msgspec
import pytest

from argosy.engine.wire import (
    Ask,
    Drop,
    Frames,
    FromEngine,
    FromFront,
    Hello,
    Step,
    Submit,
    Told,
    decode_from_engine,
    decode_from_front,
    frame,
)
from argosy.errors import ConfigError
from argosy.types import Event, FinishReason, SamplingParams, Story, TokenLogprobs
from unit.engine.driver import facts, request

FACTS = facts(tokens_per_s=1.5)
EVENT = Event(
    request_id="7",
    index=2,
    token_ids=(1, 2),
    logprobs=(TokenLogprobs(1, -0.5, 1, ((1, -0.5), (3, -2.0))), TokenLogprobs(2, -0.1, 1)),
    prompt_logprobs=(TokenLogprobs(4, -9.0, 30),),
    num_cached_tokens=16,
    finish_reason=FinishReason.STOP,
    stop_reason=2,
    error="none",
    story=Story(queued_s=0.5, num_steps=3, batch_max=2),
)
PARAMS = {
    "temperature": 0.7,
    "top_p": 0.9,
    "stop": ("a", "b"),
    "logit_bias": {5: -1.5},
    "allowed_token_ids": (5, 6),
    "bad_words": ("x",),
    "logprobs": 3,
    "seed": 2**64 - 1,
    "n": 2,
}
REQUEST = request(
    "1099511627777",
    range(300),
    stop_token_ids=frozenset({1, 2}),
    bad_words=((1, 2), (3,)),
    priority=-3,
    deadline=12.5,
    cache_salt="salt",
)

FROM_FRONT: tuple[FromFront, ...] = (
    Submit(1, []),
    Submit(2, [REQUEST, request("8", index=3, params=SamplingParams(**PARAMS))]),
    Drop(3, [(7, None), (2**60, 4)]),
    Ask(4, "check"),
)
FROM_ENGINE: tuple[FromEngine, ...] = (
    Hello(1, FACTS),
    Step(2, [7, 0, 5, 2**60, 1, 6], [EVENT]),
    Told(3, "check", ""),
)


def test_messages_come_out_as_they_went_in() -> None:
    for asked in FROM_FRONT:
        assert decode_from_front(frame(asked)[4:]) == asked
    for told in FROM_ENGINE:
        assert decode_from_engine(frame(told)[4:]) == told


@pytest.mark.parametrize("size", [1, 3, 4, 5, 1000, 10**6])
def test_frames_are_found_however_the_bytes_are_cut(size: int) -> None:
    data, frames = b"".join(map(frame, FROM_FRONT)), Frames()
    found = [
        decode_from_front(body)
        for start in range(0, len(data), size)
        for body in frames.feed(data[start : start + size])
    ]
    assert found == list(FROM_FRONT)


def test_a_frame_beyond_all_is_an_error_and_not_waited_for() -> None:
    with pytest.raises(ConfigError, match="exceeds"):
        list(Frames().feed(b"\xff\xff\xff\xff"))


def test_parameters_out_of_range_are_no_message() -> None:
    wrong = msgspec.msgpack.encode([0, 1, [msgspec.to_builtins(REQUEST) | {"params": {"n": 0}}]])
    with pytest.raises(msgspec.ValidationError, match="n=0"):
        decode_from_front(wrong)
