"""Engines that are killed, stopped, crash or crawl under a server with many open streams.

Every stream must end complete, and equal, token by token, to the same request undisturbed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from faults.rigged import POISON
from serving import Answer, Server, complete, start_server, tree, wait_port

pytestmark = pytest.mark.faults

STREAMS = 72
AT_LEAST = 64
KILLS = int(os.environ.get("ARGOSY_KILLS", "50"))
RIGGED = (str(Path(__file__).with_name("rigged.py")),)


def bodies() -> list[dict[str, Any]]:
    """Requests of every kind that replay must not disturb: long ones, so that many are open."""
    draw = random.Random(3)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.9, "presence_penalty": 1.0, "repetition_penalty": 1.1},
        {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "frequency_penalty": 0.3},
        {"temperature": 1.2, "min_p": 0.02, "logit_bias": {"17": 2.0}},
    ]
    return [
        {
            "prompt": [draw.randrange(300, 3900) for _ in range(draw.randrange(3, 300))],
            "max_tokens": draw.randrange(500, 1200),
            "ignore_eos": True,
            "seed": seed,
            "logit_bias": {},
            **kinds[seed % len(kinds)],
        }
        for seed in range(STREAMS)
    ]


def never_poison(body: dict[str, Any]) -> dict[str, Any]:
    """The same request, which cannot draw POISON itself."""
    return {**body, "logit_bias": {**body["logit_bias"], str(POISON): -100.0}}


async def undisturbed(port: int, wanted: list[dict[str, Any]]) -> list[list[int]]:
    answers = [Answer() for _ in wanted]
    await asyncio.gather(
        *(complete(port, body, answer) for body, answer in zip(wanted, answers, strict=True))
    )
    assert all(answer.done and answer.error is None for answer in answers)
    return [answer.token_ids for answer in answers]


class Crowd:
    """STREAMS readers, each taking the next request when its last one ended."""

    def __init__(self, port: int, wanted: list[dict[str, Any]]) -> None:
        self.port = port
        self.wanted = wanted
        self.open: dict[int, Answer] = {}
        self.ended: list[tuple[int, Answer]] = []
        self.stopping = False
        self._next = 0

    async def reader(self) -> None:
        while not self.stopping:
            mine, self._next = self._next, self._next + 1
            answer = self.open[mine] = Answer()
            await complete(self.port, self.wanted[mine % len(self.wanted)], answer)
            del self.open[mine]
            self.ended.append((mine % len(self.wanted), answer))

    @property
    def in_their_middle(self) -> dict[int, int]:
        """Tokens of each open stream that has some."""
        return {mine: len(a.token_ids) for mine, a in self.open.items() if a.token_ids}

    async def until_all_move(self) -> None:
        """Until AT_LEAST streams that have tokens took another one."""
        async with asyncio.timeout(60):
            before = self.in_their_middle
            while True:
                now = self.in_their_middle
                if sum(tokens > before.get(mine, 0) for mine, tokens in now.items()) >= AT_LEAST:
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def crowd(port: int, wanted: list[dict[str, Any]]) -> AsyncIterator[Crowd]:
    group = Crowd(port, wanted)
    readers = [asyncio.create_task(group.reader()) for _ in range(STREAMS)]
    yield group
    group.stopping = True
    await asyncio.gather(*readers)


async def told_truth(server: Server, is_true: Callable[[dict[str, Any]], bool]) -> None:
    """/health answers 200 and says so within 3 s."""
    async with asyncio.timeout(3):
        while True:
            status, body = await asyncio.to_thread(server.get, "/health")
            assert status == 200, body
            if is_true(body):
                return
            await asyncio.sleep(0.02)


def compare(group: Crowd, expected: list[list[int]]) -> None:
    assert len(group.ended) >= STREAMS
    for which, answer in group.ended:
        assert answer.error is None
        assert answer.done
        assert answer.finish_reason == "length"
        assert answer.token_ids == expected[which], f"request {which} differs"


async def run_kills(server: Server) -> None:
    wanted = bodies()
    expected = await undisturbed(server.port, wanted)
    async with crowd(server.port, wanted) as group:
        for kill in range(KILLS):
            await group.until_all_move()
            await asyncio.sleep(random.Random(kill).uniform(0.0, 0.2))
            health = await asyncio.to_thread(server.health)
            restarts, pid = health["engine"]["restarts"], health["engine"]["pid"]
            assert len(group.in_their_middle) >= AT_LEAST
            os.kill(pid, signal.SIGKILL)
            await told_truth(server, lambda now, n=restarts: now["engine"]["restarts"] > n)
    compare(group, expected)


def test_kills(tmp_path: Path) -> None:
    """kill -9 of the engine, again and again, in the middle of 64 streams and more."""
    with start_server(tmp_path, "--max-num-seqs", "128") as server:
        asyncio.run(run_kills(server))
        server.wait_idle()
        assert server.check() == "ok"
        assert server.metric("argosy_engine_restarts_total") == KILLS


async def run_stop(server: Server) -> None:
    wanted = bodies()
    expected = await undisturbed(server.port, wanted)
    async with crowd(server.port, wanted) as group:
        await group.until_all_move()
        health = await asyncio.to_thread(server.health)
        pid = health["engine"]["pid"]
        assert len(group.in_their_middle) >= AT_LEAST
        os.kill(pid, signal.SIGSTOP)
        await told_truth(server, lambda now: now["status"] == "stalled")
        await asyncio.sleep(30)
        with suppress(ProcessLookupError):  # it was given up, as it should be
            os.kill(pid, signal.SIGCONT)
        await told_truth(server, lambda now: now["status"] == "ok")
        health = await asyncio.to_thread(server.health)
        assert health["engine"]["restarts"] == 1
        assert health["engine"]["pid"] != pid
        await group.until_all_move()
    compare(group, expected)


def test_stop(tmp_path: Path) -> None:
    """SIGSTOP for 30 s: the engine is hung, so it is replaced; streams see a pause."""
    with start_server(tmp_path, "--max-num-seqs", "128") as server:
        asyncio.run(run_stop(server))
        server.wait_idle()
        assert server.check() == "ok"


async def run_poison(server: Server) -> tuple[Answer, Answer]:
    wanted = [never_poison(body) for body in bodies()[:63]]
    expected = await undisturbed(server.port, wanted)
    innocent = [Answer() for _ in wanted]
    tasks = [
        asyncio.create_task(complete(server.port, body, answer))
        for body, answer in zip(wanted, innocent, strict=True)
    ]
    async with asyncio.timeout(60):
        while not all(answer.token_ids for answer in innocent):
            await asyncio.sleep(0.01)
    poison = {"prompt": [400, POISON, 401], "max_tokens": 5}
    guilty = await complete(server.port, poison, Answer())
    await asyncio.gather(*tasks)
    for body, answer, tokens in zip(wanted, innocent, expected, strict=True):
        assert answer.error is None and answer.done, body
        assert answer.token_ids == tokens
    after = await complete(server.port, wanted[0], Answer())
    assert after.token_ids == expected[0]
    return guilty, after


def test_poison(tmp_path: Path) -> None:
    """A request that crashes the engine ends in an error; the 63 others do not notice."""
    with start_server(tmp_path, script=(*RIGGED, "open_poisoned")) as server:
        guilty, _ = asyncio.run(run_poison(server))
        assert guilty.error is not None
        assert "alone" in guilty.error
        server.wait_idle()
        assert server.check() == "ok"


def test_stuck(tmp_path: Path) -> None:
    """A request that hangs the engine is treated alike; here it is the only one."""
    with start_server(tmp_path, script=(*RIGGED, "open_stuck")) as server:
        guilty = asyncio.run(
            complete(server.port, {"prompt": [400, POISON], "max_tokens": 5}, Answer())
        )
        assert guilty.error is not None
        assert server.health()["engine"]["restarts"] == 2


def test_slow(tmp_path: Path) -> None:
    """A step of a minute that makes progress is no hang."""
    with start_server(tmp_path, script=(*RIGGED, "open_slow")) as server:
        pid = server.engine_pid()
        slow = asyncio.run(complete(server.port, {"prompt": [400], "max_tokens": 1}, Answer()))
        assert slow.error is None and len(slow.token_ids) == 1
        health = server.health()
        assert (health["engine"]["restarts"], health["engine"]["pid"]) == (0, pid)


def test_server_killed(tmp_path: Path) -> None:
    """kill -9 of the server itself leaves no engine behind."""
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "argosy", "serve", "--port", "0"], stderr=output
        )
    port = wait_port(process, log)
    children = tree(process.pid)[1:]
    assert children and port
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < end, "the engine outlived its server"
        time.sleep(0.05)
