"""What one front counts: cells of its own area on the board, named here and nowhere else.

Every front of a server has the same layout, so that any of them can add up all of them. Sums of
times are whole nanoseconds. When a front dies its gauges are zeroed; its counters stay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, auto

from argosy.engine.board import FRONT_CELLS, Board


class Tally(IntEnum):
    """The single cells of a front."""

    # gauges
    HELD = 0  # slots of the gate taken, in requests
    HELD_TOKENS = auto()
    BODY_BYTES = auto()  # of request bodies being read
    CONNECTIONS = auto()
    SERVING = auto()  # 1 once this front serves
    # counters
    ENDED = auto()  # slots given back
    REFUSED_REQUESTS = auto()
    REFUSED_TOKENS = auto()
    REFUSED_BODIES = auto()
    CACHED_TOKENS = auto()
    ENDED_STOP = auto()  # and the others, in the order of series.REASONS
    ENDED_LENGTH = auto()
    ENDED_ABORT = auto()
    ENDED_ERROR = auto()
    COUNT = auto()


GAUGES = tuple(cell for cell in Tally if cell < Tally.ENDED)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a histogram lies: its buckets' upper ends, cells from `start`: buckets, +Inf, sum.

    scale: what one unit of the sum is in the units of `bounds`.
    """

    start: int
    bounds: tuple[float, ...]
    scale: float

    @property
    def num_cells(self) -> int:
        """Cells it takes."""
        return len(self.bounds) + 2


class Tallies:
    """The areas of all fronts; `mine` is the one this process writes."""

    def __init__(self, board: Board, front: int) -> None:
        self.mine = board.front(front)
        self.areas = [board.front(index) for index in range(board.num_fronts)]

    def add(self, cell: int, value: int = 1) -> None:
        """Count `value` more of `cell`; below 0 for gauges only."""
        self.mine[cell] += value

    def total(self, cell: int) -> int:
        """Over all fronts."""
        return sum(area[cell] for area in self.areas)

    def totals(self, start: int, count: int) -> list[int]:
        """The totals of `count` cells from `start`."""
        return [self.total(cell) for cell in range(start, start + count)]

    def observe(self, place: Place, value: float) -> None:
        """Enter one value in a histogram."""
        mine = self.mine
        mine[place.start + bisect_left(place.bounds, value)] += 1
        mine[place.start + len(place.bounds) + 1] += int(value / place.scale)

    def observe_many(self, place: Place, value: float, count: int) -> None:
        """Enter one value `count` times."""
        mine = self.mine
        mine[place.start + bisect_left(place.bounds, value)] += count
        mine[place.start + len(place.bounds) + 1] += int(value * count / place.scale)


def zero_gauges(area: memoryview) -> None:
    """What a dead front held, it holds no more."""
    for cell in GAUGES:
        area[cell] = 0


def lay_out(start: int, bounds: Sequence[tuple[Sequence[float], float]]) -> tuple[list[Place], int]:
    """Places for histograms (bounds, scale) from `start` on, and the first cell behind them."""
    places = []
    for ends, scale in bounds:
        place = Place(start, tuple(ends), scale)
        places.append(place)
        start += place.num_cells
    assert start <= FRONT_CELLS, "a front's area is too small for its histograms"
    return places, start
