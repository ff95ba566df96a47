"""The link makes its connection again, at once or after a pause."""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from argosy.client.link import Link
from argosy.engine.wire import FromEngine, Hello, Submit, frame
from unit.engine.driver import facts


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


GREETINGS = 3


class Answering:
    """Answers every greeting at once; hopeless when all have come."""

    def __init__(self, path: str) -> None:
        self.greeted = 0
        self.link = Link(path, self, sleep=lambda _: asyncio.sleep(0))

    def heard(self, message: FromEngine) -> None:
        self.greeted += 1
        self.link.send(Submit(message.epoch, []))

    def lost(self) -> None:
        pass

    def is_hopeless(self) -> bool:
        return self.greeted >= GREETINGS


def test_a_greeting_is_answered_however_early(tmp_path: Path) -> None:
    """The engine greets before the front has noticed that it is connected."""
    answered: list[bool] = []

    def greet(listener: socket.socket) -> None:
        for epoch in range(GREETINGS):
            front, _ = listener.accept()
            with front:
                front.settimeout(1)
                front.sendall(frame(Hello(epoch, facts())))
                try:
                    answered.append(bool(front.recv(1)))
                except TimeoutError:
                    answered.append(False)

    async def act() -> None:
        loop: Any = asyncio.get_running_loop()
        connect = loop.create_unix_connection

        async def tell_late(*args: Any) -> Any:
            made = await connect(*args)
            await asyncio.sleep(0.05)
            return made

        loop.create_unix_connection = tell_late
        hearer = Answering(str(tmp_path / "s"))
        hearer.link.start()
        while not hearer.is_hopeless() or len(answered) < GREETINGS:
            await asyncio.sleep(0.01)
        hearer.link.stop()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        engine = threading.Thread(target=greet, args=(listener,), daemon=True)
        engine.start()
        asyncio.run(asyncio.wait_for(act(), 60))
        engine.join(30)
    assert answered == [True] * GREETINGS
