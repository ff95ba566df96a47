"""Writes to the board what the engine does: the step under way, counters, gauges, the last steps.

The requests of a step are on the board before it is submitted and until what it gave was handed to
the sockets, so that whoever reads the board after a crash knows who was in it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from argosy.engine.board import Board, Cell
from argosy.engine.trace import TracedStep

if TYPE_CHECKING:
    from argosy.engine.engine import Engine
    from argosy.engine.step import Plan

_SECOND_NS = 10**9
_STATM = Path("/proc/self/statm")

_COUNTED = (
    (Cell.PREFIX_QUERIES, "prefix_queries"),
    (Cell.PREFIX_HITS, "prefix_hits"),
    (Cell.PREEMPTIONS, "preemptions"),
    (Cell.PROMPT_TOKENS, "prompt_tokens"),
    (Cell.GENERATION_TOKENS, "generated_tokens"),
)
"""Cells, and the names of `engine.counters` that they go on from."""


class Recorder:
    """The engine's Observer, told by its loop where steps begin and end.

    Each step: `begin`; of the engine, if there was work, `planned` and `ran`; `committed`; `sent`.
    """

    def __init__(self, board: Board, engine: Engine) -> None:
        self._board = board
        self._engine = engine
        self._epoch = board[Cell.EPOCH]
        self._counters = tuple((cell, name, board[cell]) for cell, name in _COUNTED)
        self._num_steps = board[Cell.STEPS]
        self._begun = self._planned = self._ran = 0
        self._size: tuple[int, int, int] | None = None  # sequences, tokens, draws
        self._memory = _Memory()
        board[Cell.PAGES_USABLE] = engine.pages_usable
        board[Cell.MEMORY_LIMIT] = engine.memory.limit if engine.memory else 0
        self.gauge(time.monotonic_ns())

    def begin(self) -> None:
        """A step begins; it may turn out to have no work."""
        self._begun = time.monotonic_ns()

    def planned(self, plan: Plan) -> None:
        """Name the step's requests on the board."""
        numbers, num_tokens, num_draws = [], 0, 0
        for work in plan.work:
            numbers.append(int(work.seq.request.request_id))
            num_tokens += len(work.tokens)
            num_draws += work.num_draws
        self._size = (len(numbers), num_tokens, num_draws)
        self._board.begin_step(numbers)
        self._planned = time.monotonic_ns()

    def ran(self, plan: Plan) -> None:
        """Note when it came back."""
        self._ran = time.monotonic_ns()

    def committed(self) -> None:
        """The step is over: count what it did and, if it had work, enter it."""
        now = time.monotonic_ns()
        gauges, size = self.gauge(now), self._size
        if size is None:
            return
        self._size = None
        self._num_steps += 1
        board, counters = self._board, self._engine.counters
        board[Cell.STEPS] = self._num_steps
        board.add(Cell.BUSY_NS, self._ran - self._planned)
        for cell, name, start in self._counters:
            board[cell] = start + getattr(counters, name)
        times = (self._begun, self._planned, self._ran, now)
        board.write_trace(TracedStep(self._epoch, self._num_steps, *times, *size, *gauges))

    def sent(self) -> None:
        """What the step gave was handed to the sockets: nobody is in a step any more."""
        self._board.end_step()

    def gauge(self, now: int) -> tuple[int, int, int]:
        """Write the gauges as they are at `now`, in ns: running, waiting, pages held."""
        board, engine = self._board, self._engine
        roster = engine.scheduler.roster
        running, waiting, held = len(roster.running), len(roster.waiting), engine.pages_held
        board[Cell.RUNNING] = running
        board[Cell.WAITING] = waiting
        board[Cell.PAGES_HELD] = held
        if now >= self._memory.due:
            board[Cell.MEMORY_USED] = self._memory.read(now)
        return running, waiting, held


class _Memory:
    """Bytes this process has in memory, read once a second; 0 where the system does not tell."""

    def __init__(self) -> None:
        self.due = 0
        self._page = os.sysconf("SC_PAGE_SIZE")

    def read(self, now: int) -> int:
        self.due = now + _SECOND_NS
        try:
            return int(_STATM.read_text().split()[1]) * self._page
        except OSError:  # not Linux
            return 0
