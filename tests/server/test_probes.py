"""What orchestrators are told in every state of the server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from argosy import __version__
from argosy.client.attachment import State, Status
from argosy.serve.probes import health
from server.conftest import Start
from server.small import service, serving, stopped
from serving import Server


def told(state: State, age: float = 0.0, draining: bool = False) -> str:
    here = service()
    here.draining = draining
    here.status = lambda: Status(state, 7, 2, 1, age, "killed")
    found = health(here)
    assert (found.engine.pid, found.engine.epoch, found.engine.restarts) == (7, 2, 1)
    assert found.engine.last_exit == "killed"
    here.log.close()
    return found.status


@pytest.mark.parametrize(
    ("state", "age", "draining", "word"),
    [
        (State.STARTING, 0.0, False, "starting"),
        (State.STARTING, 5.0, False, "starting"),
        (State.READY, 0.0, False, "ok"),
        (State.READY, 1.9, False, "ok"),
        (State.READY, 2.1, False, "stalled"),
        (State.RESTARTING, 0.0, False, "restarting"),
        (State.FAILED, 0.0, False, "failed"),
        (State.STOPPED, 0.0, False, "failed"),
        (State.READY, 0.0, True, "draining"),
        (State.RESTARTING, 0.0, True, "draining"),
        (State.FAILED, 0.0, True, "failed"),
    ],
)
def test_the_words(state: State, age: float, draining: bool, word: str) -> None:
    assert told(state, age, draining) == word


def test_only_a_failed_server_is_unhealthy() -> None:
    async def run() -> list[tuple[int, int]]:
        answers = []
        async with serving({}) as small:
            for state in (State.STARTING, State.RESTARTING, State.READY, State.FAILED):
                status = Status(state, 7, 2, 1, 9.0)
                small.service.status = lambda status=status: status  # type: ignore[misc]
                answers.append(
                    (await status_of(small.port, "/health"), await status_of(small.port, "/ready"))
                )
        return answers

    assert asyncio.run(run()) == [(200, 503), (200, 503), (200, 503), (503, 503)]


async def status_of(port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


def test_a_server_that_is_well(server: Server) -> None:
    for path in ("/health", "/ready", "/ping"):
        status, body = server.get(path)
        assert (status, body["status"]) == (200, "ok")
    assert server.post("/ping", {})[0] == 200
    assert body["engine"]["epoch"] == 1
    assert body["engine"]["last_exit"] is None
    os.kill(body["engine"]["pid"], 0)
    assert server.get("/version") == (200, {"version": __version__})
    assert server.get("/load") == (200, {"server_load": 0})


def test_probes_are_not_logged(server: Server) -> None:
    assert server.get("/health")[0] == 200
    server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
    while "/v1/completions" not in server.log.read_text():
        time.sleep(0.01)
    assert '"/health"' not in server.log.read_text()


def test_the_last_steps_are_shown(server: Server) -> None:
    server.post("/v1/completions", {"prompt": "a", "max_tokens": 3, "ignore_eos": True})
    status, trace = server.get("/debug/trace")
    assert status == 200
    names = {event["name"] for event in trace["traceEvents"]}
    assert {"schedule", "run", "commit"} <= names
    assert server.get("/debug/check") == (200, {"pages": "ok"})


@pytest.fixture
def fragile(start: Start) -> Iterator[Server]:
    with start() as server:
        yield server


def until(server: Server, path: str, status: int, word: str) -> dict[str, Any]:
    end = time.monotonic() + 60
    while True:
        found, body = server.get(path)
        if (found, body["status"]) == (status, word):
            return dict(body["engine"])
        assert time.monotonic() < end, f"{path} is {found} {body}"
        time.sleep(0.02)


def test_an_engine_that_is_killed_and_one_that_hangs(fragile: Server) -> None:
    first = fragile.engine_pid()
    os.kill(first, signal.SIGKILL)
    while fragile.health()["engine"]["restarts"] == 0:
        time.sleep(0.01)
    engine = until(fragile, "/ready", 200, "ok")
    assert engine["pid"] != first
    assert (engine["epoch"], engine["restarts"]) == (2, 1)
    assert "SIGKILL" in engine["last_exit"]

    with stopped(engine["pid"]):
        assert until(fragile, "/ready", 503, "stalled")["heartbeat_age_s"] >= 2
        assert fragile.get("/health")[0] == 200
    assert until(fragile, "/ready", 200, "ok")["restarts"] == 1
