"""The log: whole lines in order, and nobody waits for who reads them."""

from __future__ import annotations

import json
import os
import re

from argosy.serve.log import Line, Log
from serving import Server

PROMPT = "zanzibar quixotic"


def line(**fields: object) -> Line:
    return Line(id="a", client="b:1", method="GET", **{"path": "/x", **fields})  # type: ignore[arg-type]


def test_lines_are_json_and_whole() -> None:
    reading, writing = os.pipe()
    log = Log(fd=writing)
    log.say("one\nline")
    for number in range(100):
        log.request(line(status=number, path='/"\n'))
    log.say_once("once")
    log.say_once("once")
    log.close()
    os.close(writing)
    with os.fdopen(reading) as file:
        first, *rest, last = file.read().splitlines()
    assert (first, last) == ("one line", "once")
    assert [json.loads(one)["status"] for one in rest] == list(range(100))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", json.loads(rest[0])["ts"])


def test_a_reader_that_does_not_read_stops_nobody() -> None:
    reading, writing = os.pipe()
    log = Log(fd=writing)
    for _ in range(60_000):
        log.request(line())
    size = 0
    while b"lines of the log were dropped" not in (data := os.read(reading, 1 << 20)):
        size += len(data)
        assert size < 64 * 2**20
        log.say("more")
    log.close()
    os.close(reading)
    os.close(writing)


def test_a_closed_log_ends_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = Log(fd=writing)
    log.say("nobody")
    log.close()
    log.say("nobody")
    os.close(writing)


def test_requests_may_be_left_out() -> None:
    reading, writing = os.pipe()
    log = Log(requests=False, fd=writing)
    log.request(line())
    log.say("said")
    log.close()
    os.close(writing)
    with os.fdopen(reading) as file:
        assert file.read() == "said\n"


def test_a_request_is_told_without_its_words(server: Server) -> None:
    body = {"prompt": PROMPT, "max_tokens": 5, "ignore_eos": True}
    status, answer = server.post("/v1/completions", body)
    assert status == 200
    number = answer["id"].removeprefix("cmpl-")
    while number not in server.log.read_text():
        pass
    told = json.loads(next(x for x in server.log.read_text().splitlines() if number in x))
    assert told["status"] == 200
    assert told["completion_tokens"] == 5
    assert told["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert told["finish_reason"] == "length"
    assert told["model"] == answer["model"]
    assert 0 <= told["queue_ms"] <= told["ttft_ms"] <= told["total_ms"]
    assert told["stream"] is False
    assert set(told) == {
        *("ts", "id", "client", "method", "path", "model", "status", "finish_reason"),
        *("prompt_tokens", "cached_tokens", "completion_tokens", "queue_ms", "ttft_ms"),
        *("total_ms", "restarts", "stream", "ignored"),
    }
    assert PROMPT not in server.log.read_text()
    assert answer["choices"][0]["text"] not in server.log.read_text()
