"""The engine process: `python -m argosy.engine.process SPEC`, see `engine/spec.py`.

It lives as long as its supervisor: when the other end of its lifeline is closed, it exits, even in
the middle of a step. It writes one line there: that it serves, or why it cannot.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from argosy.bundle.open import open_bundle
from argosy.config import EngineConfig
from argosy.engine.board import Board, Cell
from argosy.engine.connections import Connections
from argosy.engine.engine import Engine, choose_cache_dtype, open_engine
from argosy.engine.loop import Loop
from argosy.engine.machine import read_machine, served_machine
from argosy.engine.quarantine import Quarantine
from argosy.engine.spec import FAILED, READY, EngineSpec, parse_spec
from argosy.engine.wire import Facts, Hello, frame
from argosy.errors import ArgosyError
from argosy.types import PAGE_TOKENS

if TYPE_CHECKING:
    from argosy.types import U64

Opener = Callable[[str, EngineConfig], Engine]


def open_served(bundle: str, config: EngineConfig, heartbeat: U64 | None = None) -> Engine:
    """The engine that is served, by default; what `EngineSpec.opener` stands in for.

    heartbeat: as `Runtime.watch` takes it, advanced while the engine is opened. Raises ArgosyError.
    """
    opened = open_bundle(bundle)
    machine = served_machine(read_machine(), opened.program.weight_bytes)
    return open_engine(opened, config, machine, heartbeat=heartbeat)


def main(text: str) -> NoReturn:
    """Serve as told by a spec in JSON, until killed or left alone. Exits 1 on any error."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor's to act on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    spec = parse_spec(text)
    lifeline = socket.socket(fileno=spec.lifeline)
    threading.Thread(target=_exit_with, args=(lifeline,), daemon=True).start()
    try:
        loop = _start(spec)
    except Exception as exc:
        if not isinstance(exc, ArgosyError):
            traceback.print_exc()
        words = " ".join(str(exc).split())
        _last(lifeline, b"%b%s %s\n" % (FAILED, type(exc).__name__.encode(), words.encode()))
    lifeline.sendall(READY)
    try:
        while True:
            loop.turn()
    except BaseException:
        traceback.print_exc()
    _last(lifeline, b"")


def _exit_with(lifeline: socket.socket) -> None:
    """Wait for the supervisor's end, and end with it."""
    while True:
        try:
            if not lifeline.recv(1):
                break
        except OSError:
            break
    os._exit(0)


def _last(lifeline: socket.socket, line: bytes) -> NoReturn:
    """Say a last word and exit, at once: nothing here needs an orderly end."""
    try:
        lifeline.sendall(line)
        sys.stderr.flush()
    finally:
        os._exit(1)


def _start(spec: EngineSpec) -> Loop:
    board = Board(spec.board)
    quarantine = recall(board)
    heartbeat = np.frombuffer(board.cell(Cell.HEARTBEAT), np.uint64)
    config = EngineConfig(**spec.config)
    if spec.opener is None:
        engine = open_served(spec.bundle, config, heartbeat)
    else:
        sys.path[:0] = spec.python_path
        module, _, name = spec.opener.partition(":")
        opener: Opener = getattr(import_module(module), name)
        engine = opener(spec.bundle, config)
    engine.runtime.watch(heartbeat)
    greeting = frame(Hello(spec.epoch, _facts(engine, config, spec)))
    connections = Connections(socket.socket(fileno=spec.listener), greeting)
    loop = Loop(engine, board, connections, quarantine, spec.epoch)
    print(_account(engine, spec), file=sys.stderr, flush=True)
    gc.freeze()  # what is there now stays; a collection need not look at it
    return loop


def _account(engine: Engine, spec: EngineSpec) -> str:
    """One line for the log: how memory was divided, and how long a step may be."""
    limits, isa = engine.scheduler.limits, getattr(engine.runtime, "isa", "")
    tokens = limits.step_tokens or limits.max_num_batched_tokens
    measured = f" ({engine.tokens_per_s:.0f} tokens/s measured)" if engine.tokens_per_s else ""
    return (
        f"engine {spec.epoch}: {engine.memory}; {engine.runtime.name} {isa}, "
        f"{limits.max_num_seqs} seats, steps of {tokens} tokens{measured}"
    )


def recall(board: Board) -> Quarantine:
    """Whom the last engine's death accuses, once: the step it died in is forgotten first."""
    step = board.step_numbers()
    board.end_step()
    quarantine = Quarantine.after_death(
        step, board.suspects(), is_isolating=bool(board[Cell.ISOLATING])
    )
    board.write_suspects(quarantine.suspects())
    board[Cell.ISOLATING] = quarantine.is_isolating
    return quarantine


def _facts(engine: Engine, config: EngineConfig, spec: EngineSpec) -> Facts:
    limits, pools = engine.scheduler.limits, engine.scheduler.tables.pools
    num_pages = min((pool.num_usable for pool in pools), default=0)
    cache_dtype = config.kv_cache_dtype
    if spec.opener is None:
        cache_dtype = choose_cache_dtype(open_bundle(spec.bundle), config)
    return Facts(
        max_model_len=limits.max_model_len,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        page_tokens=PAGE_TOKENS,
        num_pages=num_pages,
        kv_tokens=engine.memory.num_tokens if engine.memory else num_pages * PAGE_TOKENS,
        cache_dtype=cache_dtype,
        runtime=engine.runtime.name,
        isa=getattr(engine.runtime, "isa", ""),
        memory=str(engine.memory or ""),
        tokens_per_s=engine.tokens_per_s,
        prefix_caching=limits.prefix_caching,
    )


if __name__ == "__main__":
    main(sys.argv[1])
