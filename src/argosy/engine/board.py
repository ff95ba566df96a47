"""The board: a few pages of memory that the processes of one server share.

Who supervises makes it; the engine process and every front map it. It outlives the engine, so what
it says of a crash is what was true at that moment, and counters go on through restarts. Every cell
is a whole number of 64 bits and has one writer; a reader may see a cell as it was a moment ago.

    cells     Cell.*: the supervisor's, then the engine's
    step      request numbers of the step under way, written before it is submitted
    suspects  (number, deaths alone) pairs, see engine/quarantine.py
    trace     the last TRACE_STEPS steps, a ring; see engine/recorder.py
    fronts    FRONT_CELLS cells for each front, which alone writes them
"""

from __future__ import annotations

import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from enum import IntEnum, auto

STEP_IDS = 16384
SUSPECTS = 16384
TRACE_STEPS = 4096
TRACE_CELLS = 12
FRONT_CELLS = 1024


class Cell(IntEnum):
    """The single cells. Times are CLOCK_MONOTONIC in nanoseconds, memory is in bytes."""

    # written by the supervisor
    EPOCH = 0
    RESTARTS = auto()
    STATE = auto()  # supervise.State
    ENGINE_PID = auto()
    # written by the engine process; counters go on through restarts
    HEARTBEAT = auto()
    STEPS = auto()
    BUSY_NS = auto()
    RUNNING = auto()
    WAITING = auto()
    PAGES_HELD = auto()
    PAGES_USABLE = auto()
    PREFIX_QUERIES = auto()
    PREFIX_HITS = auto()
    PREEMPTIONS = auto()
    PROMPT_TOKENS = auto()
    GENERATION_TOKENS = auto()
    MEMORY_USED = auto()
    MEMORY_LIMIT = auto()
    STEP_COUNT = auto()  # numbers in the step area; 0 between steps
    SUSPECT_COUNT = auto()
    ISOLATING = auto()
    TRACE_NEXT = auto()  # steps ever entered in the ring
    COUNT = auto()


_STEP_AT = 64
_SUSPECTS_AT = _STEP_AT + STEP_IDS
_TRACE_AT = _SUSPECTS_AT + 2 * SUSPECTS
_FRONTS_AT = _TRACE_AT + TRACE_STEPS * TRACE_CELLS


class Board:
    """The shared memory itself; `fd` is what a child process inherits and attaches to."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        size = os.fstat(fd).st_size
        self._map = mmap.mmap(fd, size)
        self._cells = memoryview(self._map).cast("Q")
        self.num_fronts = (len(self._cells) - _FRONTS_AT) // FRONT_CELLS

    @classmethod
    def create(cls, num_fronts: int = 1) -> Board:
        """A new board of zeros; its file has no name."""
        with tempfile.TemporaryFile(prefix="argosy-board-", dir=_memory_folder()) as file:
            file.truncate(8 * (_FRONTS_AT + num_fronts * FRONT_CELLS))
            return cls(os.dup(file.fileno()))

    def __getitem__(self, cell: int) -> int:
        return self._cells[cell]

    def __setitem__(self, cell: int, value: int) -> None:
        self._cells[cell] = value

    def add(self, cell: int, value: int = 1) -> None:
        """Count `value` more; only for the cell's one writer."""
        self._cells[cell] += value

    def cell(self, cell: Cell) -> memoryview:
        """One cell as memory, for those who write it from C++."""
        return self._cells[cell : cell + 1]

    def front(self, index: int) -> memoryview:
        """The FRONT_CELLS cells of one front."""
        start = _FRONTS_AT + index * FRONT_CELLS
        return self._cells[start : start + FRONT_CELLS]

    # -- the step under way -----------------------------------------------------------------------

    def begin_step(self, numbers: Sequence[int]) -> None:
        """Name the requests of the step about to run; those beyond STEP_IDS are left out."""
        ids = array("Q", numbers[:STEP_IDS])
        self._cells[_STEP_AT : _STEP_AT + len(ids)] = memoryview(ids)
        self._cells[Cell.STEP_COUNT] = len(ids)

    def end_step(self) -> None:
        """The step is over and what it gave was sent."""
        self._cells[Cell.STEP_COUNT] = 0

    def step_numbers(self) -> list[int]:
        """Requests of the step under way, or of the one in which the engine died."""
        return self._cells[_STEP_AT : _STEP_AT + self._cells[Cell.STEP_COUNT]].tolist()

    # -- suspects ---------------------------------------------------------------------------------

    def write_suspects(self, suspects: Iterable[tuple[int, int]]) -> None:
        """Replace the suspects by these (number, deaths alone), SUSPECTS at most.

        The count is 0 meanwhile: an engine that dies here loses suspicion, and no request.
        """
        flat = array("Q", [x for pair in list(suspects)[:SUSPECTS] for x in pair])
        self._cells[Cell.SUSPECT_COUNT] = 0
        self._cells[_SUSPECTS_AT : _SUSPECTS_AT + len(flat)] = memoryview(flat)
        self._cells[Cell.SUSPECT_COUNT] = len(flat) // 2

    def suspects(self) -> list[tuple[int, int]]:
        """(number, deaths alone) of each suspect."""
        flat = self._cells[
            _SUSPECTS_AT : _SUSPECTS_AT + 2 * self._cells[Cell.SUSPECT_COUNT]
        ].tolist()
        return list(zip(flat[::2], flat[1::2], strict=True))

    # -- the last steps ---------------------------------------------------------------------------

    def write_trace(self, record: Sequence[int]) -> None:
        """Enter one step, TRACE_CELLS numbers, in place of the oldest."""
        number = self._cells[Cell.TRACE_NEXT]
        start = _TRACE_AT + number % TRACE_STEPS * TRACE_CELLS
        self._cells[start : start + TRACE_CELLS] = memoryview(array("Q", record))
        self._cells[Cell.TRACE_NEXT] = number + 1

    def trace(self) -> list[list[int]]:
        """The last steps, oldest first. One may be half written while it is read: the newest."""
        end = self._cells[Cell.TRACE_NEXT]
        starts = (
            _TRACE_AT + number % TRACE_STEPS * TRACE_CELLS
            for number in range(max(0, end - TRACE_STEPS + 1), end)
        )
        return [self._cells[start : start + TRACE_CELLS].tolist() for start in starts]

    def close(self) -> None:
        """Unmap; views given out before must be gone."""
        self._cells.release()
        self._map.close()
        os.close(self.fd)


def _memory_folder() -> str | None:
    """Where files are memory; elsewhere the system's own temporary folder."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
