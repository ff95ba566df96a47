"""What the recorder writes of an engine's steps, and the trace made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from argosy.engine.board import Board, Cell
from argosy.engine.engine import Engine
from argosy.engine.recorder import Recorder
from argosy.engine.trace import TracedStep, chrome_trace, traced_steps
from argosy.types import Batch
from unit.engine.driver import request, scheduler
from unit.engine.test_engine import Counting


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create()
    board[Cell.EPOCH] = 3
    yield board
    board.close()


class Watching(Counting):
    """Notes what the board says while a step runs."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        self.board = board
        self.seen: list[list[int]] = []

    def submit(self, batch: Batch) -> Counting:
        self.seen.append(self.board.step_numbers())
        return super().submit(batch)


def recorded(board: Board) -> tuple[Engine, Recorder, Watching]:
    runtime = Watching(board)
    engine = Engine(scheduler(20), runtime)
    engine.observer = recorder = Recorder(board, engine)
    return engine, recorder, runtime


def step(engine: Engine, recorder: Recorder) -> None:
    recorder.begin()
    engine.step(0.0)
    recorder.committed()


def test_a_step_is_named_from_before_it_runs_until_it_is_sent(board: Board) -> None:
    engine, recorder, runtime = recorded(board)
    engine.add(request("5", range(6), max_tokens=2, n=2))
    engine.add(request("9", range(3), max_tokens=2))
    step(engine, recorder)
    assert set(runtime.seen[0]) == {5, 9}
    assert set(board.step_numbers()) == {5, 9}
    recorder.sent()
    assert board.step_numbers() == []


def test_counters_and_gauges(board: Board) -> None:
    engine, recorder, _ = recorded(board)
    assert board[Cell.PAGES_USABLE] == 20
    assert board[Cell.MEMORY_USED] > 10**6
    engine.add(request("5", range(6), max_tokens=3))
    step(engine, recorder)
    assert (board[Cell.RUNNING], board[Cell.WAITING], board[Cell.PAGES_HELD]) == (1, 0, 2)
    assert (board[Cell.PROMPT_TOKENS], board[Cell.GENERATION_TOKENS]) == (6, 1)
    busy = board[Cell.BUSY_NS]
    assert busy > 0
    while engine.has_work:
        step(engine, recorder)
    assert (board[Cell.RUNNING], board[Cell.PAGES_HELD]) == (0, 0)
    assert board[Cell.STEPS] == 3
    assert board[Cell.GENERATION_TOKENS] == 3
    assert board[Cell.BUSY_NS] > busy


def test_counters_go_on_with_the_next_engine(board: Board) -> None:
    for _ in range(2):
        engine, recorder, _ = recorded(board)
        engine.add(request("5", range(6), max_tokens=2))
        while engine.has_work:
            step(engine, recorder)
        board[Cell.EPOCH] += 1
    assert board[Cell.STEPS] == 4
    assert board[Cell.PROMPT_TOKENS] == 12
    assert board[Cell.GENERATION_TOKENS] == 4
    assert [(s.epoch, s.number) for s in traced_steps(board)] == [(3, 1), (3, 2), (4, 3), (4, 4)]


def test_a_step_without_work_leaves_no_trace(board: Board) -> None:
    engine, recorder, _ = recorded(board)
    engine.add(request("5", max_tokens=9))
    step(engine, recorder)
    engine.abort("5")
    step(engine, recorder)
    assert board[Cell.STEPS] == len(traced_steps(board)) == 1
    assert board[Cell.RUNNING] == 0


def test_a_traced_step(board: Board) -> None:
    engine, recorder, _ = recorded(board)
    engine.add(request("5", range(6), max_tokens=2, n=2))
    engine.add(request("9", range(3), max_tokens=1))
    step(engine, recorder)
    (traced,) = traced_steps(board)
    assert traced.begun <= traced.planned <= traced.ran <= traced.committed
    assert (traced.num_seqs, traced.num_tokens, traced.num_draws) == (2, 9, 2)
    assert (traced.running, traced.waiting, traced.pages_held) == (1, 1, 2)


def test_the_chrome_trace(board: Board) -> None:
    times = (1_000_000, 1_002_000, 1_009_500, 1_010_000)
    board.write_trace(TracedStep(3, 1, *times, 2, 9, 2, 2, 1, 4))
    trace = json.loads(b"".join(chrome_trace(board)))["traceEvents"]
    spans = {event["name"]: event for event in trace if event["ph"] == "X"}
    assert {name: (span["ts"], span["dur"]) for name, span in spans.items()} == {
        "step": (1000.0, 10.0),
        "schedule": (1000.0, 2.0),
        "run": (1002.0, 7.5),
        "commit": (1009.5, 0.5),
    }
    assert {event["pid"] for event in trace} == {3}
    assert spans["step"]["args"] == {"number": 1, "sequences": 2, "tokens": 9, "draws": 2}
    counters = {event["name"]: event["args"] for event in trace if event["ph"] == "C"}
    assert counters == {
        "sequences": {"running": 2, "waiting": 1},
        "tokens": {"computed": 9, "drawn": 2},
        "pages": {"held": 4},
    }
    assert [event["args"]["name"] for event in trace if event["ph"] == "M"] == ["engine, epoch 3"]


def test_the_chrome_trace_of_many_steps_is_one_text(board: Board) -> None:
    assert json.loads(b"".join(chrome_trace(board)))["traceEvents"] == []
    for number in range(200):
        board.write_trace(TracedStep(1 + number // 100, number, 1, 2, 3, 4, 1, 1, 1, 1, 0, 1))
    trace = json.loads(b"".join(chrome_trace(board)))["traceEvents"]
    steps = [event["args"]["number"] for event in trace if event["name"] == "step"]
    assert steps == list(range(200))
