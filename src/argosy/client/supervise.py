"""The owner of the engine process: starts it, watches it, kills and reaps it, starts it again.

One thread per supervisor. An engine that ends, or whose heartbeat stands still, is killed, reaped
and only then replaced under a new epoch, so no two ever answer. The listening socket stays open
meanwhile: fronts connect at any time and wait in its backlog.

The engine holds one end of a socket pair, its lifeline. It writes there that it serves, or why it
cannot; and when the supervisor's process ends, however it ends, the engine sees it close and exits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shutil
import socket
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from argosy.client.attachment import Attachment, State, Status
from argosy.client.process import EngineProcess
from argosy.engine.board import Board, Cell
from argosy.engine.spec import EngineSpec
from argosy.errors import ArgosyError, EngineDead

_log = logging.getLogger(__name__)

_TICK_S = 0.25
_SOCKET = "engine"
_LONGEST_FOLDER = 80
"""A Unix socket's address holds about 100 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What a supervisor bears, in seconds.

    stall_s: a heartbeat that stands still.  boot_s: the same before an engine's first beat.
    stop_s: from SIGTERM to SIGKILL.  backoff_s, most_backoff_s: before the second of several starts
    in a row that fail, doubled each time.  max_failures: of these, before it gives up.
    """

    stall_s: float = 10.0
    boot_s: float = 30.0
    stop_s: float = 2.0
    backoff_s: float = 0.5
    most_backoff_s: float = 10.0
    max_failures: int = 5


class Supervisor:
    """Owns one engine process, and the socket and folder it is reached through.

    spec: its descriptors and epoch are filled in for each engine.  board: made by the caller, who
    closes it after `stop`.
    Stopped by `stop`, by `with`, when collected, and when the interpreter exits.
    """

    def __init__(self, spec: EngineSpec, board: Board, *, patience: Patience | None = None) -> None:
        self.board = board
        self._keeper = _Keeper(spec, board, patience or Patience())
        self._thread = threading.Thread(
            target=self._keeper.run, name="argosy-supervisor", daemon=True
        )
        self._finalizer = weakref.finalize(self, _end, self._keeper, self._thread, os.getpid())

    @property
    def socket_path(self) -> str:
        """Where fronts connect."""
        return self._keeper.path

    def attachment(self, front: int = 0) -> Attachment:
        """What front number `front` of this process is given."""
        return Attachment(self.socket_path, self.board, front)

    def start(self) -> None:
        """Begin: the engine is started at once, by the supervisor's thread."""
        self._thread.start()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the engine serves.

        Raises what kept it from starting: an error of argosy.errors as the engine told it, or
        EngineDead; TimeoutError after `timeout` seconds.
        """
        keeper = self._keeper
        with keeper.changed:
            keeper.changed.wait_for(keeper.is_settled, timeout)
            if keeper.failure is not None:
                raise anew(keeper.failure)  # in no variable: its traceback would hold this frame
            if not keeper.is_settled():
                raise TimeoutError(f"the engine does not serve after {timeout} s")
        if keeper.state is State.STOPPED:
            raise EngineDead("the engine was stopped")

    def status(self) -> Status:
        """How the engine is now."""
        keeper = self._keeper
        return keeper.attachment.status(keeper.last_exit)

    @property
    def failure(self) -> ArgosyError | None:
        """Why it gave up, made anew so that it may be raised; None where it did not."""
        failure = self._keeper.failure
        return None if failure is None else anew(failure)

    def stop(self) -> None:
        """End the engine: SIGTERM, then SIGKILL; it is reaped when this returns. Safe twice."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def anew(error: ArgosyError) -> ArgosyError:
    """The same error without its traceback, which grows each time it is raised."""
    return type(error)(*error.args)


