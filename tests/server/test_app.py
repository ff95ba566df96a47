"""What every request goes through: ids, CORS, unknown paths and methods, errors in one shape."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from argosy import errors
from argosy.serve.connection import MAX_HEAD
from argosy.serve.errors import TABLE, Refusal, failure, openai_shape
from argosy.serve.gate import Full
from server.conftest import Start
from server.small import stopped
from serving import Server, start_server


def ask(
    server: Server, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named["Content-Type"] = "application/json"
        connection.request(method, path, body, headers=named)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, answer.read()
    finally:
        connection.close()


def error(body: bytes) -> dict[str, Any]:
    found = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert isinstance(found, dict)
    return found


# -- the table of errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exc", "status", "kind", "code"),
    [
        (errors.InvalidSampling("x"), 400, "BadRequestError", 400),
        (errors.InvalidPrompt("x"), 400, "BadRequestError", 400),
        (errors.UnsupportedParameter("x"), 400, "BadRequestError", 400),
        (errors.TemplateError("x"), 400, "BadRequestError", 400),
        (
            errors.ContextLengthExceeded("x"),
            400,
            "BadRequestError",
            "context_length_exceeded",
        ),
        (errors.ModelNotFound("x"), 404, "NotFoundError", 404),
        (Full("x", 7), 429, "RateLimitError", 429),
        (errors.EngineDead("x"), 503, "ServiceUnavailableError", 503),
        (errors.StepFailed("x"), 500, "InternalServerError", 500),
        (Refusal(413, "x"), 413, "RequestTooLargeError", 413),
        (Refusal(418, "x", code="teapot"), 418, "BadRequestError", "teapot"),
        (ZeroDivisionError("secret"), 500, "InternalServerError", 500),
        (errors.ConfigError("secret"), 500, "InternalServerError", 500),
    ],
)
def test_the_table(exc: Exception, status: int, kind: str, code: object) -> None:
    found = failure(exc)
    assert (found.status, found.type, found.code) == (status, kind, code)
    assert "secret" not in found.message
    assert error(openai_shape(found))["message"] == found.message


def test_every_error_of_a_request_is_in_the_table() -> None:
    for kind in (errors.RequestError, *errors.RequestError.__subclasses__()):
        assert failure(kind("x")).status == 400
    assert set(TABLE) <= {v for v in vars(errors).values() if isinstance(v, type)}


def test_a_failure_carries_its_headers_and_field() -> None:
    assert failure(Full("x", 7)).headers == ((b"retry-after", b"7"),)
    assert failure(errors.ModelNotFound("x")).param == "model"
    assert failure(Refusal(400, "x", param="n")).param == "n"


# -- over HTTP ------------------------------------------------------------------------------------


def test_a_request_has_an_id(server: Server) -> None:
    assert ask(server, "GET", "/version", X_Request_Id="my-id.7")[1]["x-request-id"] == "my-id.7"
    ids = {ask(server, "GET", "/version")[1]["x-request-id"] for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize("given", ["with space", "x" * 129, "caf\xe9", ""])
def test_an_id_that_could_do_harm_is_replaced(server: Server, given: str) -> None:
    assert ask(server, "GET", "/version", X_Request_Id=given)[1]["x-request-id"] != given


@pytest.mark.parametrize("path", ["/", "/nowhere", "/v1/", "/v1/models/a/b", "//", "/%00", "/%ff"])
def test_unknown_paths(server: Server, path: str) -> None:
    status, _, body = ask(server, "GET", path)
    assert status == 404
    assert error(body)["type"] == "NotFoundError"


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
def test_wrong_methods(server: Server, method: str) -> None:
    status, headers, body = ask(server, method, "/v1/completions")
    assert status == 405
    assert headers["allow"] == "POST"
    assert error(body)["type"] == "MethodNotAllowedError"


def test_head(server: Server) -> None:
    status, headers, body = ask(server, "HEAD", "/version")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


def test_a_connection_is_kept(server: Server) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        for path, status in (("/version", 200), ("/nowhere", 404), ("/version", 200)):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == status
            answer.read()
            assert answer.getheader("connection") != "close"


async def raw(port: int, *pieces: bytes) -> bytes:
    """What comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /version HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /version HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET \xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_http(server: Server, sent: bytes) -> None:
    head, _, body = asyncio.run(raw(server.port, sent)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert error(body)["type"] == "BadRequestError"


def test_a_head_that_is_too_long(server: Server) -> None:
    pieces = [b"GET / HTTP/1.1\r\n"] + [b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(1000)]
    try:
        answer = asyncio.run(raw(server.port, *pieces))
    except ConnectionError:  # cut while it was still writing
        return
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert MAX_HEAD < 10**6


@pytest.mark.parametrize("what", ["websocket", "h2c"])
def test_upgrades_are_not_taken(server: Server, what: str) -> None:
    """The request is answered as if nobody had asked, its body is read, and so is the next one."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": what, "HTTP2-Settings": ""}
    headers["Content-Type"] = "application/json"
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        for _ in range(3):
            connection.request("POST", "/tokenize", b'{"prompt": "Hello"}', headers)
            answer = connection.getresponse()
            assert (answer.status, answer.read()[:8]) == (200, b'{"count"')


# -- bodies ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--max-body-bytes", "100000", "--allowed-origins", "https://a.example")
    with start_server(tmp_path_factory.mktemp("small"), *flags) as server:
        yield server


@pytest.mark.parametrize("size", [100_001, 3_000_000])
def test_a_body_that_is_too_large(small: Server, size: int) -> None:
    status, headers, body = ask(small, "POST", "/v1/completions", b" " * size)
    assert status == 413
    assert headers["connection"] == "close"
    assert "100000" in error(body)["message"]


def test_a_chunked_body_that_is_too_large(small: Server) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    head += b"Content-Type: application/json\r\n\r\n"
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    answer = asyncio.run(raw(small.port, head, *[chunk] * 9, b"0\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_first_sends_nothing(small: Server) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    head += b"Content-Type: application/json\r\n"
    answer = asyncio.run(raw(small.port, head + b"Content-Length: 3000000\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    ok = b"Connection: close\r\nContent-Length: 2\r\n\r\n"
    answer = asyncio.run(raw(small.port, head + ok, b"{}"))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 ")


def test_a_body_in_crumbs_is_whole(small: Server) -> None:
    body = json.dumps({"prompt": "Hi", "max_tokens": 1}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    crumbs = [bytes([byte]) for byte in head + body]
    assert asyncio.run(raw(small.port, *crumbs)).startswith(b"HTTP/1.1 200 ")


# -- browsers -------------------------------------------------------------------------------------


def test_an_allowed_origin(small: Server) -> None:
    origin = "https://a.example"
    status, headers, _ = ask(small, "GET", "/version", Origin=origin)
    assert (status, headers["access-control-allow-origin"]) == (200, origin)
    status, headers, body = ask(
        small,
        "OPTIONS",
        "/v1/chat/completions",
        Origin=origin,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization,x-mine",
    )
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-headers"] == "authorization,x-mine"
    assert "POST" in headers["access-control-allow-methods"]


def test_other_origins(small: Server, server: Server) -> None:
    for where, origin in ((small, "https://b.example"), (server, "https://a.example")):
        status, headers, _ = ask(where, "GET", "/version", Origin=origin)
        assert status == 200
        assert not [name for name in headers if name.startswith("access-control")]


# -- the gate over HTTP ---------------------------------------------------------------------------


def test_a_full_server_says_so_at_once(start: Start) -> None:
    name = "vllm:admission_rejections_total"

    async def run(server: Server) -> list[tuple[int, str]]:
        with stopped(await asyncio.to_thread(server.engine_pid)):  # no answer ends too early
            asked = asyncio.gather(*(asyncio.to_thread(complete, server) for _ in range(6)))
            while await asyncio.to_thread(server.metric, name) < 4:
                pass
        return await asked

    with start("--max-num-seqs", "1", "--max-num-queued-reqs", "1") as server:
        answers = asyncio.run(run(server))
        assert sorted(status for status, _ in answers) == [200, 200, 429, 429, 429, 429]
        assert sorted(retry for status, retry in answers if status == 429) == [*"1234"]
        server.wait_idle()
        assert server.metric("request_queue_depth") == 0
        assert complete(server)[0] == 200


def complete(server: Server) -> tuple[int, str]:
    """Status and Retry-After of a small request."""
    body = json.dumps({"prompt": "Once", "max_tokens": 3}).encode()
    status, headers, _ = ask(server, "POST", "/v1/completions", body)
    return status, headers.get("retry-after", "")
