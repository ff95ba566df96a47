"""Engine processes for tests: supervisors of the embedded model, and clients of them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from argosy.client.prepare import Prepared, prepare
from argosy.client.reading import open_intake
from argosy.client.remote import AsyncClient
from argosy.client.supervise import Patience, Supervisor
from argosy.config import EngineConfig
from argosy.engine.board import Board

QUICK = Patience(stall_s=1.0, boot_s=30.0, stop_s=5.0, backoff_s=0.01, max_failures=3)


def embedded(**options: Any) -> Prepared:
    """The model that comes with Argosy, in an engine small enough to start quickly."""
    values: dict[str, Any] = {"num_threads": 1, "kv_pages": 400, "max_num_seqs": 8} | options
    return prepare(EngineConfig(**values))


@contextmanager
def supervised(
    prepared: Prepared, *, opener: str | None = None, patience: Patience = QUICK
) -> Iterator[Supervisor]:
    """A supervisor that was started, and is stopped."""
    board = Board.create()
    name = None if opener is None else f"openers:{opener}"
    spec = prepared.spec(opener=name, python_path=[str(Path(__file__).parent)])
    supervisor = Supervisor(spec, board, patience=patience)
    try:
        supervisor.start()
        yield supervisor
    finally:
        supervisor.stop()
        board.close()


@asynccontextmanager
async def connected(supervisor: Supervisor, prepared: Prepared) -> AsyncIterator[AsyncClient]:
    """A client of it, once the engine serves."""
    client = AsyncClient(supervisor.attachment(), _intakes(prepared))
    await client.start()
    await asyncio.wait_for(client.ready(), 60)
    try:
        yield client
    finally:
        await client.close()
        await asyncio.sleep(0.01)  # the connection ends in the next turns of the loop


def _intakes(prepared: Prepared) -> Any:
    return open_intake(replace(prepared, config=replace(prepared.config, seed=1)))


def kill(supervisor: Supervisor, number: int = signal.SIGKILL) -> int:
    """Send the engine a signal; its pid."""
    pid = supervisor.status().pid
    os.kill(pid, number)
    return pid


def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


async def until_async(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    """`until`, while the loop goes on."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, a zombie too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