def _end(keeper: _Keeper, thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:  # a fork: the engine is its parent's
        return
    keeper.stop()
    if thread is threading.current_thread():  # collected there; it ends by itself
        return
    if thread.ident is None:
        keeper.close(State.STOPPED)
    else:
        thread.join()


class _Keeper:
    """What the thread works on; it does not hold the Supervisor, which could not be collected."""

    def __init__(self, spec: EngineSpec, board: Board, patience: Patience) -> None:
        self._spec = spec
        self._board = board
        self._patience = patience
        self._folder = _private_folder()
        self.path = str(self._folder / _SOCKET)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(128)
        self._waker, self._wakes = socket.socketpair()
        self.attachment = Attachment(self.path, board)
        self.changed = threading.Condition()
        self.state = State.STARTING
        self.failure: ArgosyError | None = None
        self.last_exit: str | None = None
        self._has_served = False
        self._is_stopping = False
        self._num_failures = 0
        board[Cell.STATE] = State.STARTING

    def is_settled(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.state in (State.READY, State.FAILED, State.STOPPED)

    def stop(self) -> None:
        """Make the thread end the engine and itself."""
        self._is_stopping = True
        with contextlib.suppress(OSError):  # it has ended already
            self._waker.send(b"\0")

    def run(self) -> None:
        """The thread: one engine after another."""
        try:
            while not self._is_stopping and self.failure is None:
                self._run_one()
        except Exception as exc:  # a bug of ours, which must not leave waiters waiting
            _log.exception("the supervisor failed")
            self.failure = EngineDead(f"the supervisor failed: {exc}")
        finally:
            self.close(State.FAILED if self.failure else State.STOPPED)

    def _run_one(self) -> None:
        """One engine, from its start until it is reaped, and the pause before the next."""
        board = self._board
        board[Cell.EPOCH] += 1
        spec = msgspec.structs.replace(self._spec, epoch=board[Cell.EPOCH])
        try:
            engine = EngineProcess(spec, self._listener, board)
        except OSError as exc:  # no process, memory or descriptor to be had
            self.last_exit = f"could not be started: {exc}"
            _log.error("the engine process %s", self.last_exit)
            self._after_death(False, None)
            return
        try:
            board[Cell.ENGINE_PID] = engine.pid
            self._watch(engine)
        finally:
            self.last_exit = engine.end(self._patience.stop_s if self._is_stopping else 0.0)
            board[Cell.ENGINE_PID] = 0
        if not self._is_stopping:
            if self._has_served or engine.error is None:  # else whoever waits is told
                _log.error("the engine process %d ended: %s", engine.pid, self.last_exit)
            self._after_death(engine.is_serving, engine.error)

    def _watch(self, engine: EngineProcess) -> None:
        """Until the engine ends, stands still, or is to be stopped."""
        beat, still = self._board[Cell.HEARTBEAT], 0.0
        limit, looked = self._patience.boot_s, time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(engine.lifeline, selectors.EVENT_READ)
            selector.register(self._wakes, selectors.EVENT_READ)
            while not self._is_stopping:
                selector.select(_TICK_S)
                if not engine.listen():
                    return
                if engine.is_serving and self.state is not State.READY:
                    self._serves()
                self.attachment.look()
                now, last = time.monotonic(), beat
                beat = self._board[Cell.HEARTBEAT]
                # This process may have been stopped too: no turn counts for more than two ticks.
                still = 0.0 if beat != last else still + min(now - looked, 2 * _TICK_S)
                limit, looked = limit if beat == last else self._patience.stall_s, now
                if still >= limit:
                    engine.give_up(f"its heartbeat stood still for {limit:g} s")
                    return

    def _serves(self) -> None:
        self._has_served, self._num_failures = True, 0
        self._set(State.READY)

    def _after_death(self, was_ready: bool, error: ArgosyError | None) -> None:
        """Decide whether there is to be another engine, and wait until it may start."""
        self._num_failures = 0 if was_ready else self._num_failures + 1
        if not self._has_served and error is not None:
            self.failure = error
            return
        if self._num_failures >= self._patience.max_failures:
            self.failure = EngineDead(
                f"the engine died and did not come back: {self._num_failures} starts in a row "
                f"failed, the last one {self.last_exit}; look at its log, and start the server "
                "again"
            )
            return
        self._board[Cell.RESTARTS] += 1
        self._set(State.RESTARTING if self._has_served else State.STARTING)
        if self._num_failures:
            pause = self._patience.backoff_s * 2 ** (self._num_failures - 1)
            self._pause(min(pause, self._patience.most_backoff_s))

    def _pause(self, seconds: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakes, selectors.EVENT_READ)
            selector.select(seconds)

    def _set(self, state: State) -> None:
        with self.changed:
            self.state = state
            self._board[Cell.STATE] = state
            self.changed.notify_all()

    def close(self, state: State) -> None:
        """The end: said on the board first, so that fronts that find no listener know why."""
        self._set(state)
        for one in (self._listener, self._waker, self._wakes):
            one.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _private_folder() -> Path:
    """A new folder for this user alone, its path short enough for a socket's address."""
    folder = Path(tempfile.mkdtemp(prefix="argosy-"))
    if len(os.fsencode(folder)) <= _LONGEST_FOLDER:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="argosy-", dir="/tmp"))
