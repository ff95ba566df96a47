"""An engine without a model at the other end of a socket, played by the test step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from argosy.client.attachment import Attachment, State
from argosy.client.intake import Intake
from argosy.client.remote import AsyncClient
from argosy.client.stories import Ended, Meter
from argosy.engine.board import Board, Cell
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
    decode_from_front,
    frame,
)
from argosy.types import Event, FinishReason, Request, Story, TokenLogprobs
from unit.engine.driver import facts
from unit.text.small_tokenizers import byte_level

FACTS = facts(max_model_len=1000)
Tokens = Callable[[Request, int], Sequence[int]]


@dataclass
class Running:
    """A sequence: what is left to say of it."""

    request: Request
    index: int
    left: list[int]
    steps: int = 0


@dataclass
class WireEngine:
    """Speaks engine/wire.py; says `tokens(request, index)`, on a replay what is left of them.

    is_deaf: questions and aborts are not acted upon.  cached: prompt tokens said to be found.
    """

    tokens: Tokens
    epoch: int = 1
    is_alive: bool = True
    running: dict[tuple[int, int], Running] = field(default_factory=dict)
    heard: list[FromFront] = field(default_factory=list)
    is_deaf: bool = False
    cached: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self.is_alive:
            self.say(Hello(self.epoch, FACTS), writer)
        frames = Frames()
        while data := await reader.read(65536):
            for one in frames.feed(data):
                self.hear(decode_from_front(one))
        writer.close()

    def hear(self, message: FromFront) -> None:
        self.heard.append(message)
        self._news.set()
        if isinstance(message, Submit):
            for request in message.requests:
                self._add(request)
        elif self.is_deaf:
            return
        elif isinstance(message, Drop):
            for number, index in message.names:
                self.drop(number, index)
        elif isinstance(message, Ask):
            self.say(Told(self.epoch, message.what, "a page is lost"))

    def say(self, message: FromEngine, writer: asyncio.StreamWriter | None = None) -> None:
        for one in self._writers if writer is None else [writer]:
            if not one.is_closing():
                one.write(frame(message))

    async def hears(self, what: Callable[[], object]) -> None:
        """Wait until `what()` holds of what was heard."""
        while not what():
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 30)

    async def step(self, only: int | None = None) -> None:
        """One token for every sequence, or for child `only`."""
        flat: list[int] = []
        events: list[Event] = []
        for key, seq in list(self.running.items()):
            if only is None or seq.index == only:
                self._advance(key, seq, flat, events)
        self.say(Step(self.epoch, flat, events))
        for _ in range(5):
            await asyncio.sleep(0)

    async def finish(self) -> None:
        while self.running:
            await self.step()

    async def die(self) -> None:
        """Every connection ends; those that come wait until `revive`."""
        self.is_alive, self.running = False, {}
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.close()
        await self.hears_connection()

    async def hears_connection(self) -> None:
        while not self._writers:
            await asyncio.sleep(0.001)

    def revive(self) -> None:
        self.epoch, self.is_alive = self.epoch + 1, True
        self.say(Hello(self.epoch, FACTS))

    def requests(self) -> list[Request]:
        """All that was asked for so far."""
        return [r for m in self.heard if isinstance(m, Submit) for r in m.requests]

    def drops(self) -> list[tuple[int, int | None]]:
        return [name for m in self.heard if isinstance(m, Drop) for name in m.names]

    def _add(self, request: Request) -> None:
        given = len(request.token_ids) - request.num_prompt_tokens
        for index in range(request.index, request.index + request.params.n):
            left = list(self.tokens(request, index))[given:]
            self.running[int(request.request_id), index] = Running(request, index, left)

    def drop(self, number: int, index: int | None) -> None:
        for key in [k for k in self.running if k[0] == number and index in (None, k[1])]:
            seq = self.running.pop(key)
            self.say(Step(self.epoch, [], [self._event(seq, FinishReason.ABORT)]))

    def _advance(
        self, key: tuple[int, int], seq: Running, flat: list[int], events: list[Event]
    ) -> None:
        seq.steps += 1
        token = seq.left.pop(0)
        scored = seq.request.params.logprobs is not None
        if seq.left and not scored and not (self.cached and seq.steps == 1):
            flat += [key[0], key[1], token]
            return
        reason = None if seq.left else FinishReason.LENGTH
        events.append(self._event(seq, reason, token))
        if reason:
            del self.running[key]

    def _event(self, seq: Running, reason: FinishReason | None, token: int | None = None) -> Event:
        story = Story(
            queued_s=0.5,
            num_steps=seq.steps,
            batch_min=1,
            batch_max=3,
            batch_sum=2 * seq.steps,
            num_computed_prompt=7,
        )
        scored = seq.request.params.logprobs is not None and token is not None
        return Event(
            request_id=seq.request.request_id,
            index=seq.index,
            token_ids=() if token is None else (token,),
            logprobs=(TokenLogprobs(token or 0, -0.5 - (token or 0), 1),) if scored else (),
            num_cached_tokens=self.cached if seq.steps == 1 else 0,
            finish_reason=reason,
            story=story if reason else None,
        )


@dataclass
class Heard(Meter):
    """A meter that keeps what it hears."""

    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    endings: list[Ended] = field(default_factory=list)

    def first_token(self, seconds: float) -> None:
        self.firsts.append(seconds)

    def tokens(self, gaps: Sequence[float]) -> None:
        self.gaps += gaps

    def ended(self, ended: Ended) -> None:
        self.endings.append(ended)


@dataclass
class Scene:
    """A client and the engine it speaks to."""

    engine: WireEngine
    client: AsyncClient
    board: Board
    server: asyncio.Server
    meter: Heard

    async def give_up(self) -> None:
        """What a supervisor does that gives up: says so, then closes the listener."""
        self.board[Cell.STATE] = State.FAILED
        self.server.close()
        self.engine.is_alive = False
        for writer in self.engine._writers:
            writer.close()
        while self.client._failure is None:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def scene(folder: Path, tokens: Tokens, *, alive: bool = True) -> AsyncIterator[Scene]:
    """A client that is connected, if there is an engine."""
    engine, board, meter = WireEngine(tokens, is_alive=alive), Board.create(), Heard()
    path = str(folder / "s")
    server = await asyncio.start_unix_server(engine.serve, path)
    intake = Intake(byte_level(), vocab_size=byte_level().num_ids, max_model_len=1000)
    client = AsyncClient(Attachment(path, board), intake, meter=meter)
    await client.start()
    try:
        if alive:
            await client.ready()
            await engine.hears(lambda: engine.heard)
        await engine.hears_connection()
        yield Scene(engine, client, board, server, meter)
    finally:
        await client.close()
        server.close()
        for writer in engine._writers:
            writer.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)
        board.close()
