"""Loads against a server that counts words, and that can misbehave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from argosy.errors import ArgosyError, ConfigError
from argosy.load.api import Api, Model, find_model
from argosy.load.arrivals import Arrival
from argosy.load.connection import Target
from argosy.load.drive import Driver, Run, Users
from argosy.load.measure import summarize
from argosy.load.prompts import learn
from load.fake_server import TEMPLATE, FakeServer, fake_server


def drive(
    server: FakeServer, load: Users | list[Arrival], kind: str = "completions", **o: Any
) -> Run:
    async def go() -> Run:
        async with Target(server.url) as target:
            api = Api(target, await find_model(target), kind)
            driver = Driver(api, await learn(api.count), **o)
            if isinstance(load, Users):
                return await driver.closed_loop(load)
            return await driver.open_loop(load)

    return asyncio.run(go())


def users(number: int, **options: Any) -> Users:
    return Users(users=number, input_len=12, output_len=4, **options)


@pytest.mark.parametrize("kind", ["completions", "chat"])
@pytest.mark.parametrize("tokenize", [True, False])
def test_requests_have_the_lengths_asked_for(kind: str, tokenize: bool) -> None:
    with fake_server(tokenize=tokenize) as server:
        run = drive(server, users(2, requests=6), kind)
        sent = [body for body in server.seen if body.get("stream")]
    assert len(run.outcomes) == len(sent) == 6
    assert {(o.error, o.prompt_tokens, o.tokens, len(o.times)) for o in run.outcomes} == {
        (None, 12, 4, 4)
    }
    assert all(body["max_tokens"] == 4 and body["ignore_eos"] for body in sent)
    words = [body.get("prompt") or body["messages"][0]["content"] for body in sent]
    assert {len(text.split()) for text in words} == {12 - TEMPLATE * (kind == "chat")}
    assert len(set(words)) == 6


def test_each_user_has_one_request_under_way_on_one_connection() -> None:
    with fake_server(gap_s=0.002) as server:
        drive(server, users(5, requests=40))
        assert server.most_running == 5
        assert server.connections == 5


def test_latencies_are_at_least_what_the_server_took() -> None:
    with fake_server(first_s=0.05, gap_s=0.02) as server:
        run = drive(server, users(1, requests=2))
    for o in run.outcomes:
        assert o.ttft is not None and o.ttft >= 0.05
        assert sum(o.gaps) >= 0.05 and len(o.gaps) == 3


def test_users_join_over_the_ramp_and_it_does_not_count() -> None:
    with fake_server(first_s=0.3) as server:
        run = drive(server, users(4, ramp_s=0.2, duration_s=0.8))
    due = sorted(o.due for o in run.outcomes)
    assert all(at >= 0.05 * i for i, at in enumerate(due[:4]))
    s = summarize(run.outcomes, run.window)
    assert run.window.begin == 0.2 and 0 < s.requests <= sum(at >= 0.2 for at in due) < len(due)


def test_answers_under_way_at_the_end_are_given_time() -> None:
    with fake_server(first_s=0.4) as server:
        run = drive(server, users(2, duration_s=0.1, drain_s=60.0))
    assert [o.error for o in run.outcomes] == [None, None]


def test_a_load_goes_on_until_enough_requests_count() -> None:
    with fake_server(gap_s=0.02) as server:
        short = drive(server, users(1, duration_s=0.5, drain_s=0.0))
        long = drive(server, users(1, duration_s=0.5, enough=12))
    assert len([o for o in long.outcomes if not o.error]) >= 12 > len(short.outcomes)


def test_at_the_end_what_is_under_way_is_cut_and_no_failure() -> None:
    with fake_server(gap_s=30.0) as server:
        run = drive(server, users(2, duration_s=0.8, drain_s=0.0))
    assert [o.error for o in run.outcomes] == ["cut", "cut"]
    assert all(o.ttft is not None and not o.failed for o in run.outcomes)


def test_arrivals_are_sent_when_due_each_with_its_lengths() -> None:
    with fake_server(gap_s=0.15) as server:
        arrivals = [Arrival(0.0, 8, 3), Arrival(0.0, 20, 2), Arrival(0.1, 9, 1)]
        run = drive(server, arrivals)
        assert server.most_running >= 2
    got = sorted((o.due, o.prompt_tokens, o.tokens) for o in run.outcomes)
    assert got == [(0.0, 8, 3), (0.0, 20, 2), (0.1, 9, 1)]
    assert all(o.sent >= o.due for o in run.outcomes)


@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [
        ({"capacity": 0}, "429", "full"),
        ({"break_after": 2}, "closed", "closed the connection"),
        ({"error_after": 2}, "stream", "engine gone"),
        ({"hang": True}, "timeout", "0.2 s"),
    ],
)
def test_each_failure_has_its_kind(trouble: dict[str, Any], error: str, message: str) -> None:
    with fake_server(**trouble) as server:
        run = drive(server, users(1, requests=1), timeout_s=0.2 if error == "timeout" else 60.0)
    (o,) = run.outcomes
    assert o.error == error and message in o.message and o.failed
    assert len(o.times) == (2 if error in ("closed", "stream") else 0)


def test_a_server_that_is_gone_is_an_error_of_connecting() -> None:
    async def go(url: str) -> Run:
        api = Api(Target(url), Model("fake", None))
        prompts = await learn(lambda text: asyncio.sleep(0, len(text.split())))
        return await Driver(api, prompts).closed_loop(users(1, requests=1))

    with fake_server() as server:
        url = server.url
    assert [o.error for o in asyncio.run(go(url)).outcomes] == ["connect"]


def test_a_kept_connection_that_the_server_closed_is_replaced_unseen() -> None:
    with fake_server(keep_alive=False) as server:
        run = drive(server, users(2, requests=8))
        assert server.connections > 8
    assert [o.error for o in run.outcomes] == [None] * 8


@pytest.mark.parametrize("piece", [1, 7])
def test_answers_in_crumbs_and_crlf_are_read(piece: int) -> None:
    with fake_server(piece=piece, newline="\r\n") as server:
        run = drive(server, users(1, requests=2))
    assert {(o.error, o.prompt_tokens, len(o.times)) for o in run.outcomes} == {(None, 12, 4)}


def test_without_usage_pieces_are_the_tokens() -> None:
    with fake_server(usage=False) as server:
        run = drive(server, users(1, requests=1))
    assert [(o.prompt_tokens, o.tokens) for o in run.outcomes] == [(0, 4)]


def test_a_server_that_counts_nothing_is_refused() -> None:
    with (
        fake_server(usage=False, tokenize=False) as server,
        pytest.raises(ArgosyError, match="usage"),
    ):
        drive(server, users(1, requests=1))


def test_the_key_and_the_path_of_the_address_are_sent() -> None:
    async def go(url: str) -> None:
        async with Target(url + "/v1/", "secret") as target:
            await find_model(target)

    with fake_server() as server:
        asyncio.run(go(server.url))
        assert server.heads[0].startswith("GET /v1/models HTTP/1.1\r\n")
        assert "Authorization: Bearer secret\r\n" in server.heads[0]
        assert f"Host: 127.0.0.1:{server.port}\r\n" in server.heads[0]


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:99999", "http://a:b", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        Target(url)


def test_a_key_that_no_header_carries_is_refused() -> None:
    with pytest.raises(ConfigError, match="key"):
        Target("http://a", "a\r\nb")


def test_a_model_that_is_not_listed_is_refused() -> None:
    async def go(url: str) -> None:
        async with Target(url) as target:
            await find_model(target, "other")

    with fake_server() as server, pytest.raises(ArgosyError, match="'other', only fake"):
        asyncio.run(go(server.url))
