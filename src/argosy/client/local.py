"""The in-process client: requests go into the engine, its events come out as text.

Several streams may be open at once, also in several threads: whichever is read makes the engine
step, one at a time, and events find their way by request id. A stream that is closed, or left by an
exception or Ctrl-C, aborts what is unfinished and takes the one step after which their pages are
free.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from argosy.client.answers import Answers
from argosy.client.intake import Accepted, Intake
from argosy.client.interrupt import interrupts_held
from argosy.client.outputs import RequestOutput
from argosy.errors import ConfigError
from argosy.types import Event, Request


class Steps(Protocol):
    """The part of an engine that a client drives."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        ...

    def add(self, request: Request) -> None:
        """Queue a request."""
        ...

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences, with the next step."""
        ...

    def step(self, now: float) -> list[Event]:
        """Run one step; what it did for each sequence."""
        ...

    def reset_prefix_cache(self) -> None:
        """Forget what could be found again."""
        ...

    def close(self) -> None:
        """Give memory and threads back."""
        ...


@dataclass(slots=True)
class _Stream:
    """One reader: its requests still running, and those with news (a set in order)."""

    running: dict[str, Answers] = field(default_factory=dict)
    fresh: dict[str, Answers] = field(default_factory=dict)


class LocalClient:
    """Drives an engine of this process.

    clock: seconds, monotonic; what the engine is told as the time.
    sampling_defaults: parameters the model asks for, by SamplingParams' names.
    memory_line: how memory was divided, in words.
    """

    def __init__(
        self,
        engine: Steps,
        intake: Intake,
        *,
        clock: Callable[[], float] = time.monotonic,
        sampling_defaults: Mapping[str, Any] | None = None,
        memory_line: str = "",
    ) -> None:
        self.intake = intake
        self.sampling_defaults = dict(sampling_defaults or {})
        self.memory_line = memory_line
        self._engine = engine
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        self._aborting = False
        self._stepping = False
        self._closed = False
        self._pid = os.getpid()
        self._queue = threading.RLock()  # who waits comes before whoever had the last turn
        self._lock = threading.RLock()  # re-entrant: a stream may be collected inside a step

    def stream(self, requests: Sequence[Accepted]) -> Generator[RequestOutput, None, None]:
        """Run requests; outputs as they come, in each request's output_kind.

        Nothing runs before the first is asked for. A request that fails ends with
        finish_reason "error" and the error as stop_reason; the others go on.
        """
        stream = _Stream()
        try:
            self._add(requests, stream)
            while stream.running or stream.fresh:
                yield from self._outputs(stream)
        finally:
            self._leave(stream)

    def run(
        self, requests: Sequence[Accepted], done: Callable[[RequestOutput], None] = lambda _: None
    ) -> list[RequestOutput]:
        """Run requests to their ends; the last output of each, in order. `done` hears of each."""
        final: dict[str, RequestOutput] = {}
        with closing(self.stream(requests)) as outputs:
            for output in outputs:
                if output.finished:
                    final[output.request_id] = output
                    done(output)
        return [final[accepted.request.request_id] for accepted in requests]

    @property
    def engine(self) -> Steps:
        """The engine it drives, to look at; nobody else steps it."""
        return self._engine

    def reset_prefix_cache(self) -> None:
        """Forget the prompts kept for reuse; requests that run go on."""
        with self._turn():
            self._engine.reset_prefix_cache()

    def close(self) -> None:
        """Give memory and threads back; the client is of no use after.

        A step under way ends first; streams still open raise ConfigError. In a forked child
        nothing is done: the engine is its parent's.
        """
        if os.getpid() == self._pid and not self._closed:
            with self._turn():
                self._closed = True
                self._engine.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The engine for this thread alone. Raises ConfigError where it cannot be used."""
        if os.getpid() != self._pid:
            raise ConfigError(
                f"this LLM was made by process {self._pid}, and a fork has no engine of its own; "
                "make the LLM in the process that uses it"
            )
        with interrupts_held():
            with self._queue:
                self._lock.acquire()
            try:
                if self._closed:
                    raise ConfigError("this LLM was shut down; make a new one")
                yield
            finally:
                self._lock.release()

    def _add(self, requests: Sequence[Accepted], stream: _Stream) -> None:
        with self._turn():
            now = self._clock()
            for accepted in requests:
                request = accepted.request
                stream.running[request.request_id] = Answers(accepted, self.intake.tokenizer, now)
                self._streams[request.request_id] = stream
                self._engine.add(request)

    def _outputs(self, stream: _Stream) -> list[RequestOutput]:
        """What is due, after a step unless one of another stream gave it already."""
        with self._turn():
            if not stream.fresh:
                self._step()
            fresh, stream.fresh = stream.fresh, {}
            return [due for answers in fresh.values() if (due := answers.output()) is not None]

    def _step(self) -> None:
        assert self._engine.has_work, "the engine lost a request"
        self._aborting, self._stepping = False, True
        try:
            events = self._engine.step(self._clock())
            now = self._clock()
            for event in events:
                self._route(event, now)
        finally:
            self._stepping = False

    def _route(self, event: Event, now: float) -> None:
        stream = self._streams.get(event.request_id)
        if stream is None:  # aborted: nobody listens
            return
        answers = stream.running[event.request_id]
        if answers.take(event, now):
            self._abort(event.request_id, event.index)
        stream.fresh[event.request_id] = answers
        if answers.finished:
            self._forget(event.request_id, stream)

    def _abort(self, request_id: str, index: int | None = None) -> None:
        self._engine.abort(request_id, index)
        self._aborting = True

    def _forget(self, request_id: str, stream: _Stream) -> None:
        del self._streams[request_id], stream.running[request_id]

    def _leave(self, stream: _Stream) -> None:
        if os.getpid() != self._pid:
            return
        with interrupts_held(), self._lock:
            if self._closed:
                return
            for request_id in list(stream.running):
                self._abort(request_id)
                self._forget(request_id, stream)
            if self._aborting and not self._stepping:
                self._step()
