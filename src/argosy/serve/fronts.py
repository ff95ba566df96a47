"""Several fronts: child processes that accept on one socket, kept alive by the main process.

A front that ends is replaced; what it held is given back, and the engine ends its requests when its
connection does. The specification goes over a front's stdin, which stays open: its end tells the
front that the main process is gone.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from argosy.client.attachment import State
from argosy.client.prepare import Prepared
from argosy.client.supervise import Supervisor
from argosy.config import ServerConfig
from argosy.errors import EngineDead
from argosy.serve.log import Log
from argosy.serve.names import ready_line
from argosy.serve.tally import Tally, zero_gauges

_LOOK_S = 0.05
_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
_STEADY_S = 30.0
"""A front that lived so long may be replaced at once."""

_GRACE_S = 10.0
"""What fronts are given beyond shutdown_timeout before they are killed."""

_START = """\
import sys
root = sys.argv[1]
if root not in sys.path:
    sys.path.insert(0, root)
from argosy.serve.child import main
main()
"""


class FrontSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One front. bundle, engine, chat_template: the model.  listener, board: descriptors."""

    front: int
    bundle: str
    engine: dict[str, Any]
    chat_template: str | None
    server: dict[str, Any]
    socket_path: str
    listener: int
    board: int


def run(
    prepared: Prepared,
    supervisor: Supervisor,
    config: ServerConfig,
    sockets: Sequence[socket.socket],
    began: float,
) -> int:
    """Be the main process of a server with several fronts; the exit status.

    began: when the server started, by time.monotonic. Raises what kept the engine from starting.
    """
    log = Log()
    fronts = [
        _Front(spec_of(prepared, supervisor, config, sock, index), sock, log)
        for index, sock in enumerate(sockets)
    ]
    try:
        with _signals() as signals:
            return _Keeper(fronts, supervisor, config, signals).run(
                lambda: log.say(ready_line(prepared, config, sockets[0], began))
            )
    finally:
        for front in fronts:
            front.kill()
        log.close()


def spec_of(
    prepared: Prepared,
    supervisor: Supervisor,
    config: ServerConfig,
    sock: socket.socket,
    front: int,
) -> FrontSpec:
    """What front number `front` is told."""
    return FrontSpec(
        front=front,
        bundle=str(prepared.bundle.path.resolve()),
        engine=asdict(prepared.config),
        chat_template=prepared.chat_template,
        server=asdict(config),
        socket_path=supervisor.socket_path,
        listener=sock.fileno(),
        board=supervisor.board.fd,
    )


class _Signals:
    """How many SIGINT and SIGTERM came."""

    def __init__(self) -> None:
        self.count = 0
        self.came = threading.Event()

    def __call__(self, number: int, frame: object) -> None:
        self.count += 1
        self.came.set()


@contextmanager
def _signals() -> Iterator[_Signals]:
    """Counts them instead of being ended by them."""
    signals = _Signals()
    before = {number: signal.signal(number, signals) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Front:
    """One front process after another, under one number."""

    def __init__(self, spec: FrontSpec, sock: socket.socket, log: Log) -> None:
        self._spec = spec
        self._sock = sock
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._failures = 0
        self.code: int | None = None  # how the last one ended

    def start(self) -> None:
        """Start a process."""
        root = str(Path(__file__).resolve().parents[2])
        self.code, self._started = None, time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, root],
            stdin=subprocess.PIPE,
            pass_fds=(self._spec.listener, self._spec.board),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, which `ended` sees
            self._process.stdin.write(msgspec.json.encode(self._spec) + b"\n")
            self._process.stdin.flush()

    def ended(self) -> bool:
        """Whether there is no process; it is reaped."""
        if self._process is not None:
            self.code = self._process.poll()
            if self.code is not None:
                self._close()
        return self._process is None

    def revive(self, area: memoryview) -> None:
        """Replace a process that ended unasked, after a while if it ends again and again."""
        if self.code is not None:
            zero_gauges(area)
            lived = time.monotonic() - self._started
            self._failures = 0 if lived > _STEADY_S else self._failures + 1
            wait = _BACKOFF_S[min(self._failures, len(_BACKOFF_S)) - 1] if self._failures else 0.0
            self._started = time.monotonic() + wait
            self._log.say(
                f"front {self._spec.front} ended with {self.code}; starting another in {wait:g} s"
            )
            self.code = None
        elif time.monotonic() >= self._started:
            self.start()

    def signal(self) -> None:
        """Ask it to end, or a second time to end at once."""
        if self._process is not None:
            self._process.terminate()

    def leave(self) -> None:
        """No other will be started: whoever connects shall find another front's socket."""
        self._sock.close()

    def kill(self) -> None:
        """End it now; it is reaped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close()

    def _close(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process = None


class _Keeper:
    """Keeps fronts alive until signals come."""

    def __init__(
        self,
        fronts: list[_Front],
        supervisor: Supervisor,
        config: ServerConfig,
        signals: _Signals,
    ) -> None:
        self._fronts = fronts
        self._supervisor = supervisor
        self._areas = [supervisor.board.front(index) for index in range(len(fronts))]
        self._config = config
        self._signals = signals

    def run(self, ready: Callable[[], None]) -> int:
        """Start them, say once that all are ready, keep them, end them; the exit status."""
        for front in self._fronts:
            front.start()
        is_ready = False
        while not self._signals.came.wait(_LOOK_S):
            if not is_ready:
                is_ready = self._look_ready(ready)
            for front, area in zip(self._fronts, self._areas, strict=True):
                if front.ended():
                    front.revive(area)
        return self._end()

    def _look_ready(self, ready: Callable[[], None]) -> bool:
        if self._supervisor.status().state is State.FAILED:
            raise self._supervisor.failure or EngineDead("the engine did not start")
        if not all(area[Tally.SERVING] for area in self._areas):
            return False
        ready()
        return True

    def _end(self) -> int:
        """Pass signals on until all fronts have ended, or time is up."""
        passed = 0
        end = time.monotonic() + self._config.shutdown_timeout + _GRACE_S
        left = self._fronts
        while left and time.monotonic() < end:
            while passed < min(self._signals.count, 2):
                passed += 1
                for front in left:
                    front.signal()
            time.sleep(_LOOK_S)
            for front in [front for front in left if front.ended()]:
                front.leave()
            left = [front for front in left if not front.ended()]
        return 130 if self._signals.count > 1 else 0
