"""Streams of an engine in another process: what they give, when they end, and after a crash."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from argosy.client.attachment import State
from argosy.client.outputs import RequestOutput
from argosy.client.remote import Stream
from argosy.engine.wire import Step, Submit
from argosy.errors import EngineDead, RequestError
from argosy.types import Event, FinishReason, Request, RequestOutputKind, SamplingParams
from unit.client.wire_engine import Scene, scene
from unit.text.small_tokenizers import byte_level

DELTA = RequestOutputKind.DELTA
WORDS = ("The cat sat there 日本 too.", "The dog. Human: no", "A bird in the tree")


def saying(*texts: str) -> Callable[[Request, int], Sequence[int]]:
    return lambda _request, index: byte_level().encode(texts[index % len(texts)])


def play(
    tmp_path: Path, act: Callable[[Scene], Coroutine[Any, Any, None]], *texts: str, **how: Any
) -> None:
    async def run() -> None:
        async with scene(tmp_path, saying(*texts or WORDS), **how) as it:
            await asyncio.wait_for(act(it), 20)

    asyncio.run(run())


def ask(it: Scene, prompt: str = "Hello", **params: Any) -> Stream:
    values: dict[str, Any] = {"max_tokens": 99, "output_kind": DELTA} | params
    return it.client.submit(it.client.intake.accept(prompt, SamplingParams(**values)))


async def all_of(stream: Stream) -> list[RequestOutput]:
    return [output async for output in stream]


def texts_of(outputs: list[RequestOutput], n: int = 1) -> list[str]:
    texts = [""] * n
    for output in outputs:
        for answer in output.outputs:
            texts[answer.index] += answer.text
    return texts


async def arrived(it: Scene, count: int) -> None:
    await it.engine.hears(lambda: len(it.engine.requests()) >= count)


def test_a_reader_gets_each_token(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it)
        reader = asyncio.create_task(all_of(stream))
        await arrived(it, 1)
        await it.engine.finish()
        outputs = await reader
        assert len(outputs) == len(byte_level().encode(WORDS[0]))
        assert texts_of(outputs) == [WORDS[0]]
        assert [o.finished for o in outputs] == [False] * (len(outputs) - 1) + [True]
        assert outputs[-1].outputs[0].finish_reason == "length"

    play(tmp_path, act)


def test_news_are_merged_while_the_reader_is_busy(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it, n=3)
        await arrived(it, 1)
        await it.engine.finish()
        [output] = await all_of(stream)
        assert [a.text for a in output.outputs] == list(WORDS)

    play(tmp_path, act)


@pytest.mark.parametrize("kind", list(RequestOutputKind))
def test_every_kind_of_output(tmp_path: Path, kind: RequestOutputKind) -> None:
    async def act(it: Scene) -> None:
        reader = asyncio.create_task(all_of(ask(it, output_kind=kind)))
        await arrived(it, 1)
        await it.engine.finish()
        outputs = await reader
        last = WORDS[0] if kind is not DELTA else ""
        assert kind is DELTA or outputs[-1].outputs[0].text == last
        assert (len(outputs) == 1) == (kind is RequestOutputKind.FINAL_ONLY)

    play(tmp_path, act)


def test_a_crash_changes_no_answer(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it, n=3, stop=["Human:"], logprobs=0, seed=5)
        reader = asyncio.create_task(all_of(stream))
        await arrived(it, 1)
        for _ in range(3):
            await it.engine.step(only=0)
        await it.engine.step(only=2)
        await it.engine.die()
        it.engine.revive()
        await arrived(it, 4)
        await it.engine.finish()
        outputs = await reader
        assert texts_of(outputs, 3) == [WORDS[0], "The dog. ", WORDS[2]]
        ids = {
            i: [t for o in outputs for a in o.outputs if a.index == i for t in a.token_ids]
            for i in range(3)
        }
        assert ids[0] == byte_level().encode(WORDS[0])
        scores = [p for o in outputs for a in o.outputs if a.index == 0 for p in a.logprobs or []]
        assert [next(iter(place)) for place in scores] == ids[0]
        assert stream.story.restarts == 1

    play(tmp_path, act)


def test_a_replay_says_where_each_answer_stands(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it, n=3, seed=5, stop=["Human:"])
        await arrived(it, 1)
        whole = it.engine.requests()[0]
        for _ in range(len(byte_level().encode(WORDS[1]))):
            if (int(whole.request_id), 1) in it.engine.running:
                await it.engine.step(only=1)
        await it.engine.step(only=2)
        await it.engine.die()
        it.engine.revive()
        await arrived(it, 3)
        first, last = it.engine.requests()[1:]
        assert (first.index, last.index) == (0, 2), "the one that ended is not asked for again"
        assert first.token_ids == whole.token_ids
        assert last.token_ids == (*whole.token_ids, byte_level().encode(WORDS[2])[0])
        for one in (first, last):
            assert one.params.n == 1 and one.params.stop == whole.params.stop
            assert (one.request_id, one.seed) == (whole.request_id, whole.seed)
            assert one.num_prompt_tokens == whole.num_prompt_tokens
            assert one.max_total_tokens == whole.max_total_tokens
        stream.close()

    play(tmp_path, act)


def test_a_request_without_a_token_is_replayed_whole(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it, n=3)
        await arrived(it, 1)
        await it.engine.die()
        it.engine.revive()
        await arrived(it, 2)
        assert it.engine.requests()[1] == it.engine.requests()[0]
        stream.close()

    play(tmp_path, act)


def test_each_engine_gets_one_submit_at_first(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        assert [type(m) for m in it.engine.heard] == [Submit], "even an empty one"
        streams = [ask(it), ask(it)]
        await arrived(it, 2)
        await it.engine.die()
        streams.append(ask(it))
        heard = len(it.engine.heard)
        it.engine.revive()
        await arrived(it, 5)
        assert len(it.engine.heard) == heard + 1
        assert [s.story.restarts for s in streams] == [1, 1, 0]
        ids = [r.request_id for r in it.engine.requests()[2:]]
        assert ids == [s.accepted.request.request_id for s in streams], "in the order they came"
        for stream in streams:
            stream.close()

    play(tmp_path, act)


def test_what_another_epoch_says_is_dropped(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it)
        await arrived(it, 1)
        number = int(stream.accepted.request.request_id)
        it.engine.say(Step(0, [number, 0, 7], []))
        end = Event(request_id=str(number), index=0, finish_reason=FinishReason.STOP)
        it.engine.say(Step(0, [], [end]))
        await it.engine.finish()
        assert texts_of(await all_of(stream)) == [WORDS[0]]

    play(tmp_path, act)


def test_what_cannot_be_read_costs_a_connection_and_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it)
        await arrived(it, 1)
        await it.engine.step()
        it.engine.running.clear()
        it.engine._writers.pop().write(b"\3\0\0\0abc")
        await arrived(it, 2)
        await it.engine.finish()
        assert texts_of(await all_of(stream)) == [WORDS[0]]

    play(tmp_path, act)
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("how", ["close", "collect", "cancel", "with", "abort"])
def test_who_leaves_aborts(tmp_path: Path, how: str) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it, n=2)
        number = int(stream.accepted.request.request_id)
        await arrived(it, 1)
        await it.engine.step()
        if how == "collect":
            async for _ in stream:
                break
            del stream
            gc.collect()
        elif how == "cancel":
            reader = asyncio.create_task(all_of(stream))
            await asyncio.sleep(0.01)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert await all_of(stream) == []
        elif how == "with":
            async with stream:
                pass
        else:
            getattr(stream, how)()
            told = await all_of(stream)
            reasons = {a.finish_reason for o in told for a in o.outputs}
            assert reasons == ({"abort"} if how == "abort" else set())
        await it.engine.hears(lambda: it.engine.drops() == [(number, None)])
        assert not it.engine.running
        while it.client._entries:
            await asyncio.sleep(0.001)
        [ended] = it.meter.endings
        assert ended.reasons == ("abort", "abort") and ended.story.is_complete

    play(tmp_path, act)


def test_a_stop_string_drops_its_answer_alone(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it, n=2, stop=["Human:"])
        reader = asyncio.create_task(all_of(stream))
        await arrived(it, 1)
        await it.engine.finish()
        outputs = await reader
        assert texts_of(outputs, 2) == [WORDS[0], "The dog. "]
        number = int(stream.accepted.request.request_id)
        assert it.engine.drops() == [(number, 1)]
        story = await stream.explain()
        assert story.is_complete and story.generated_tokens == sum(
            len(a.token_ids) for o in outputs for a in o.outputs
        )

    play(tmp_path, act)


def test_the_story_of_an_answer(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        it.engine.cached = 3
        stream = ask(it, n=3)
        reader = asyncio.create_task(all_of(stream))
        await arrived(it, 1)
        await it.engine.finish()
        outputs = await reader
        assert outputs[0].num_cached_tokens == 3
        story = stream.story
        counts = [len(byte_level().encode(text)) for text in WORDS]
        assert story.steps == story.generated_tokens == sum(counts)
        assert (story.prompt_tokens, story.cached_tokens) == (len(byte_level().encode("Hello")), 3)
        assert (story.batch_min, story.batch_mean, story.batch_max) == (1, 2.0, 3)
        assert (story.queue_s, story.computed_prompt_tokens) == (0.5, 21)
        assert story.ttft_s is not None and 0 < story.ttft_s < story.total_s
        assert story.is_complete and story.restarts == 0
        [ended] = it.meter.endings
        assert ended.story == story and list(ended.num_tokens) == counts
        assert len(it.meter.firsts) == 1
        assert len(it.meter.gaps) == sum(counts) - 3

    play(tmp_path, act)


def test_a_deadline_is_kept_though_the_engine_says_nothing(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        intake, params = it.client.intake, SamplingParams(output_kind=DELTA)
        late = intake.accept("Hello", params, deadline=it.client.now() + 0.05)
        waiting = it.client.submit(late)
        await arrived(it, 1)
        await it.engine.die()
        [output] = await all_of(waiting)
        [answer] = output.outputs
        assert (answer.finish_reason, answer.stop_reason) == ("abort", "deadline")
        it.engine.revive()
        await it.engine.hears(lambda: len(it.engine.heard) == 3)
        assert len(it.engine.requests()) == 1, "it is not asked for again"

    play(tmp_path, act)


def test_an_engine_that_will_not_come_back_ends_every_stream(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream, asked = ask(it), asyncio.create_task(it.client.ask("check"))
        it.engine.is_deaf = True
        await arrived(it, 1)
        await it.engine.step()
        await it.give_up()
        outputs = await all_of(stream)
        answer = outputs[-1].outputs[0]
        assert answer.finish_reason == "error" and "did not come back" in str(answer.stop_reason)
        with pytest.raises(EngineDead):
            await asked
        with pytest.raises(EngineDead, match="did not come back"):
            ask(it)
        with pytest.raises(EngineDead):
            await it.client.ready()
        assert it.client.state is State.FAILED and it.client.num_open == 0
        assert [e.reasons for e in it.meter.endings] == [("error",)]

    play(tmp_path, act)


def test_requests_wait_for_an_engine_that_starts(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        assert it.client.facts is None and not it.client.is_connected
        stream = ask(it)
        await it.engine.hears_connection()
        it.engine.revive()
        await arrived(it, 1)
        assert (await it.client.ready()).runtime == "played"
        await it.engine.finish()
        assert texts_of(await all_of(stream)) == [WORDS[0]]

    play(tmp_path, act, alive=False)


def test_questions(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        assert await it.client.ask("check") == "a page is lost"
        it.engine.is_deaf = True
        asked = asyncio.create_task(it.client.ask("check"))
        await it.engine.hears(lambda: len(it.engine.heard) == 3)
        await it.engine.die()
        with pytest.raises(EngineDead, match="ask again"):
            await asked

    play(tmp_path, act)


def test_a_closed_client_ends_its_streams(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it)
        reader = asyncio.create_task(all_of(stream))
        await arrived(it, 1)
        await it.client.close()
        await it.client.close()
        [output] = await reader
        assert output.outputs[0].finish_reason == "error"
        assert "closed" in str(output.outputs[0].stop_reason)

    play(tmp_path, act)


def test_a_request_is_not_run_twice_at_once(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it)
        with pytest.raises(RequestError, match="under way"):
            it.client.submit(stream.accepted)
        named = it.client.submit(
            it.client.intake.accept("Hi", SamplingParams(max_tokens=99)), request_id="mine"
        )
        await arrived(it, 2)
        await it.engine.finish()
        assert {o.request_id for o in await all_of(named)} == {"mine"}

    play(tmp_path, act)


def test_a_story_is_waited_for(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        it.engine.is_deaf = True
        stream = ask(it, stop=["sat"])
        await arrived(it, 1)
        while not stream.is_finished:
            await it.engine.step()
        assert not stream.story.is_complete and (await stream.explain(0.01)).steps == 0
        asked = asyncio.create_task(stream.explain(30))
        await asyncio.sleep(0.01)
        assert not asked.done() and not it.meter.endings
        it.engine.drop(int(stream.accepted.request.request_id), 0)
        assert (await asked).is_complete
        assert [e.reasons for e in it.meter.endings] == [("stop",)]

    play(tmp_path, act)


def test_no_word_is_awaited_of_an_engine_that_died(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        it.engine.is_deaf = True
        alone, stream = ask(it, stop=["sat"]), ask(it, n=2, stop=["sat"])
        await arrived(it, 2)
        while not alone.is_finished:
            await it.engine.step()
        await it.engine.die()
        assert not (await alone.explain(30)).is_complete
        it.engine.revive()
        await arrived(it, 3)
        await it.engine.finish()
        await all_of(stream)
        assert (await stream.explain(30)).restarts == 1
        assert not it.client._entries and len(it.meter.endings) == 2

    play(tmp_path, act)


def test_what_the_next_engine_finds_cached_is_not_told(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        it.engine.cached = 2
        stream = ask(it)
        await arrived(it, 1)
        await it.engine.step()
        await it.engine.die()
        it.engine.cached = 4
        it.engine.revive()
        await arrived(it, 2)
        await it.engine.finish()
        [output] = await all_of(stream)
        assert output.num_cached_tokens == stream.story.cached_tokens == 2

    play(tmp_path, act)


def test_a_reader_of_the_end_alone_sleeps_until_then(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it, output_kind=RequestOutputKind.FINAL_ONLY)
        reader = asyncio.create_task(all_of(stream))
        await arrived(it, 1)
        waiter = stream._entry.waiter
        assert waiter is not None
        await it.engine.step()
        await asyncio.sleep(0.01)
        assert stream._entry.waiter is waiter and not waiter.done()
        await it.engine.finish()
        assert len(await reader) == 1

    play(tmp_path, act)


@pytest.mark.parametrize("alive", [True, False])
def test_what_no_frame_can_hold_is_refused_and_not_kept(tmp_path: Path, alive: bool) -> None:
    async def act(it: Scene) -> None:
        for wrong in ({"cache_salt": "\ud800"}, {}):
            prompt = {"prompt": "Hello", **wrong}
            accepted = it.client.intake.accept(
                prompt, SamplingParams(), priority=0 if wrong else 2**70
            )
            with pytest.raises(RequestError, match="cannot be sent"):
                it.client.submit(accepted)
        assert not it.client._entries

    play(tmp_path, act, alive=alive)


def test_a_stream_has_one_reader(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        stream = ask(it)
        reader = asyncio.create_task(all_of(stream))
        await arrived(it, 1)
        with pytest.raises(RuntimeError, match="read already"):
            await all_of(stream)
        await it.engine.finish()
        assert texts_of(await reader) == [WORDS[0]]

    play(tmp_path, act)


def test_a_stream_may_be_collected_in_another_thread(tmp_path: Path) -> None:
    async def act(it: Scene) -> None:
        streams = [ask(it)]
        await arrived(it, 1)
        await asyncio.to_thread(streams.clear)
        await it.engine.hears(it.engine.drops)

    play(tmp_path, act)
