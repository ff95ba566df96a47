"""The loop of the engine process: messages in, one step, frames out.

One turn takes what fronts sent, lets requests into the engine as far as the quarantine allows, runs
a step if there is work, and sends each front what the step did for its requests. It waits only
where there is nothing to do, and never for a front.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from argosy.engine.board import Board, Cell
from argosy.engine.connections import Connection, Connections
from argosy.engine.engine import Engine
from argosy.engine.isolation import Isolated, children
from argosy.engine.quarantine import CONDEMNED, Quarantine
from argosy.engine.recorder import Recorder
from argosy.engine.wire import Ask, Drop, FromFront, Step, Submit, Told, frame
from argosy.errors import RequestError
from argosy.types import Event, FinishReason, Request

IDLE_S = 0.5
"""How long a turn waits for a message when there is no work."""

COMEBACK_S = 2.0
"""How long suspects are waited for: fronts come back at once, or are dead."""

_WATCHFUL_S = 0.02
_MOST = 2**64 - 1


@dataclass(slots=True)
class _Arrival:
    """A request that is not in the engine yet; `number` names it."""

    connection: Connection
    number: int
    request: Request

    @property
    def is_overdue(self) -> bool:
        deadline = self.request.deadline
        return deadline is not None and deadline <= time.monotonic()


@dataclass(slots=True)
class _Live:
    """A request in the engine; left: its sequences that have not ended."""

    connection: Connection
    number: int
    left: int = 0


class Loop:
    """Drives an engine for the fronts that connect; see the module. `turn` is called for ever."""

    def __init__(
        self,
        engine: Engine,
        board: Board,
        connections: Connections,
        quarantine: Quarantine,
        epoch: int,
    ) -> None:
        self._engine = engine
        self._board = board
        self._connections = connections
        self._quarantine = quarantine
        self._epoch = epoch
        self._recorder = engine.observer = Recorder(board, engine)
        self._arrivals: list[_Arrival] = []
        self._live: dict[str, _Live] = {}
        self._isolated = Isolated()
        self._is_leaving = False
        self._comeback_ends = time.monotonic() + COMEBACK_S

    def turn(self) -> None:
        """Take, let in, step, send. Whatever it raises, the engine is of no use after."""
        for connection, message in self._connections.receive(self._patience()):
            self._take(connection, message)
        if lost := self._connections.take_lost():
            self._forsake(lost)
        self._let_in()
        if self._engine.has_work:
            self._step()
        else:
            self._send()
            self._recorder.gauge(time.monotonic_ns())
        self._board.add(Cell.HEARTBEAT)

    def _patience(self) -> float:
        """Seconds for which this turn may wait for messages."""
        if self._engine.has_work:
            return 0.0
        return IDLE_S if self._quarantine.is_open and not self._arrivals else _WATCHFUL_S

    # -- messages ---------------------------------------------------------------------------------

    def _take(self, connection: Connection, message: FromFront) -> None:
        if message.epoch != self._epoch:
            return
        if isinstance(message, Submit):
            connection.has_replayed = True
            self._submit(connection, message.requests)
        elif isinstance(message, Drop):
            for number, index in message.names:
                self._drop(connection, number, index)
        else:
            answer = Told(self._epoch, message.what, self._answer(message))
            self._connections.send(connection, frame(answer))

    def _submit(self, connection: Connection, requests: Iterable[Request]) -> None:
        for request in requests:
            name = request.request_id
            if not _is_number(name):
                self._connections.drop(connection, f"it named a request {name!r}, no number")
                return
            self._arrivals.append(_Arrival(connection, int(name), request))

    def _drop(self, connection: Connection, number: int, index: int | None) -> None:
        live = self._live.get(str(number))
        if live is not None and live.connection is connection:
            self._engine.abort(str(number), index)
        waiting, self._arrivals = self._arrivals, []
        for arrival in waiting:
            if arrival.connection is connection and arrival.number == number:
                self._drop_arrival(arrival, index)
            else:
                self._arrivals.append(arrival)

    def _drop_arrival(self, arrival: _Arrival, index: int | None) -> None:
        for child in children(arrival.request):
            part = _Arrival(arrival.connection, arrival.number, child)
            if index is None or child.index == index:
                self._end(part, FinishReason.ABORT)
            else:
                self._arrivals.append(part)

    def _answer(self, message: Ask) -> str:
        if message.what == "reset_prefix_cache":
            self._engine.reset_prefix_cache()
            return ""
        if message.what == "check":
            try:
                self._engine.check()
            except AssertionError as exc:
                return str(exc) or "a check without words failed"
            return ""
        return f"{message.what!r} is no question; ask reset_prefix_cache or check"

    def _forsake(self, lost: list[Connection]) -> None:
        """Abort what those who went had asked for; their pages are free one step later."""
        gone = [name for name, live in self._live.items() if live.connection in lost]
        for name in gone:
            self._engine.abort(name)
            self._quarantine.left(self._live.pop(name).number)
        for arrival in self._arrivals:
            if arrival.connection in lost:
                self._quarantine.left(arrival.number)
        self._arrivals = [a for a in self._arrivals if a.connection not in lost]
        self._is_leaving = bool(gone)

    # -- into the engine --------------------------------------------------------------------------

    def _let_in(self) -> None:
        if self._is_leaving:  # the same names may come again, once the next step ended the old ones
            self._is_leaving = False
        elif not self._quarantine.is_open:
            self._judge()
        elif self._arrivals:
            arrivals, self._arrivals = self._arrivals, []
            for arrival in arrivals:
                self._add(arrival)

    def _judge(self) -> None:
        """Let in whom the quarantine lets run, end whom it condemned; the others wait."""
        quarantine = self._quarantine
        waiting = [arrival for arrival in self._arrivals if not self._ends_waiting(arrival)]
        self._send()  # a condemned request knows its end before anybody can kill the engine again
        is_complete = (
            self._connections.num_replayed >= self._board.num_fronts
            or time.monotonic() >= self._comeback_ends
        )
        leaving = quarantine.choose({a.number for a in waiting}, is_complete=is_complete)
        if leaving is not None:
            waiting = self._take_out(leaving) + waiting
        self._arrivals = []
        for arrival in waiting:
            if quarantine.may_run(arrival.number):
                self._enter(arrival)
            else:
                self._arrivals.append(arrival)
        self._write_suspects()

    def _ends_waiting(self, arrival: _Arrival) -> bool:
        if self._quarantine.is_condemned(arrival.number):
            self._end(arrival, FinishReason.ERROR, error=CONDEMNED)
        elif arrival.is_overdue:
            self._end(arrival, FinishReason.ABORT, stop_reason="deadline")
        else:
            return False
        return True

    def _enter(self, arrival: _Arrival) -> None:
        """Let in while there are suspects: what becomes of it is followed."""
        request = arrival.request
        for index in range(request.index, request.index + request.params.n):
            self._quarantine.entered(arrival.number, index)
        if self._quarantine.is_isolating:
            self._isolated.add(request)
        self._add(arrival)

    def _take_out(self, number: int) -> list[_Arrival]:
        """Out of the engine, to go on later where it stands; its front is told nothing."""
        isolated, self._isolated = self._isolated, Isolated()
        live = self._live.pop(str(number), None)
        if live is None:  # it ended
            return []
        self._engine.abort(str(number))
        return [_Arrival(live.connection, number, child) for child in isolated.remaining()]

    def _add(self, arrival: _Arrival) -> None:
        name = arrival.request.request_id
        live = self._live.get(name) or _Live(arrival.connection, arrival.number)
        try:
            if live.connection is not arrival.connection:
                raise RequestError(f"request id {name!r} is in use by another front")
            self._engine.add(arrival.request)
        except RequestError as exc:
            self._end(arrival, FinishReason.ERROR, error=str(exc), is_refusal=True)
            return
        live.left += arrival.request.params.n
        self._live[name] = live

    def _end(
        self,
        arrival: _Arrival,
        reason: FinishReason,
        *,
        error: str | None = None,
        is_refusal: bool = False,
        stop_reason: str | None = None,
    ) -> None:
        """End what was never in the engine."""
        request = arrival.request
        for index in range(request.index, request.index + request.params.n):
            event = Event(
                request_id=request.request_id,
                index=index,
                finish_reason=reason,
                error=error,
                is_refusal=is_refusal,
                stop_reason=stop_reason,
            )
            arrival.connection.events.append(event)
            self._quarantine.delivered(arrival.number, index)

    # -- out of the engine ------------------------------------------------------------------------

    def _step(self) -> None:
        recorder = self._recorder
        recorder.begin()
        events = self._engine.step(time.monotonic())
        recorder.committed()
        self._sort(events)
        self._send()
        recorder.sent()
        if not self._quarantine.is_open or self._board[Cell.SUSPECT_COUNT]:
            self._follow(events)

    def _sort(self, events: list[Event]) -> None:
        """Give each event to its front: plain tokens as numbers, all else whole."""
        for event in events:
            live = self._live.get(event.request_id)
            if live is None:  # its front is gone, or it waits again
                continue
            if (
                event.finish_reason is None
                and not event.num_cached_tokens
                and not event.logprobs
                and not event.prompt_logprobs
            ):
                for token in event.token_ids:
                    live.connection.tokens += (live.number, event.index, token)
                continue
            live.connection.events.append(event)
            if event.finish_reason is not None:
                live.left -= 1
                if not live.left:
                    del self._live[event.request_id]

    def _follow(self, events: list[Event]) -> None:
        """Tell the quarantine who has delivered, and the board what it makes of it."""
        for event in events:
            if self._quarantine.is_isolating:
                self._isolated.take(event)
            self._quarantine.delivered(int(event.request_id), event.index)
        self._write_suspects()

    def _send(self) -> None:
        for connection in self._connections:
            if connection.tokens or connection.events:
                news = Step(self._epoch, connection.tokens, connection.events)
                connection.tokens, connection.events = [], []
                self._connections.send(connection, frame(news))

    def _write_suspects(self) -> None:
        board, suspects = self._board, self._quarantine.suspects()
        if suspects != board.suspects():
            board.write_suspects(suspects)
        board[Cell.ISOLATING] = self._quarantine.is_isolating


def _is_number(name: str) -> bool:
    """Whether it is a request number as `str` writes it, which fits a cell of the board."""
    return name.isdecimal() and len(name) <= 20 and name == str(int(name)) and int(name) <= _MOST
