"""The client of an engine in another process: requests in, streams out, whatever befalls it.

Everything here runs in one asyncio loop. A request is in the journal from `submit` to its end; each
engine that says Hello is sent all that is in it. So a stream does not notice that its engine died,
except that it waits: the tokens after are those it would have had.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from argosy.client.answers import Answers
from argosy.client.attachment import Attachment, State, Status
from argosy.client.intake import Accepted, Intake
from argosy.client.journal import Entry
from argosy.client.link import Link
from argosy.client.outputs import RequestOutput
from argosy.client.stories import Explanation, Meter
from argosy.engine.wire import Ask, Drop, Facts, FromEngine, Hello, Step, Submit, Told, frame
from argosy.errors import EngineDead, RequestError
from argosy.types import Event, FinishReason

_TICK_S = 0.25
_GRACE_S = 0.5
"""What the engine is given beyond a deadline to end the request itself."""

_GONE = "the engine died and did not come back; look at its log, and start the server again"
_CLOSED = "the client was closed before the answer was complete"


class Stream:
    """One request's outputs, in its params' output_kind: read it with `async for`.

    News that come while the reader is busy are merged into one output, so memory is bounded by the
    answer. A request that fails ends with finish_reason "error" and the text in stop_reason, one
    past its deadline with "abort" and "deadline"; reading raises neither.
    Closed, collected, or left by a cancelled read, it aborts what is unfinished. One reader only.
    """

    __slots__ = ("_client", "_entry", "_is_closed")

    def __init__(self, client: AsyncClient, entry: Entry) -> None:
        self._client = client
        self._entry = entry
        self._is_closed = False

    @property
    def accepted(self) -> Accepted:
        """What was submitted."""
        return self._entry.accepted

    @property
    def is_finished(self) -> bool:
        """Whether every answer has ended (perhaps not read yet)."""
        return self._entry.answers.finished

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RequestOutput:
        entry = self._entry
        while True:
            if entry.is_fresh:
                entry.is_fresh = False
                output = entry.answers.output()
                if output is not None:
                    return output
            elif self._is_closed or entry.answers.finished:
                raise StopAsyncIteration
            elif entry.waiter is not None:
                raise RuntimeError("this stream is being read already")
            else:
                entry.waiter = waiter = self._client.loop.create_future()
                try:
                    await waiter
                except BaseException:
                    self.close()
                    raise

    def abort(self) -> None:
        """End what is unfinished; the reader is told, with finish_reason "abort"."""
        self._client._abort(self._entry)

    def close(self) -> None:
        """The reader goes: end what is unfinished, tell nothing more. Safe to call twice."""
        if not self._is_closed:
            self._is_closed = True
            self._client._abort(self._entry)
            self._entry.is_fresh = False

    @property
    def story(self) -> Explanation:
        """Where its time went, as far as is known; of use once it is finished."""
        return self._entry.ended(self._client.now()).story

    async def explain(self, timeout: float = 1.0) -> Explanation:
        """`story`, once the engine has told of every answer, or after `timeout` seconds."""
        await self._client._told(self._entry, timeout)
        return self.story

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._is_closed and not self.is_finished:  # perhaps in another thread
            self._client._abort_soon(self._entry)


class AsyncClient:
    """Speaks to the engine of `attachment` for one front, from one loop.

    intake: makes the requests `submit` takes; its numbers must be those of this front.
    meter: hears of tokens and endings.  clock: seconds, monotonic, and the one deadlines are in.
    sampling_defaults: parameters the model asks for, by SamplingParams' names.
    facts: what the engine said of itself; None until it first did.
    """

    def __init__(
        self,
        attachment: Attachment,
        intake: Intake,
        *,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.monotonic,
        sampling_defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.attachment = attachment
        self.intake = intake
        self.sampling_defaults = dict(sampling_defaults or {})
        self.facts: Facts | None = None
        self.loop: asyncio.AbstractEventLoop
        self._meter = meter
        self._clock = clock
        self._entries: dict[int, Entry] = {}
        self._link = Link(attachment.socket_path, self)
        self._epoch: int | None = None  # None: no engine listens
        self._asked: defaultdict[str, deque[asyncio.Future[str]]] = defaultdict(deque)
        self._greeted: asyncio.Event
        self._ticker: asyncio.TimerHandle | None = None
        self._failure: str | None = None

    # -- for the front -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to connect, in the running loop; returns at once. See `ready`."""
        self.begin()

    def begin(self) -> None:
        """`start`, for where nothing can be awaited; there must be a running loop."""
        self.loop = asyncio.get_running_loop()
        self._greeted = asyncio.Event()
        self._link.start()
        self._tick()

    @property
    def state(self) -> State:
        """How the engine is, by the board."""
        return self.attachment.state

    @property
    def is_connected(self) -> bool:
        """Whether an engine listens to this client now."""
        return self._epoch is not None

    @property
    def num_open(self) -> int:
        """Requests submitted that have not ended."""
        return sum(not entry.answers.finished for entry in self._entries.values())

    def now(self) -> float:
        """Seconds of the client's clock, which deadlines are in."""
        return self._clock()

    def status(self) -> Status:
        """How the engine is; last_exit is for its supervisor to tell."""
        return self.attachment.status()

    async def ready(self) -> Facts:
        """What the engine says of itself, once it does. Raises EngineDead where none will come."""
        while self._epoch is None or self.facts is None:
            if self._failure is not None:
                raise EngineDead(self._failure)
            self._greeted.clear()
            await self._greeted.wait()
        return self.facts

    def submit(self, accepted: Accepted, *, request_id: str | None = None) -> Stream:
        """Run a request; it waits in the journal while the engine restarts.

        request_id: what its outputs are to be named; by default the request's own number.
        Raises EngineDead where no engine will come, RequestError for a request under way already.
        """
        if self._failure is not None:
            raise EngineDead(self._failure)
        now = self._clock()
        answers = Answers(accepted, self.intake.tokenizer, now, name=request_id)
        entry = Entry(accepted, answers, now)
        if entry.number in self._entries:
            raise RequestError(f"request {entry.number} is under way; accept each anew")
        try:  # before it is in the journal, which every engine is sent
            data = frame(Submit(self._epoch or 0, [accepted.request]))
        except (ValueError, OverflowError) as exc:
            raise RequestError(f"the request cannot be sent to the engine: {exc}") from exc
        if self._epoch is not None:
            self._link.write(data)
        entry.is_sent = self._epoch is not None
        self._entries[entry.number] = entry
        return Stream(self, entry)

    async def ask(self, what: str) -> str:
        """The engine's answer to "check" or "reset_prefix_cache"; empty where all is well.

        Waits for an engine. Raises EngineDead where none will come, or it dies meanwhile.
        """
        await self.ready()
        assert self._epoch is not None
        answer: asyncio.Future[str] = self.loop.create_future()
        self._asked[what].append(answer)
        self._link.send(Ask(self._epoch, what))
        return await answer

    async def reset_prefix_cache(self) -> None:
        """Forget the prompts kept for reuse; requests that run go on."""
        await self.ask("reset_prefix_cache")

    async def close(self) -> None:
        """End the connection; streams still open end with an error. Safe to call twice."""
        self.shut()

    def shut(self, why: str = _CLOSED) -> None:
        """`close`, for where nothing can be awaited; `why` is what open streams are told."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._link.stop()
        self._fail(why)

    # -- from the link -----------------------------------------------------------------------------

    def heard(self, message: FromEngine) -> None:
        """A message of the engine; one of another epoch is dropped."""
        if isinstance(message, Step):
            if message.epoch == self._epoch:
                self._step(message)
        elif isinstance(message, Hello):
            self._hello(message)
        elif message.epoch == self._epoch:
            self._answer(message)

    def lost(self) -> None:
        """No engine listens: what runs waits for the next, what had ended waits for no word."""
        self._epoch = None
        self._drop_asked("the engine died while it was asked; ask again")
        for entry in list(self._entries.values()):
            if entry.answers.finished:
                self._settle(entry)
            else:
                entry.untold.intersection_update(entry.answers.running())

    def is_hopeless(self) -> bool:
        """Whether the supervisor gave up; then all streams end."""
        if self.state not in (State.FAILED, State.STOPPED):
            return False
        self._fail(_GONE)
        return True

    def _hello(self, message: Hello) -> None:
        """A new engine: send it the journal, in the order of arrival, in one message."""
        self._epoch, self.facts = message.epoch, message.facts
        requests = []
        for entry in self._entries.values():
            entry.restarts += entry.is_sent
            entry.is_sent = True
            requests += entry.replay()
        self._link.send(Submit(message.epoch, requests))
        self._greeted.set()

    def _answer(self, message: Told) -> None:
        waiting = self._asked[message.what]
        if waiting and not (answer := waiting.popleft()).done():
            answer.set_result(message.answer)

    def _step(self, step: Step) -> None:
        """What a step gave: tokens first, then whatever says more."""
        now, get, flat = self._clock(), self._entries.get, iter(step.tokens)
        gaps: list[float] = []
        for number, index, token_id in zip(flat, flat, flat, strict=True):
            entry = get(number)
            if entry is None or not entry.is_running(index):
                continue
            self._time(entry, index, now, gaps)
            if entry.answers.take_token(index, token_id, now):
                self._stop(entry, index, now)
            if entry.wakes and not entry.is_fresh:
                entry.wake()
        for event in step.events:
            self._event(event, now, gaps)
        if gaps and self._meter is not None:
            self._meter.tokens(gaps)

    def _event(self, event: Event, now: float, gaps: list[float]) -> None:
        entry = self._entries.get(int(event.request_id))
        if entry is None:
            return
        if event.finish_reason is not None:
            entry.hear_end(event)
        if entry.is_running(event.index):
            if event.token_ids:
                self._time(entry, event.index, now, gaps)
            if entry.answers.take(event, now):
                self._stop(entry, event.index, now)
            if entry.wakes or entry.answers.finished:
                entry.wake()
        self._settle_if_over(entry, now)

    def _time(self, entry: Entry, index: int, now: float, gaps: list[float]) -> None:
        gap = entry.time_token(index, now)
        if gap is not None:
            gaps.append(gap)
        elif entry.first_at is None:
            entry.first_at = now
            if self._meter is not None:
                self._meter.first_token(now - entry.arrival)

    # -- endings -----------------------------------------------------------------------------------

    def _stop(self, entry: Entry, index: int, now: float) -> None:
        """A stop string ended an answer that the engine still runs."""
        assert self._epoch is not None
        self._link.send(Drop(self._epoch, [(entry.number, index)]))
        self._settle_if_over(entry, now)

    def _abort_soon(self, entry: Entry) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._abort, entry)

    def _abort(self, entry: Entry) -> None:
        self._end(entry, FinishReason.ABORT)

    def _end(self, entry: Entry, reason: FinishReason, why: str | None = None) -> None:
        """End what is unfinished, here at once and in the engine with its next step."""
        if entry.answers.finished:
            return
        now = self._clock()
        entry.finish(now, reason, why)
        if self._epoch is not None:
            self._link.send(Drop(self._epoch, [(entry.number, None)]))
        self._settle_if_over(entry, now)

    def _settle_if_over(self, entry: Entry, now: float) -> None:
        """Let go of a request that has ended, once the engine told of it or never will."""
        if not entry.answers.finished:
            return
        if entry.ended_at is None:
            entry.ended_at = now
            entry.wake()
        if not entry.untold or self._epoch is None:
            self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        if self._entries.pop(entry.number, None) is None:
            return
        if entry.told is not None and not entry.told.done():
            entry.told.set_result(None)
        if self._meter is not None:
            self._meter.ended(entry.ended(self._clock()))

    async def _told(self, entry: Entry, timeout: float) -> None:
        if entry.number in self._entries and self._entries[entry.number] is entry:
            entry.told = entry.told or self.loop.create_future()
            await asyncio.wait([entry.told], timeout=timeout)

    def _fail(self, why: str) -> None:
        """No engine will come: every stream ends, and no request is taken."""
        if self._failure is not None:
            return
        self._failure, self._epoch = why, None
        for entry in list(self._entries.values()):
            self._end(entry, FinishReason.ERROR, why)
            self._settle(entry)
        self._drop_asked(why)
        self._greeted.set()

    def _drop_asked(self, why: str) -> None:
        for waiting in self._asked.values():
            while waiting:
                if not (answer := waiting.popleft()).done():
                    answer.set_exception(EngineDead(why))

    def _tick(self) -> None:
        """Watch the heartbeat, and deadlines for an engine that does not answer."""
        self._ticker = self.loop.call_later(_TICK_S, self._tick)
        self.attachment.look()
        late = self._clock() - _GRACE_S
        for entry in list(self._entries.values()):
            deadline = entry.accepted.request.deadline
            if deadline is not None and deadline < late:
                self._end(entry, FinishReason.ABORT, "deadline")
