"""Several front processes: one server to everybody, and none of them is missed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.conftest import Start
from server.test_drain import stream
from serving import Server, tree

NUM_FRONTS = 3


@pytest.fixture
def several(start: Start) -> Iterator[Server]:
    with start("--api-server-count", str(NUM_FRONTS)) as server:
        yield server


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def fronts(server: Server) -> set[int]:
    return set(tree(server.process.pid)[1:]) - {server.engine_pid()}


def complete(server: Server) -> None:
    status, body = server.post("/v1/completions", {"prompt": "Hi", "max_tokens": 2})
    assert status == 200, body


def test_they_are_one_server(several: Server) -> None:
    assert len(fronts(several)) == NUM_FRONTS

    async def run() -> None:
        await asyncio.gather(*(asyncio.to_thread(complete, several) for _ in range(24)))

    asyncio.run(run())
    several.wait_idle()
    assert {several.metric("vllm:e2e_request_latency_seconds_count") for _ in range(9)} == {24}
    assert several.metric("request_queue_depth") == 0
    assert several.check() == "ok"


def test_a_front_that_is_killed_is_replaced(several: Server) -> None:
    """Its streams are cut, those of the others go on; what it held is free."""

    async def one(cut: list[int], ended: list[int], number: int) -> None:
        try:
            async with stream(several, max_tokens=900) as reader:
                started.add(number)
                await reader.rest()
            ended.append(number)
        except (AssertionError, ConnectionError):
            cut.append(number)

    async def run() -> None:
        before = await asyncio.to_thread(fronts, several)
        tasks = [asyncio.create_task(one(cut, ended, number)) for number in range(12)]
        while len(started) < 12:
            await asyncio.sleep(0.01)
        os.kill(min(before), signal.SIGKILL)
        await asyncio.gather(*tasks)
        after = await asyncio.to_thread(
            until, lambda: len(now := fronts(several)) == NUM_FRONTS and now
        )
        assert len(after - before) == 1

    started: set[int] = set()
    cut: list[int] = []
    ended: list[int] = []
    asyncio.run(run())
    assert len(cut) + len(ended) == 12
    assert ended
    several.wait_idle()
    assert several.metric("request_queue_depth") == 0
    assert several.check() == "ok"
    assert several.health()["engine"]["restarts"] == 0
    for _ in range(6):
        complete(several)
    assert "ended with -9; starting another in 0 s" in several.log.read_text()


def test_an_engine_that_is_killed_is_missed_by_no_front(several: Server) -> None:
    async def one(number: int) -> None:
        async with stream(several, max_tokens=900) as reader:
            started.add(number)
            rest = await reader.rest()
            assert rest[-1]["choices"][0]["finish_reason"] == "length"

    async def run() -> None:
        tasks = [asyncio.create_task(one(number)) for number in range(9)]
        while len(started) < 9:
            await asyncio.sleep(0.01)
        os.kill(await asyncio.to_thread(several.engine_pid), signal.SIGKILL)
        await asyncio.gather(*tasks)

    started: set[int] = set()
    asyncio.run(run())
    assert several.health()["engine"]["restarts"] == 1


def test_a_drain_and_its_orphans(several: Server) -> None:
    async def run() -> None:
        async with stream(several, max_tokens=150) as reader:
            several.process.send_signal(signal.SIGTERM)
            rest = await reader.rest()
            assert rest[-1]["choices"][0]["finish_reason"] == "length"

    asyncio.run(run())
    assert several.process.wait(60) == 0


def test_without_the_main_process_nobody_stays(start: Start) -> None:
    with (
        pytest.raises(AssertionError, match="the server's end"),
        start("--api-server-count", "2") as server,
    ):
        children = tree(server.process.pid)[1:]
        assert len(children) == 3
        server.process.kill()
        server.process.wait()
        until(lambda: not [pid for pid in children if is_alive(pid)])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_engine_that_cannot_start_is_told_once(start: Start) -> None:
    with (
        pytest.raises(AssertionError, match="did not start") as caught,
        start("--api-server-count", "2", "--memory", "1MiB"),
    ):
        pass
    assert "memory" in str(caught.value)
    assert "Traceback" not in str(caught.value)
