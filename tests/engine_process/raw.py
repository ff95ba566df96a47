"""A real engine process, and a blocking socket that speaks to it frame by frame."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import argosy
from argosy.engine.board import Board, Cell
from argosy.engine.spec import EngineSpec, command
from argosy.engine.wire import (
    Ask,
    Drop,
    Frames,
    FromEngine,
    FromFront,
    Hello,
    Step,
    Submit,
    Told,
    decode_from_engine,
    frame,
)
from argosy.types import Event, Request, SamplingParams

EMBEDDED = Path(argosy.__file__).parent / "embedded"
LONG_S = 60.0


def ask(number: int, prompt: tuple[int, ...], tokens: int = 20, **options: Any) -> Request:
    """A request that takes exactly `tokens` tokens; options of SamplingParams."""
    return Request(
        request_id=str(number),
        token_ids=prompt,
        num_prompt_tokens=len(prompt),
        params=SamplingParams(max_tokens=tokens, **options),
        seed=number,
        max_total_tokens=len(prompt) + tokens,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it is true, or the test fails."""
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


@dataclass
class Host:
    """What a supervisor owns: a board, a listening socket, and one engine at a time."""

    folder: Path
    opener: str | None = None
    config: dict[str, Any] = field(default_factory=lambda: {"max_num_seqs": 8})
    bundle: str = str(EMBEDDED)

    def __post_init__(self) -> None:
        self.board = Board.create(1)
        self.path = str(self.folder / "s")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """The next engine; killed at the end if it has not ended."""
        self.board[Cell.EPOCH] += 1
        ours, theirs = socket.socketpair()
        fds = (self.listener.fileno(), self.board.fd, theirs.fileno())
        spec = EngineSpec(
            bundle=self.bundle,
            config=self.config,
            listener=fds[0],
            board=fds[1],
            lifeline=fds[2],
            epoch=self.board[Cell.EPOCH],
            opener=self.opener,
            python_path=[str(Path(__file__).parent)],
        )
        process = subprocess.Popen(
            command(spec), pass_fds=fds, start_new_session=True, stderr=subprocess.PIPE
        )
        theirs.close()
        ours.settimeout(LONG_S)
        engine = Engine(self, process, ours)
        try:
            yield engine
        finally:
            process.kill()
            engine.end()
            ours.close()

    def close(self) -> None:
        self.listener.close()
        self.board.close()


@dataclass
class Engine:
    """A running engine process."""

    host: Host
    process: subprocess.Popen[bytes]
    lifeline: socket.socket

    def line(self) -> str:
        """What it says on its lifeline."""
        return self.lifeline.recv(65536).decode()

    def end(self) -> tuple[int, str]:
        """Exit status and standard error, once it has ended."""
        _, errors = self.process.communicate(timeout=LONG_S)
        return self.process.returncode, errors.decode()

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(LONG_S)

    @contextmanager
    def front(self) -> Iterator[RawFront]:
        """A front that has been greeted and has sent nothing."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(LONG_S)
            sock.connect(self.host.path)
            yield RawFront(sock)


class RawFront:
    """Reads frames as they come, and keeps what they say of each (number, index)."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._frames = Frames()
        self._inbox: list[FromEngine] = []
        self.tokens: dict[tuple[int, int], list[int]] = {}
        self.ends: dict[tuple[int, int], Event] = {}
        hello = self.read()
        assert isinstance(hello, Hello)
        self.hello = hello
        self.epoch = hello.epoch

    def send(self, message: FromFront) -> None:
        self.sock.sendall(frame(message))

    def submit(self, *requests: Request) -> None:
        self.send(Submit(self.epoch, list(requests)))

    def drop(self, *names: tuple[int, int | None]) -> None:
        self.send(Drop(self.epoch, list(names)))

    def question(self, what: str) -> str:
        """The answer to an Ask."""
        self.send(Ask(self.epoch, what))
        while not isinstance(message := self.read(), Told):
            pass
        assert message.what == what
        return message.answer

    def read(self) -> FromEngine:
        """The next message. Raises EOFError at the end of the connection."""
        while not self._inbox:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._inbox += [decode_from_engine(body) for body in self._frames.feed(data)]
        message = self._inbox.pop(0)
        if isinstance(message, Step):
            assert message.epoch == self.epoch
            self._take(message)
        return message

    def read_until_end(self, *names: tuple[int, int]) -> None:
        """Until each of them has ended."""
        while any(name not in self.ends for name in names):
            self.read()

    def read_tokens(self, number: int, count: int) -> None:
        """Until answer 0 of a request has at least `count` tokens."""
        while len(self.tokens.get((number, 0), ())) < count:
            self.read()

    def _take(self, step: Step) -> None:
        flat = step.tokens
        for number, index, token in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            self.tokens.setdefault((number, index), []).append(token)
        for event in step.events:
            name = int(event.request_id), event.index
            assert name not in self.ends
            self.tokens.setdefault(name, []).extend(event.token_ids)
            if event.finish_reason is not None:
                self.ends[name] = event
