"""Engines that do not start as they should; see EngineSpec.opener."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from argosy.bundle.open import open_bundle
from argosy.config import EngineConfig
from argosy.engine.engine import Engine, open_engine
from argosy.errors import OutOfMemory


def refusing(bundle: str, config: EngineConfig) -> Engine:
    """Says why."""
    raise OutOfMemory("not even one page fits; set memory=1G")


def breaking(bundle: str, config: EngineConfig) -> Engine:
    """Fails with an error that is not Argosy's."""
    raise ZeroDivisionError("no such number")


def dying(bundle: str, config: EngineConfig) -> Engine:
    """Says nothing."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def exiting(bundle: str, config: EngineConfig) -> Engine:
    """Ends without a word."""
    os._exit(3)


def hanging(bundle: str, config: EngineConfig) -> Engine:
    """Never returns."""
    time.sleep(1000)
    raise AssertionError


def once(bundle: str, config: EngineConfig) -> Engine:
    """Serves the first time, and dies at every later start; `config.revision` is its memory."""
    assert config.revision is not None
    been = Path(config.revision)
    if been.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    been.touch()
    return open_engine(open_bundle(bundle), config)
