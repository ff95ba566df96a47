"""The link makes its connection again, at once or after a pause."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from argosy.client.link import Link
from argosy.engine.wire import FromEngine


@dataclass
class Patient:
    """Loses hope after a number of attempts."""

    hopes: int
    losses: int = 0
    pauses: list[float] = field(default_factory=list)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def heard(self, message: FromEngine) -> None:
        raise AssertionError("nothing was said")

    def lost(self) -> None:
        self.losses += 1

    def is_hopeless(self) -> bool:
        self.hopes -= 1
        if not self.hopes:
            self.is_over.set()
        return not self.hopes

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


async def attempts(path: str, hopes: int) -> Patient:
    hearer = Patient(hopes)
    link = Link(path, hearer, sleep=hearer.pause)
    link.start()
    await asyncio.wait_for(hearer.is_over.wait(), 30)
    link.stop()
    return hearer


PAUSES = [0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5]


def test_no_listener(tmp_path: Path) -> None:
    hearer = asyncio.run(attempts(str(tmp_path / "s"), 8))
    assert (hearer.losses, hearer.pauses) == (0, PAUSES)


def test_a_listener_that_has_nobody(tmp_path: Path) -> None:
    async def act() -> Patient:
        def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_unix_server(leave, tmp_path / "s")
        async with server:
            return await attempts(str(tmp_path / "s"), 8)

    hearer = asyncio.run(act())
    assert (hearer.losses, hearer.pauses) == (8, PAUSES)
