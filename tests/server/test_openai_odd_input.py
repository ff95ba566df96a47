"""Whatever a body holds, the answer is an error in OpenAI's shape and the server goes on."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

from serving import Server

PATHS = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"]
VALID: dict[str, Any] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [5, 6]},
}


def post(
    server: Server, path: str, body: bytes, media: str | None = "application/json"
) -> tuple[int, Any]:
    headers = {} if media is None else {"Content-Type": media}
    request = urllib.request.Request(server.url + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.loads(exc.read())


def assert_refused(answer: tuple[int, Any], status: int = 400) -> dict[str, Any]:
    assert answer[0] == status, answer
    assert answer[1].keys() == {"error"}
    error: dict[str, Any] = answer[1]["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


DEEP = b"[" * 10_000 + b"]" * 10_000


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"[]",
        b"null",
        b"3",
        b'{"x": 1',
        b"\xff\xfe{}",
        b"\x00",
        b"{}",
        DEEP,
        b'{"x": %s}' % DEEP,
        b'{"model": "\\ud800"}',
        b'{"model": "\xff"}',
        b'{"model": 1e400}',
        b'{"model": null, "model": null}',
        b'{"model": %s}' % (b"9" * 100_000),
    ],
    ids=lambda body: body[:16].decode("latin-1"),
)
def test_what_is_no_request_is_refused(server: Server, path: str, body: bytes) -> None:
    assert_refused(post(server, path, body))


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_said_to_be_json_is_refused(server: Server, path: str) -> None:
    body = json.dumps(VALID[path]).encode()
    for media in (None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
        assert_refused(post(server, path, body, media))
    short = json.dumps(VALID[path] | {"max_tokens": 1}).encode()
    assert post(server, path, short, "Application/JSON; charset=utf-8")[0] == 200


WRONG: list[Any] = [True, -1, 1.5, 2**70, -(2**70), "", "x", "\0", [], [[]], [None], {}, {"x": []}]


@pytest.mark.parametrize("path", PATHS[:2])
def test_wrong_values_everywhere(server: Server, path: str) -> None:
    """No value of any field makes an answer that is not OpenAI's; most are errors that name it."""
    document = server.get("/openapi.json")[1]
    reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    name = reference["schema"]["$ref"].rsplit("/", 1)[1]
    for field in document["components"]["schemas"][name]["properties"]:
        for value in WRONG:
            if (field, value) == ("stream", True):
                continue
            body = VALID[path] | {"max_tokens": 1, field: value}
            status, answer = post(server, path, json.dumps(body).encode())
            if status != 200:
                wanted = 404 if field == "model" and status == 404 else 400
                assert_refused((status, answer), wanted)


@pytest.mark.parametrize("path", PATHS[:3])
def test_a_very_long_text_is_refused(server: Server, path: str) -> None:
    for text in ("cat " * 2_500_000, "x" * 10_000_000, " " * 10_000_000, "東" * 3_000_000):
        body = VALID[path] | {"prompt": text}
        if path == PATHS[0]:
            body = {"messages": [{"role": "user", "content": text}]}
        error = assert_refused(post(server, path, json.dumps(body).encode()))
        assert error["code"] == "context_length_exceeded"


def test_a_long_name_is_not_repeated_in_whole(server: Server) -> None:
    body = json.dumps(VALID[PATHS[1]] | {"x" * 100_000: 1, "max_tokens": 1}).encode()
    assert post(server, PATHS[1], body)[0] == 200
    many = {f"field {i}\r\n": 1 for i in range(10_000)}
    body = json.dumps(VALID[PATHS[1]] | {"max_tokens": 1} | many).encode()
    assert post(server, PATHS[1], body)[0] == 200


def test_no_path_and_no_method_but_these(server: Server) -> None:
    assert_refused(post(server, "/v1/none", b"{}"), 404)
    assert_refused(server.get("/v1/chat/completions"), 405)
    assert_refused(server.get("/v1/models/none%0d%0a"), 404)


def test_a_client_that_leaves_in_its_body_harms_nobody(server: Server) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                b'Content-Length: 1000\r\n\r\n{"prompt": '
            )
    server.wait_idle()
    assert post(server, PATHS[1], b'{"prompt": "hi", "max_tokens": 1}')[0] == 200


def test_tokens_there_and_back(server: Server) -> None:
    text = "The cat — ünïcödé 東京 😀"
    _, found = post(server, "/tokenize", json.dumps({"prompt": text}).encode())
    assert found["count"] == len(found["tokens"])
    assert found["max_model_len"] > 100
    assert found["token_strs"] is None
    _, back = post(server, "/detokenize", json.dumps({"tokens": found["tokens"]}).encode())
    assert back == {"prompt": text}
    messages = {"messages": [{"role": "user", "content": "hi"}], "return_token_strs": True}
    _, found = post(server, "/tokenize", json.dumps(messages).encode())
    assert "".join(found["token_strs"]).endswith("assistant\n")
    assert_refused(post(server, "/detokenize", b'{"tokens": [10000000]}'))
    assert_refused(post(server, "/tokenize", b'{"prompt": "a", "messages": []}'))


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_leaves_no_token_to_draw_is_at_fault_itself(
    server: Server, stream: bool
) -> None:
    body = {"prompt": "Hi", "allowed_token_ids": [5], "bad_words": [], "logit_bias": {"5": -100}}
    body |= {"stop_token_ids": [5], "min_tokens": 3, "max_tokens": 5, "stream": stream}
    status, told = server.post("/v1/completions", body)
    assert status == 400, told
    assert "no token may be drawn" in told["error"]["message"]
