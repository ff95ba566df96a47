"""The gate: a slot before any text is touched, tokens after; full means 429 at once.

Slots are counted over all fronts of a server, each in its own cells on the board. Two fronts that
look at the same moment may both take the last slot: the capacity is exceeded by at most one
request for every further front.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from argosy.errors import Overloaded
from argosy.serve.tally import Tallies, Tally

MAX_RETRY_S = 60
_WINDOW_S = 10.0
_SAMPLE_S = 0.25


class Full(Overloaded):
    """No room now. retry_after: whole seconds in which there should be, at least 1."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(f"{message}; try again in {retry_after} s")
        self.retry_after = retry_after
        self.headers = ((b"retry-after", b"%d" % retry_after),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the gate lets in.

    requests: waiting and running together.  tokens: of their prompts; None: any.
    body_bytes: of request bodies that are being read.
    """

    requests: int
    tokens: int | None = None
    body_bytes: int = 2**30


class Gate:
    """Hands out slots. clock: seconds, monotonic."""

    def __init__(
        self, tallies: Tallies, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self._tallies = tallies
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()  # (time, slots ever given back)
        self._promised = 0.0

    @property
    def held(self) -> int:
        """Slots taken, in all fronts."""
        return self._tallies.total(Tally.HELD)

    def slot(self) -> Slot:
        """A slot for one request, to be used as a context manager. Raises Full."""
        if self.held >= self.limits.requests:
            raise self._full(
                Tally.REFUSED_REQUESTS,
                f"the server has {self.held} requests and takes {self.limits.requests}",
            )
        return Slot(self)

    def body(self) -> BodyBudget:
        """Room for a body, as it is read."""
        return BodyBudget(self)

    def _take(self, requests: int, tokens: int) -> None:
        now = self._clock()
        if self.held == 0:
            self._samples.clear()  # the rate of an idle server says nothing
        self._sample(now)
        self._tallies.add(Tally.HELD, requests)
        self._tallies.add(Tally.HELD_TOKENS, tokens)

    def _give_back(self, requests: int, tokens: int) -> None:
        self._tallies.add(Tally.HELD, -requests)
        self._tallies.add(Tally.HELD_TOKENS, -tokens)
        self._tallies.add(Tally.ENDED, requests)
        self._sample(self._clock())

    def _check_charge(self, mine: int, requests: int, tokens: int) -> None:
        """Raise Full where a charge does not fit; one that is alone always does."""
        held, held_tokens = self.held, self._tallies.total(Tally.HELD_TOKENS)
        limits = self.limits
        if held > mine and held + requests > limits.requests:
            raise self._full(
                Tally.REFUSED_REQUESTS,
                f"the server has {held} requests and takes {limits.requests}, "
                f"which leaves no room for {requests} more",
            )
        if limits.tokens is not None and held_tokens and held_tokens + tokens > limits.tokens:
            raise self._full(
                Tally.REFUSED_TOKENS,
                f"the server holds prompts of {held_tokens} tokens and takes {limits.tokens}, "
                f"which leaves no room for {tokens} more",
            )

    def _full(self, reason: Tally, message: str) -> Full:
        self._tallies.add(reason)
        now = self._clock()
        # Each refused request is promised the next slot to come free after those promised before.
        self._promised = max(self._promised, now) + self._seconds_per_slot(now)
        self._promised = min(self._promised, now + MAX_RETRY_S)
        return Full(message, max(1, math.ceil(self._promised - now)))

    def _seconds_per_slot(self, now: float) -> float:
        """At the rate of the last seconds; slots are shared with the other fronts."""
        ended = self._tallies.total(Tally.ENDED)
        since, before = self._samples[0] if self._samples else (now, ended)
        elapsed = max(now - since, 1.0)
        return len(self._tallies.areas) * elapsed / max(ended - before, 1)

    def _sample(self, now: float) -> None:
        samples = self._samples
        if not samples or now - samples[-1][0] >= _SAMPLE_S:
            samples.append((now, self._tallies.total(Tally.ENDED)))
            while now - samples[0][0] > _WINDOW_S and len(samples) > 1:
                samples.popleft()


class Slot:
    """A place in the server; given back once, however it is left."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._requests, self._tokens = 1, 0
        gate._take(1, 0)

    def charge(self, tokens: int, requests: int = 1) -> None:
        """Charge the prompts' tokens. requests: prompts beyond the first take a slot each.

        Raises Full where that does not fit; what is alone in the server always fits.
        """
        more = max(requests - 1, 0)
        self._gate._check_charge(self._requests, more, tokens)
        self._gate._take(more, tokens)
        self._requests += more
        self._tokens += tokens

    def release(self) -> None:
        """Give it back; again does nothing."""
        requests, tokens = self._requests, self._tokens
        self._requests = self._tokens = 0
        if requests:
            self._gate._give_back(requests, tokens)

    def __enter__(self) -> Slot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()


class BodyBudget:
    """Bytes of one body held in memory, out of what all bodies may hold."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._bytes = 0

    def take(self, num_bytes: int) -> None:
        """Count more bytes. Raises Full where all bodies together are too large."""
        tallies, limit = self._gate._tallies, self._gate.limits.body_bytes
        held = tallies.total(Tally.BODY_BYTES)
        if held and held + num_bytes > limit:
            raise self._gate._full(
                Tally.REFUSED_BODIES,
                f"request bodies being read hold {held} bytes and may hold {limit}",
            )
        tallies.add(Tally.BODY_BYTES, num_bytes)
        self._bytes += num_bytes

    def __enter__(self) -> BodyBudget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._gate._tallies.add(Tally.BODY_BYTES, -self._bytes)
        self._bytes = 0
