"""Where a front finds its engine, and how that engine is: the same words in every process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from argosy.engine.board import Board, Cell


class State(IntEnum):
    """How the engine is, as its supervisor says on the board."""

    STARTING = 0
    READY = 1
    RESTARTING = 2
    FAILED = 3
    STOPPED = 4


@dataclass(frozen=True, slots=True)
class Status:
    """The engine at one moment.

    pid: 0 while there is none.  epoch: starts so far, restarts: those after the first.
    heartbeat_age_s: seconds since it was last seen to move; see Attachment.status.
    last_exit: how the engine before this one ended, in words; None where none did, or in a process
    that is not its supervisor's.
    """

    state: State
    pid: int
    epoch: int
    restarts: int
    heartbeat_age_s: float
    last_exit: str | None = None


class Attachment:
    """What a front is given: the engine's socket, the board, and which front it is.

    socket_path: the Unix socket of the engine.  front: its number, from 0; request numbers begin at
    front << wire.FRONT_SHIFT, and `board.front(front)` is its area.
    """

    def __init__(
        self,
        socket_path: str,
        board: Board,
        front: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.socket_path = socket_path
        self.board = board
        self.front = front
        self._clock = clock
        self._seen = board[Cell.HEARTBEAT], board[Cell.EPOCH]
        self._seen_at = clock()

    @property
    def state(self) -> State:
        """How the engine is."""
        return State(self.board[Cell.STATE])

    def look(self) -> float:
        """Seconds since the heartbeat was last seen to move; call it at least twice a second."""
        now, seen = self._clock(), (self.board[Cell.HEARTBEAT], self.board[Cell.EPOCH])
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        return now - self._seen_at

    def status(self, last_exit: str | None = None) -> Status:
        """How the engine is now; the heartbeat's age as far as `look` was called meanwhile."""
        board = self.board
        return Status(
            state=self.state,
            pid=board[Cell.ENGINE_PID],
            epoch=board[Cell.EPOCH],
            restarts=board[Cell.RESTARTS],
            heartbeat_age_s=self.look(),
            last_exit=last_exit,
        )
