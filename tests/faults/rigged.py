"""Engines rigged to fail, for servers under test: `python rigged.py OPENER [serve's flags]`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from argosy.config import EngineConfig
from argosy.engine.engine import Engine
from argosy.engine.process import open_served
from argosy.types import Batch, Pending, Runtime

POISON = 4000
"""A token whose coming into a step kills the engine."""

SLOW_STEP_S = 60


class Rigged:
    """A runtime that does something before each step."""

    def __init__(self, inner: Runtime) -> None:
        self._inner = inner
        self.name = inner.name
        self._heartbeat: Any = None

    def watch(self, heartbeat: Any) -> None:
        self._heartbeat = heartbeat
        self._inner.watch(heartbeat)

    def submit(self, batch: Batch) -> Pending:
        self.before(batch)
        return self._inner.submit(batch)

    def before(self, batch: Batch) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._inner.close()


class Poisoned(Rigged):
    """Dies, as of a wild pointer, when POISON is among the tokens."""

    def before(self, batch: Batch) -> None:
        if POISON in batch.tokens:
            os.kill(os.getpid(), signal.SIGSEGV)


class Slow(Rigged):
    """Takes a minute a step, at work all the time."""

    def before(self, batch: Batch) -> None:
        for _ in range(SLOW_STEP_S):
            time.sleep(1.0)
            self._heartbeat[0] += 1


class Stuck(Rigged):
    """Hangs for good in the first step that POISON is part of."""

    def before(self, batch: Batch) -> None:
        while POISON in batch.tokens:
            time.sleep(1.0)


def _open(kind: type[Rigged], bundle: str, config: EngineConfig) -> Engine:
    engine = open_served(bundle, config)
    engine.runtime = kind(engine.runtime)
    return engine


def open_poisoned(bundle: str, config: EngineConfig) -> Engine:
    return _open(Poisoned, bundle, config)


def open_slow(bundle: str, config: EngineConfig) -> Engine:
    return _open(Slow, bundle, config)


def open_stuck(bundle: str, config: EngineConfig) -> Engine:
    return _open(Stuck, bundle, config)


if __name__ == "__main__":
    from argosy.cli import serve as verb
    from argosy.cli.main import main

    opener, folder = sys.argv.pop(1), str(Path(__file__).parent)
    whole = verb.serve

    def rigged(*args: Any, **kwargs: Any) -> Any:
        return whole(*args, **kwargs, opener=f"rigged:{opener}", python_path=(folder,))

    verb.serve = rigged
    sys.argv.insert(1, "serve")
    main()
