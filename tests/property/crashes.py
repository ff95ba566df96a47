"""The engine's loop without processes: fronts in memory, a runtime that dies of some requests.

A row tells whose it is: the tokens of request `number` are all `number`, drawn ones too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from argosy.engine.board import Board, Cell
from argosy.engine.engine import Engine
from argosy.engine.loop import Loop
from argosy.engine.pages import PagePool
from argosy.engine.process import recall
from argosy.engine.quarantine import CONDEMNED
from argosy.engine.scheduler import Scheduler
from argosy.engine.step import Limits
from argosy.engine.wire import Drop, FromFront, Step, Submit, decode_from_engine
from argosy.types import Batch, Event, FinishReason, Request, Result, SamplingParams

MOST_TURNS = 20_000


class Died(BaseException):
    """The end of an engine."""


def ask(number: int, *, prompt: int = 3, tokens: int = 4, n: int = 1, **options: Any) -> Request:
    """Request `number`: so many prompt tokens, so many to be drawn for each of n answers."""
    return Request(
        request_id=str(number),
        token_ids=(number,) * prompt,
        num_prompt_tokens=prompt,
        params=SamplingParams(n=n, max_tokens=tokens),
        seed=0,
        max_total_tokens=prompt + tokens,
        **options,
    )


@dataclass
class Rules:
    """What kills. positions: request -> the position in which it does.  pairs: requests that must
    not meet in a step.  steps, turns: of all engines together, counted from 1."""

    positions: dict[int, int] = field(default_factory=dict)
    pairs: Set[frozenset[int]] = frozenset()
    steps: Set[int] = frozenset()
    turns: Set[int] = frozenset()


class Deadly:
    """A runtime that keeps to the rules."""

    name = "deadly"

    def __init__(self, world: World) -> None:
        self._world = world

    def submit(self, batch: Batch) -> Deadly:
        world, rules = self._world, self._world.rules
        world.num_steps += 1
        present = set(batch.tokens.tolist())
        world.steps.append(present)
        rows = set(zip(batch.tokens.tolist(), batch.positions[0].tolist(), strict=True))
        if rows & set(rules.positions.items()) or world.num_steps in rules.steps:
            raise Died
        if any(pair <= present for pair in rules.pairs):
            raise Died
        self._batch = batch
        return self

    def result(self) -> Result:
        head = self._batch.head
        count = len(head.rows)
        return Result(
            starts=head.starts,
            tokens=self._batch.tokens[head.rows],
            logprob=np.zeros(count, np.float32),
            rank=np.zeros(count, np.int32),
            top_ids=np.zeros((count, 0), np.int32),
            top_logprobs=np.zeros((count, 0), np.float32),
        )

    def close(self) -> None:
        pass


class Front:
    """A front and its journal. It connects in turn `delay` of each engine, or never if None.

    drops: turn of an engine -> names it drops in it.  reconnects: turns in which its connection
    ends and it comes again at once.
    """

    def __init__(self, requests: list[Request], delay: int | None = 0) -> None:
        self.delay = delay
        self.drops: dict[int, list[tuple[int, int | None]]] = {}
        self.reconnects: Set[int] = frozenset()
        self.requests = {int(request.request_id): request for request in requests}
        self.given: dict[tuple[int, int], list[int]] = {}
        self.ends: dict[tuple[int, int], Event] = {}
        for number, request in self.requests.items():
            for index in range(request.params.n):
                self.given[number, index] = []

    @property
    def unfinished(self) -> list[tuple[int, int]]:
        return [name for name in self.given if name not in self.ends]

    def replay(self) -> list[Request]:
        """What it still waits for; untouched requests whole."""
        wanted: list[Request] = []
        for number, request in self.requests.items():
            names = [name for name in self.unfinished if name[0] == number]
            if len(names) == request.params.n and not any(self.given[name] for name in names):
                wanted.append(request)
                continue
            wanted += [
                replace(
                    request,
                    token_ids=request.token_ids + tuple(self.given[name]),
                    params=request.params.clone(n=1),
                    index=name[1],
                )
                for name in names
            ]
        return wanted

    def hear(self, news: Step) -> None:
        flat = news.tokens
        for number, index, token in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            self._token(number, index, token)
        for event in news.events:
            number, index = int(event.request_id), event.index
            for token in event.token_ids:
                self._token(number, index, token)
            if event.finish_reason is not None:
                assert (number, index) not in self.ends, "two last words"
                self.ends[number, index] = event

    def _token(self, number: int, index: int, token: int) -> None:
        assert (number, index) not in self.ends, "a token after the end"
        assert token == number
        self.given[number, index].append(token)


@dataclass(eq=False)
class Wire:
    """What the loop sees of a front."""

    front: Front
    has_replayed: bool = False
    tokens: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class Wires:
    """In place of `Connections`, for one engine's life."""

    def __init__(self, world: World, epoch: int) -> None:
        self._world = world
        self._epoch = epoch
        self._open: list[Wire] = []
        self._lost: list[Wire] = []
        self._num_turns = 0

    def __iter__(self) -> Iterator[Wire]:
        return iter(self._open)

    @property
    def num_replayed(self) -> int:
        return sum(wire.has_replayed for wire in self._open)

    def receive(self, timeout: float) -> list[tuple[Wire, FromFront]]:
        world = self._world
        world.num_turns += 1
        if world.num_turns in world.rules.turns:
            raise Died
        self._lost = [wire for wire in self._open if self._num_turns in wire.front.reconnects]
        self._open = [wire for wire in self._open if wire not in self._lost]
        come = [Wire(front) for front in world.fronts if front.delay == self._num_turns]
        come += [Wire(wire.front) for wire in self._lost]
        self._open += come
        messages: list[tuple[Wire, FromFront]] = [
            (wire, Submit(self._epoch, wire.front.replay())) for wire in come
        ]
        for wire in self._open:
            if names := wire.front.drops.get(self._num_turns):
                messages.append((wire, Drop(self._epoch, names)))
        self._num_turns += 1
        return messages

    def take_lost(self) -> list[Wire]:
        return self._lost

    def send(self, wire: Wire, frame: bytes) -> None:
        news = decode_from_engine(frame[4:])
        assert isinstance(news, Step)
        wire.front.hear(news)


