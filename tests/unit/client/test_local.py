"""Many requests at once, streams of every kind, and streams that are left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import islice, pairwise

import pytest

from argosy.client.interrupt import interrupts_held
from argosy.client.outputs import RequestOutput
from argosy.types import RequestOutputKind, SamplingParams
from unit.client.fake_engine import FakeEngine, client_of, saying
from unit.text.small_tokenizers import byte_level

WORDS = "The cat sat there 日本 too."


def playing(*texts: str, per_step: int = 1) -> FakeEngine:
    return FakeEngine(saying(byte_level(), *texts), per_step)


def test_outputs_come_in_the_order_of_requests() -> None:
    engine = FakeEngine(lambda request, _: request.token_ids[::-1])
    client = client_of(engine, byte_level())
    prompts = ["a long prompt that runs long", "b", "middle"]
    accepted = [client.intake.accept(p, SamplingParams(max_tokens=99)) for p in prompts]
    heard: list[str] = []
    outputs = client.run(accepted, lambda output: heard.append(output.prompt or ""))
    assert [o.prompt for o in outputs] == prompts
    assert all(o.outputs[0].token_ids == o.prompt_token_ids[::-1] for o in outputs)
    assert heard == ["b", "middle", prompts[0]]


def outputs_of(kind: RequestOutputKind, n: int = 1) -> list[RequestOutput]:
    client = client_of(playing(WORDS, "The dog"), byte_level())
    params = SamplingParams(max_tokens=99, n=n, output_kind=kind, stop=["Human"], logprobs=0)
    return list(client.stream([client.intake.accept("Hello", params)]))


def test_cumulative_outputs_grow() -> None:
    outputs = outputs_of(RequestOutputKind.CUMULATIVE)
    texts = [o.outputs[0].text for o in outputs]
    assert texts[-1] == WORDS and len(texts) == len(byte_level().encode(WORDS))
    assert all(later.startswith(before) for before, later in pairwise(texts))
    assert [o.finished for o in outputs] == [False] * (len(outputs) - 1) + [True]
    assert [len(o.outputs[0].logprobs or []) for o in outputs] == [*range(1, len(outputs) + 1)]


def test_deltas_add_up() -> None:
    outputs = outputs_of(RequestOutputKind.DELTA)
    assert "".join(o.outputs[0].text for o in outputs) == WORDS
    ids = [id_ for o in outputs for id_ in o.outputs[0].token_ids]
    assert ids == byte_level().encode(WORDS)
    assert all(len(o.outputs[0].logprobs or []) == len(o.outputs[0].token_ids) for o in outputs)
    assert not any("\ufffd" in o.outputs[0].text for o in outputs)


def test_deltas_of_several_children() -> None:
    outputs = outputs_of(RequestOutputKind.DELTA, n=2)
    texts = ["", ""]
    reasons: list[str | None] = [None, None]
    for output in outputs:
        for answer in output.outputs:
            assert reasons[answer.index] is None, "nothing follows the end"
            texts[answer.index] += answer.text
            reasons[answer.index] = answer.finish_reason
    assert texts == [WORDS, "The dog"]
    assert reasons == ["length", "length"]


def test_final_only() -> None:
    [output] = outputs_of(RequestOutputKind.FINAL_ONLY, n=2)
    assert [a.text for a in output.outputs] == [WORDS, "The dog"]
    assert [a.index for a in output.outputs] == [0, 1]


def test_a_stop_string_aborts_its_child_alone() -> None:
    engine = playing("one. two. three. four.", "no end in sight here")
    client = client_of(engine, byte_level())
    params = SamplingParams(max_tokens=99, n=2, stop=[". "])
    [output] = client.run([client.intake.accept("Hello", params)])
    assert [(a.text, a.finish_reason) for a in output.outputs] == [
        ("one", "stop"),
        ("no end in sight here", "length"),
    ]
    assert not engine.running


def test_pages_of_a_stopped_answer_are_free_when_the_stream_ends() -> None:
    engine = playing("one. two. three.")
    client = client_of(engine, byte_level())
    list(client.stream([client.intake.accept("Hello", SamplingParams(stop=["."]))]))
    assert not engine.running


def test_nothing_runs_before_the_first_output_is_asked_for() -> None:
    engine = playing(WORDS)
    client = client_of(engine, byte_level())
    client.stream([client.intake.accept("Hello", SamplingParams())])
    assert engine.num_steps == 0 and not engine.requests


def test_a_closed_stream_frees_its_pages() -> None:
    engine = playing(WORDS)
    client = client_of(engine, byte_level())
    accepted = [client.intake.accept(p, SamplingParams(max_tokens=99)) for p in ("a", "b")]
    stream = client.stream(accepted)
    assert len(list(islice(stream, 3))) == 3
    assert engine.running
    stream.close()
    assert not engine.running
    assert list(stream) == []


def test_two_streams_at_once() -> None:
    engine = playing(WORDS)
    client = client_of(engine, byte_level())
    params = SamplingParams(max_tokens=99, output_kind=RequestOutputKind.DELTA)
    streams: list[Iterator[RequestOutput]] = [
        client.stream([client.intake.accept(p, params)]) for p in ("a", "b")
    ]
    texts = {"a": "", "b": ""}
    first = next(streams[0])
    texts["a"] += first.outputs[0].text
    while streams:
        for stream in tuple(streams):
            output = next(stream, None)
            if output is None:
                streams.remove(stream)
            else:
                texts[output.prompt or ""] += output.outputs[0].text
    assert texts == {"a": WORDS, "b": WORDS}
    assert not engine.running


def test_a_closed_stream_leaves_the_other_alone() -> None:
    engine = playing(WORDS)
    client = client_of(engine, byte_level())
    params = SamplingParams(max_tokens=99)
    kept = client.stream([client.intake.accept("kept", params)])
    left = client.stream([client.intake.accept("left", params)])
    next(kept), next(left)
    left.close()
    assert {request.token_ids for request, _ in engine.running.values()} == {
        tuple(byte_level().encode("kept"))
    }
    assert list(kept)[-1].outputs[0].text == WORDS


def test_an_engine_that_refuses_leaves_nothing_behind() -> None:
    engine = playing(WORDS)
    client = client_of(engine, byte_level())
    accepted = [client.intake.accept(p, SamplingParams()) for p in ("a", "b")]
    add, calls = engine.add, []

    def refuse_second(request: object) -> None:
        calls.append(request)
        if len(calls) == 2:
            raise RuntimeError("full")
        add(request)  # type: ignore[arg-type]

    engine.add = refuse_second  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="full"):
        client.run(accepted)
    assert not engine.running


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_a_step_whole_and_frees_the_pages(ctrl_c: None) -> None:
    engine = playing(WORDS)
    client = client_of(engine, byte_level())
    finished: list[int] = []

    def interrupt() -> None:
        if engine.num_steps == 2:
            press_ctrl_c()
            finished.append(engine.num_steps)

    engine.on_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        client.run([client.intake.accept("Hello", SamplingParams(max_tokens=99))])
    assert finished == [2], "the step went on to its end"
    assert not engine.running
    assert engine.num_steps == 3, "the abort takes one step"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_strikes_at_once(ctrl_c: None) -> None:
    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        press_ctrl_c()
        reached.append("first")
        press_ctrl_c()
        reached.append("second")
    assert reached == ["first"]


def test_a_program_that_handles_ctrl_c_keeps_doing_so() -> None:
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        with interrupts_held():
            press_ctrl_c()
            assert pressed == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
