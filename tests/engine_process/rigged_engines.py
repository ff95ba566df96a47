"""Engines that die or hang, opened by the engine process in place of its own."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from argosy.config import EngineConfig
from argosy.engine.engine import Engine
from argosy.engine.process import open_served
from argosy.types import Batch, Pending, Runtime

POISON = 4000


class Rigged:
    """A runtime that kills its process, or hangs, when POISON is among a step's tokens."""

    def __init__(self, inner: Runtime, signal_number: int | None) -> None:
        self._inner = inner
        self._signal = signal_number
        self.name = inner.name

    def watch(self, heartbeat: Any) -> None:
        self._inner.watch(heartbeat)

    def submit(self, batch: Batch) -> Pending:
        if POISON in batch.tokens:
            if self._signal is not None:
                os.kill(os.getpid(), self._signal)
            time.sleep(600)
        return self._inner.submit(batch)

    def close(self) -> None:
        self._inner.close()


def open_deadly(bundle: str, config: EngineConfig) -> Engine:
    engine = open_served(bundle, config)
    engine.runtime = Rigged(engine.runtime, signal.SIGKILL)
    return engine


def open_hanging(bundle: str, config: EngineConfig) -> Engine:
    engine = open_served(bundle, config)
    engine.runtime = Rigged(engine.runtime, None)
    return engine


def open_broken(bundle: str, config: EngineConfig) -> Engine:
    raise RuntimeError("two\nlines")