class World:
    """Fronts, and one engine after another until each request of a front that comes has ended."""

    def __init__(self, fronts: list[Front], rules: Rules | None = None, **limits: Any) -> None:
        self.fronts = fronts
        self.rules = rules or Rules()
        self.deaths: list[set[int]] = []  # requests of the step, none for one between steps
        self.steps: list[set[int]] = []
        self.num_steps = 0
        self.num_turns = 0
        self.on_end: Callable[[], None] = lambda: None  # while there is a board
        self.board = Board.create(len(fronts))
        given = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "max_model_len": 500}
        self._limits = Limits(**(given | limits), vocab_size=1000, prefix_caching=False)

    def run(self) -> None:
        """Until all is told, or the test fails."""
        try:
            while self.unfinished:
                self._live()
            self.on_end()
        finally:
            self.board.close()

    @property
    def unfinished(self) -> list[tuple[int, int]]:
        return [name for f in self.fronts if f.delay is not None for name in f.unfinished]

    def ends(self) -> dict[tuple[int, int], Event]:
        return {name: event for front in self.fronts for name, event in front.ends.items()}

    def condemned(self) -> set[int]:
        """Requests that ended for having killed."""
        return {name[0] for name, event in self.ends().items() if event.error == CONDEMNED}

    def complete(self, number: int) -> bool:
        """Whether each answer of a request ended with all its tokens."""
        front = next(front for front in self.fronts if number in front.requests)
        request = front.requests[number]
        names = [name for name in front.given if name[0] == number]
        return all(
            front.ends[name].finish_reason is FinishReason.LENGTH
            and len(front.given[name]) == request.params.max_tokens
            for name in names
        )

    def _live(self) -> None:
        self.board[Cell.EPOCH] += 1
        epoch = self.board[Cell.EPOCH]
        quarantine = recall(self.board)
        engine = Engine(Scheduler(self._limits, [PagePool(200)]), Deadly(self))
        loop = Loop(engine, self.board, Wires(self, epoch), quarantine, epoch)
        try:
            while self.unfinished:
                assert self.num_turns < MOST_TURNS, f"waiting for {self.unfinished}"
                loop.turn()
            engine.check()
        except Died:
            self.deaths.append(set(self.board.step_numbers()))
