"""The last steps as the board's ring holds them, and as a trace that chrome://tracing shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from argosy.engine.board import Board

_PIECE = 64
"""Steps of a piece: all at once would hold up a front, and fill its memory."""


class TracedStep(NamedTuple):
    """One step with work; times are CLOCK_MONOTONIC in nanoseconds.

    begun: before arrivals were taken.  planned: before it was submitted.  ran: when it came back.
    committed: when its events were made.  Sequences that ran, their tokens, tokens drawn.
    running, waiting, pages_held: after it.
    """

    epoch: int
    number: int
    begun: int
    planned: int
    ran: int
    committed: int
    num_seqs: int
    num_tokens: int
    num_draws: int
    running: int
    waiting: int
    pages_held: int


def traced_steps(board: Board) -> list[TracedStep]:
    """The last steps, oldest first, of dead engines too."""
    return [TracedStep(*record) for record in board.trace()]


def chrome_trace(board: Board) -> Iterator[bytes]:
    """The last steps in the Trace Event Format, JSON in pieces; times in microseconds.

    Each engine is a process named by its epoch. A step is an event with schedule, run and commit
    inside; sequences, tokens and pages are counters.
    """
    steps = traced_steps(board)
    yield b'{"displayTimeUnit":"ms","traceEvents":['
    between = b""
    for start in range(0, len(steps), _PIECE):
        piece = steps[start : start + _PIECE]
        names = [_name(epoch) for epoch in sorted({step.epoch for step in piece})]
        events = itertools.chain(names, *map(_events, piece))
        yield between + b",".join(map(msgspec.json.encode, events))
        between = b","
    yield b"]}"


def _name(epoch: int) -> dict[str, Any]:
    named = {"name": f"engine, epoch {epoch}"}
    return {"ph": "M", "name": "process_name", "pid": epoch, "args": named}


def _events(step: TracedStep) -> list[dict[str, Any]]:
    what = {
        "number": step.number,
        "sequences": step.num_seqs,
        "tokens": step.num_tokens,
        "draws": step.num_draws,
    }
    return [
        _span("step", step, step.begun, step.committed) | {"args": what},
        _span("schedule", step, step.begun, step.planned),
        _span("run", step, step.planned, step.ran),
        _span("commit", step, step.ran, step.committed),
        _counter("sequences", step, {"running": step.running, "waiting": step.waiting}),
        _counter("tokens", step, {"computed": step.num_tokens, "drawn": step.num_draws}),
        _counter("pages", step, {"held": step.pages_held}),
    ]


def _span(name: str, step: TracedStep, start: int, end: int) -> dict[str, Any]:
    times = {"ts": start / 1000, "dur": (end - start) / 1000}
    return {"ph": "X", "name": name, "cat": "engine", "pid": step.epoch, "tid": 0, **times}


def _counter(name: str, step: TracedStep, values: dict[str, int]) -> dict[str, Any]:
    return {"ph": "C", "name": name, "pid": step.epoch, "ts": step.committed / 1000, "args": values}
