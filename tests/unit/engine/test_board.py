"""The board: what one process writes another reads, of this engine or of one that died."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from argosy.engine import board as module
from argosy.engine.board import FRONT_CELLS, STEP_IDS, TRACE_CELLS, TRACE_STEPS, Board, Cell


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(2)
    yield board
    board.close()


@pytest.fixture
def other(board: Board) -> Iterator[Board]:
    """The same board, as another process maps it."""
    other = Board(os.dup(board.fd))
    yield other
    other.close()


def test_cells_are_seen_by_all_and_count(board: Board, other: Board) -> None:
    board[Cell.STEPS] = 2**64 - 2
    board.add(Cell.STEPS)
    other.cell(Cell.HEARTBEAT)[0] = 7
    assert other[Cell.STEPS] == 2**64 - 1
    assert board[Cell.HEARTBEAT] == 7
    assert sum(board[cell] > 0 for cell in Cell if cell is not Cell.COUNT) == 2


def test_fronts_have_cells_of_their_own(board: Board, other: Board) -> None:
    assert board.num_fronts == other.num_fronts == 2
    board.front(0)[FRONT_CELLS - 1] = 5
    board.front(1)[0] = 6
    assert other.front(0).tolist() == [0] * (FRONT_CELLS - 1) + [5]
    assert other.front(1)[0] == 6
    board.write_trace([9] * TRACE_CELLS)
    board.begin_step(range(STEP_IDS))
    assert other.front(0)[0] == 0


def test_the_step_under_way(board: Board, other: Board) -> None:
    assert other.step_numbers() == []
    board.begin_step([3, 2**63, 5])
    assert other.step_numbers() == [3, 2**63, 5]
    board.begin_step([1])
    assert other.step_numbers() == [1]
    board.end_step()
    assert other.step_numbers() == []
    board.begin_step(range(STEP_IDS + 5))
    assert other.step_numbers() == list(range(STEP_IDS))


def test_suspects(board: Board, other: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.write_suspects([(2**40, 1), (7, 0)])
    assert other.suspects() == [(2**40, 1), (7, 0)]
    board.write_suspects([])
    assert other.suspects() == []
    monkeypatch.setattr(module, "SUSPECTS", 2)
    board.write_suspects((n, n) for n in range(5))
    assert other.suspects() == [(0, 0), (1, 1)]


def test_the_ring_keeps_the_last_steps_but_the_one_next_overwritten(
    board: Board, other: Board
) -> None:
    assert other.trace() == []
    board.write_trace(range(TRACE_CELLS))
    assert other.trace() == [list(range(TRACE_CELLS))]
    for number in range(1, TRACE_STEPS + 2):
        board.write_trace([number] * TRACE_CELLS)
    assert [record[0] for record in other.trace()] == list(range(3, TRACE_STEPS + 2))
