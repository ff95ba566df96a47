"""Sends the load: users who each ask again and again (closed loop), or arrivals (open loop).

In an open loop a request is timed from the moment it was due, so a server that makes us wait is
not excused by our sending less.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from argosy.load.api import Api
from argosy.load.arrivals import Arrival
from argosy.load.connection import Closed
from argosy.load.measure import Outcome, Window
from argosy.load.prompts import Prompts
from argosy.load.stream import Answer

PAUSE_S = 0.5
"""A user's pause after an error."""
TICK_S = 0.25
LONGEST = 4
"""A level that needs more requests to count is at most this many times as long as asked."""

Progress = Callable[[float, int, int, int], None]
"""Told every second: seconds since the start, requests under way, ended, failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """A closed loop: `users` at once, each asking as soon as its last answer ended.

    They join one by one over `ramp_s`; requests due before its end do not count. Then it goes on
    for `duration_s`, and until `enough` requests have ended that count (though not for longer than
    LONGEST times the duration); or until `requests` are sent, ramp included. At the end, answers
    under way are given `drain_s`, then cut.
    """

    users: int
    input_len: int
    output_len: int
    ramp_s: float = 0.0
    duration_s: float | None = None
    requests: int | None = None
    enough: int = 0
    drain_s: float = 600.0


@dataclass(frozen=True)
class Run:
    """What a load saw. client_cpu: cores this process used meanwhile."""

    outcomes: list[Outcome]
    window: Window
    client_cpu: float


@dataclass
class Driver:
    """Sends requests to one API and writes down what came back.

    timeout_s: seconds after which a request counts as failed, and is dropped.
    """

    api: Api
    prompts: Prompts
    seed: int = 0
    timeout_s: float = 600.0
    progress: Progress | None = None
    _outcomes: list[Outcome] = field(default_factory=list)
    _under_way: int = 0
    _failed: int = 0
    _origin: float = 0.0

    async def closed_loop(self, load: Users) -> Run:
        """Let users ask. The window begins when all have joined and ends with the last request."""
        return await self._watched(self._send_users(load))

    async def open_loop(self, arrivals: Iterable[Arrival]) -> Run:
        """Send each arrival when it is due, and wait for all answers."""
        return await self._watched(self._send_arrivals(arrivals))

    async def _watched(self, work: Coroutine[None, None, Window]) -> Run:
        self._outcomes, self._under_way, self._failed = [], 0, 0
        self._origin, cpu = time.perf_counter(), time.process_time()
        told = asyncio.ensure_future(self._tell())
        try:
            window = await work
        finally:
            told.cancel()
        cores = (time.process_time() - cpu) / max(self._clock(), 1e-9)
        return Run(self._outcomes, window, cores)

    def _clock(self) -> float:
        return time.perf_counter() - self._origin

    async def _tell(self) -> None:
        while self.progress is not None:
            await asyncio.sleep(1)
            self.progress(self._clock(), self._under_way, len(self._outcomes), self._failed)

    async def _send_arrivals(self, arrivals: Iterable[Arrival]) -> Window:
        draw, tasks, last = random.Random(f"words {self.seed}"), set(), 0.0
        for arrival in arrivals:
            last = arrival.at_s
            await asyncio.sleep(max(0.0, last - self._clock()))
            task = asyncio.ensure_future(
                self._ask(last, arrival.input_len, arrival.output_len, draw)
            )
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await _finish(tasks, None)
        return Window(0.0, max(self._clock(), last))

    async def _send_users(self, load: Users) -> Window:
        left = _Budget(load)
        draws = (random.Random(f"words {self.seed} {load.users} {i}") for i in range(load.users))
        tasks = {
            asyncio.ensure_future(self._user(i * load.ramp_s / load.users, load, left, draw))
            for i, draw in enumerate(draws)
        }
        end = await self._end_of(load, tasks)
        left.over = True
        await _finish(tasks, load.drain_s)
        return Window(load.ramp_s, self._clock() if end is None else end)

    async def _end_of(self, load: Users, tasks: set[asyncio.Task[None]]) -> float | None:
        """Wait until the load is over by time, and say when; None: when all was sent."""
        if load.duration_s is None:
            await asyncio.wait(tasks)
            return None
        least, most = load.ramp_s + load.duration_s, load.ramp_s + LONGEST * load.duration_s
        while any(not task.done() for task in tasks):
            now = self._clock()
            if now >= most or (now >= least and self._counted(load.ramp_s) >= load.enough):
                return now
            until = least if now < least else min(now + TICK_S, most)
            await asyncio.wait(tasks, timeout=until - now)
        return None

    def _counted(self, since: float) -> int:
        return sum(outcome.due >= since for outcome in self._outcomes)

    async def _user(self, join_s: float, load: Users, left: _Budget, draw: random.Random) -> None:
        await asyncio.sleep(max(0.0, join_s - self._clock()))
        while left.take():
            outcome = await self._ask(self._clock(), load.input_len, load.output_len, draw)
            if outcome.error and not left.spent:
                await asyncio.sleep(PAUSE_S)

    async def _ask(
        self, due: float, input_len: int, output_len: int, draw: random.Random
    ) -> Outcome:
        message = self.api.request(self.prompts.write(input_len, draw), output_len)
        answer, sent = Answer(self._clock), self._clock()
        error, text = "cut", ""
        self._under_way += 1
        try:
            error, text = await self._exchange(message, answer)
        finally:
            self._under_way -= 1
            outcome = self._outcome(answer, due, sent, error, text)
            self._failed += outcome.failed
            self._outcomes.append(outcome)
        return outcome

    async def _exchange(self, message: bytes, answer: Answer) -> tuple[str, str]:
        """Ask; the kind of error, "" for none, and its text."""
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.api.target.ask(message, answer)
        except TimeoutError:
            return "timeout", f"no whole answer in {self.timeout_s:g} s"
        except Closed as exc:
            return "closed", str(exc)
        except OSError as exc:
            return "connect", str(exc)
        answer.close()
        if answer.error is None:
            return "", ""
        return "stream" if answer.status == 200 else str(answer.status), answer.error

    def _outcome(self, answer: Answer, due: float, sent: float, error: str, text: str) -> Outcome:
        usage = answer.usage
        details = usage.prompt_tokens_details if usage else None
        tokens = usage.completion_tokens if usage else None
        return Outcome(
            due=due,
            sent=sent,
            ended=self._clock(),
            times=answer.times,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
            tokens=len(answer.times) if tokens is None else tokens,
            error=error or None,
            message=text,
        )


class _Budget:
    """What may still be sent."""

    def __init__(self, load: Users) -> None:
        self._left = load.requests
        self.over = False

    @property
    def spent(self) -> bool:
        """Whether nothing more may be sent."""
        return self.over or self._left == 0

    def take(self) -> bool:
        """Whether one more request may be sent; it counts as sent."""
        if self.spent:
            return False
        if self._left is not None:
            self._left -= 1
        return True


async def _finish(tasks: Iterable[asyncio.Task[Any]], seconds: float | None) -> None:
    """Wait for tasks at most so long, then end them."""
    waiting = set(tasks)
    if waiting:
        _, late = await asyncio.wait(waiting, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
